package engine

import (
	"context"
	"slices"
	"time"
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
	// Violated are the names (see Verdict.Name) of all that denied, in the order in which they were asked; nil when
	// Allowed. Only DecideAttributes tells it: of descriptors, each verdict names its own.
	Violated []string
}

// Decide decides a request of descriptors: for each the most specific policies on its tuple of keys apply, equal ones
// together. The policies of the domain without descriptors apply once to the whole request; they are charged the largest
// cost of its descriptors, and reported with the first. A policy whose conditions do not all hold does not apply, and
// leaves room for less specific ones. All budgets are charged by one call of Redis, or none.
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
	} else if err := e.match(d, door, r); err != nil {
		return Result{}, err
	}
	result, err := e.finish(ctx, door, t, r, start)
	result.UnknownDomain = d == nil
	return result, err
}

// match finds the charges of all descriptors.
func (e *Engine) match(d *domain, door Door, r *Request) error {
	v := r.look(e)
	if len(d.whole) > 0 && len(r.descriptors) > 0 {
		v.entries, v.said = r.entries, PolicyCost
		for i := range r.descriptors {
			// The whole request costs as much as its dearest part, however its parts are ordered.
			v.said, v.unsaid = max(v.said, r.descriptors[i].cost), v.unsaid || r.descriptors[i].cost == PolicyCost
		}
		r.applyWhole(d.whole, v)
	}
	for i := range r.descriptors {
		at := &r.descriptors[i]
		tuple := r.entries[at.from:at.to]
		v.entries = tuple
		v.setCost(at.cost)
		r.matched = d.match(r.matched[:0], tuple, v)
		for _, m := range r.matched {
			r.target(i, m.policy, tuple, m.cost)
		}
	}
	return v.err(r, door)
}

// DecideAttributes decides for all policies of a domain that apply to the attributes of a request, together: each whose
// descriptors all have a value that fits, and whose conditions hold. They are charged by one call of Redis, or none. The
// cost is 0 (only look) to policy.MaxInteger, or PolicyCost. The result has one verdict, which stays valid.
//
// It fails as Decide does.
func (e *Engine) DecideAttributes(ctx context.Context, door Door, domain string, lookup func(key string) (string, bool), cost int64) (Result, error) {
	start := e.now()
	t := e.current.Load()
	if t == nil {
		return Result{}, ErrNoSet
	}
	r := NewRequest(domain)
	defer r.Release()
	r.Descriptor(cost)
	d := t.domains[domain]
	if d == nil {
		e.metrics.unknownDomain.Inc()
	} else if err := e.matchAttributes(d, door, r, lookup, cost); err != nil {
		return Result{}, err
	}
	result, err := e.finish(ctx, door, t, r, start)
	result.UnknownDomain = d == nil
	result.Verdicts = slices.Clone(result.Verdicts)
	result.Violated = r.violated(result.Allowed)
	return result, err
}

func (e *Engine) matchAttributes(d *domain, door Door, r *Request, lookup func(key string) (string, bool), cost int64) error {
	v := r.look(e)
	v.lookup = lookup
	v.setCost(cost)
	r.applyWhole(d.whole, v)
	for _, on := range d.inOrder {
		from := len(r.entries)
		if r.attributes(on.keys, lookup) == "" {
			tuple := r.entries[from:]
			r.matched = r.matched[:0]
			for _, s := range on.shapes {
				r.matched = s.match(r.matched, tuple, v)
			}
			for _, m := range r.matched {
				r.target(0, m.policy, tuple, m.cost)
			}
		}
		// What was looked up is in the charges now, if it is needed.
		clear(r.entries[from:])
		r.entries = r.entries[:from]
	}
	return v.err(r, door)
}

// applyWhole charges those policies without descriptors that apply, and reports them with the first descriptor.
func (r *Request) applyWhole(policies []*compiled, v *view) {
	for _, c := range policies {
		if cost, applies := v.applies(c); applies {
			r.target(0, c, nil, cost)
		}
	}
}

// finish gets the answers to the charges of the request and makes the verdicts.
func (e *Engine) finish(ctx context.Context, door Door, t *tables, r *Request, start time.Time) (Result, error) {
	r.generation = t.generation
	if len(r.charges) > 0 {
		err := r.checkValues()
		if err == nil && !e.recall(r, start) {
			err = e.ask(ctx, r)
		}
		if err != nil {
			e.metrics.refused(r, door)
			return Result{}, err
		}
	}
	if r.operation != opPeek {
		e.metrics.latency[door].Observe(e.now().Sub(start).Seconds())
	}
	e.metrics.decided(r, door)
	return r.result(), nil
}

// result makes the verdicts from the answers.
func (r *Request) result() Result {
	for range r.descriptors {
		r.verdicts = append(r.verdicts, Verdict{Allowed: true})
	}
	for _, t := range r.targets {
		v := r.verdict(t.charge)
		r.verdicts[t.descriptor].merge(&v)
	}
	result := Result{Allowed: true, Verdicts: r.verdicts}
	for i := range r.verdicts {
		result.Allowed = result.Allowed && r.verdicts[i].Allowed
		result.Degraded = result.Degraded || r.verdicts[i].Mode == Degraded
	}
	return result
}

// violated names what denied.
func (r *Request) violated(allowed bool) []string {
	if allowed {
		return nil
	}
	var names []string
	for i := range r.answers {
		if v := r.verdict(i); !v.Allowed {
			names = append(names, v.Name)
		}
	}
	return names
}

// verdict is that of the policy of one charge.
func (r *Request) verdict(charge int) Verdict {
	a := &r.answers[charge]
	switch a.state {
	case stateDecided:
		return enforced(a.policy, &a.row)
	case stateCached:
		return cached(a.policy, &a.row)
	case stateSpared:
		return spared(a.policy)
	case stateGone:
		return Verdict{Allowed: true}
	default:
		return degraded(a.policy, r.charges[charge].Key)
	}
}
