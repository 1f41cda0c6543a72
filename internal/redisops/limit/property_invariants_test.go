package limit_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// spent is what one allowed charge took, less what was given back.
type spent struct {
	at, cost int64
	id       string
}

// between gives what was spent after one time and up to another.
func between(all []spent, after, upTo int64) int64 {
	var sum int64
	for _, s := range all {
		if s.at > after && s.at <= upTo {
			sum += s.cost
		}
	}
	return sum
}

// exceeded tells in words how charges, of which the last was just made, break the promise of a limit; empty when they keep
// it. It knows nothing of the model.
func exceeded(l policy.Limit, all []spent) string {
	now, window := all[len(all)-1].at, l.WindowMs*1000
	switch l.Algorithm {
	case policy.SlidingLog:
		if between(all, now-window, now) > l.Requests {
			return "more than requests in a window"
		}
	case policy.FixedWindow, policy.SlidingCounter:
		begin := now - now%window
		if l.Calendar != "" {
			begin, _ = calendarWindow(l, now)
		}
		if between(all, begin-1, now) > l.Requests {
			return "more than requests in a window"
		}
	case policy.TokenBucket:
		for _, first := range all {
			// What was refilled between them, in requests × microseconds, so that nothing is rounded.
			refill := (now - first.at + l.TickUs) * l.Requests
			if (between(all, first.at-1, now)-l.Burst)*window > refill {
				return "more than burst and what was refilled"
			}
		}
	}
	return ""
}

// TestNoHistoryBreaksThePromiseOfItsLimit makes up calls on one to three limits while time goes forward, and checks what can be said
// without knowing how the limits count: never too much is allowed, not even by refunds; denials cost nothing; Retry-After
// and Reset are kept to the millisecond.
func TestNoHistoryBreaksThePromiseOfItsLimit(t *testing.T) {
	algorithms := []string{policy.FixedWindow, "calendar", policy.SlidingLog, policy.SlidingCounter, policy.TokenBucket}
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		server := redistest.Start(t)
		rapid.Check(t, func(rt *rapid.T) {
			var limits []policy.Limit
			for _, name := range []string{"a", "b", "c"}[:rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(rt, "limits")] {
				window := rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 999 * time.Millisecond, time.Minute, time.Hour, 25 * time.Hour}).Draw(rt, "window")
				l := drawLimit(rt, rapid.SampledFrom(algorithms).Draw(rt, "algorithm"), window)
				l.Requests, l.Burst = rapid.Int64Range(1, 9).Draw(rt, "few"), min(l.Burst, rapid.Int64Range(1, 9).Draw(rt, "burst"))
				limits = append(limits, named(name, l))
			}
			begin := t0 + rapid.Int64Range(0, minute).Draw(rt, "begin")
			p := &promise{T: rt, w: startOn(t, server, mode, true, one("shop/api", limits...)), limits: limits, now: begin}
			p.w.tb = rt
			for range rapid.IntRange(5, 25).Draw(rt, "steps") {
				window := rapid.SampledFrom(limits).Draw(rt, "of").WindowMs
				p.now += rapid.OneOf(rapid.Int64Range(0, window*200), rapid.Int64Range(0, window*1500)).Draw(rt, "later")
				p.steer(p.now)
				if rapid.IntRange(0, 4).Draw(rt, "refund") == 0 {
					p.refund()
				} else {
					p.charge()
				}
			}
		})
	})
}

// promise is a history on the limits of one policy.
type promise struct {
	*rapid.T
	w      *world
	limits []policy.Limit
	now    int64
	all    []spent
	// named is how many charges had an id: the numbers from 1.
	named int
}

func (p *promise) steer(at int64) { p.w.steer(time.Duration(at-t0) * time.Microsecond) }

