package redisstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/penstock-dev/penstock/internal/conditions"
)

// steady is how long a Redis that comes and goes has to answer before the status says that it can be reached.
const steady = 30 * time.Second

// reachability is what the status says of a Redis over time. An outage shows at once, and so does its end. When the next
// one follows within 30 s, Redis comes and goes: the status then stays at that, word for word, until Redis has answered for
// 30 s. Were it to follow each turn, every controller and alert that looks at the store would. Publications go on meanwhile.
type reachability struct {
	// away is whether Redis was not reached when it was last looked at.
	away bool
	// since is when it began to answer, ended when the status last said that an outage is over; zero for never.
	since, ended time.Time
	// unsteady is what the status says of a Redis that comes and goes, nil of one that does not.
	unsteady *conditions.Waiting
}

// see takes what a look at Redis gave, and gives what the status is to say of it.
func (s *reachability) see(now time.Time, reach error) error {
	if waiting := (*conditions.Waiting)(nil); errors.As(reach, &waiting) {
		if s.unsteady == nil && !s.away && !s.ended.IsZero() && now.Sub(s.ended) < steady {
			s.unsteady = &conditions.Waiting{Reason: waiting.Reason, Message: fmt.Sprintf(
				"Redis comes and goes, and has to answer for %v before this is True; publications go on meanwhile; first: %s", steady, waiting.Message)}
		}
		s.away, s.since = true, time.Time{}
		return s.shown(waiting.After, reach)
	}
	if reach != nil {
		// What somebody has to put right is no coming and going.
		*s = reachability{away: true}
		return reach
	}
	if s.away || s.since.IsZero() {
		if s.away && s.unsteady == nil {
			s.ended = now
		}
		s.away, s.since = false, now
	}
	if s.unsteady != nil && now.Sub(s.since) >= steady {
		s.unsteady, s.ended = nil, now
	}
	return s.shown(s.since.Add(steady).Sub(now), nil)
}

// shown gives what is said of a Redis that comes and goes, with the pause before the next look; else the given.
func (s *reachability) shown(after time.Duration, reach error) error {
	if s.unsteady == nil {
		return reach
	}
	return &conditions.Waiting{Reason: s.unsteady.Reason, Message: s.unsteady.Message, After: after}
}
