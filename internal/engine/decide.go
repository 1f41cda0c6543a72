package engine

import (
	"context"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Result is the answer to a request.
type Result struct {
	// Allowed tells whether all verdicts allow. Unless they do, nothing was charged.
	Allowed bool
	// Degraded tells that a policy's onStoreFailure had a part in it.
	Degraded bool
	// UnknownDomain tells that no policy answers for the domain; the request is allowed.
	UnknownDomain bool
	// Verdicts has one for each descriptor, in order. It is valid until the request is released.
	Verdicts []Verdict
}

// Decide decides a request of descriptors: for each the most specific policies on its tuple of keys apply, equal ones
// together. The policies of the domain without descriptors apply once to the whole request; they are charged the largest
// cost of its descriptors, and reported with the first. All budgets are charged by one call of Redis, or none.
//
// It fails with ErrNoSet, *ValueTooLongError, ErrConfiguration, or with the error of a context whose caller has
// gone. What else keeps Redis from answering is no error: each policy's onStoreFailure decides, and its verdict is
// Degraded.
func (e *Engine) Decide(ctx context.Context, door Door, r *Request) (Result, error) {
	start := e.now()
	t := e.current.Load()
	if t == nil {
		return Result{}, ErrNoSet
	}
	d := t.domains[r.domain]
	if d == nil {
		e.metrics.unknownDomain.Inc()
	} else {
		r.match(d)
	}
	result, err := e.finish(ctx, door, r, start)
	result.UnknownDomain = d == nil
	return result, err
}

// match finds the charges of all descriptors.
func (r *Request) match(d *domain) {
	if len(d.whole) > 0 && len(r.descriptors) > 0 {
		// The whole request costs as much as its dearest part, however its parts are ordered.
		var cost int64
		for i := range r.descriptors {
			cost = max(cost, r.descriptors[i].cost)
		}
		for _, c := range d.whole {
			r.target(0, c, nil, cost)
		}
	}
	for i := range r.descriptors {
		at := &r.descriptors[i]
		tuple := r.entries[at.from:at.to]
		r.matched = d.match(r.matched[:0], tuple)
		for _, c := range r.matched {
			r.target(i, c, tuple, at.cost)
		}
	}
}

// DecidePolicy decides for one policy ("<namespace>/<name>") by the attributes of a request. The policy applies when
// lookup has a value that fits for each of its descriptors; else the verdict is Unmatched, and nothing is charged. The
// cost is 0 (only look) to policy.MaxInteger.
//
// It fails as Decide does, and with ErrUnknownPolicy.
func (e *Engine) DecidePolicy(ctx context.Context, door Door, name string, lookup func(key string) (string, bool), cost int64) (Verdict, error) {
	start := e.now()
	t := e.current.Load()
	if t == nil {
		return Verdict{}, ErrNoSet
	}
	c := t.names[name]
	if c == nil {
		return Verdict{}, ErrUnknownPolicy
	}
	r := NewRequest(c.policy.Domain)
	defer r.Release()
	r.Descriptor(cost)
	if r.attributes(c.policy.Descriptors, lookup) && c.matches(r.entries) {
		r.target(0, c, r.entries, cost)
	} else {
		e.metrics.count(c, door, outcomeUnmatched)
	}
	result, err := e.finish(ctx, door, r, start)
	if err != nil {
		return Verdict{}, err
	}
	return result.Verdicts[0], nil
}

// attributes fills the descriptor with the attributes that a policy is about, and tells whether all are there.
func (r *Request) attributes(descriptors []policy.Descriptor, lookup func(key string) (string, bool)) bool {
	for i := range descriptors {
		value, found := lookup(descriptors[i].Key)
		if !found {
			return false
		}
		r.Entry(descriptors[i].Key, value)
	}
	return true
}

// finish asks Redis for the charges of the request and makes the verdicts.
func (e *Engine) finish(ctx context.Context, door Door, r *Request, start time.Time) (Result, error) {
	if len(r.charges) > 0 {
		err := r.checkValues()
		if err == nil {
			err = e.ask(ctx, r)
		}
		if err != nil {
			for i := range r.answers {
				e.metrics.count(r.answers[i].policy, door, outcomeError)
			}
			return Result{}, err
		}
	}
	result := r.result()
	for i := range r.answers {
		v := r.answers[i].verdict()
		e.metrics.count(r.answers[i].policy, door, v.outcome())
	}
	e.metrics.latency[door].Observe(e.now().Sub(start).Seconds())
	return result, nil
}

// result makes the verdicts from the answers.
func (r *Request) result() Result {
	for range r.descriptors {
		r.verdicts = append(r.verdicts, Verdict{Allowed: true})
	}
	for _, t := range r.targets {
		v := r.answers[t.charge].verdict()
		r.verdicts[t.descriptor].merge(&v)
	}
	result := Result{Allowed: true, Verdicts: r.verdicts}
	for i := range r.verdicts {
		result.Allowed = result.Allowed && r.verdicts[i].Allowed
		result.Degraded = result.Degraded || r.verdicts[i].Mode == Degraded
	}
	return result
}

func (a *answer) verdict() Verdict {
	switch a.state {
	case stateDecided:
		return enforced(a.policy, &a.row)
	case stateGone:
		return Verdict{Allowed: true}
	default:
		return degraded(a.policy)
	}
}
