package engine

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// tables is a policy set, arranged for matching. It never changes, apart from the metric handles and the limits that requests
// brought along.
type tables struct {
	set *policy.Set
	// generation tells this one from the ones before.
	generation uint64
	names      map[string]*compiled
	domains    map[string]*domain
	// own are the limits that requests brought along.
	own ownLimits
}

// domain is the policies of one Envoy domain that requests are matched against: not those of a Concurrency, which count
// what a request's door could never release.
type domain struct {
	// whole are the policies without descriptors.
	whole []*compiled
	// tuples are the others, by their keys in order (see appendTuple).
	tuples map[string]*keyTuple
	// inOrder are the same, in the order of the first policy on each.
	inOrder []*keyTuple
}

// keyTuple is the policies on one tuple of keys.
type keyTuple struct {
	// keys are the descriptors of one of the policies, of which the keys count.
	keys []policy.Descriptor
	// shapes are the most specific ones first.
	shapes []*shape
}

// shape is the policies on one tuple of keys whose patterns have the same ranks, so that they are equally specific.
type shape struct {
	ranks string
	// exact are the positions with exact values, by which the policies are looked up; the rest is matched one by one.
	exact  []int
	values map[string][]*compiled
}

// compiled is one policy, ready to match.
type compiled struct {
	policy   *policy.RateLimit
	patterns []pattern
	// shared tells that a descriptor counts by its pattern in the place of its value.
	shared bool
	// rules are the policy's expressions; nil are none.
	rules *rules
	// bindings are those of the policy's limits, and then those of each override's.
	bindings [][]binding
	// overrides are the patterns of each override's values; only of a policy of LocalShare, which alone asks for them.
	overrides [][]pattern
	// cacheable tells that a denial can be remembered; see denials.
	cacheable bool
	// unpublished tells that it stands for a limit which a request brought along, so that Redis does not serve it.
	unpublished bool
	// counters are those of the policy's series; a limit that a request brought along is counted with the policy.
	counters *counters
	// trouble is the same one in every set that has a policy of the name, one after the other.
	trouble *trouble
}

// trouble is what is wrong with one policy in Redis.
type trouble struct {
	// wrongType is whether a key of the policy holds something that is not ours.
	wrongType Transition
	// absent is whether Redis does not serve the policy.
	absent absence
	// expression is whether an expression of the policy has no value for some requests.
	expression Transition
	// told is when somebody was told of that last, in nanoseconds since 1970; 0 is never.
	told atomic.Int64
}

// binding is a limit with the name that it is reported by.
type binding struct {
	limit *policy.Limit
	name  string
}

// unchanged gives the policy of that name and content, or nil. The tables may be nil, too.
func (t *tables) unchanged(rl *policy.RateLimit) *compiled {
	if t == nil {
		return nil
	}
	if c := t.names[rl.Name]; c != nil && c.policy.ContentHash == rl.ContentHash {
		return c
	}
	return nil
}

// compile arranges the set. What a policy carries from one set to the next (metric handles, its trouble, expressions that
// did not change) is taken over from old, which may be nil.
func compile(set *policy.Set, old *tables) *tables {
	t := &tables{set: set, names: make(map[string]*compiled, len(set.RateLimits)), domains: map[string]*domain{}}
	if old != nil {
		t.generation = old.generation + 1
	}
	for i := range set.RateLimits {
		rl := &set.RateLimits[i]
		c := compilePolicy(rl)
		if before := old.unchanged(rl); before != nil {
			c.rules = before.rules
		} else {
			c.rules = compileRules(rl)
		}
		if old != nil {
			if before := old.names[rl.Name]; before != nil {
				c.counters.takeOver(before.counters)
				c.trouble = before.trouble
			}
		}
		t.names[rl.Name] = c

		d := t.domains[rl.Domain]
		if d == nil {
			d = &domain{tuples: map[string]*keyTuple{}}
			t.domains[rl.Domain] = d
		}
		if !rl.IsConcurrency() {
			d.add(c)
		}
	}
	for _, d := range t.domains {
		for _, on := range d.inOrder {
			slices.SortFunc(on.shapes, func(a, b *shape) int { return strings.Compare(b.ranks, a.ranks) })
		}
	}
	return t
}

func compilePolicy(rl *policy.RateLimit) *compiled {
	c := &compiled{policy: rl, patterns: make([]pattern, len(rl.Descriptors)), cacheable: cacheable(rl), counters: &counters{}, trouble: &trouble{}}
	for i, descriptor := range rl.Descriptors {
		c.patterns[i] = compilePattern(descriptor.Value)
		c.shared = c.shared || descriptor.Shared
	}
	c.bindings = append(c.bindings, bindingsOf(rl.Name, rl.Limits))
	for i := range rl.Overrides {
		c.bindings = append(c.bindings, bindingsOf(rl.Name, rl.Overrides[i].Limits))
	}
	if rl.OnStoreFailure == policy.FailureLocalShare {
		c.overrides = overridesOf(rl)
	}
	return c
}

