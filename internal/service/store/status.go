package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// status is what keeps the policies from being read.
type status struct {
	err     error
	refused bool // err is of class Configuration, and was logged
	// noted is told of each change.
	noted chan struct{}
}

func (s *status) why(mu *sync.Mutex) error {
	mu.Lock()
	defer mu.Unlock()
	return s.err
}

// note keeps the latest error, or nil, for Why. Refused credentials and rights are told apart from an outage: they stay
// until somebody mends them.
func (s *Store) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.err = err
	nudge(s.status.noted)
	if err == nil {
		nudge(s.beats)
	}
	if redisops.Classify(err) == redisops.Configuration {
		nudge(s.refusals)
		if !s.status.refused {
			s.status.refused = true
			message := "redis refuses penstockd until its user, password or ACL is mended; trying on"
			if misconfigured(err) {
				message = "redis cannot be used as it is configured until that is mended; trying on"
			}
			s.log.Error(message, "error", err.Error())
		}
	} else if err == nil && s.status.refused {
		s.status.refused = false
		s.log.Info("redis accepts penstockd")
	}
}

// otherwise are replies of class Configuration of servers that would answer anybody so: they are of another kind, or lack
// what was asked for.
var otherwise = []string{
	"ERR This instance has cluster support disabled", "ERR SELECT is not allowed in cluster mode", "ERR No such master with that name",
	"ERR DB index is out of range", "ERR invalid DB index", "ERR unknown command", "NOPROTO",
}

// misconfigured tells that it is not the credentials or rights that have to be mended.
func misconfigured(err error) bool {
	if errors.Is(err, redisops.ErrMisconfigured) {
		return true
	}
	reply, is := errors.AsType[redis.Error](err)
	return is && slices.ContainsFunc(otherwise, func(text string) bool { return strings.HasPrefix(reply.Error(), text) })
}

// refused tells whether the servers refuse us, as far as is known.
func (s *Store) refused() bool {
	return redisops.Classify(s.status.why(&s.mu)) == redisops.Configuration
}

// Why tells in words what keeps the policies from being read, or "". Whoever reaches the doors may see it, so the error
// itself, with its addresses and names of users, is in the log only.
func (s *Store) Why() string { return inWords(s.status.why(&s.mu)) }

func inWords(err error) string {
	switch {
	case err == nil:
		return ""
	case misconfigured(err):
		return "redis cannot be used as penstockd is configured: its log says what to mend"
	case errors.Is(err, policystore.ErrNoPolicies):
		return "no policies are published in redis yet"
	case errors.Is(err, policy.ErrNewerFormat):
		return "the policies in redis are of a newer format; update penstockd"
	}
	switch redisops.Classify(err) {
	case redisops.Configuration:
		return "redis refuses the credentials or rights of penstockd"
	case redisops.NotExecuted, redisops.UnknownOutcome:
		return "redis cannot be reached"
	default:
		return "redis cannot serve now"
	}
}

// Trouble tells in words what is wrong with Redis while policies are in force, or "". As of Why, it holds no addresses: it
// counts.
func (s *Store) Trouble() string {
	g := s.enter()
	defer g.leave()
	shards := g.caller.Shards()
	open := 0
	for i := range shards {
		if shards[i].Breaker != redisops.BreakerClosed {
			open++
		}
	}
	if open > 0 {
		return fmt.Sprintf("%d of %d servers of redis that decide do not answer; onStoreFailure decides for what is there", open, len(shards))
	}
	return s.Why()
}

// answer tells whether no server is known not to answer.
func (g *generation) answer() bool {
	for _, shard := range g.caller.Shards() {
		if shard.Breaker != redisops.BreakerClosed {
			return false
		}
	}
	return true
}
