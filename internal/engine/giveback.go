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
	if err != nil {
		return Result{}, err
	}
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
	var others sync.WaitGroup
	for i := range back.charges {
		if i == len(back.charges)-1 {
			verdicts[i], errs[i] = e.giveBackOne(ctx, door, back.answers[i].policy, back.charges[i])
			break
		}
		others.Go(func() {
			verdicts[i], errs[i] = e.giveBackOne(ctx, door, back.answers[i].policy, back.charges[i])
		})
	}
	others.Wait()
	return verdicts, errors.Join(errs...)
}

// giveBackOne gives one charge back. It fails with ErrConfiguration, or because the caller has gone.
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
		return Verdict{}, err
	default:
		return Verdict{Allowed: true, Mode: Degraded, Policy: c.policy, Name: c.policy.Name}, nil
	}
}
