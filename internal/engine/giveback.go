package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// decideAndGiveBack is Decide for a request of which a descriptor gives back.
func (e *Engine) decideAndGiveBack(ctx context.Context, door Door, t *tables, d *domain, r *Request, start time.Time) (Result, error) {
	back := NewRequest(r.domain)
	defer back.Release()
	back.operation = opRefund
	// Before anything is charged: what cannot be given back is the request's error.
	if err := e.match(t, d, door, r, back, true); err != nil {
		return Result{}, err
	}
	if err := back.checkValues(); err != nil {
		e.metrics.refused(back, door)
		return Result{}, err
	}
	if err := e.match(t, d, door, r, r, false); err != nil {
		return Result{}, err
	}
	result, err := e.finish(ctx, door, t, r, start)
	if err != nil {
		return Result{}, err
	}
	verdicts, err := e.giveBack(ctx, door, back)
	if err != nil && result.Allowed {
		return Result{}, err
	}
	// Of what is denied, the denial counts: an error in its place would let the request pass at a proxy that fails open.
	for _, of := range back.targets {
		v := &verdicts[of.charge]
		result.Verdicts[of.descriptor].merge(v)
		result.Degraded = result.Degraded || v.Mode == Degraded
	}
	return result, nil
}

// giveBack gives back all charges, side by side, so that they share a batch on their way, and gives a verdict for each.
func (e *Engine) giveBack(ctx context.Context, door Door, back *Request) ([]Verdict, error) {
	verdicts, errs := make([]Verdict, len(back.charges)), make([]error, len(back.charges))
	panics := make([]any, len(back.charges))
	one := func(i int) {
		defer func() { panics[i] = recover() }()
		verdicts[i], errs[i] = e.giveBackOne(ctx, door, back.answers[i].policy, back.charges[i])
	}
	var others sync.WaitGroup
	for i := range len(back.charges) - 1 {
		others.Go(func() { one(i) })
	}
	if last := len(back.charges) - 1; last >= 0 {
		one(last)
	}
	others.Wait()
	for _, value := range panics {
		if value != nil {
			panic(value) // where the door that was asked recovers, and the request is no longer in use
		}
	}
	return verdicts, errors.Join(errs...)
}

// giveBackOne gives one charge back. It fails with ErrConfiguration, or because the caller has gone; the verdict allows then
// too.
func (e *Engine) giveBackOne(ctx context.Context, door Door, c *compiled, charge limit.Charge) (Verdict, error) {
	r := NewRequest("")
	defer r.Release()
	r.operation, r.unpublished = opRefund, charge.Unpublished
	r.charges, r.answers = append(r.charges, charge), append(r.answers, answer{policy: c})
	v, err := e.run(ctx, door, c, r)
	switch {
	case err == nil:
		// Whoever gives back is never denied, whatever is left then.
		v.Allowed, v.RetryAfter = true, 0
		return v, nil
	case errors.Is(err, ErrUnknownPolicy):
		return Verdict{Allowed: true}, nil
	case errors.Is(err, ErrConfiguration), errors.Is(err, context.Canceled):
		return degradedRefund(c), err
	default:
		return degradedRefund(c), nil
	}
}

// degradedRefund is the verdict on what was not given back, or may not have been.
func degradedRefund(c *compiled) Verdict {
	return Verdict{Allowed: true, Mode: Degraded, Policy: c.policy, Name: c.policy.Name}
}