func (p *promise) charge() {
	c := p.w.charge("shop/api", rapid.Int64Range(1, 4).Draw(p.T, "cost"))
	if rapid.Bool().Draw(p.T, "named") {
		p.named++
		c.ID = strconv.Itoa(p.named)
	}
	before := p.w.peek(p.w.charge("shop/api", 0))
	row := p.w.decide(c)[0]
	after := p.w.peek(p.w.charge("shop/api", 0))
	if row.Remaining < 0 || row.Allowed != (c.Cost <= before.Remaining) {
		p.Fatalf("%d of %d left: %+v", c.Cost, before.Remaining, row)
	}
	if row.Allowed {
		p.all = append(p.all, spent{p.now, c.Cost, c.ID})
		for _, l := range p.limits {
			if what := exceeded(l, p.all); what != "" {
				p.Fatalf("%s: %+v allowed %+v", what, l, p.all)
			}
		}
		if after.Remaining != before.Remaining-c.Cost || after.Remaining != row.Remaining {
			p.Fatalf("%d left, charged %d: %+v, then %+v", before.Remaining, c.Cost, row, after)
		}
	} else if after != before {
		p.Fatalf("a denial was charged: %+v, before %+v", after, before)
	}
	p.wait(c, row)
}

// wait looks whether the row told the truth of the future.
func (p *promise) wait(c limit.Charge, row limit.Row) {
	c.ID = ""
	capacity := capacityOf(p.limits[0])
	for _, l := range p.limits {
		capacity = min(capacity, capacityOf(l))
	}
	if !row.Allowed && c.Cost <= capacity {
		p.steer(p.now + row.RetryAfter.Microseconds())
		if then := p.w.peek(c); !then.Allowed {
			p.Fatalf("%+v: %d was denied by %+v, and after that by %+v", p.limits, c.Cost, row, then)
		}
		p.steer(p.now + row.RetryAfter.Microseconds() - 1000)
		if then := p.w.peek(c); then.Allowed {
			p.Fatalf("%+v: %d was denied by %+v, and a millisecond before that allowed by %+v", p.limits, c.Cost, row, then)
		}
	}
	if len(p.limits) == 1 {
		p.waitForReset(capacity, row)
	}
	p.steer(p.now)
}

// waitForReset is for one limit: of several, the row tells when the binding one is whole again.
func (p *promise) waitForReset(capacity int64, row limit.Row) {
	look := p.w.charge("shop/api", 0)
	p.steer(p.now + row.Reset.Microseconds())
	if then := p.w.peek(look); then.Remaining != capacity || then.Reset != 0 {
		p.Fatalf("%+v: whole again by %+v, but then %+v", p.limits, row, then)
	}
	if row.Reset > 0 {
		p.steer(p.now + row.Reset.Microseconds() - 1000)
		if then := p.w.peek(look); then.Reset == 0 {
			p.Fatalf("%+v: whole again by %+v, but a millisecond before that %+v", p.limits, row, then)
		}
	}
}

// refund gives back a charge, or what never was.
func (p *promise) refund() {
	c := p.w.charge("shop/api", rapid.Int64Range(1, 4).Draw(p.T, "back"))
	c.ID = strconv.Itoa(rapid.IntRange(1, p.named+1).Draw(p.T, "of"))
	row, err := p.w.limiter.Refund(context.Background(), c)
	if err != nil {
		p.Fatal(err)
	}
	found := false
	for i := range p.all {
		s := &p.all[i]
		if s.id == c.ID && s.at > p.now-minute {
			s.cost, s.id, found = s.cost-min(s.cost, c.Cost), "", true
		}
	}
	if found == (row.Reason == limit.ReasonAbsent) {
		p.Fatalf("%s was charged: %v, but %+v", c.ID, found, row)
	}
}

