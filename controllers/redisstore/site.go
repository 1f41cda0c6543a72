package redisstore

import (
	"context"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/translate"
)

// site is what the controller keeps of one store between reconciliations: a connection, and what can be remembered but
// not observed while Redis is gone. A store is never reconciled twice at a time, so a site needs no lock, but for edits and publication.
type site struct {
	config redisops.Config
	server Server
	// spec is what config was made of, with Secrets that are gone by now, maybe.
	spec v1.RedisStoreSpec
	// watch ends the watching for drift of server, nil where there is none.
	watch context.CancelFunc
	// fresh tells whether the server was connected in this reconciliation.
	fresh bool
	// asked tells whether Redis was ever asked for the set that it serves; inForce is what it said last, nil for none of
	// ours.
	asked   bool
	inForce *policy.Set
	// lastPublished is the last one that was not nil.
	lastPublished *policy.Set
	// compilations are what its policies were compiled to last.
	compilations translate.Compilations
	// drops are the policies that were taken out lately.
	drops drops
	// replaced is the version of the object that the last status was written over.
	replaced string
	// lost is a loss of data that no event has told of yet.
	lost bool
	// contended is when somebody else was last met writing what is published; zero for never.
	contended time.Time
	// expressions are the failures of policies' expressions that were read last.
	expressions map[string]policystore.Failure
	// publication is when the last one ended, in ns since 1970, or underWay. The watching for drift reads it.
	publication atomic.Int64
	// identities are those of the primaries when they were last asked, by address.
	identities map[string]string
	// failures counts outages in a row.
	failures int
	reachability
	pace
	edits
}

// connect sees to a server for that configuration: the one there is, or a new one in its place. The error tells what is
// wrong with the configuration.
func (s *site) connect(config redisops.Config, dial func(redisops.Config) (Server, error)) error {
	s.fresh = s.server == nil || !reflect.DeepEqual(s.config, config)
	if !s.fresh {
		return nil
	}
	s.close()
	s.config = config
	var err error
	s.server, err = dial(config)
	return err
}

// reconnect replaces a server whose connections are older than this reconciliation, and tells whether it was one.
func (s *site) reconnect(dial func(redisops.Config) (Server, error)) bool {
	if s.fresh {
		return false
	}
	s.close()
	server, err := dial(s.config)
	s.server, s.fresh = server, true
	return err == nil
}

func (s *site) close() {
	if s.watch != nil {
		s.watch()
		s.watch = nil
	}
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

// wait gives for how long the next look at Redis has to wait: for further changes of policies, and for its share of Redis'
// time.
func (s *site) wait(now time.Time) time.Duration {
	return max(s.collect(now, s.spacing()), s.pause(now))
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
	stateLosses.DeleteLabelValues(name.Namespace, name.Name)
	r.outcomes.Drop(name)
}
