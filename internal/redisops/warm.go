package redisops

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// warmCheck is how often a Caller looks whether it still has its connections.
	warmCheck = time.Second
	// quietChecks is after how many of these without a batch it proves them, since servers and what is between close those
	// that are idle.
	quietChecks = 30
)

// warmer keeps connections open for the batches of a Caller. One that is opened when a batch needs it costs that batch
// three round trips more (TCP, HELLO, PING), which at 6 ms is twice the default CommandTimeout; and a load that grows needs
// several at once. go-redis' MinIdleConns does the first of the three only.
type warmer struct {
	client  *redis.Client
	breaker *breaker
	want    int
	timeout time.Duration
	min     time.Duration // pauses after failures
	max     time.Duration
	kick    chan struct{} // to look at once

	mu sync.Mutex // one warming at a time
	// lost is the pool's count of lost connections at the last success.
	lost uint32
}

// run warms until ctx ends. The batches count how many there have been. While the breaker is not closed the probes alone ask
// the server; a server that goes while nobody calls is found out here.
func (w *warmer) run(ctx context.Context, batches func() int64) {
	backoff := w.min
	seen, quiet := batches(), 0
	for {
		pause := warmCheck
		if pass := w.breaker.current.Load(); pass.state == BreakerClosed {
			err := w.warm(ctx, quiet >= quietChecks)
			if err == nil && quiet > 0 {
				err = w.ask(ctx)
			}
			if err != nil {
				if judged := judge(err); judged == broken || judged == unserved {
					w.breaker.fail(pass, err)
				}
				pause = w.min + rand.N(backoff-w.min+1)
				backoff = min(2*backoff, max(w.min, w.max))
			} else {
				backoff = w.min
			}
		}
		select {
		case <-time.After(pause):
		case <-w.kick:
		case <-ctx.Done():
			return
		}
		now := batches()
		if quiet++; now != seen || quiet > quietChecks {
			seen, quiet = now, 0
		}
	}
}

// wake lets it look at once.
func (w *warmer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// warm opens the connections when some are missing or one was lost since, or always. One that was lost may stand for all:
// the pool finds out about the others when their turn comes. Batches of the moment may have to open connections of their own,
// since it takes all that are idle; so it does nothing without a reason.
func (w *warmer) warm(ctx context.Context, always bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	stats := w.client.PoolStats()
	if !always && stats.StaleConns == w.lost && int(stats.TotalConns) >= w.want {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	// Each holds its connection until all have one.
	connections := make([]*redis.Conn, w.want)
	for i := range connections {
		connections[i] = w.client.Conn()
	}
	defer func() {
		for _, connection := range connections {
			_ = connection.Close()
		}
	}()
	// One alone, so that a server that is away is not asked by all.
	if err := ping(ctx, connections[0]); err != nil {
		return err
	}
	errs := make(chan error, w.want)
	for _, connection := range connections[1:] {
		go func() { errs <- ping(ctx, connection) }()
	}
	var failed error
	for range connections[1:] {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	if failed == nil {
		w.lost = w.client.PoolStats().StaleConns
	}
	return failed
}

// ask finds out whether the server is there.
func (w *warmer) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	connection := w.client.Conn()
	defer func() { _ = connection.Close() }()
	return ping(ctx, connection)
}

// ping makes the connection stand. A user who may not PING has it all the same.
func ping(ctx context.Context, connection *redis.Conn) error {
	if err := connection.Ping(ctx).Err(); err != nil && !redis.IsPermissionError(err) {
		return fmt.Errorf("opening a connection: %w", err)
	}
	return nil
}