func overridesOf(rl *policy.RateLimit) [][]pattern {
	overrides := make([][]pattern, len(rl.Overrides))
	for i := range rl.Overrides {
		for _, value := range rl.Overrides[i].Values {
			overrides[i] = append(overrides[i], compilePattern(value))
		}
	}
	return overrides
}

func bindingsOf(policyName string, limits []policy.Limit) []binding {
	bindings := make([]binding, len(limits))
	for i := range limits {
		name := policyName
		if len(limits) > 1 {
			name += "/" + limits[i].Name
		}
		bindings[i] = binding{limit: &limits[i], name: name}
	}
	return bindings
}

func (d *domain) add(c *compiled) {
	if len(c.patterns) == 0 {
		d.whole = append(d.whole, c)
		return
	}
	var keys, values []byte
	ranks := make([]byte, len(c.patterns))
	var exact []int
	for i, p := range c.patterns {
		keys = appendTuple(keys, c.policy.Descriptors[i].Key)
		ranks[i] = byte(p.rank)
		if p.rank == rankExact {
			exact = append(exact, i)
			values = appendTuple(values, p.parts[0])
		}
	}
	on := d.tuples[string(keys)]
	if on == nil {
		on = &keyTuple{keys: c.policy.Descriptors}
		d.tuples[string(keys)] = on
		d.inOrder = append(d.inOrder, on)
	}
	at := slices.IndexFunc(on.shapes, func(s *shape) bool { return s.ranks == string(ranks) })
	if at < 0 {
		at = len(on.shapes)
		on.shapes = append(on.shapes, &shape{ranks: string(ranks), exact: exact, values: map[string][]*compiled{}})
	}
	s := on.shapes[at]
	s.values[string(values)] = append(s.values[string(values)], c)
}

// match appends the policies that apply to the tuple: the most specific ones that match, and no others.
func (d *domain) match(dst []match, tuple []redisops.Entry, v *view) []match {
	if len(tuple) == 0 || len(tuple) > policy.MaxDescriptors {
		return dst
	}
	var stack [512]byte
	buffer := stack[:0]
	for i := range tuple {
		buffer = appendTuple(buffer, tuple[i].Key)
	}
	on := d.tuples[string(buffer)]
	if on == nil {
		return dst
	}
	for _, s := range on.shapes {
		before := len(dst)
		if dst = s.match(dst, tuple, v); len(dst) > before {
			return dst
		}
	}
	return dst
}

// match appends the policies of the shape that apply to the tuple, whose keys are known to fit.
func (s *shape) match(dst []match, tuple []redisops.Entry, v *view) []match {
	var stack [512]byte
	buffer := stack[:0]
	for _, position := range s.exact {
		buffer = appendTuple(buffer, tuple[position].Value)
	}
	for _, c := range s.values[string(buffer)] {
		if !c.matches(tuple) {
			continue
		}
		if cost, applies := v.applies(c); applies {
			dst = append(dst, match{policy: c, cost: cost})
		}
	}
	return dst
}

// matches tells whether the values fit; the keys are known to.
func (c *compiled) matches(tuple []redisops.Entry) bool { return c.misfit(tuple) < 0 }

// misfit gives the first position of a value that does not fit, or -1.
func (c *compiled) misfit(tuple []redisops.Entry) int {
	for i := range c.patterns {
		if !c.patterns[i].matches(tuple[i].Value) {
			return i
		}
	}
	return -1
}

// override gives which of the policy's overrides applies to the values, counted from 1; 0 is none.
func (c *compiled) override(values []string) int {
	for i, patterns := range c.overrides {
		if fit(patterns, values) {
			return i + 1
		}
	}
	return 0
}

func fit(patterns []pattern, values []string) bool {
	for i := range patterns {
		if !patterns[i].matches(values[i]) {
			return false
		}
	}
	return true
}

// binding gives the limit of that name among the policy's, or those of an override, counted from 1; without one that our
// set knows, the policy's name alone.
func (c *compiled) binding(override int, limit string) (*policy.Limit, string) {
	if override >= 0 && override < len(c.bindings) {
		for i := range c.bindings[override] {
			if b := &c.bindings[override][i]; b.limit.Name == limit {
				return b.limit, b.name
			}
		}
	}
	return nil, c.policy.Name
}

// appendTuple appends s with its length, so that no two tuples look alike.
func appendTuple(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
