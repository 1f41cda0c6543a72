// Package store is penstockd's side of its RedisStore: it finds out how the server is made to decide, follows the
// published policies, and keeps trying while the server is away.
package store

import (
	"context"
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

// Store is one RedisStore. Decide, Reread and Why may be called concurrently.
type Store struct {
	cfg    redisops.Config
	client redis.UniversalClient
	caller *redisops.Caller
	log    *slog.Logger

	limiter atomic.Pointer[limit.Limiter]
	reread  chan struct{}

	mu  sync.Mutex
	why error
}

// Open makes a store. It opens no connection: the server may be away. Close ends it.
func Open(cfg redisops.Config, log *slog.Logger) *Store {
	cfg = cfg.WithDefaults()
	client := redisops.NewClient(cfg)
	return &Store{cfg: cfg, client: client, caller: redisops.NewCaller(client, cfg), log: log, reread: make(chan struct{}, 1)}
}

// Decide spends from budgets as limit.Limiter does. Until Follow or UseScripts has found how, it fails with
// redisops.ErrNotExecuted.
func (s *Store) Decide(ctx context.Context, charges []limit.Charge) ([]limit.Row, error) {
	limiter := s.limiter.Load()
	if limiter == nil {
		return nil, fmt.Errorf("%w: nothing is known of the server yet", redisops.ErrNotExecuted)
	}
	return limiter.Decide(ctx, charges)
}

// UseScripts decides by scripts, which get the policy with each call: for policies that nobody has published.
func (s *Store) UseScripts() {
	s.limiter.Store(limit.New(s.caller, s.client, library.ModeScripts))
}

// Follow finds out how the server decides, and then gives every published policy set to use, from one goroutine at a
// time, until the context ends. What goes wrong is logged once, shown by Why, and tried again with pauses as the
// configuration says.
func (s *Store) Follow(ctx context.Context, use func(*policy.Set)) {
	if !s.probe(ctx) {
		return
	}
	for ctx.Err() == nil {
		s.watch(ctx, use)
	}
}

// probe tells whether it came to a result before the context ended.
func (s *Store) probe(ctx context.Context) bool {
	bound := s.cfg.MinBackoff
	for first := true; ; first = false {
		capabilities, err := library.Probe(ctx, s.client)
		if err == nil {
			s.limiter.Store(limit.New(s.caller, s.client, capabilities.Mode()))
			s.log.Info("reached redis", "mode", capabilities.Mode().String())
			s.setWhy(nil)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.setWhy(err)
		if first {
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

// watch follows the policies until the context ends, or until somebody wants them read anew: beginning again is reading
// them, without two readers of which the slower could bring an older set back.
func (s *Store) watch(ctx context.Context, use func(*policy.Set)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-time.After(rereadPause):
		case <-ctx.Done():
			return
		}
		select {
		case <-s.reread:
			cancel()
		case <-ctx.Done():
		}
	}()
	_ = policystore.Watch(ctx, s.client, policystore.WatchOptions{
		MinBackoff: s.cfg.MinBackoff, MaxBackoff: s.cfg.MaxBackoff, Logger: s.log, OnError: s.setWhy,
	}, use)
}

// Reread has the published policies read again soon. It does not wait for it.
func (s *Store) Reread() {
	select {
	case s.reread <- struct{}{}:
	default:
	}
}

// Why tells what keeps the policies from being read, or "".
func (s *Store) Why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why == nil {
		return ""
	}
	return s.why.Error()
}

func (s *Store) setWhy(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = err
}

// Close ends what is under way and closes all connections.
func (s *Store) Close() {
	s.caller.Close()
	_ = s.client.Close()
}
