package redisstore

import (
	"math/rand/v2"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// site is what the controller keeps of one store between reconciliations: a connection, and what can be remembered but
// not observed while Redis is gone. A store is never reconciled twice at a time, so a site needs no lock.
type site struct {
	config redisops.Config
	server Server
	// fresh tells whether the server was connected in this reconciliation.
	fresh bool
	// asked tells whether Redis was ever asked for the set that it serves; inForce is what it said last, nil for none of
	// ours.
	asked   bool
	inForce *policy.Set
	// published is the last one that was not nil.
	published *policy.Set
	// drops are the policies that were taken out lately.
	drops drops
	// untold is the set of a publication that no event has told of yet.
	untold *policy.Set
	// expressions are the failures of policies' expressions that were read last.
	expressions map[string]policystore.Failure
	// failures counts outages in a row.
	failures int
	// notBefore is the earliest time of the next publication.
	notBefore time.Time
}

// connect sees to a server for that configuration: the one there is, or a new one in its place.
func (s *site) connect(config redisops.Config, dial func(redisops.Config) Server) {
	s.fresh = s.server == nil || !reflect.DeepEqual(s.config, config)
	if s.fresh {
		s.close()
		s.config, s.server = config, dial(config)
	}
}

// reconnect replaces a server whose connections are older than this reconciliation, and tells whether it was one.
func (s *site) reconnect(dial func(redisops.Config) Server) bool {
	if s.fresh {
		return false
	}
	s.close()
	s.server, s.fresh = dial(s.config), true
	return true
}

func (s *site) close() {
	if s.server != nil {
		_ = s.server.Close() // there is nobody left to tell, and nothing to be done
		s.server = nil
	}
}

// Bounds of the pauses between attempts to reach a Redis. The pauses of reconnect are for one that serves decisions, with
// a connection of its own; here each attempt keeps a worker from other stores for up to 3 s. An edit of a policy is an
// attempt at once.
const (
	shortestBackoff = time.Second
	longestBackoff  = 4 * time.Second
)

// backoff gives the pause before the next attempt to reach Redis: it doubles from 1 s to 4 s, so that a Redis that is
// back is used within 5 s, or to longer ones of reconnect, with ± 20 % so that stores that went away together do not come back together.
func (s *site) backoff() time.Duration {
	pause, longest := max(s.config.MinBackoff, shortestBackoff), max(s.config.MaxBackoff, longestBackoff)
	for range s.failures {
		if pause >= longest {
			break
		}
		pause *= 2
	}
	s.failures++
	return jitter(min(pause, longest))
}

// loadTime is how long Redis stands still per byte of policies that it loads (10,000 small policies, 2 MiB: 32 ms).
const loadTime = 16 * time.Nanosecond

// spaced sets the earliest time of the next publication, so that publications take under 1 % of Redis' time. Sets under
// some 64 KiB need nothing beyond what collecting a burst of changes waits anyway.
func (s *site) spaced(now time.Time, bytes int) {
	if pause := 100 * loadTime * time.Duration(bytes); pause > debounce {
		s.notBefore = now.Add(pause)
	}
}

// jitter gives d ± 20 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// site gives the memory of a store.
func (r *Reconciler) site(name types.NamespacedName) *site {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sites[name] == nil {
		r.sites[name] = &site{}
	}
	return r.sites[name]
}

// forget lets go of a store that is gone. Nothing is removed from its Redis: policies stay in force there until somebody
// takes them out, so that deleting an object by mistake lifts no limit.
func (r *Reconciler) forget(name types.NamespacedName) {
	r.mu.Lock()
	gone := r.sites[name]
	delete(r.sites, name)
	r.mu.Unlock()
	if gone != nil {
		gone.close()
	}
	r.outcomes.Drop(name)
}
