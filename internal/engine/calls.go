package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Call is one policy asked about one subject.
type Call struct {
	// Policy is "<namespace>/<name>".
	Policy string
	// Lookup gives an attribute of the subject by its key, and whether there is one.
	Lookup func(key string) (string, bool)
	// Cost is what to charge, 0 (only look) to policy.MaxInteger, or PolicyCost; of a Credit what to add, at least 1.
	Cost int64
	// ID names the decision (see limit.ValidID), so that it is made once however often it is asked for within 60 s. Empty
	// is none.
	ID string
}

// SlotCall is a slot of one Concurrency asked for by one subject.
type SlotCall struct {
	// Policy and Lookup are as of a Call.
	Policy string
	Lookup func(key string) (string, bool)
	// ID names the slot (see limit.ValidID). Whoever acquires it again has it for another TTL.
	ID string
	// TTL is how long it is held at most, at least a millisecond; 0, and what is longer than the policy's slotTTL, is that.
	TTL time.Duration
}

// operation is what Redis is asked for.
type operation uint8

const (
	opDecide operation = iota
	opPeek
	opAcquire
	opRefund
	opCredit
	opReset
	opRelease
	operations
)

// operationNames are those of operations that are no decisions; metrics know no others.
var operationNames = [operations]string{opRefund: "refund", opCredit: "credit", opReset: "reset", opRelease: "release"}

const (
	useSlots   = "it counts what is under way; use AcquireSlot and ReleaseSlot"
	useCheck   = "it counts no slots; use Check"
	useBalance = "it holds no Balance, so there is nothing to top up; use Refund"
)

func wrongOperation(remedy string) error { return fmt.Errorf("%w: %s", ErrWrongOperation, remedy) }

// DecidePolicy decides for one policy by the attributes of a subject. The policy applies when there is a value that fits
// for each of its descriptors, and all its conditions hold; else the verdict is Unmatched, and nothing is charged.
//
// It fails as Decide does, and with ErrUnknownPolicy, *ArgumentError, and ErrWrongOperation for a Concurrency.
func (e *Engine) DecidePolicy(ctx context.Context, door Door, call Call) (Verdict, error) {
	return e.one(ctx, door, &call, opDecide, 0)
}

// Peek tells what DecidePolicy would, and writes nothing. It fails as that does.
func (e *Engine) Peek(ctx context.Context, door Door, call Call) (Verdict, error) {
	return e.one(ctx, door, &call, opPeek, 0)
}

// AcquireSlot takes a slot of a Concurrency, or denies. A policy whose conditions do not all hold, or whose patterns the
// subject does not fit, does not apply: the verdict is Unmatched, and there is nothing to release.
//
// It fails as DecidePolicy does, with ErrWrongOperation for what is no Concurrency, and with *MissingAttributeError.
func (e *Engine) AcquireSlot(ctx context.Context, door Door, call SlotCall) (Verdict, error) {
	if err := checkSlot(&call); err != nil {
		return Verdict{}, err
	}
	return e.one(ctx, door, &Call{Policy: call.Policy, Lookup: call.Lookup, Cost: 1, ID: call.ID}, opAcquire, call.TTL)
}

// Refund gives back what a decision charged: with its ID what that one charged, once, and else the Cost. The Reason of the
// verdict is limit.ReasonAbsent when there is no such decision (any more).
//
// Refund, Credit, Reset and ReleaseSlot take the subject as it is, whether the policy's conditions hold or not. They fail
// with ErrNoSet, ErrUnknownPolicy, ErrConfiguration, *ArgumentError, *MissingAttributeError, *ValueTooLongError,
// ErrWrongOperation, ErrStoreUnavailable or ErrUnknownOutcome, or with the error of a context whose caller has gone. What
// onStoreFailure says does not matter: nobody is told that something was done which was not.
func (e *Engine) Refund(ctx context.Context, door Door, call Call) (Verdict, error) {
	return e.operate(ctx, door, &call, opRefund)
}

// Credit tops up a Balance by the Cost of the call. See Refund for errors; ErrWrongOperation is for a policy that holds no
// Balance.
func (e *Engine) Credit(ctx context.Context, door Door, call Call) (Verdict, error) {
	if call.Cost < 1 || call.Cost > policy.MaxInteger {
		return Verdict{}, &ArgumentError{Field: "amount", Problem: fmt.Sprintf("want 1 to %d", int64(policy.MaxInteger))}
	}
	return e.operate(ctx, door, &call, opCredit)
}

