package engine

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// tables is a policy set, arranged for matching. It never changes, apart from the metric handles.
type tables struct {
	set     *policy.Set
	names   map[string]*compiled
	domains map[string]*domain
}

// domain is the policies of one Envoy domain.
type domain struct {
	// whole are the policies without descriptors.
	whole []*compiled
	// tuples are the others, by their keys in order (see appendTuple).
	tuples map[string][]*shape
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
	bindings []binding
	counters counters
	// trouble is the same one in every set that has a policy of the name, one after the other.
	trouble *trouble
}

// trouble is what is wrong with one policy in Redis.
type trouble struct {
	// wrongType is whether a key of the policy holds something that is not ours.
	wrongType transition
	// absent is whether Redis does not serve the policy.
	absent absence
}

// binding is a limit with the name that it is reported by.
type binding struct {
	limit *policy.Limit
	name  string
}

// compile arranges the set. What a policy carries from one set to the next (metric handles, its trouble) is taken over
// from old, which may be nil.
func compile(set *policy.Set, old *tables) *tables {
	t := &tables{set: set, names: make(map[string]*compiled, len(set.RateLimits)), domains: map[string]*domain{}}
	for i := range set.RateLimits {
		rl := &set.RateLimits[i]
		c := compilePolicy(rl)
		if old != nil {
			if before := old.names[rl.Name]; before != nil {
				c.counters.takeOver(&before.counters)
				c.trouble = before.trouble
			}
		}
		t.names[rl.Name] = c

		d := t.domains[rl.Domain]
		if d == nil {
			d = &domain{tuples: map[string][]*shape{}}
			t.domains[rl.Domain] = d
		}
		d.add(c)
	}
	for _, d := range t.domains {
		for _, shapes := range d.tuples {
			slices.SortFunc(shapes, func(a, b *shape) int { return strings.Compare(b.ranks, a.ranks) })
		}
	}
	return t
}

func compilePolicy(rl *policy.RateLimit) *compiled {
	c := &compiled{policy: rl, patterns: make([]pattern, len(rl.Descriptors)), bindings: make([]binding, len(rl.Limits)), trouble: &trouble{}}
	for i, descriptor := range rl.Descriptors {
		c.patterns[i] = compilePattern(descriptor.Value)
	}
	for i := range rl.Limits {
		name := rl.Name
		if len(rl.Limits) > 1 {
			name += "/" + rl.Limits[i].Name
		}
		c.bindings[i] = binding{limit: &rl.Limits[i], name: name}
	}
	return c
}

func (d *domain) add(c *compiled) {
	if len(c.patterns) == 0 {
		d.whole = append(d.whole, c)
		return
	}
	var tuple, values []byte
	ranks := make([]byte, len(c.patterns))
	var exact []int
	for i, p := range c.patterns {
		tuple = appendTuple(tuple, c.policy.Descriptors[i].Key)
		ranks[i] = byte(p.rank)
		if p.rank == rankExact {
			exact = append(exact, i)
			values = appendTuple(values, p.parts[0])
		}
	}
	shapes := d.tuples[string(tuple)]
	at := slices.IndexFunc(shapes, func(s *shape) bool { return s.ranks == string(ranks) })
	if at < 0 {
		at = len(shapes)
		shapes = append(shapes, &shape{ranks: string(ranks), exact: exact, values: map[string][]*compiled{}})
		d.tuples[string(tuple)] = shapes
	}
	shapes[at].values[string(values)] = append(shapes[at].values[string(values)], c)
}

// match appends the policies that apply to the tuple: the most specific ones that match, and no others.
func (d *domain) match(dst []*compiled, tuple []redisops.Entry) []*compiled {
	if len(tuple) == 0 || len(tuple) > policy.MaxDescriptors {
		return dst
	}
	var stack [512]byte
	buffer := stack[:0]
	for i := range tuple {
		buffer = appendTuple(buffer, tuple[i].Key)
	}
	for _, s := range d.tuples[string(buffer)] {
		buffer = buffer[:0]
		for _, position := range s.exact {
			buffer = appendTuple(buffer, tuple[position].Value)
		}
		before := len(dst)
		for _, c := range s.values[string(buffer)] {
			if c.matches(tuple) {
				dst = append(dst, c)
			}
		}
		if len(dst) > before {
			return dst
		}
	}
	return dst
}

// matches tells whether the values fit; the keys are known to.
func (c *compiled) matches(tuple []redisops.Entry) bool {
	for i := range c.patterns {
		if !c.patterns[i].matches(tuple[i].Value) {
			return false
		}
	}
	return true
}

// binding gives the limit of that name; without one that our set knows, the policy's name alone.
func (c *compiled) binding(limit string) (*policy.Limit, string) {
	for i := range c.bindings {
		if c.bindings[i].limit.Name == limit {
			return c.bindings[i].limit, c.bindings[i].name
		}
	}
	return nil, c.policy.Name
}

// appendTuple appends s with its length, so that no two tuples look alike.
func appendTuple(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
