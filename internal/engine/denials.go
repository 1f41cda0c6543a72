package engine

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

const (
	// longestDenial bounds how long a denial is remembered, and so how long a refund or a reset by somebody else stays
	// unseen.
	longestDenial = time.Second
	// mostDenials bounds how many are. Of 1,000 subjects that are denied within a second, one in nine loses its place to
	// another, which costs it a call of Redis and nothing else. Full, they take some 2 MiB.
	mostDenials = 1 << 13
)

// denials remembers what Redis denied a moment ago, so that a subject that goes on hammering does not reach it. Of two that
// want one place, the later has it; nobody ever waits.
type denials struct {
	seed   maphash.Seed
	places [mostDenials]atomic.Pointer[denial]
}

// denial is one that is remembered. It never changes.
type denial struct {
	key        string
	generation uint64
	cost       int64
	row        limit.Row
	// from is when Redis was asked, so that a denial never lasts longer here than there; of what was forgotten, when that was.
	from, until time.Time
}

func newDenials() *denials { return &denials{seed: maphash.MakeSeed()} }

func (d *denials) place(key string) *atomic.Pointer[denial] {
	return &d.places[maphash.String(d.seed, key)%mostDenials]
}

// find gives the row of a denial that holds for the cost, as it would be now, and whether there is one.
func (d *denials) find(key string, generation uint64, cost int64, now time.Time) (limit.Row, bool) {
	known := d.place(key).Load()
	if known == nil || known.key != key || known.generation != generation || cost < known.cost || !now.Before(known.until) {
		return limit.Row{}, false
	}
	row := known.row
	passed := max(now.Sub(known.from), 0)
	row.Reset, row.RetryAfter = upToMillisecond(max(row.Reset-passed, 0)), upToMillisecond(row.RetryAfter-passed)
	return row, true
}

// upToMillisecond rounds up, as Redis does: who waits for a part of a millisecond too little is denied once more. What is
// left of a denial that holds is more than nothing, and so at least a millisecond.
func upToMillisecond(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}

// remember keeps the row of a denial that was asked for at from, unless the key was forgotten since: it may be of before.
func (d *denials) remember(key string, generation uint64, cost int64, row *limit.Row, from time.Time) {
	place := d.place(key)
	known := place.Load()
	if known != nil && known.key == key && known.forgotten() && !known.from.Before(from) {
		return
	}
	place.CompareAndSwap(known, &denial{
		key: key, generation: generation, cost: cost, row: *row, from: from, until: from.Add(min(row.RetryAfter, longestDenial)),
	})
}

// forget drops what is remembered of the key, and what is asked for before now.
func (d *denials) forget(key string, now time.Time) {
	d.place(key).Store(&denial{key: key, from: now})
}

// forgotten tells whether it is no denial, but stands for when one was forgotten.
func (d *denial) forgotten() bool { return d.until.IsZero() }

// refilling are the algorithms that have room again when time has passed, and not before but by an operation of this
// package.
var refilling = []string{policy.SlidingLog, policy.SlidingCounter, policy.FixedWindow, policy.TokenBucket}

// cacheable tells whether a denial of the policy stays one until time has passed: a Balance can be topped up and a slot be
// released at any moment. A penalty has to count every denial.
func cacheable(rl *policy.RateLimit) bool {
	refills := func(limits []policy.Limit) bool {
		return !slices.ContainsFunc(limits, func(l policy.Limit) bool { return !slices.Contains(refilling, l.Algorithm) })
	}
	return rl.Penalty == nil && refills(rl.Limits) &&
		!slices.ContainsFunc(rl.Overrides, func(o policy.Override) bool { return !refills(o.Limits) })
}

// recall answers the request from the denials that are remembered, and tells whether there is one for any of its charges:
// then nothing of the request is charged, and Redis need not be asked.
func (e *Engine) recall(r *Request, now time.Time) bool {
	if e.denials == nil || r.operation != opDecide || r.penalizes() {
		return false
	}
	found := false
	for i := range r.charges {
		a, charge := &r.answers[i], &r.charges[i]
		if !a.policy.cacheable || charge.ID != "" {
			continue
		}
		if row, known := e.denials.find(charge.Key, r.generation, charge.Cost, now); known {
			a.state, a.row, found = stateCached, row, true
		}
	}
	if !found {
		return false
	}
	for i := range r.answers {
		if r.answers[i].state != stateCached {
			r.answers[i].state = stateSpared
		}
	}
	return true
}

// penalizes tells whether a policy of the request has a penalty, which has to see each of its denials.
func (r *Request) penalizes() bool {
	return slices.ContainsFunc(r.answers, func(a answer) bool { return a.policy.policy.Penalty != nil })
}

// note remembers the row, which Redis was asked for at from, if it is a denial that can be. The answer to a decision with
// an id may be older than it looks.
func (e *Engine) note(r *Request, c *compiled, charge *limit.Charge, row *limit.Row, from time.Time) {
	if row.Allowed || e.denials == nil || r.operation != opDecide || !c.cacheable || charge.ID != "" {
		return
	}
	if (row.Reason == limit.ReasonLimit || row.Reason == limit.ReasonBlocked) && row.RetryAfter > 0 {
		e.denials.remember(charge.Key, r.generation, charge.Cost, row, from)
	}
}

func (e *Engine) forget(key string) {
	if e.denials != nil {
		e.denials.forget(key, e.now())
	}
}
