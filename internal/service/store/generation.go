package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// generation is one way to reach Redis: the connections with one set of credentials and certificates. The next one takes its
// place as a whole, and it is closed once nobody uses it any more.
type generation struct {
	cfg     redisops.Config
	servers *redisops.Servers
	caller  *redisops.Caller
	// limiter is nil until it is known how the servers decide.
	limiter atomic.Pointer[limit.Limiter]
	probing sync.Mutex
	mode    library.Mode // under probing
	// reached tells that it has worked.
	reached atomic.Bool

	// users are the calls under way, and what else must end before it is closed. idle is told when there are none.
	users atomic.Int64
	idle  chan struct{}
	over  context.Context // ends when another one has taken its place
	end   context.CancelFunc
}

// open prepares a generation without a connection.
func (s *Store) open(cfg redisops.Config) (*generation, error) {
	servers, err := redisops.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	g := &generation{
		cfg: servers.Config(), servers: servers, caller: redisops.NewCaller(servers, redisops.CallerOptions{Logger: s.log}),
		idle: make(chan struct{}, 1),
	}
	g.over, g.end = context.WithCancel(context.Background())
	if s.scripts.Load() {
		g.decideBy(library.ModeScripts)
	}
	return g, nil
}

// enter gives the generation in force, which stays open until it is left.
func (s *Store) enter() *generation {
	for {
		g := s.current.Load()
		g.users.Add(1)
		// Whoever replaces it looks at the users only afterwards, so either it sees this one, or this sees the other one.
		if s.current.Load() == g {
			return g
		}
		g.leave()
	}
}

func (g *generation) leave() {
	if g.users.Add(-1) == 0 && g.over.Err() != nil {
		nudge(g.idle)
	}
}

// close waits for those who use it, and closes it. It must have been replaced.
func (g *generation) close() {
	g.end()
	for g.users.Load() > 0 {
		<-g.idle
	}
	g.abandon()
}

// abandon closes it whoever uses it.
func (g *generation) abandon() {
	g.end()
	g.caller.Close()
	_ = g.servers.Close()
}

// decideBy has decisions made in that way. Others may be finding out how at the same time: see probing.
func (g *generation) decideBy(mode library.Mode) {
	g.mode = mode
	g.limiter.Store(limit.New(g.caller, g.servers.Client(), mode))
}

// probe asks the servers, and finds out how they decide.
func (s *Store) probe(ctx context.Context, g *generation) error {
	if s.scripts.Load() {
		if err := pingAll(ctx, g.servers); err != nil {
			return err
		}
		if !g.reached.Swap(true) {
			s.log.Info("reached redis", "mode", library.ModeScripts.String())
		}
		return nil
	}
	capabilities, err := library.ProbeAll(ctx, g.servers)
	if err != nil {
		return err
	}
	g.reached.Store(true)
	g.probing.Lock()
	defer g.probing.Unlock()
	mode := capabilities.Mode()
	switch known := g.limiter.Load() != nil; {
	case !known:
		g.decideBy(mode)
		s.log.Info("reached redis", "mode", mode.String())
	case mode != g.mode:
		g.decideBy(mode)
		s.log.Warn("the servers of redis are others, and decide in another way from now on", "mode", mode.String())
	}
	return nil
}

// pingAll fails when one of the primaries refuses us, or none answers, as library.ProbeAll does.
func pingAll(ctx context.Context, servers *redisops.Servers) error {
	primaries, err := servers.Primaries(ctx)
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	failures := make([]error, len(primaries))
	var asking sync.WaitGroup
	for i, primary := range primaries {
		asking.Go(func() {
			// Who may not PING may decide.
			if err := primary.Client.Ping(ctx).Err(); err != nil && !redis.IsPermissionError(err) {
				failures[i] = fmt.Errorf("%s: ping: %w", primary.Address, err)
			}
		})
	}
	asking.Wait()
	answered := false
	for _, failure := range failures {
		if redisops.Classify(failure) == redisops.Configuration {
			return failure
		}
		answered = answered || failure == nil
	}
	if !answered {
		return errors.Join(failures...)
	}
	return nil
}

// warm waits for the connections that a growing load will need. A server that answers and lets nobody open as many is
// used all the same.
func (s *Store) warm(ctx context.Context, g *generation) {
	bounded, cancel := context.WithTimeout(ctx, 2*g.cfg.DialTimeout)
	defer cancel()
	if err := g.caller.Warm(bounded); err != nil && ctx.Err() == nil {
		s.log.Warn("cannot open all connections to redis ahead; the first decisions may be late", "error", err.Error())
	}
}
