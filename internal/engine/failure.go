package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// ask asks Redis for all charges of the request and fills in its answers. A charge that Redis cannot decide because of
// its own key or policy is taken out, and those that were to be decided with it are decided again: such an error is given
// before anything is written.
func (e *Engine) ask(ctx context.Context, r *Request) error {
	pending := r.charges
	var indices []int // of pending in r.charges; nil while they are the same
	begin := e.now()
	waiting, cancel := ctx, context.CancelFunc(nil)
	for start := begin; ; start = e.now() {
		rows, failed := e.call(waiting, r, pending)
		now := e.now()
		e.metrics.redis.Observe(now.Sub(start).Seconds())
		if failed == nil && len(rows) != len(pending) {
			failed = fmt.Errorf("redis answered with %d rows for %d charges", len(rows), len(pending))
		}
		var err error
		if failed == nil {
			e.decided(r, pending, indices, rows, nil, start, now)
		} else {
			errs := r.errorsOf(failed, len(pending))
			e.decided(r, pending, indices, rows, errs, start, now)
			err = e.undecided(ctx, r, pending, indices, errs, begin, now)
			pending, indices = r.unanswered()
		}
		if failed == nil || err != nil || len(pending) == 0 {
			if err != nil || r.refused {
				e.takeBack(ctx, r, begin)
			}
			return err
		}
		if cancel == nil {
			// However many calls it takes, the caller waits as long as for one.
			waiting, cancel = e.limiter.Within(ctx, begin)
			defer cancel()
		}
	}
}

// errorsOf gives the error of each charge.
func (r *Request) errorsOf(err error, charges int) []error {
	if partial, is := errors.AsType[*limit.PartialError](err); is && len(partial.Errs) == charges {
		return partial.Errs
	}
	r.errs = r.errs[:0]
	for range charges {
		r.errs = append(r.errs, err)
	}
	return r.errs
}

// decided fills in the answers of charges that have a row: all, or those without an error.
func (e *Engine) decided(r *Request, pending []limit.Charge, indices []int, rows []limit.Row, errs []error, start, now time.Time) {
	answered := false
	for i := range pending {
		if errs != nil && errs[i] != nil {
			continue
		}
		if !answered {
			answered = true
			e.succeeded(now)
		}
		a := &r.answers[original(indices, i)]
		a.state, a.row = stateDecided, rows[i]
		r.refused = r.refused || !rows[i].Allowed
		a.policy.succeeded(now, r.unpublished, e.log)
		if r.operation == opDecide && a.policy.policy.OnStoreFailure == policy.FailureLocalShare {
			e.shares.decided(pending[i].Key, now)
		}
		e.note(r, a.policy, &pending[i], &rows[i], start)
	}
}

// undecided fills in the answers of charges with an error, but of those that can be decided once another one is taken out.
// Its own error ends the request.
func (e *Engine) undecided(ctx context.Context, r *Request, pending []limit.Charge, indices []int, errs []error, begin, now time.Time) error {
	blamed := false
	for i := range pending {
		a := &r.answers[original(indices, i)]
		if errs[i] == nil {
			continue
		}
		switch e.blame(errs[i], &pending[i], a.policy, alone(errs, i), now) {
		case stateGone:
			a.state, blamed = stateGone, true
		case stateFailed:
			e.fallBack(r, a, &pending[i], now)
			blamed = true
		default: // see below
		}
	}
	for i := range pending {
		a := &r.answers[original(indices, i)]
		if errs[i] == nil || a.state != stateAsked || blamed && blames(errs[i]) {
			continue
		}
		if !slices.Contains(errs[:i], errs[i]) { // else it is of the same call
			if err := e.failed(ctx, errs[i], begin, now); err != nil {
				return err
			}
		}
		e.fallBack(r, a, &pending[i], now)
	}
	return nil
}

// alone tells whether no other charge went with the call of that one.
func alone(errs []error, i int) bool {
	return !slices.Contains(errs[:i], errs[i]) && !slices.Contains(errs[i+1:], errs[i])
}

