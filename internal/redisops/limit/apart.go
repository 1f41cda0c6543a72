package limit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// PartialError tells that some charges of a decision were not decided, in a cluster, where each slot decides its own.
type PartialError struct {
	// Errs has for each charge the error that kept it from being decided: as of Decide, and one and the same value, which can
	// be compared, for the charges of one call. It is nil where the row holds.
	Errs []error
}

// Error tells the first of the errors.
func (e *PartialError) Error() string {
	failed := e.Unwrap()
	if len(failed) == 0 {
		return "no charge failed"
	}
	return fmt.Sprintf("%d of %d charges were not decided: %v", len(failed), len(e.Errs), failed[0])
}

// Unwrap gives the errors.
func (e *PartialError) Unwrap() []error {
	var failed []error
	for _, err := range e.Errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

// bySlot gives the places of the charges of each slot, in order.
func bySlot(charges []Charge) [][]int {
	var parts [][]int
	var slots []int
	for i := range charges {
		slot, at := redisops.Slot(charges[i].Key), 0
		for at < len(slots) && slots[at] != slot {
			at++
		}
		if at == len(slots) {
			slots, parts = append(slots, slot), append(parts, nil)
		}
		parts[at] = append(parts[at], i)
	}
	return parts
}

// decideApart decides the charges of each part together, all parts side by side. Each charge has an id, so that it can be
// undone.
func (l *Limiter) decideApart(ctx context.Context, charges []Charge, parts [][]int) ([]Row, error) {
	rows, errs := make([]Row, len(charges)), make([]error, len(charges))
	decide := func(places []int) {
		part := make([]Charge, len(places))
		for i, at := range places {
			part[i] = charges[at]
			if part[i].ID == "" && part[i].Cost > 0 {
				part[i].ID = l.ids.next()
			}
		}
		decided, err := l.decideTogether(ctx, part)
		for i, at := range places {
			if err != nil {
				errs[at] = err
				continue
			}
			row := decided[i]
			if row.Allowed && row.Reason == ReasonOK && row.Limit >= 0 && part[i].Cost > 0 {
				row.Undo = part[i].ID
			}
			row.ID = charges[at].ID
			rows[at] = row
		}
	}
	var others sync.WaitGroup
	for _, part := range parts[1:] {
		others.Go(func() { decide(part) })
	}
	decide(parts[0])
	others.Wait()
	for _, err := range errs {
		if err != nil {
			return rows, &PartialError{Errs: errs}
		}
	}
	return rows, nil
}

const (
	// firstUndoPause and longestUndoPause are between two attempts to undo a charge, the second twice the first and so on.
	firstUndoPause   = 5 * time.Millisecond
	longestUndoPause = 250 * time.Millisecond
)

// Undo gives back what the charges were charged whose rows have an Undo, each exactly once: a call that was not answered is
// made again, by the same id, until ctx ends. The error tells that it is not known of some whether they were given back.
func (l *Limiter) Undo(ctx context.Context, charges []Charge, rows []Row) error {
	errs := make([]error, len(rows))
	var all sync.WaitGroup
	for i := range rows {
		if rows[i].Undo == "" {
			continue
		}
		charge := charges[i]
		charge.ID = rows[i].Undo
		all.Go(func() { errs[i] = l.undo(ctx, charge) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// undo refunds one charge by its id.
func (l *Limiter) undo(ctx context.Context, charge Charge) error {
	for pause := firstUndoPause; ; pause = min(2*pause, longestUndoPause) {
		_, err := l.Refund(ctx, charge)
		if err == nil || !passes(err) {
			return err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}

// passes tells whether the error is one that ends by itself.
func passes(err error) bool {
	if _, is := errors.AsType[*WrongTypeError](err); is || errors.Is(err, redisops.ErrCallerClosed) {
		return false
	}
	switch redisops.Classify(err) {
	case redisops.Configuration, redisops.Policy, redisops.Failed:
		return false
	default:
		return true
	}
}

// ids makes ids that nobody else makes.
type ids struct {
	prefix string
	made   atomic.Uint64
}

func newIDs() ids { return ids{prefix: rand.Text()[:13] + "-"} }

func (i *ids) next() string { return i.prefix + strconv.FormatUint(i.made.Add(1), 36) }
