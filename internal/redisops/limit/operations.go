package limit

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// Peek gives for each charge the row that Decide would give for it alone, and writes nothing. Errors: see Decide.
func (l *Limiter) Peek(ctx context.Context, charges []Charge) ([]Row, error) {
	rows := make([]Row, len(charges))
	for i := range charges {
		var err error
		if rows[i], err = l.one(ctx, &l.peek, charges[i:i+1:i+1]); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// Refund gives back the charge's cost, so far as it was used; of a charge with an ID what that decision was charged, but
// no more than the cost, and only once. The row is that of a look afterwards, with the reason ReasonAbsent when there is
// nothing (any more) that the id names. Errors: see Decide.
func (l *Limiter) Refund(ctx context.Context, charge Charge) (Row, error) {
	return l.one(ctx, &l.refund, []Charge{charge})
}

// Credit adds the charge's cost, at least 1, to each Balance of the policy; with an ID once within 60 s. The row is that
// of a look afterwards. Errors: see Decide.
func (l *Limiter) Credit(ctx context.Context, charge Charge) (Row, error) {
	return l.one(ctx, &l.credit, []Charge{charge})
}

// Reset forgets all that was counted for the charge's subject: also the slots that it holds, its penalty, and the ids of its
// decisions and credits. Cost and ID do not matter. The row is that of a look afterwards. Errors: see Decide.
func (l *Limiter) Reset(ctx context.Context, charge Charge) (Row, error) {
	return l.one(ctx, &l.reset, []Charge{charge})
}

// one makes a call of one charge, and reads its row.
func (l *Limiter) one(ctx context.Context, o *operation, charges []Charge) (Row, error) {
	along := unpublished(charges)
	reply, err := l.call(ctx, o, along, func(command, script any) ([]any, error) {
		return l.arguments(o, command, script, charges, along)
	})
	if err == nil {
		var row Row
		if row, err = parseRow(reply); err == nil {
			return row, nil
		}
	}
	return Row{}, o.failed(charges[0].Policy, err)
}

// AcquireSlot acquires a slot, or holds one for longer that is held already. Errors: see Decide.
func (l *Limiter) AcquireSlot(ctx context.Context, slot Slot) (Row, error) {
	ttl := any("")
	if slot.TTL > 0 {
		ttl = max(slot.TTL.Milliseconds(), 1)
	}
	return l.slot(ctx, &l.acquire, slot, slot.ID, ttl)
}

// ReleaseSlot releases a slot. That nobody holds it (any more) is the reason ReasonAbsent of the row. Errors: see Decide.
func (l *Limiter) ReleaseSlot(ctx context.Context, slot Slot) (Row, error) {
	return l.slot(ctx, &l.release, slot, slot.ID)
}

// slot makes a call of a slot, whose arguments stand between the policy and the values.
func (l *Limiter) slot(ctx context.Context, o *operation, slot Slot, arguments ...any) (Row, error) {
	p, err := l.prepared(slot.Policy, false)
	if err != nil {
		return Row{}, err
	}
	reply, err := l.call(ctx, o, false, func(command, script any) ([]any, error) {
		args := []any{command, script, 1 + len(p.logs), slot.Key}
		for _, name := range p.logs {
			args = append(args, redisops.LogKey(slot.Key, name))
		}
		args = append(append(args, p.argument), arguments...)
		for _, value := range slot.Values {
			args = append(args, value)
		}
		if o.decides && p.door {
			args = append(args, doorArgument)
		}
		return args, nil
	})
	if err == nil {
		var row Row
		if row, err = parseRow(reply); err == nil {
			return row, nil
		}
	}
	return Row{}, o.failed(slot.Policy, err)
}

// failed tells by which operation the error came about. That a breaker is open is told as it is: it is the error of every
// call then, and has to cost nothing.
func (o *operation) failed(p *policy.RateLimit, err error) error {
	if errors.Is(err, redisops.ErrBreakerOpen) {
		return err
	}
	return fmt.Errorf("%s %s: %w", o.flagged.name, p.Name, err)
}
