package engine

import (
	"context"
	"slices"
	"time"
)

// Result is the answer to a request.
type Result struct {
	// Allowed tells whether all verdicts allow. Unless they do, nothing was charged, or (in a cluster, see Decide) it is given
	// back.
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
// cost of its descriptors, and reported with the first that is charged. A policy whose conditions do not all hold does not apply, and
// leaves room for less specific ones. All budgets are charged by one call of Redis, or none. In a cluster there is a call for
// each slot; unless all verdicts allow, what these charged is given back, which may go on after Decide has returned.
//
// A limit that a descriptor brings along (Request.Limit) stands in the place of all policies that apply to the descriptor. It
// is counted apart from them, by the same subject, for each number of requests and each window by itself, and is reported,
// counted in metrics, put in shadow and left to onStoreFailure as the first of them; where none applies it is LimitPolicy's.
//
// What a descriptor gives back (Request.GiveBack) it gives to the budgets that it would else be charged by, once the others
// are decided, whether they allow or not. The policies of the whole request get something back only where all descriptors
// give back. Its verdict allows, with the figures that are left then, or Degraded where Redis did not say that it did it.
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
	if r.returns && d != nil {
		return e.decideAndGiveBack(ctx, door, t, d, r, start)
	}
	if d == nil {
		e.metrics.unknownDomain.Inc()
	} else if err := e.match(t, d, door, r, r, false); err != nil {
		return Result{}, err
	}
	result, err := e.finish(ctx, door, t, r, start)
	result.UnknownDomain = d == nil
	return result, err
}

// match finds the charges of those descriptors of r that give back, or of the others, and adds them to the request to.
func (e *Engine) match(t *tables, d *domain, door Door, r, to *Request, returns bool) error {
	v := r.look(e)
	if len(d.whole) > 0 {
		r.matchWhole(d, to, v, returns)
	}
	for i := range r.descriptors {
		at := &r.descriptors[i]
		if at.returns != returns {
			continue
		}
		tuple := r.entries[at.from:at.to]
		v.entries = tuple
		v.setCost(at.cost)
		r.matched = d.match(r.matched[:0], tuple, v)
		if at.own.windowMs > 0 {
			to.spendOwn(i, t.ownLimit(r.matched, at), tuple)
			continue
		}
		for _, m := range r.matched {
			to.target(i, m.policy, tuple, m.cost)
		}
	}
	return v.err(r, door)
}

// matchWhole charges the policies of the whole request, which costs as much as its dearest part, however its parts are
// ordered, and reports them with the first of these. What it gives back does not make it cheaper.
func (r *Request) matchWhole(d *domain, to *Request, v *view, returns bool) {
	v.entries, v.said = r.entries, PolicyCost
	parts, first := 0, 0
	for i := range r.descriptors {
		if at := &r.descriptors[i]; at.returns == returns {
			if parts == 0 {
				first = i
			}
			parts++
			v.said, v.unsaid = max(v.said, at.cost), v.unsaid || at.cost == PolicyCost
		}
	}
	if parts == 0 || returns && parts < len(r.descriptors) {
		return
	}
	to.applyWhole(first, d.whole, v)
}

// DecideAttributes decides for all policies of a domain that apply to the attributes of a request, together: each whose
// descriptors all have a value that fits, and whose conditions hold. They are charged as by Decide. The cost is 0 (only look)
// to policy.MaxInteger, or PolicyCost. The result has one verdict, which stays valid.
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
	r.applyWhole(0, d.whole, v)
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

// applyWhole charges those policies without descriptors that apply, and reports them with the descriptor at that index.
func (r *Request) applyWhole(at int, policies []*compiled, v *view) {
	for _, c := range policies {
		if cost, applies := v.applies(c); applies {
			r.target(at, c, nil, cost)
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
			e.mark(ctx, door, t, r, nil)
			return Result{}, err
		}
	}
	if r.operation != opPeek {
		e.metrics.latency[door].Observe(e.now().Sub(start).Seconds())
	}
	e.metrics.decided(r, door)
	e.tellDenied(r)
	result := r.result()
	e.mark(ctx, door, t, r, &result)
	return result, nil
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
		return degraded(a.policy, &a.row)
	}
}
