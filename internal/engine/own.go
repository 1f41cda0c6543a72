package engine

import (
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// LimitPolicy is the name under which a limit is counted and reported that a request brought along where no policy applies.
// It is the name of no RateLimit.
const LimitPolicy = "_/limit"

// ownLimitName is the limit's name, which is a field of the counter in Redis.
const ownLimitName = "override"

// mostOwnLimits bounds the memory for limits that requests brought along under one policy set.
const mostOwnLimits = 1 << 12

// ownLimit is a limit that a request brings along: a FixedWindow.
type ownLimit struct {
	requests, windowMs int64
}

// text tells the limit from others.
func (l ownLimit) text() string {
	return strconv.FormatInt(l.requests, 10) + "/" + strconv.FormatInt(l.windowMs, 10)
}

// ownLimits are the limits that requests brought along, made into policies.
type ownLimits struct {
	known sync.Map // of ownPolicyKey to *compiled
	count atomic.Int32
	// apart is what the metrics and the troubles of those have that no policy applied to.
	counters counters
	trouble  trouble
}

// ownPolicyKey is the limit and the policy in whose place it stands; nil is none.
type ownPolicyKey struct {
	place *compiled
	limit ownLimit
}

// ownMatch is a limit that a request brings along, what it is charged, and what it stands for: the first of the policies
// that apply, or nil.
type ownMatch struct {
	policy *compiled
	limit  ownLimit
	cost   int64
	place  *compiled
}

// ownLimit gives the descriptor's own limit in the place of the policies that apply to it.
func (t *tables) ownLimit(matched []match, at *descriptor) ownMatch {
	own := ownMatch{limit: at.own, cost: at.cost}
	if len(matched) > 0 {
		own.place, own.cost = matched[0].policy, matched[0].cost
	} else if own.cost == PolicyCost {
		own.cost = 1
	}
	key := ownPolicyKey{place: own.place, limit: at.own}
	if known, found := t.own.known.Load(key); found {
		own.policy = known.(*compiled)
		return own
	}
	own.policy = t.compileOwn(key)
	if t.own.count.Add(1) > mostOwnLimits {
		t.own.count.Store(0)
		t.own.known.Clear()
	}
	t.own.known.Store(key, own.policy)
	return own
}

// compileOwn makes the limit into a policy. Of the one in whose place it stands it keeps what is not about counting. It has
// no descriptors: its key alone tells whom it is about.
func (t *tables) compileOwn(key ownPolicyKey) *compiled {
	rl := policy.RateLimit{Name: LimitPolicy, OnStoreFailure: policy.FailureAllow}
	counters, trouble := &t.own.counters, &t.own.trouble
	if key.place != nil {
		of := key.place.policy
		rl.Name, rl.Domain, rl.Response = of.Name, of.Domain, of.Response
		rl.OnStoreFailure, rl.ShadowPercent = of.OnStoreFailure, of.ShadowPercent
		counters, trouble = key.place.counters, key.place.trouble
	}
	rl.Limits = []policy.Limit{{
		Name: ownLimitName, Algorithm: policy.FixedWindow, Requests: key.limit.requests, WindowMs: key.limit.windowMs,
	}}
	sealed := rl.Sealed()
	c := compilePolicy(&sealed)
	c.unpublished, c.counters, c.trouble = true, counters, trouble
	return c
}

// spendOwn lets the limit that the descriptor at that index brings along apply to it.
func (r *Request) spendOwn(at int, own ownMatch, tuple []redisops.Entry) {
	r.spend(at, own.policy, r.ownCounterKey(own, tuple), nil, own.cost)
}

// ownCounterKey gives the counter key of a limit that the request brings along. No policy has a descriptor without a key, so
// that the limit, in an entry without one, keeps the counter apart from that of every policy and every other limit.
func (r *Request) ownCounterKey(own ownMatch, tuple []redisops.Entry) string {
	entries := tuple
	if own.place != nil {
		entries = r.subject(own.place, tuple)
	}
	r.subjects = append(append(r.subjects[:0], entries...), redisops.Entry{Value: own.limit.text()})
	if own.place == nil {
		r.subjects = append(r.subjects, redisops.Entry{Value: r.domain})
	}
	return redisops.CounterKey(own.policy.policy.Name, r.subjects)
}
