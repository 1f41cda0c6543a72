package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// ask asks Redis for all charges of the request and fills in its answers. A charge that Redis cannot decide because of
// its own key or policy is taken out, and the others are decided again: such an error is given before anything is written.
func (e *Engine) ask(ctx context.Context, r *Request) error {
	pending := r.charges
	var indices []int // of pending in r.charges; nil while they are the same
	begin := e.now()
	waiting, cancel := ctx, context.CancelFunc(nil)
	for start := begin; ; start = e.now() {
		rows, err := e.call(waiting, r, pending)
		now := e.now()
		e.metrics.redis.Observe(now.Sub(start).Seconds())
		if err == nil && len(rows) != len(pending) {
			err = fmt.Errorf("redis answered with %d rows for %d charges", len(rows), len(pending))
		}
		if err == nil {
			e.succeeded(now)
			for i := range rows {
				a := &r.answers[original(indices, i)]
				a.state, a.row = stateDecided, rows[i]
				a.policy.succeeded(now, r.unpublished, e.log)
				e.note(r, a.policy, &pending[i], &rows[i], start)
			}
			return nil
		}

		out, state := e.culprit(err, pending, r, indices, now)
		if out < 0 {
			return e.failed(ctx, err, r, indices, len(pending), begin, now)
		}
		a := &r.answers[original(indices, out)]
		a.state = state
		denies := state == stateFailed && a.policy.failsClosed(pending[out].Key)
		pending, indices = r.without(out, indices)
		if denies {
			// What is refused is not charged.
			for i := range pending {
				pending[i].Cost = 0
			}
		}
		if len(pending) == 0 {
			return nil
		}
		if cancel == nil {
			// However many calls it takes, the caller waits as long as for one.
			waiting, cancel = e.limiter.Within(ctx, begin)
			defer cancel()
		}
	}
}

// call asks Redis for the operation of the request.
func (e *Engine) call(ctx context.Context, r *Request, pending []limit.Charge) ([]limit.Row, error) {
	switch r.operation {
	case opPeek:
		return e.limiter.Peek(ctx, pending)
	case opAcquire:
		row, err := e.limiter.AcquireSlot(ctx, slotOf(&pending[0], r.ttl))
		if err != nil {
			return nil, err
		}
		return []limit.Row{row}, nil
	default:
		return e.limiter.Decide(ctx, pending)
	}
}

func original(indices []int, i int) int {
	if indices == nil {
		return i
	}
	return indices[i]
}

// without gives the charges that are still to be decided, in memory of their own, and where each stands in r.charges.
func (r *Request) without(out int, indices []int) ([]limit.Charge, []int) {
	if indices == nil {
		r.pending, r.indices = append(r.pending[:0], r.charges...), r.indices[:0]
		for i := range r.charges {
			r.indices = append(r.indices, i)
		}
	}
	r.pending = append(r.pending[:out], r.pending[out+1:]...)
	r.indices = append(r.indices[:out], r.indices[out+1:]...)
	return r.pending, r.indices
}

// culprit finds the charge that alone is to blame for the error, and what becomes of it; -1 when there is none.
func (e *Engine) culprit(err error, pending []limit.Charge, r *Request, indices []int, now time.Time) (int, state) {
	var wrongType *limit.WrongTypeError
	switch {
	case errors.As(err, &wrongType):
		for i := range pending {
			if !ownKey(pending[i].Key, wrongType.Key) {
				continue
			}
			e.metrics.storeErrors.WithLabelValues("wrong_type").Inc()
			c := r.answers[original(indices, i)].policy
			if c.trouble.wrongType.Failed(now) {
				e.log.Warn("a key of the policy holds something else; its onStoreFailure decides for that subject. Remove the key",
					"policy", c.policy.Name, "key", withoutID(pending[i].Key, wrongType.Key), "onStoreFailure", c.policy.OnStoreFailure)
			}
			return i, stateFailed
		}
	case errors.Is(err, limit.ErrNoPolicy):
		for i := range pending {
			if len(pending) > 1 && !names(err.Error(), pending[i].Policy.Name) {
				continue
			}
			e.metrics.storeErrors.WithLabelValues("no_policy").Inc()
			e.reread()
			return i, r.answers[original(indices, i)].policy.absent(now, e.log)
		}
	}
	return -1, stateAsked
}

// ownKey tells whether the key is the counter key, or one that stands beside it: of a log (redisops.LogKey), of the record
// of a decision (#) or of a credit (+), or of a reset (!).
func ownKey(counter, key string) bool {
	rest, found := strings.CutPrefix(key, counter)
	return found && (rest == "" || strings.IndexByte(":#+!", rest[0]) >= 0)
}

// withoutID is a key without the id of a decision, which a user may have chosen.
func withoutID(counter, key string) string {
	if rest := key[len(counter):]; rest != "" && rest[0] != ':' && rest[0] != '!' {
		return key[:len(counter)+1] + "…"
	}
	return key
}

