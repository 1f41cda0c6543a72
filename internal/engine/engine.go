package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Limiter spends from budgets in Redis; limit.Limiter is one.
type Limiter interface {
	// Decide decides and charges all charges as one step, or none of them, and gives a row for each. It must not keep
	// the charges after it returned: the engine uses their memory again.
	Decide(ctx context.Context, charges []limit.Charge) ([]limit.Row, error)
	// Within gives the context for calling Decide again in the place of a call that began at start: all of them together
	// take no longer than one may.
	Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc)
}

// Errors of decisions. A denial is none.
var (
	// ErrNoSet tells that no policy set has been loaded yet.
	ErrNoSet = errors.New("no policy set is loaded yet")
	// ErrUnknownPolicy tells that the set in force has no policy of that name.
	ErrUnknownPolicy = errors.New("no policy of that name")
	// ErrConfiguration tells that Redis refuses the credentials or rights of this process. It is an error and not an
	// outage, since an outage may allow.
	ErrConfiguration = errors.New("redis refuses the credentials or rights of penstockd; check its user, password and ACL")
)

// MaxValueBytes is how long the value of a descriptor may be.
const MaxValueBytes = 256

// ValueTooLongError tells that a request has a value of more than MaxValueBytes for a policy that applies to it. Nothing
// was charged.
type ValueTooLongError struct {
	// Key is the descriptor's key, as the policy has it.
	Key string
	// Bytes is how long the value is.
	Bytes int
}

// Error names the key and the bound, and never the value, which may be secret.
func (e *ValueTooLongError) Error() string {
	return fmt.Sprintf("%s: %d bytes, want at most %d", e.Key, e.Bytes, MaxValueBytes)
}

// Options of an Engine.
type Options struct {
	// Limiter is required.
	Limiter Limiter
	// Reread is called when Redis does not know a policy of our set, so that the set is read again. It must not block.
	// May be nil.
	Reread func()
	// Logger gets one line per transition; nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Now is the clock of measurements and of transitions, never of a decision; nil is time.Now.
	Now func() time.Time
}

// Engine decides by the policy set that was last given to Use. All methods may be called concurrently.
type Engine struct {
	limiter Limiter
	reread  func()
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics

	current atomic.Pointer[tables]
	ready   chan struct{}

	outage        transition
	configuration transition
	mismatch      transition
}

// New makes an engine without a policy set: until Use is called, decisions fail with ErrNoSet.
func New(opts Options) *Engine {
	e := &Engine{limiter: opts.Limiter, reread: opts.Reread, log: opts.Logger, now: opts.Now, ready: make(chan struct{})}
	if e.reread == nil {
		e.reread = func() {}
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.metrics = newMetrics(opts.Registerer)
	return e
}

// Use puts the set in force for all decisions that begin from now on. The set must be valid (policy.Parse or NewSet of
// valid policies) and must not be changed afterwards. Use is not meant to be called concurrently with itself.
func (e *Engine) Use(set *policy.Set) {
	if set == nil {
		return
	}
	old := e.current.Load()
	if old != nil && old.set.Hash == set.Hash {
		return
	}
	e.metrics.setInForce(set, e.now())
	next := compile(set, old)
	e.current.Store(next)
	if old == nil {
		close(e.ready)
	} else {
		e.metrics.forget(old, next)
		e.metrics.info.DeleteLabelValues(old.set.Hash)
	}
	e.log.Info("policy set in force", "hash", set.Hash, "policies", len(set.RateLimits))
}

// Ready gives a channel that is closed once a set is in force.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Set gives the policy set in force, or nil when there is none yet. It must not be changed.
func (e *Engine) Set() *policy.Set {
	if t := e.current.Load(); t != nil {
		return t.set
	}
	return nil
}
