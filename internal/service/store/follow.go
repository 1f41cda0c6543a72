package store

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

const (
	// rereadPause is how soon the set may be read again on request: a policy that every request asks for must not make every
	// request read the set.
	rereadPause = time.Second
	// probeEvery is how often it is found out again how the servers decide. Servers may be replaced one by one, without a
	// connection of ours that breaks.
	probeEvery = time.Minute
)

// feed hands sets on, from one goroutine at a time.
type feed struct {
	store    *Store
	snapshot *snapshot
	use      func(*policy.Set)
	// given is closed once Redis gave a set: none of the snapshot is used any more.
	given chan struct{}

	mu sync.Mutex
}

func (f *feed) fromRedis(set *policy.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.given:
	default:
		close(f.given)
	}
	f.hand(set)
	f.snapshot.keep(set)
}

func (f *feed) fromSnapshot(set *policy.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.given:
	default:
		f.store.log.Warn("starting with the snapshot of the policies, since redis gives none", "set", set.Hash)
		f.hand(set)
	}
}

func (f *feed) hand(set *policy.Set) {
	f.store.hash.Store(&set.Hash)
	f.use(set)
}

// Follow finds out how the servers decide, and then gives every published policy set to use, from one goroutine at a time,
// until the context ends. What goes wrong is logged once, shown by Why, and tried again with pauses as the configuration
// says.
//
// While Redis gives none, use gets the snapshot: when Redis is away, if all its policies let pass then.
func (s *Store) Follow(ctx context.Context, use func(*policy.Set)) {
	var running sync.WaitGroup
	defer running.Wait()
	file := s.newSnapshot()
	sets := &feed{store: s, snapshot: file, use: use, given: make(chan struct{})}
	if kept := file.read(); kept != nil {
		running.Go(func() {
			if s.mayBegin(ctx, kept, sets.given) {
				sets.fromSnapshot(kept)
			}
		})
	}
	refresh := make(chan struct{})
	running.Go(func() { file.run(ctx) })
	running.Go(func() { s.keep(ctx) })
	running.Go(func() { s.beat(ctx) })
	running.Go(func() { s.pace(ctx, refresh) })
	running.Go(func() { s.report(ctx) })
	s.generations(ctx, func(ctx context.Context, g *generation) { s.watch(ctx, g, refresh, sets) })
}

// Enforce gives use the set, which nobody has published and which goes along with each call, once Redis answers; when all
// its policies let pass without Redis, it does not wait long for it. It looks after the connections until the context ends.
func (s *Store) Enforce(ctx context.Context, set *policy.Set, use func(*policy.Set)) {
	s.UseScripts()
	s.hash.Store(&set.Hash)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		if s.mayBegin(ctx, set, nil) {
			use(set)
		}
	})
	running.Go(func() { s.keep(ctx) })
	running.Go(func() { s.beat(ctx) })
	running.Go(func() { s.report(ctx) })
	s.generations(ctx, func(ctx context.Context, _ *generation) { <-ctx.Done() })
}

// generations reaches each generation in turn and then works with it, until another one takes its place, the context ends or
// the store is closed.
func (s *Store) generations(ctx context.Context, work func(context.Context, *generation)) {
	for ctx.Err() == nil && !s.isClosed() {
		g := s.enter()
		during, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(g.over, cancel)
		if s.reach(during, g) {
			work(during, g)
		}
		stop()
		cancel()
		g.leave()
	}
}

// reach tries until the servers answer and connections stand for the first decisions, and tells whether that was before the
// context ended.
func (s *Store) reach(ctx context.Context, g *generation) bool {
	bound := g.cfg.MinBackoff
	for logged := false; ; {
		err := s.probe(ctx, g)
		if err == nil {
			s.warm(ctx, g)
			s.note(nil)
			return ctx.Err() == nil
		}
		if ctx.Err() != nil {
			return false
		}
		s.note(err)
		if !logged && redisops.Classify(err) != redisops.Configuration {
			logged = true
			s.log.Warn("cannot reach redis; trying on", "error", err.Error())
		}
		if !sleep(ctx, g.cfg.MinBackoff+rand.N(bound-g.cfg.MinBackoff+1)) {
			return false
		}
		bound = max(g.cfg.MinBackoff, min(2*bound, g.cfg.MaxBackoff))
	}
}

// mayBegin waits until a set may be used that Redis did not give, and tells whether it may before the context ended or given
// was closed. One that is published gets a moment to come from Redis even when that answers.
func (s *Store) mayBegin(ctx context.Context, set *policy.Set, given <-chan struct{}) bool {
	moment := time.NewTimer(s.current.Load().cfg.DialTimeout)
	defer moment.Stop()
	for waited := false; ; {
		reached := s.current.Load().reached.Load() && s.status.why(&s.mu) == nil
		switch {
		case s.refused():
			// Nothing would be enforced, and nobody be told by the readiness.
		case given == nil && reached, waited && s.current.Load().reached.Load(), waited && allAllow(set):
			return true
		}
		select {
		case <-moment.C:
			waited = true
		case <-s.status.noted:
		case <-given:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// watch follows what is published, and looks again from time to time how the servers decide.
func (s *Store) watch(ctx context.Context, g *generation, refresh <-chan struct{}, sets *feed) {
	again := make(chan struct{}, 1)
	var probing sync.WaitGroup
	defer probing.Wait()
	probing.Go(func() {
		for {
			select {
			case <-again:
			case <-time.After(probeEvery):
			case <-ctx.Done():
				return
			}
			s.probeAgain(ctx, g)
		}
	})
	_ = policystore.Watch(ctx, g.servers, policystore.WatchOptions{
		MinBackoff: g.cfg.MinBackoff, MaxBackoff: g.cfg.MaxBackoff, Logger: s.log, Refresh: refresh,
		OnError: func(err error) {
			s.note(err)
			if err == nil { // what answers again may be another server
				nudge(again)
			}
		},
	}, sets.fromRedis)
}

// pace passes on the wishes to read the policies again, of which many may come at once.
func (s *Store) pace(ctx context.Context, refresh chan<- struct{}) {
	for {
		select {
		case <-s.reread:
		case <-ctx.Done():
			return
		}
		select {
		case refresh <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if !sleep(ctx, rereadPause) {
			return
		}
	}
}

// Reread has the published policies read again soon. It does not wait for it.
func (s *Store) Reread() { nudge(s.reread) }

// failure is an expression of a policy that failed.
type failure struct {
	policy string
	told   policystore.Failure
}

// mostFailures bounds how many wait to be written; for what is more there is the next time.
const mostFailures = 64

// ExpressionFailed has the operator see, in Redis, that an expression of the policy failed. It does not wait for it.
func (s *Store) ExpressionFailed(p *policy.RateLimit, message string) {
	select {
	case s.failures <- failure{policy: p.Name, told: policystore.Failure{ContentHash: p.ContentHash, Message: message}}:
	default:
	}
}

// report writes failures until the context ends. They are for somebody's status, so an error is worth no more than a line
// for debugging.
func (s *Store) report(ctx context.Context) {
	for {
		select {
		case f := <-s.failures:
			g := s.enter()
			err := policystore.ReportFailure(ctx, g.servers.Client(), f.policy, f.told)
			g.leave()
			if err != nil {
				s.log.DebugContext(ctx, "cannot report that an expression failed", "policy", f.policy, "error", err.Error())
			}
		case <-ctx.Done():
			return
		}
	}
}
