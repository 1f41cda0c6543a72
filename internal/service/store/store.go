// Package store is penstockd's side of its RedisStore: it finds out how the server is made to decide, follows the
// published policies, and keeps trying while the server is away.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// rereadPause is how soon the set may be read again on request: a policy that every request asks for must not make every
// request read the set.
const rereadPause = time.Second

// Store is one RedisStore, and the engine's Limiter. Those methods, Reread and Why may be called concurrently; Reach and
// Follow one after the other.
type Store struct {
	cfg    redisops.Config
	client redis.UniversalClient
	caller *redisops.Caller
	log    *slog.Logger

	limiter  atomic.Pointer[limit.Limiter]
	reread   chan struct{}
	failures chan failure

	mu      sync.Mutex
	why     error
	refused bool // why is of class Configuration, and was logged
}

// Open makes a store. It opens no connection: the server may be away. Close ends it.
func Open(cfg redisops.Config, log *slog.Logger) *Store {
	cfg = cfg.WithDefaults()
	client := redisops.NewClient(cfg)
	return &Store{cfg: cfg, client: client, caller: redisops.NewCaller(client, cfg), log: log, reread: make(chan struct{}, 1), failures: make(chan failure, mostFailures)}
}

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
			if err := policystore.ReportFailure(ctx, s.client, f.policy, f.told); err != nil {
				s.log.DebugContext(ctx, "cannot report that an expression failed", "policy", f.policy, "error", err.Error())
			}
		case <-ctx.Done():
			return
		}
	}
}

// by asks the limiter. Until Follow or UseScripts has found how the server decides, it fails with redisops.ErrNotExecuted.
func by[Answer any](s *Store, ask func(*limit.Limiter) (Answer, error)) (Answer, error) {
	limiter := s.limiter.Load()
	if limiter == nil {
		var none Answer
		return none, fmt.Errorf("%w: nothing is known of the server yet", redisops.ErrNotExecuted)
	}
	return ask(limiter)
}

// Decide spends from budgets as limit.Limiter does, as all that follows is as of it. Until Follow or UseScripts has found
// how, each fails with redisops.ErrNotExecuted.
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

// Within bounds a second call as limit.Limiter does.
func (s *Store) Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	return s.caller.Within(ctx, start)
}

// UseScripts decides by scripts, which get the policy with each call: for policies that nobody has published.
func (s *Store) UseScripts() {
	s.limiter.Store(limit.New(s.caller, s.client, library.ModeScripts))
}

// Reach waits until the server answers a ping and connections stand for the first decisions, and tells whether it
// answered before the context ended.
func (s *Store) Reach(ctx context.Context) bool {
	return s.try(ctx, func() error {
		if err := s.client.Ping(ctx).Err(); err != nil && !redis.IsPermissionError(err) { // who may not PING may decide
			return err
		}
		return nil
	})
}

// warm waits for the connections that a growing load will need. A server that answers and lets nobody open as many is
// used all the same.
func (s *Store) warm(ctx context.Context) {
	if err := s.caller.Warm(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot open all connections to redis ahead; the first decisions may be late", "error", err.Error())
	}
}

// Follow finds out how the server decides, and then gives every published policy set to use, from one goroutine at a
// time, until the context ends. What goes wrong is logged once, shown by Why, and tried again with pauses as the
// configuration says.
func (s *Store) Follow(ctx context.Context, use func(*policy.Set)) {
	if !s.probe(ctx) {
		return
	}
	refresh := make(chan struct{})
	var pacing sync.WaitGroup
	defer pacing.Wait()
	pacing.Go(func() { s.pace(ctx, refresh) })
	pacing.Go(func() { s.report(ctx) })
	_ = policystore.Watch(ctx, s.client, policystore.WatchOptions{
		MinBackoff: s.cfg.MinBackoff, MaxBackoff: s.cfg.MaxBackoff, Logger: s.log, OnError: s.note, Refresh: refresh,
	}, use)
}

// probe tells whether it came to a result before the context ended.
func (s *Store) probe(ctx context.Context) bool {
	return s.try(ctx, func() error {
		capabilities, err := library.Probe(ctx, s.client)
		if err == nil {
			s.limiter.Store(limit.New(s.caller, s.client, capabilities.Mode()))
			s.log.Info("reached redis", "mode", capabilities.Mode().String())
		}
		return err
	})
}

// try tries until it succeeds, and tells whether it did before the context ended.
func (s *Store) try(ctx context.Context, attempt func() error) bool {
	bound := s.cfg.MinBackoff
	for logged := false; ; {
		err := attempt()
		if err == nil {
			s.note(nil)
			s.warm(ctx)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.note(err)
		if !logged && redisops.Classify(err) != redisops.Configuration {
			logged = true
			s.log.Warn("cannot reach redis; trying on", "error", err.Error())
		}
		select {
		case <-time.After(s.cfg.MinBackoff + rand.N(bound-s.cfg.MinBackoff+1)):
		case <-ctx.Done():
			return false
		}
		bound = max(s.cfg.MinBackoff, min(2*bound, s.cfg.MaxBackoff))
	}
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
		select {
		case <-time.After(rereadPause):
		case <-ctx.Done():
			return
		}
	}
}

// Reread has the published policies read again soon. It does not wait for it.
func (s *Store) Reread() {
	select {
	case s.reread <- struct{}{}:
	default:
	}
}

// Why tells in words what keeps the policies from being read, or "". Whoever reaches the doors may see it, so the error
// itself, with its addresses and names of users, is in the log only.
func (s *Store) Why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return inWords(s.why)
}

func inWords(err error) string {
	switch {
	case err == nil:
		return ""
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

// note keeps the latest error, or nil, for Why. Refused credentials and rights are told apart from an outage: they stay
// until somebody mends them.
func (s *Store) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = err
	if redisops.Classify(err) == redisops.Configuration {
		if !s.refused {
			s.refused = true
			s.log.Error("redis refuses penstockd until its user, password or ACL is mended; trying on", "error", err.Error())
		}
	} else if err == nil && s.refused {
		s.refused = false
		s.log.Info("redis accepts penstockd")
	}
}

// Close ends what is under way and closes all connections.
func (s *Store) Close() {
	s.caller.Close()
	_ = s.client.Close()
}