// Reset forgets everything that is known of the subject, which then is as a new one. The Cost does not matter. See Refund
// for errors.
func (e *Engine) Reset(ctx context.Context, door Door, call Call) (Verdict, error) {
	call.Cost = 0
	return e.operate(ctx, door, &call, opReset)
}

// ReleaseSlot gives a slot back. The Reason of the verdict is limit.ReasonAbsent when it is not held (any more). See Refund
// for errors.
func (e *Engine) ReleaseSlot(ctx context.Context, door Door, call SlotCall) (Verdict, error) {
	if err := checkSlot(&call); err != nil {
		return Verdict{}, err
	}
	return e.operate(ctx, door, &Call{Policy: call.Policy, Lookup: call.Lookup, ID: call.ID}, opRelease)
}

const wantID = "want 1 to 128 visible ASCII characters, without spaces"

func checkSlot(call *SlotCall) error {
	if !limit.ValidID(call.ID) {
		return &ArgumentError{Field: "slot_id", Problem: wantID}
	}
	if call.TTL < 0 || call.TTL > 0 && call.TTL < time.Millisecond {
		return &ArgumentError{Field: "ttl", Problem: "want at least a millisecond, or none for the policy's slotTTL"}
	}
	return nil
}

// check refuses what no policy takes.
func (c *Call) check() error {
	if c.ID != "" && !limit.ValidID(c.ID) {
		return &ArgumentError{Field: "id", Problem: wantID}
	}
	if c.Cost != PolicyCost && (c.Cost < 0 || c.Cost > policy.MaxInteger) {
		return &ArgumentError{Field: "cost", Problem: fmt.Sprintf("want 0 to %d, or none for the policy's", int64(policy.MaxInteger))}
	}
	return nil
}

// allows tells whether the policy has the operation.
func (c *compiled) allows(op operation) error {
	concurrency := c.policy.IsConcurrency()
	switch op {
	case opAcquire, opRelease:
		if !concurrency {
			return wrongOperation(useCheck)
		}
	case opCredit:
		if !c.policy.Holds(policy.Balance) {
			return wrongOperation(useBalance)
		}
	case opReset: // of all
	default:
		if concurrency {
			return wrongOperation(useSlots)
		}
	}
	return nil
}

// find gives the policy of a call that it has the operation for.
func (e *Engine) find(call *Call, op operation) (*tables, *compiled, error) {
	if err := call.check(); err != nil {
		return nil, nil, err
	}
	t := e.current.Load()
	if t == nil {
		return nil, nil, ErrNoSet
	}
	c := t.names[call.Policy]
	if c == nil {
		return nil, nil, ErrUnknownPolicy
	}
	return t, c, c.allows(op)
}

// one makes the decision of a call.
func (e *Engine) one(ctx context.Context, door Door, call *Call, op operation, ttl time.Duration) (Verdict, error) {
	start := e.now()
	t, c, err := e.find(call, op)
	if err != nil {
		return Verdict{}, err
	}
	r := NewRequest(c.policy.Domain)
	defer r.Release()
	r.operation, r.ttl = op, ttl
	r.Descriptor(call.Cost)
	v := r.look(e)
	v.lookup = call.Lookup
	v.setCost(call.Cost)

	missing := r.attributes(c.policy.Descriptors, call.Lookup)
	if missing != "" && op == opAcquire {
		return Verdict{}, &MissingAttributeError{Key: missing}
	}
	cost, applies := int64(0), missing == "" && c.matches(r.entries)
	if applies {
		cost, applies = v.applies(c)
	}
	if err := v.err(r, door); err != nil {
		return Verdict{}, err
	}
	if applies {
		r.target(0, c, r.entries, cost)
		r.charges[0].ID = call.ID
	} else if op != opPeek {
		e.metrics.count(c, door, outcomeUnmatched)
	}
	result, err := e.finish(ctx, door, t, r, start)
	if err != nil {
		return Verdict{}, err
	}
	verdict := result.Verdicts[0]
	verdict.ID = call.ID
	return verdict, nil
}

