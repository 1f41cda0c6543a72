package engine

import (
	"sync"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Request is what is to be decided: a domain and its descriptors, added in order. It comes from NewRequest, serves one
// decision and goes back by Release.
type Request struct {
	domain      string
	descriptors []descriptor
	entries     []redisops.Entry

	// operation is what Redis is asked for, with ttl for a slot, by the set of that generation.
	operation  operation
	ttl        time.Duration
	generation uint64

	// What follows is the work space of one decision, kept so that deciding allocates little.
	view     view
	matched  []match
	targets  []target
	subjects []redisops.Entry
	charges  []limit.Charge
	values   []string
	counted  []redisops.Entry
	answers  []answer
	pending  []limit.Charge
	indices  []int
	errs     []error
	verdicts []Verdict
	// unpublished tells that one of the charges is by a limit of the request's own, returns that a descriptor gives back,
	// refused that a charge was denied.
	unpublished, returns, refused bool
}

// descriptor is a run of entries.
type descriptor struct {
	from, to int
	cost     int64
	// own is the limit that the request brings along in the place of the policies'; without a window it brings none.
	own ownLimit
	// returns tells that the cost is given back.
	returns bool
}

// target is a policy that applies to a descriptor, and the charge that it spends by.
type target struct {
	descriptor, charge int
}

// answer is what became of a charge.
type answer struct {
	policy *compiled
	state  state
	// row is Redis' answer. Of stateFailed it has what onStoreFailure said: Allowed and RetryAfter.
	row limit.Row
	// taken is when a local share was charged; zero is never.
	taken time.Time
}

type state uint8

const (
	stateAsked state = iota
	stateDecided
	// stateFailed: Redis could not decide, and the policy's onStoreFailure did.
	stateFailed
	// stateGone: Redis does not know the policy, so it was deleted; see grace.
	stateGone
	// stateCached: Redis denied it a moment ago; the row is that denial.
	stateCached
	// stateSpared: Redis was not asked, because of a stateCached beside it.
	stateSpared
)

var requests = sync.Pool{New: func() any { return new(Request) }}

// NewRequest gives an empty request of the domain.
func NewRequest(domain string) *Request {
	r := requests.Get().(*Request)
	r.domain = domain
	return r
}

// Descriptor begins the next descriptor, with what its policies are charged: 0 (only look) to policy.MaxInteger, or
// PolicyCost.
func (r *Request) Descriptor(cost int64) {
	r.descriptors = append(r.descriptors, descriptor{from: len(r.entries), to: len(r.entries), cost: cost})
}

// Entry adds an entry to the descriptor that was begun last.
func (r *Request) Entry(key, value string) {
	r.entries = append(r.entries, redisops.Entry{Key: key, Value: value})
	r.descriptors[len(r.descriptors)-1].to = len(r.entries)
}

// Limit has the descriptor that was begun last limited by so many requests in a window of that length, whole milliseconds,
// in the place of the policies that apply to it: see Engine.Decide. Requests are 0 (all are denied) to policy.MaxInteger,
// the window is policy.MinWindow to policy.MaxWindow. Whether the caller may bring a limit along is for the door to know.
func (r *Request) Limit(requests int64, window time.Duration) {
	r.descriptors[len(r.descriptors)-1].own = ownLimit{requests: requests, windowMs: window.Milliseconds()}
}

// GiveBack has the descriptor that was begun last give its cost back in the place of charging it.
func (r *Request) GiveBack() {
	r.descriptors[len(r.descriptors)-1].returns, r.returns = true, true
}

// Release ends the use of the request, and of the result of its decision.
func (r *Request) Release() {
	// Nothing of a user's stays behind in the pool, and no old policy set is kept alive by it.
	clear(r.entries)
	clear(r.matched)
	clear(r.charges)
	clear(r.values)
	clear(r.counted[:cap(r.counted)])
	clear(r.subjects[:cap(r.subjects)])
	clear(r.answers)
	clear(r.pending[:cap(r.pending)])
	clear(r.errs[:cap(r.errs)])
	clear(r.verdicts)
	r.domain, r.view = "", view{}
	r.operation, r.ttl, r.generation = opDecide, 0, 0
	r.unpublished, r.returns, r.refused = false, false, false
	r.descriptors, r.entries = r.descriptors[:0], r.entries[:0]
	r.matched, r.targets, r.charges = r.matched[:0], r.targets[:0], r.charges[:0]
	r.values, r.answers, r.verdicts = r.values[:0], r.answers[:0], r.verdicts[:0]
	requests.Put(r)
}

// checkValues refuses a value that Redis would: what Redis refuses cannot be limited. Of policies that do not apply, the
// values do not matter.
func (r *Request) checkValues() error {
	for i := range r.charges {
		for j, value := range r.charges[i].Values {
			if len(value) > MaxValueBytes {
				return &ValueTooLongError{Key: r.charges[i].Policy.Descriptors[j].Key, Bytes: len(value)}
			}
		}
	}
	return nil
}

// look gives the view of the request for the expressions of policies, of which the rest is to be filled in.
func (r *Request) look(e *Engine) *view {
	r.view = view{engine: e, domain: r.domain}
	return &r.view
}

// attributes appends the attributes that a tuple of keys is about, and gives the first key of one that is not there.
func (r *Request) attributes(descriptors []policy.Descriptor, lookup func(key string) (string, bool)) (missing string) {
	for i := range descriptors {
		value, found := lookup(descriptors[i].Key)
		if !found {
			return descriptors[i].Key
		}
		r.entries = append(r.entries, redisops.Entry{Key: descriptors[i].Key, Value: value})
	}
	return ""
}

// subject gives the entries that the policy counts by: of a shared descriptor the pattern. They are valid until the next
// call.
func (r *Request) subject(c *compiled, entries []redisops.Entry) []redisops.Entry {
	if !c.shared {
		return entries
	}
	r.counted = append(r.counted[:0], entries...)
	for i := range r.counted {
		if d := &c.policy.Descriptors[i]; d.Shared {
			r.counted[i].Value = d.Value
		}
	}
	return r.counted
}

// target lets the policy apply to the descriptor at that index, with these entries. Where two descriptors are the same
// subject of the same policy, they spend by one charge of their costs together, with the values of the first: decided side
// by side, each would find room that only one of them can have.
func (r *Request) target(at int, c *compiled, entries []redisops.Entry, cost int64) {
	r.spend(at, c, redisops.CounterKey(c.policy.Name, r.subject(c, entries)), entries, cost)
}

// spend is target for a counter key that is known.
func (r *Request) spend(at int, c *compiled, key string, entries []redisops.Entry, cost int64) {
	for i := range r.charges {
		if r.charges[i].Key == key {
			r.charges[i].Cost = min(r.charges[i].Cost+cost, policy.MaxInteger)
			r.targets = append(r.targets, target{descriptor: at, charge: i})
			return
		}
	}
	from := len(r.values)
	for i := range entries {
		r.values = append(r.values, entries[i].Value)
	}
	r.targets = append(r.targets, target{descriptor: at, charge: len(r.charges)})
	r.charges = append(r.charges, limit.Charge{
		Policy: c.policy, Key: key, Values: r.values[from:len(r.values):len(r.values)], Cost: cost, Unpublished: c.unpublished,
	})
	r.unpublished = r.unpublished || c.unpublished
	r.answers = append(r.answers, answer{policy: c})
}
