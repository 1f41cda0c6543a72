package store

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// pruneEvery is after how many beats those who are gone are forgotten, where there is no operator to do it.
const pruneEvery = 12

// census is how many replicas live, as the beats tell.
type census struct {
	count atomic.Int64
	// less is since when each beat told of less; zero when the last one did not. It is for the one who beats.
	less time.Time
}

// take takes over what a beat told. It may tell of too few: after an outage, and where Redis lost its data, the others have
// yet to beat again. So the count only falls once no beat told of as many for as long as those of the others last.
func (c *census) take(live int, now time.Time) {
	switch {
	case int64(live) >= c.count.Load():
		c.less = time.Time{}
	case c.less.IsZero():
		c.less = now
		return
	case now.Sub(c.less) < policystore.LiveFor:
		return
	}
	c.count.Store(int64(live))
}

// missed tells that Redis could not be asked.
func (c *census) missed() { c.less = time.Time{} }

// Replicas is how many processes decide with this Redis, as was last known while it could be asked; at least 1.
func (s *Store) Replicas() int { return int(s.replicas.count.Load()) }

// beat says that this process lives, and counts those that do, until the context ends. It is also how an idle process
// notices that Redis answers again.
func (s *Store) beat(ctx context.Context) {
	if s.options.Replica == "" {
		return
	}
	failing := false
	for beats := 1; ; beats++ {
		err := s.beatOnce(ctx, beats%pruneEvery == 0)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && failing:
			failing = false
			s.log.Info("redis counts this replica again", "replicas", s.Replicas())
		case redis.IsPermissionError(err) && !failing:
			failing = true
			s.log.Warn("redis does not let this replica be counted; LocalShare divides by the last count", "replicas", s.Replicas(), "error", err.Error())
		}
		// Spread, so that replicas do not beat together.
		select {
		case <-time.After(policystore.BeatEvery*9/10 + rand.N(policystore.BeatEvery/5)):
		case <-s.beats:
		case <-ctx.Done():
			return
		}
	}
}

// beatOnce gives what the server said; what keeps it from being asked, others notice.
func (s *Store) beatOnce(ctx context.Context, prune bool) error {
	g := s.enter()
	defer g.leave()
	if !g.reached.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*g.cfg.DialTimeout)
	defer cancel()
	set := ""
	if hash := s.hash.Load(); hash != nil {
		set = *hash
	}
	live, err := policystore.Beat(ctx, g.servers.Client(), s.options.Replica, set)
	if err != nil {
		s.replicas.missed()
	} else {
		s.replicas.take(live, time.Now())
		if prune && s.scripts.Load() {
			err = policystore.PruneBeats(ctx, g.servers.Client())
		}
	}
	// A server that refuses this one thing answers, too.
	if (err == nil || redis.IsPermissionError(err)) && s.options.Answers != nil && g.answer() {
		s.options.Answers()
	}
	return err
}
