// Package store is penstockd's side of its RedisStore: it finds out how the servers are made to decide, follows the
// published policies, goes over to new credentials and certificates, and keeps trying while the servers are away.
package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Options of a Store. Zero values are the defaults.
type Options struct {
	// Load gives how Redis is to be reached, as of now. Required. It is asked again every Reload and whenever Redis refuses
	// the credentials, and what it gives comes into force without a decision that fails for it.
	Load func() (redisops.Config, error)
	// Reload is how often Load is asked again; 0 is every 10 s.
	Reload time.Duration
	// Replica is the name of this process among those that decide with the same Redis; none is counted by nobody.
	Replica string
	// Snapshot is a file in which the last good set is kept for a start without Redis; empty is none.
	Snapshot string
	// Answers is told, from time to time, that all servers answer; nil is nobody. It is called once Follow or Enforce is.
	Answers func()
	// Registerer gets the metrics; nil keeps them to ourselves.
	Registerer prometheus.Registerer
	// Logger gets one line per transition; nil is slog.Default().
	Logger *slog.Logger
}

// Always gives a configuration that never changes, as Options.Load.
func Always(cfg redisops.Config) func() (redisops.Config, error) {
	return func() (redisops.Config, error) { return cfg, nil }
}

// Store is one RedisStore, and the engine's Limiter. Those methods, Reread, Replicas, Why and Trouble may be called
// concurrently; of Follow and Enforce one, once.
type Store struct {
	options Options
	log     *slog.Logger

	current  atomic.Pointer[generation]
	scripts  atomic.Bool // decide by scripts, whatever the servers know
	reread   chan struct{}
	refusals chan struct{}
	failures chan failure
	beats    chan struct{}
	replicas census
	hash     atomic.Pointer[string] // of the set in use

	mu     sync.Mutex
	closed bool
	status status
}

// Open makes a store. It opens no connection: the servers may be away. It fails when Load does, and when what that gives can
// never work. Close ends it.
func Open(options Options) (*Store, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Reload == 0 {
		options.Reload = reloadEvery
	}
	s := &Store{
		options: options, log: options.Logger, reread: make(chan struct{}, 1), refusals: make(chan struct{}, 1),
		failures: make(chan failure, mostFailures), beats: make(chan struct{}, 1), status: status{noted: make(chan struct{}, 1)},
	}
	s.replicas.count.Store(1)
	cfg, err := options.Load()
	if err != nil {
		return nil, err
	}
	first, err := s.open(cfg)
	if err != nil {
		return nil, err
	}
	s.current.Store(first)
	if options.Registerer != nil {
		if err := options.Registerer.Register(newCollector(s)); err != nil {
			first.close()
			return nil, fmt.Errorf("metrics of the store: %w", err)
		}
	}
	return s, nil
}

// by asks the limiter of the generation in force, which stays open meanwhile.
func by[Answer any](s *Store, ask func(*limit.Limiter) (Answer, error)) (Answer, error) {
	g := s.enter()
	defer g.leave()
	limiter := g.limiter.Load()
	if limiter == nil {
		var none Answer
		return none, s.unknown()
	}
	answer, err := ask(limiter)
	if err != nil {
		s.failed(err)
	}
	return answer, err
}

// unknown is the error while nobody knows how the servers decide. That they refuse us is no outage.
func (s *Store) unknown() error {
	if why := s.status.why(&s.mu); redisops.Classify(why) == redisops.Configuration {
		return why
	}
	return errUnknown
}

var errUnknown = fmt.Errorf("%w: nothing is known of the server yet", redisops.ErrNotExecuted)

// failed looks whether the credentials are to be read again, or how the servers decide found out again, because of an
// error.
func (s *Store) failed(err error) {
	if redisops.Classify(err) == redisops.Configuration {
		nudge(s.refusals)
	}
}

// nudge asks for something that is done once however often it is asked for meanwhile.
func nudge(channel chan<- struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// Decide spends from budgets as limit.Limiter does, as all that follows is as of it. Until Follow or Enforce has found out
// how, each fails with redisops.ErrNotExecuted, or with how the server refused us.
func (s *Store) Decide(ctx context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return by(s, func(l *limit.Limiter) ([]limit.Row, error) { return l.Decide(ctx, charges) })
}

// Peek tells what Decide would.
func (s *Store) Peek(ctx context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return by(s, func(l *limit.Limiter) ([]limit.Row, error) { return l.Peek(ctx, charges) })
}

// Refund gives back what was charged.
func (s *Store) Refund(ctx context.Context, charge limit.Charge) (limit.Row, error) {
	return by(s, func(l *limit.Limiter) (limit.Row, error) { return l.Refund(ctx, charge) })
}

// Credit tops up a Balance.
func (s *Store) Credit(ctx context.Context, charge limit.Charge) (limit.Row, error) {
	return by(s, func(l *limit.Limiter) (limit.Row, error) { return l.Credit(ctx, charge) })
}

// Reset forgets a subject.
func (s *Store) Reset(ctx context.Context, charge limit.Charge) (limit.Row, error) {
	return by(s, func(l *limit.Limiter) (limit.Row, error) { return l.Reset(ctx, charge) })
}

// AcquireSlot takes a slot of a Concurrency.
func (s *Store) AcquireSlot(ctx context.Context, slot limit.Slot) (limit.Row, error) {
	return by(s, func(l *limit.Limiter) (limit.Row, error) { return l.AcquireSlot(ctx, slot) })
}

// ReleaseSlot gives it back.
func (s *Store) ReleaseSlot(ctx context.Context, slot limit.Slot) (limit.Row, error) {
	return by(s, func(l *limit.Limiter) (limit.Row, error) { return l.ReleaseSlot(ctx, slot) })
}

// Undo gives back what was charged for requests that were denied as a whole.
func (s *Store) Undo(ctx context.Context, charges []limit.Charge, rows []limit.Row) error {
	_, err := by(s, func(l *limit.Limiter) (struct{}, error) { return struct{}{}, l.Undo(ctx, charges, rows) })
	return err
}

// Within bounds a second call as limit.Limiter does.
func (s *Store) Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	return s.current.Load().caller.Within(ctx, start)
}

// UseScripts decides by scripts, which get the policy with each call: for policies that nobody has published.
func (s *Store) UseScripts() {
	s.scripts.Store(true)
	g := s.current.Load()
	g.probing.Lock()
	defer g.probing.Unlock()
	g.decideBy(library.ModeScripts)
}

// Close ends what is under way and closes all connections. What is asked from then on is answered as when Redis is away.
func (s *Store) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if !closed { // from here on nothing replaces it
		s.current.Load().abandon()
	}
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// allAllow tells whether no policy of the set denies for want of Redis.
func allAllow(set *policy.Set) bool {
	for i := range set.RateLimits {
		if f := set.RateLimits[i].OnStoreFailure; f != policy.FailureAllow && f != policy.FailureLocalShare {
			return false
		}
	}
	return true
}