// operate does what is no decision.
func (e *Engine) operate(ctx context.Context, door Door, call *Call, op operation) (Verdict, error) {
	_, c, err := e.find(call, op)
	if err != nil {
		return Verdict{}, err
	}
	r := NewRequest(c.policy.Domain)
	defer r.Release()
	r.operation = op
	r.Descriptor(call.Cost)
	missing := r.attributes(c.policy.Descriptors, call.Lookup)
	if missing == "" {
		if at := c.misfit(r.entries); at >= 0 {
			missing = c.policy.Descriptors[at].Key
		}
	}
	if missing != "" {
		return Verdict{}, &MissingAttributeError{Key: missing}
	}
	r.target(0, c, r.entries, e.refunded(r, c, call))
	r.charges[0].ID = call.ID
	if err := r.checkValues(); err != nil {
		return Verdict{}, err
	}
	return e.run(ctx, door, c, r)
}

// refunded is the cost of an operation. What a decision charged that is named by its id, Redis knows; the cost only bounds
// it.
func (e *Engine) refunded(r *Request, c *compiled, call *Call) int64 {
	switch {
	case call.Cost != PolicyCost:
		return call.Cost
	case call.ID != "":
		return policy.MaxInteger
	}
	v := r.look(e)
	v.lookup = call.Lookup
	v.setCost(PolicyCost)
	return v.ownCost(c)
}

// run asks Redis for an operation, once.
func (e *Engine) run(ctx context.Context, door Door, c *compiled, r *Request) (Verdict, error) {
	// However it ends: what was denied before may not be now.
	defer e.forget(r.charges[0].Key)
	begin := e.now()
	row, err := e.send(ctx, r)
	now := e.now()
	e.metrics.redis.Observe(now.Sub(begin).Seconds())
	if err != nil {
		err = e.operationFailed(ctx, err, r, begin, now)
		e.metrics.operated(c, door, r.operation, operationOutcome(err))
		return Verdict{}, err
	}
	e.succeeded(now)
	c.succeeded(now, r.unpublished, e.log)
	e.metrics.operated(c, door, r.operation, rowOutcome(&row))
	v := enforced(c, &row)
	v.ID = r.charges[0].ID
	return v, nil
}

func (e *Engine) send(ctx context.Context, r *Request) (limit.Row, error) {
	charge := r.charges[0]
	switch r.operation {
	case opRefund:
		return e.limiter.Refund(ctx, charge)
	case opCredit:
		return e.limiter.Credit(ctx, charge)
	case opReset:
		return e.limiter.Reset(ctx, charge)
	default:
		return e.limiter.ReleaseSlot(ctx, slotOf(&charge, 0))
	}
}

func slotOf(c *limit.Charge, ttl time.Duration) limit.Slot {
	return limit.Slot{Policy: c.Policy, Key: c.Key, Values: c.Values, ID: c.ID, TTL: ttl}
}

// refusedCredit gives the error of a credit that fails for this subject alone, and else nil. Other refusals say that Redis
// has another version of the policy.
func refusedCredit(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "PENSTOCK_BADARG cost: the balance would be"):
		return &ArgumentError{Field: "amount", Problem: fmt.Sprintf("the balance would be more than %d", int64(policy.MaxInteger))}
	case strings.Contains(text, "PENSTOCK_BADARG policy ") && strings.Contains(text, " has no limit of algorithm Balance"):
		return wrongOperation("an override applies to the subject that holds no Balance")
	default:
		return nil
	}
}

// operationFailed gives the error of an operation for that of Redis, and notes it as a decision would.
func (e *Engine) operationFailed(ctx context.Context, err error, r *Request, begin, now time.Time) error {
	if r.operation == opCredit {
		if refused := refusedCredit(err); refused != nil {
			e.succeeded(now)
			return refused
		}
	}
	switch e.blame(err, &r.charges[0], r.answers[0].policy, true, now) {
	// Both refuse before they write.
	case stateGone:
		return ErrUnknownPolicy
	case stateFailed:
		return ErrStoreUnavailable
	default: // it is about Redis
	}
	if fatal := e.failed(ctx, err, begin, now); fatal != nil {
		return fatal
	}
	switch class := redisops.Classify(err); class {
	case redisops.UnknownOutcome, redisops.Failed:
		return fmt.Errorf("%w (%s)", ErrUnknownOutcome, class)
	default:
		return fmt.Errorf("%w (%s)", ErrStoreUnavailable, class)
	}
}

func operationOutcome(err error) operationResult {
	if errors.Is(err, ErrUnknownOutcome) || errors.Is(err, context.Canceled) {
		return operationUnknown
	}
	return operationFailed
}

func rowOutcome(row *limit.Row) operationResult {
	if row.Reason == limit.ReasonAbsent {
		return operationAbsent
	}
	return operationDone
}