// TestABalanceIsWhatWasCreditedLessWhatWasSpent, to the last request, whatever clocks do.
func TestABalanceIsWhatWasCreditedLessWhatWasSpent(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		server := redistest.Start(t)
		rapid.Check(t, func(rt *rapid.T) {
			has := drawRequests(rt, 1<<52)
			w := startOn(t, server, mode, true, one("shop/api", balance(has)))
			w.tb = rt
			for range rapid.IntRange(1, 20).Draw(rt, "steps") {
				w.steer(time.Duration(rapid.Int64Range(0, 1<<50).Draw(rt, "at")) * time.Microsecond)
				c := w.charge("shop/api", rapid.OneOf(rapid.Int64Range(1, 9), rapid.SampledFrom([]int64{has, min(has+1, policy.MaxInteger)})).Draw(rt, "amount"))
				var row limit.Row
				if rapid.Bool().Draw(rt, "credit") {
					var err error
					if row, err = w.limiter.Credit(context.Background(), limit.Charge{Policy: c.Policy, Key: c.Key, Cost: max(c.Cost, 1)}); err != nil {
						if has+max(c.Cost, 1) <= policy.MaxInteger {
							rt.Fatal(err)
						}
						continue
					}
					has += max(c.Cost, 1)
				} else {
					row = w.decide(c)[0]
					if row.Allowed != (c.Cost <= has) {
						rt.Fatalf("%d of %d: %+v", c.Cost, has, row)
					}
					if row.Allowed {
						has -= c.Cost
					}
				}
				if row.Remaining != has || row.Reset != 0 {
					rt.Fatalf("%+v, want %d left", row, has)
				}
			}
			if left := w.ttl(w.key("shop/api")); left > 0 {
				rt.Fatalf("the balance is gone after %v", left)
			}
		})
	})
}

// TestNoMoreSlotsAreHeldThanThereAre makes up holders while time goes forward.
func TestNoMoreSlotsAreHeldThanThereAre(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		server := redistest.Start(t)
		rapid.Check(t, func(rt *rapid.T) {
			capacity, ttl := rapid.Int64Range(0, 3).Draw(rt, "slots"), time.Second
			w := startOn(t, server, mode, true, one("shop/jobs", concurrency(capacity, ttl)))
			w.tb = rt
			held := map[string]time.Duration{}
			var now time.Duration
			for range rapid.IntRange(1, 25).Draw(rt, "steps") {
				now += time.Duration(rapid.Int64Range(0, 400_000).Draw(rt, "later")) * time.Microsecond
				w.steer(now)
				for id, expires := range held {
					if expires <= now {
						delete(held, id)
					}
				}
				s := limit.Slot{Policy: w.policies["shop/jobs"], Key: w.key("shop/jobs"), ID: rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "id")}
				_, again := held[s.ID]
				if rapid.IntRange(0, 2).Draw(rt, "release") == 0 {
					row, err := w.limiter.ReleaseSlot(context.Background(), s)
					if err != nil {
						rt.Fatal(err)
					}
					if again == (row.Reason == limit.ReasonAbsent) {
						rt.Fatalf("%s was held: %v, but %+v", s.ID, again, row)
					}
					delete(held, s.ID)
					continue
				}
				s.TTL = time.Duration(rapid.Int64Range(1, 1500).Draw(rt, "ttl")) * time.Millisecond
				row, err := w.limiter.AcquireSlot(context.Background(), s)
				if err != nil {
					rt.Fatal(err)
				}
				if want := again || int64(len(held)) < capacity; row.Allowed != want {
					rt.Fatalf("%d of %d are held, by %s %v: %+v", len(held), capacity, s.ID, again, row)
				}
				if row.Allowed {
					held[s.ID] = now + min(s.TTL, ttl)
				}
				checkSlots(rt, capacity, now, held, row)
			}
		})
	})
}

// checkSlots checks what a row says of slots of which these are held until then.
func checkSlots(rt *rapid.T, capacity int64, now time.Duration, held map[string]time.Duration, row limit.Row) {
	var first, last time.Duration
	for _, expires := range held {
		last = max(last, expires-now)
		if first == 0 || expires-now < first {
			first = expires - now
		}
	}
	if !row.Allowed && capacity > 0 && row.RetryAfter != milliseconds(first.Microseconds()) {
		rt.Fatalf("the first of %d expires in %v: %+v", len(held), first, row)
	}
	if row.Remaining != capacity-int64(len(held)) || row.Reset != milliseconds(last.Microseconds()) {
		rt.Fatalf("%d of %d are held, the last for %v: %+v", len(held), capacity, last, row)
	}
}