// names tells whether the text has the name of the policy, and not only a longer one that begins or ends like it.
func names(text, policy string) bool {
	for from := 0; ; {
		at := strings.Index(text[from:], policy)
		if at < 0 {
			return false
		}
		at += from
		end := at + len(policy)
		if (at == 0 || !nameByte(text[at-1])) && (end == len(text) || !nameByte(text[end])) {
			return true
		}
		from = at + 1
	}
}

func nameByte(b byte) bool {
	return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || b == '-' || b == '.' || b == '/'
}

// absent notes that Redis does not serve the policy, and tells what becomes of the decision. At first the policy counts as
// deleted in a set that is newer than ours, and is left out. If it is still in ours when the set has been read again, the
// store contradicts itself (a library of another set, or one that was not loaded), which is a failure like others: or a
// limit would be off for as long as nobody looks.
func (c *compiled) absent(now time.Time, log *slog.Logger) state {
	begins, lasts := c.trouble.absent.failed(now)
	if begins {
		log.Warn("redis does not know the policy any more; deciding without it until the set is read again", "policy", c.policy.Name)
	}
	if !lasts {
		return stateGone
	}
	if c.trouble.absent.lasting.CompareAndSwap(false, true) {
		log.Error("redis does not serve the policy, though the published set has it; its onStoreFailure decides. Check the RedisStore's conditions and the function library penstock",
			"policy", c.policy.Name, "onStoreFailure", c.policy.OnStoreFailure)
	}
	return stateFailed
}

// succeeded notes that Redis decided by the policy. Where the policy went with the call, that says nothing of whether Redis
// serves it.
func (c *compiled) succeeded(now time.Time, wentAlong bool, log *slog.Logger) {
	if c.trouble.wrongType.Succeeded(now) {
		log.Info("policy counts again: its keys hold what they should", "policy", c.policy.Name)
	}
	if !wentAlong && c.trouble.absent.succeeded(now) {
		log.Info("redis serves the policy again", "policy", c.policy.Name)
	}
}

// hurried tells whether a timeout is the caller's own, who left Redis less time than a decision has by default, which a
// Redis in order may need. It says nothing about Redis then.
func hurried(ctx context.Context, err error, took time.Duration) bool {
	deadline, has := ctx.Deadline()
	if !has || !errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	left := time.Until(deadline) - redisops.AnswerMargin
	return left <= 0 && left+took < redisops.DefaultCommandTimeout
}

// failed ends a decision for which Redis gave no rows: an error for those of the configuration and for a caller that has
// gone, else onStoreFailure of each policy that is not answered yet.
func (e *Engine) failed(ctx context.Context, err error, r *Request, indices []int, pending int, begin, now time.Time) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		// Nobody waits any more, and it says nothing about Redis.
		return fmt.Errorf("the caller has gone: %w", context.Canceled)
	}
	if hurried(ctx, err, now.Sub(begin)) {
		e.metrics.storeErrors.WithLabelValues("caller_deadline").Inc()
		r.fail(indices, pending)
		return nil
	}
	class := redisops.Classify(err)
	e.metrics.storeErrors.WithLabelValues(strings.ReplaceAll(class.String(), " ", "_")).Inc()
	if class == redisops.Configuration {
		if e.configuration.Failed(now) {
			e.log.Error("redis refuses penstockd; decisions fail until its user, password or ACL is mended", "error", withoutArguments(err))
		}
		return fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	if class == redisops.Policy {
		if e.mismatch.Failed(now) {
			e.log.Error("redis serves another version of a policy than the one in force here; its onStoreFailure decides, and the set is read again", "refusal", refusal(err))
		}
		// A caller cannot bring this about: values that Redis would refuse have been refused here.
		e.reread()
		r.fail(indices, pending)
		return nil
	}
	if e.outage.Failed(now) {
		e.metrics.degraded.Set(1)
		e.log.Warn("redis does not answer; the onStoreFailure of each policy decides", "error", err.Error())
	}
	r.fail(indices, pending)
	return nil
}

// fail leaves what is not answered yet to the onStoreFailure of each policy.
func (r *Request) fail(indices []int, pending int) {
	for i := range pending {
		r.answers[original(indices, i)].state = stateFailed
	}
}

// refusal is the code of what a function refused. What stands behind it may be a value of the request.
func refusal(err error) string {
	text := err.Error()
	code, _, _ := strings.Cut(text[max(0, strings.Index(text, "PENSTOCK_")):], " ")
	return code
}

// withoutArguments is the error without the arguments of a command that Redis does not know, which it repeats: they are
// values of the request.
func withoutArguments(err error) string {
	text, _, _ := strings.Cut(err.Error(), ", with args beginning with")
	return text
}

// succeeded notes an answer of Redis.
func (e *Engine) succeeded(now time.Time) {
	if e.outage.Succeeded(now) {
		e.metrics.degraded.Set(0)
		e.log.Info("redis answers again; policies are enforced")
	}
	if e.configuration.Succeeded(now) {
		e.log.Info("redis accepts penstockd again")
	}
	if e.mismatch.Succeeded(now) {
		e.log.Info("redis takes all charges again")
	}
}
