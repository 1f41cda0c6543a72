package engine

import (
	"context"
	"slices"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

const (
	// undoTimeout bounds the undoing of what was charged for one request: as long as a failover may take in which its shard is
	// gone, and much shorter than an id is known (60 s).
	undoTimeout = 5 * time.Second
	// mostUndoing bounds how many requests are being undone at once. More stay charged, which lets nobody pass.
	mostUndoing = 4096
)

// takeBack gives back what was charged for a request that is denied, or has no answer. The request began at begin.
func (e *Engine) takeBack(ctx context.Context, r *Request, begin time.Time) {
	var charges []limit.Charge
	var rows []limit.Row
	for i := range r.answers {
		a := &r.answers[i]
		if !a.taken.IsZero() {
			e.shares.giveBack(a.policy, &r.charges[i], a.taken)
		}
		if a.state == stateDecided && a.row.Undo != "" {
			// The request is used for another before this ends.
			charge := r.charges[i]
			charge.Values = slices.Clone(charge.Values)
			charges, rows = append(charges, charge), append(rows, a.row)
		}
	}
	if len(charges) > 0 {
		e.undo(ctx, charges, rows, begin)
	}
}

// undo undoes what the rows say, whether the caller waits for that or not. It returns when that is done, or when the
// decision has taken as long as one may.
func (e *Engine) undo(ctx context.Context, charges []limit.Charge, rows []limit.Row, begin time.Time) {
	select {
	case e.undoing <- struct{}{}:
	default:
		e.metrics.storeErrors.WithLabelValues("undo").Inc()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { <-e.undoing }()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if err := e.limiter.Undo(bounded, charges, rows); err != nil {
			e.metrics.storeErrors.WithLabelValues("undo").Inc()
		}
		for i := range charges {
			// Somebody may have been denied for want of what is there again.
			e.forget(charges[i].Key)
		}
	}()
	waiting, cancel := e.limiter.Within(ctx, begin)
	defer cancel()
	select {
	case <-done:
	case <-waiting.Done():
	}
}
