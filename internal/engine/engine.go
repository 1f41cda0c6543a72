package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Limiter spends from budgets in Redis; limit.Limiter is one. It must not keep what it was given after it returned: the
// engine uses that memory again.
type Limiter interface {
	// Decide decides and charges all charges as one step, or none of them, and gives a row for each. In a cluster it may charge
	// some alone: then there is something to Undo, and when others failed a *limit.PartialError.
	Decide(ctx context.Context, charges []limit.Charge) ([]limit.Row, error)
	// Peek gives the rows that Decide would give for each charge alone, and writes nothing.
	Peek(ctx context.Context, charges []limit.Charge) ([]limit.Row, error)
	// Undo gives back what rows of Decide say that it charged for itself, each exactly once, and takes as long as ctx lets it.
	Undo(ctx context.Context, charges []limit.Charge, rows []limit.Row) error
	// Refund gives back what was charged, Credit tops up a Balance, and Reset forgets all state of the subject.
	Refund(ctx context.Context, charge limit.Charge) (limit.Row, error)
	Credit(ctx context.Context, charge limit.Charge) (limit.Row, error)
	Reset(ctx context.Context, charge limit.Charge) (limit.Row, error)
	// AcquireSlot takes a slot of a Concurrency, and ReleaseSlot gives it back.
	AcquireSlot(ctx context.Context, slot limit.Slot) (limit.Row, error)
	ReleaseSlot(ctx context.Context, slot limit.Slot) (limit.Row, error)
	// Within gives the context for calling again in the place of a call that began at start: all of them together take no
	// longer than one may.
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
	// ErrWrongOperation tells that the policy's algorithm has no such operation. It is wrapped with what to use instead.
	ErrWrongOperation = errors.New("the policy has no such operation")
	// ErrStoreUnavailable tells that Redis certainly did not run an operation, so that it may be repeated.
	ErrStoreUnavailable = errors.New("redis cannot serve now; nothing was changed")
	// ErrUnknownOutcome tells that Redis may have run an operation, or not. To repeat it is safe with the same id.
	ErrUnknownOutcome = fmt.Errorf("redis did not answer, and may have done it; repeat it with the same id: %w", redisops.ErrUnknownOutcome)
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

// ArgumentError tells that a call has an argument that no policy takes. Nothing was asked.
type ArgumentError struct {
	// Field is the argument: id, cost, amount, slot_id or ttl.
	Field string
	// Problem is what is wrong with it and what is wanted. It never holds an id, which a user may have chosen.
	Problem string
}

// Error names the field.
func (e *ArgumentError) Error() string { return e.Field + ": " + e.Problem }

// MissingAttributeError tells that the subject of a call lacks a descriptor of the policy, or has a value that does not
// fit, so that there is no budget to operate on.
type MissingAttributeError struct {
	// Key is the descriptor's key.
	Key string
}

// Error names the key.
func (e *MissingAttributeError) Error() string {
	return "the subject needs a value of " + e.Key + " that fits the policy"
}

// Options of an Engine.
type Options struct {
	// Limiter is required.
	Limiter Limiter
	// Reread is called when Redis does not know a policy of our set, so that the set is read again. It must not block.
	// May be nil.
	Reread func()
	// ExpressionFailed is called at most once a minute for a policy of which an expression has no value for a request; the
	// message says which and why, and nothing of the request. It must not block. May be nil.
	ExpressionFailed func(p *policy.RateLimit, message string)
	// Denied is called for each policy that denied a request, not for one that only looks on: with the key of the subject's
	// counter, and the values of the policy's descriptors. It must not block, nor keep what it is given. May be nil.
	Denied func(p *policy.RateLimit, key string, values []string)
	// Tracer makes a span of each call of Redis for a request whose own span is recorded, and that one is told what was
	// decided. nil makes none.
	Tracer trace.Tracer
	// Logger gets one line per transition; nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Now is the clock of measurements, of transitions and of the deny cache, never of a decision; nil is time.Now.
	Now func() time.Time
	// Replicas tells how many processes decide by the same policies now, this one included, for the shares of LocalShare. It
	// is asked with each such decision, and must not block. nil is 1.
	Replicas func() int
	// NoDenyCache has Redis asked even for what it denied a moment ago.
	NoDenyCache bool
}

// Engine decides by the policy set that was last given to Use. All methods may be called concurrently.
type Engine struct {
	limiter          Limiter
	reread           func()
	expressionFailed func(*policy.RateLimit, string)
	denied           func(p *policy.RateLimit, key string, values []string) // nil: nobody is told
	tracer           trace.Tracer                                           // nil: no spans
	log              *slog.Logger
	now              func() time.Time
	metrics          *metrics
	denials          *denials // nil: none are remembered

	shares  *shares
	undoing chan struct{} // has an element for each undoing that is under way

	current atomic.Pointer[tables]
	ready   chan struct{}

	outage        Transition
	configuration Transition
	mismatch      Transition
}

// New makes an engine without a policy set: until Use is called, decisions fail with ErrNoSet.
func New(opts Options) *Engine {
	e := &Engine{
		limiter: opts.Limiter, reread: opts.Reread, expressionFailed: opts.ExpressionFailed, log: opts.Logger, now: opts.Now,
		denied: opts.Denied, tracer: opts.Tracer, ready: make(chan struct{}),
	}
	if e.tracer != nil {
		e.limiter = traced{Limiter: e.limiter, tracer: e.tracer}
	}
	if e.reread == nil {
		e.reread = func() {}
	}
	if e.expressionFailed == nil {
		e.expressionFailed = func(*policy.RateLimit, string) {}
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.shares, e.undoing = newShares(opts.Replicas, e.now()), make(chan struct{}, mostUndoing)
	if !opts.NoDenyCache {
		e.denials = newDenials()
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
	e.reportBroken(next, old)
	e.current.Store(next)
	if old == nil {
		close(e.ready)
	} else {
		e.metrics.forget(old, next)
		e.metrics.info.DeleteLabelValues(old.set.Hash)
	}
	e.log.Info("policy set in force", "hash", set.Hash, "policies", len(set.RateLimits))
}

// reportBroken tells of the policies that came with the set and whose expressions do not compile.
func (e *Engine) reportBroken(next, old *tables) {
	for name, c := range next.names {
		if c.rules == nil || c.rules.broken == nil || old.unchanged(c.policy) != nil {
			continue
		}
		e.metrics.expressionFailed(c)
		e.log.Error("an expression of the policy does not compile here, so it applies to no request; mend it, or update penstockd",
			"policy", name, "error", c.rules.broken.Error())
	}
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