// fallBack has the policy's onStoreFailure decide the charge. What only looks on never denies.
func (e *Engine) fallBack(r *Request, a *answer, charge *limit.Charge, now time.Time) {
	a.state, a.row = stateFailed, limit.Row{Allowed: true}
	p := a.policy.policy
	switch {
	case p.OnStoreFailure == policy.FailureAllow || inShadow(charge.Key, p.ShadowPercent):
	case p.OnStoreFailure == policy.FailureLocalShare:
		// What is denied anyway is charged to nobody.
		look := r.operation != opDecide || r.refused
		a.row.Allowed, a.row.RetryAfter = e.shares.take(a.policy, charge, now, look)
		if a.row.Allowed && !look {
			a.taken = now
		}
	default:
		a.row = limit.Row{RetryAfter: degradedRetry}
	}
	r.refused = r.refused || !a.row.Allowed
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

// unanswered gives the charges that are still to be decided, in memory of their own, and where each stands in r.charges.
func (r *Request) unanswered() ([]limit.Charge, []int) {
	r.pending, r.indices = r.pending[:0], r.indices[:0]
	for i := range r.charges {
		if r.answers[i].state != stateAsked {
			continue
		}
		r.pending, r.indices = append(r.pending, r.charges[i]), append(r.indices, i)
		if r.refused {
			// What is refused is not charged.
			r.pending[len(r.pending)-1].Cost = 0
		}
	}
	return r.pending, r.indices
}

// blames tells whether the error is about one key or one policy.
func blames(err error) bool {
	if _, is := errors.AsType[*limit.WrongTypeError](err); is {
		return true
	}
	return errors.Is(err, limit.ErrNoPolicy)
}

// blame tells what becomes of a charge that is to blame for the error: stateFailed, or stateGone; of one that is not
// stateAsked. alone tells that there is no other that could be.
func (e *Engine) blame(err error, charge *limit.Charge, c *compiled, alone bool, now time.Time) state {
	if wrongType, is := errors.AsType[*limit.WrongTypeError](err); is {
		if !ownKey(charge.Key, wrongType.Key) {
			return stateAsked
		}
		e.metrics.storeErrors.WithLabelValues("wrong_type").Inc()
		if c.trouble.wrongType.Failed(now) {
			e.log.Warn("a key of the policy holds something else; its onStoreFailure decides for that subject. Remove the key",
				"policy", c.policy.Name, "key", withoutID(charge.Key, wrongType.Key), "onStoreFailure", c.policy.OnStoreFailure)
		}
		return stateFailed
	}
	if errors.Is(err, limit.ErrNoPolicy) && (alone || names(err.Error(), charge.Policy.Name)) {
		e.metrics.storeErrors.WithLabelValues("no_policy").Inc()
		e.reread()
		return c.absent(now, e.log)
	}
	return stateAsked
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

// failed notes a call for which Redis gave no rows. Its error ends the request: of the configuration, or for a caller that
// has gone. Else onStoreFailure decides.
func (e *Engine) failed(ctx context.Context, err error, begin, now time.Time) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		// Nobody waits any more, and it says nothing about Redis.
		return fmt.Errorf("the caller has gone: %w", context.Canceled)
	}
	if errors.Is(err, redisops.ErrBreakerOpen) && redisops.Classify(err) != redisops.Configuration {
		e.metrics.storeErrors.WithLabelValues("breaker_open").Inc()
		e.unavailable(err, now)
		return nil
	}
	if hurried(ctx, err, now.Sub(begin)) {
		e.metrics.storeErrors.WithLabelValues("caller_deadline").Inc()
		return nil
	}
	class := redisops.Classify(err)
	e.metrics.storeErrors.WithLabelValues(strings.ReplaceAll(class.String(), " ", "_")).Inc()
	switch class {
	case redisops.Configuration:
		if e.configuration.Failed(now) {
			e.log.Error("redis refuses penstockd; decisions fail until its user, password or ACL is mended", "error", withoutArguments(err))
		}
		return fmt.Errorf("%w: %w", ErrConfiguration, err)
	case redisops.Policy:
		if e.mismatch.Failed(now) {
			e.log.Error("redis serves another version of a policy than the one in force here; its onStoreFailure decides, and the set is read again", "refusal", refusal(err))
		}
		// A caller cannot bring this about: values that Redis would refuse have been refused here.
		e.reread()
	default:
		e.unavailable(err, now)
	}
	return nil
}

// unavailable notes that Redis cannot decide.
func (e *Engine) unavailable(err error, now time.Time) {
	if e.outage.Failed(now) {
		e.metrics.degraded.Set(1)
		e.log.Warn("redis does not answer; the onStoreFailure of each policy decides", "error", err.Error())
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
	e.answers(now)
	if e.configuration.Succeeded(now) {
		e.log.Info("redis accepts penstockd again")
	}
	if e.mismatch.Succeeded(now) {
		e.log.Info("redis takes all charges again")
	}
}

// Answers tells the engine that Redis answers, all of it, for a replica that nobody asks: an outage is over then too, once
// TransitionHold has passed since the last decision that it failed. Call it every now and then.
func (e *Engine) Answers() { e.answers(e.now()) }

func (e *Engine) answers(now time.Time) {
	if e.outage.Succeeded(now) {
		e.metrics.degraded.Set(0)
		e.log.Info("redis answers again; policies are enforced")
	}
}
