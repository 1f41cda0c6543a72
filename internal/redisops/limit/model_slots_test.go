package limit_test

import (
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// slotsTally is of a Concurrency: when which slot expires.
type slotsTally struct {
	slots map[string]int64
}

func (t *slotsTally) at(_ policy.Limit, now int64) (tally, bool) {
	held := &slotsTally{maps.Clone(t.slots)}
	maps.DeleteFunc(held.slots, func(_ string, expires int64) bool { return expires <= now })
	return held, false
}

// Slots are not charged.
func (*slotsTally) check(policy.Limit, int64, *big.Int) verdict {
	panic("a Concurrency is not charged")
}
func (*slotsTally) charge(policy.Limit, int64, int64) { panic("a Concurrency is not charged") }
func (*slotsTally) give(policy.Limit, int64, int64, *modelRecord) {
	panic("a Concurrency is not charged")
}

// lasting gives how long the slots are held still, the shortest first.
func (t *slotsTally) lasting(l policy.Limit, now int64) []int64 {
	latest := now + l.SlotTTLMs*1000
	var rests []int64
	for _, expires := range t.slots {
		rests = append(rests, min(expires, latest)-now)
	}
	slices.Sort(rests)
	return rests
}

// slotsView is the slots of a subject as they are held at one time. None expires later than the TTL from now, whatever
// was written.
type slotsView struct {
	// held are those that did not expire; nil for a subject without limits.
	held *slotsTally
	// written also has those that expired since somebody last acquired one; nil when there is no state.
	written *slotsTally
	// fresh tells that nothing stands there, not even the state of another algorithm.
	fresh bool
	limit policy.Limit
	row   limit.Row
}

func (m *model) slots(now int64, c limit.Charge) *slotsView {
	b := budgetOf(c.Policy, c.Values)
	v := &slotsView{row: limit.Row{
		Allowed: true, Limit: -1, Remaining: policy.MaxInteger, Reason: limit.ReasonOK, ID: c.ID, Override: b.override,
	}}
	if b.unlimited {
		return v
	}
	v.limit, v.held = b.limits[0], &slotsTally{map[string]int64{}}
	v.fresh = true
	if counter := m.counters[c.Key]; counter != nil {
		field, found := counter.fields[v.limit.Name]
		v.fresh = !found
		if field.signature == signatureOf(v.limit) {
			held, _ := field.tally.at(v.limit, now)
			v.held, v.written = held.(*slotsTally), field.tally.(*slotsTally)
		}
	}
	v.row.Limit, v.row.LimitName = v.limit.Requests, v.limit.Name
	v.describe(now)
	return v
}

// describe fills in what is left, and when all slots are free.
func (v *slotsView) describe(now int64) {
	v.row.Remaining, v.row.Reset = max(v.limit.Requests-int64(len(v.held.slots)), 0), 0
	if rests := v.held.lasting(v.limit, now); len(rests) > 0 {
		v.row.Reset = milliseconds(rests[len(rests)-1])
	}
}

// shorten lets no slot expire later than the TTL from now.
func (t *slotsTally) shorten(l policy.Limit, now int64) {
	for id, expires := range t.slots {
		t.slots[id] = min(expires, now+l.SlotTTLMs*1000)
	}
}

func (m *model) acquire(now int64, c limit.Charge, ttl time.Duration) limit.Row {
	v := m.slots(now, c)
	if v.held == nil {
		return v.row
	}
	longest := v.limit.SlotTTLMs * 1000
	_, again := v.held.slots[c.ID]
	if n := int64(len(v.held.slots)); !again && n >= v.limit.Requests {
		v.row.Allowed, v.row.Reason = false, limit.ReasonLimit
		if v.limit.Requests == 0 {
			v.row.Reason, v.row.RetryAfter = limit.ReasonBlocked, milliseconds(longest)
		} else {
			v.row.RetryAfter = milliseconds(v.held.lasting(v.limit, now)[n-v.limit.Requests])
		}
		if v.written != nil {
			v.written.shorten(v.limit, now)
		}
		return shadowed(c.Policy, c.Key, v.row)
	}
	if ttl == 0 {
		ttl = time.Duration(v.limit.SlotTTLMs) * time.Millisecond
	}
	v.held.shorten(v.limit, now)
	v.held.slots[c.ID] = now + min(max(ttl.Milliseconds(), 1)*1000, longest)
	m.write(c.Key).fields[v.limit.Name] = modelField{signatureOf(v.limit), v.held}
	v.describe(now)
	v.row.New = v.fresh
	return v.row
}

func (m *model) release(now int64, c limit.Charge) limit.Row {
	v := m.slots(now, c)
	if v.held == nil {
		return v.row
	}
	if _, held := v.held.slots[c.ID]; held {
		delete(v.held.slots, c.ID)
		delete(v.written.slots, c.ID)
		v.describe(now)
		return v.row
	}
	v.row.Reason = limit.ReasonAbsent
	return v.row
}
