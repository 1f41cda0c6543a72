package limit_test

import (
	"context"
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// Two subjects of two policies.
var modelPolicies = []string{"shop/a", "shop/b"}

// TestAnyHistoryIsDecidedAsByTheModel makes up policies, calls and times, which jump forward and back, and compares each
// answer with an integer model.
func TestAnyHistoryIsDecidedAsByTheModel(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		server := redistest.Start(t)
		rapid.Check(t, func(rt *rapid.T) {
			w := startOn(t, server, mode, true)
			w.tb = rt
			models := map[string]*model{}
			for _, name := range modelPolicies {
				w.publish(one(name, drawLimits(rt)...))
				models[name] = &model{states: map[string]*modelState{}}
			}
			now := t0
			for range rapid.IntRange(5, 40).Draw(rt, "steps") {
				now = max(t0/2, now+drawJump(rt, w))
				w.steer(time.Duration(now-t0) * time.Microsecond)
				switch rapid.SampledFrom([]string{"one", "one", "one", "one", "many", "many", "peek", "change", "remake"}).Draw(rt, "action") {
				case "one":
					decideLikeModel(rt, w, models, now, drawCharge(rt, w))
				case "many":
					charges := []limit.Charge{drawCharge(rt, w), drawCharge(rt, w)}
					if rapid.Bool().Draw(rt, "third") {
						charges = append(charges, drawCharge(rt, w))
					}
					decideLikeModel(rt, w, models, now, charges...)
				case "peek":
					before := w.dump()
					c := drawCharge(rt, w)
					if got, want := w.peek(c), models[c.Policy.Name].row(c.Policy, now, big.NewInt(c.Cost)); got != want {
						rt.Fatalf("peek of %d on %s: %+v, want %+v", c.Cost, c.Policy.Name, got, want)
					}
					if after := w.dump(); after != before {
						rt.Fatalf("a peek wrote %s, before %s", after, before)
					}
				case "change":
					changeRequests(rt, w)
				case "remake":
					w.publish(one(rapid.SampledFrom(modelPolicies).Draw(rt, "policy"), drawLimits(rt)...))
				}
			}
		})
	})
}

// decideLikeModel makes one call and compares rows, and that what is to be remembered lives long enough.
func decideLikeModel(rt *rapid.T, w *world, models map[string]*model, now int64, charges ...limit.Charge) {
	rows := w.decide(charges...)
	costs := map[string]*big.Int{}
	asked := map[string]bool{}
	allowed := true
	for i, c := range charges {
		name := c.Policy.Name
		if costs[name] == nil {
			costs[name] = new(big.Int)
		}
		asked[name] = asked[name] || c.Cost > 0
		cost := new(big.Int).Add(costs[name], big.NewInt(c.Cost))
		want := models[name].row(c.Policy, now, cost)
		if rows[i] != want {
			rt.Fatalf("charge %d, %d on %s with %+v: %+v, want %+v", i, c.Cost, name, c.Policy.Limits, rows[i], want)
		}
		if want.Allowed {
			costs[name] = cost
		} else {
			allowed = false
		}
	}
	for name, cost := range costs {
		if !asked[name] {
			continue
		}
		p := w.policies[name]
		if !allowed {
			if models[name].stale(p, now) {
				models[name].settle(p, now, 0)
			}
			continue
		}
		models[name].settle(p, now, cost.Int64())
		counter := w.ttl(w.key(name)) - time.Hour // see steering
		for _, l := range p.Limits {
			need := time.Duration(models[name].states[l.Name].whole(l, now)/1000) * time.Millisecond
			// Real time goes on between the call and this.
			if counter < need-time.Minute/2 {
				rt.Fatalf("%s: the counter lives for %v, limit %+v needs %v", name, counter, l, need)
			}
			if l.Algorithm != policy.SlidingLog {
				continue
			}
			if log := w.ttl(redisops.LogKey(w.key(name), l.Name)) - time.Hour; log < need-time.Minute/2 || log > counter {
				rt.Fatalf("%s: the log lives for %v, limit %+v needs %v, the counter lives for %v", name, log, l, need, counter)
			}
		}
	}
}

// drawLimits gives one to three limits, named a, b, c.
func drawLimits(rt *rapid.T) []policy.Limit {
	var limits []policy.Limit
	for _, name := range []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(rt, "limits")] {
		window := rapid.SampledFrom([]time.Duration{
			100 * time.Millisecond, 333 * time.Millisecond, time.Second, time.Minute, 61 * time.Second, time.Hour, 24 * time.Hour, 25 * time.Hour, 744 * time.Hour,
		}).Draw(rt, "window")
		switch rapid.SampledFrom([]string{policy.FixedWindow, policy.SlidingLog, policy.TokenBucket}).Draw(rt, "algorithm") {
		case policy.FixedWindow:
			limits = append(limits, named(name, fixedWindow(drawRequests(rt, policy.MaxInteger), window)))
		case policy.SlidingLog:
			limits = append(limits, named(name, slidingLog(drawRequests(rt, policy.MaxSlidingLogRequests), window)))
		default:
			most := policy.MaxBurst(window.Milliseconds())
			limits = append(limits, named(name, tokenBucket(drawRequests(rt, most), window, max(1, drawRequests(rt, most)))))
		}
	}
	return limits
}

// drawRequests gives mostly small numbers, and those at the edges.
func drawRequests(rt *rapid.T, most int64) int64 {
	return rapid.OneOf(rapid.Int64Range(0, 12), rapid.Int64Range(0, 12), rapid.SampledFrom([]int64{0, 1, most - 1, most})).Draw(rt, "requests")
}

func drawCharge(rt *rapid.T, w *world) limit.Charge {
	name := rapid.SampledFrom(modelPolicies).Draw(rt, "charged")
	capacities := []int64{0, 1, policy.MaxInteger}
	for _, l := range w.policies[name].Limits {
		capacities = append(capacities, l.Requests, max(0, l.Requests-1), l.Burst)
	}
	return w.charge(name, rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(0, 5), rapid.Int64Range(1, 1), rapid.SampledFrom(capacities)).Draw(rt, "cost"))
}

// drawJump gives how far time goes: often a fraction of a window, at times many, at times back.
func drawJump(rt *rapid.T, w *world) int64 {
	limits := w.policies[rapid.SampledFrom(modelPolicies).Draw(rt, "jump by")].Limits
	window := limits[rapid.IntRange(0, len(limits)-1).Draw(rt, "of")].WindowMs * 1000
	return rapid.OneOf(
		rapid.Int64Range(0, window/3), rapid.Int64Range(0, window/3), rapid.Int64Range(0, 3),
		rapid.SampledFrom([]int64{window - 1, window, window + 1, 0, -1}),
		rapid.Int64Range(-3*window, 3*window),
	).Draw(rt, "jump")
}

// changeRequests changes numbers of requests and nothing else.
func changeRequests(rt *rapid.T, w *world) {
	name := rapid.SampledFrom(modelPolicies).Draw(rt, "changed")
	p := *w.policies[name]
	p.Limits = append([]policy.Limit(nil), p.Limits...)
	for i := range p.Limits {
		l := &p.Limits[i]
		switch l.Algorithm {
		case policy.SlidingLog:
			l.Requests = drawRequests(rt, policy.MaxSlidingLogRequests)
		case policy.FixedWindow:
			l.Requests = drawRequests(rt, policy.MaxInteger)
		default:
			l.Requests = drawRequests(rt, policy.MaxBurst(l.WindowMs))
			l.Burst = max(1, drawRequests(rt, policy.MaxBurst(l.WindowMs)))
		}
	}
	w.publish(p)
}

// TestRealTimeIsDecidedAsByTheModel lets Redis' own clock run. The model gets the time before and after each call, from
// the same clock: the answer must be right for one of the moments between.
func TestRealTimeIsDecidedAsByTheModel(t *testing.T) {
	tests := map[string]policy.Limit{
		"window": fixedWindow(20, 100*time.Millisecond),
		"log":    slidingLog(20, 100*time.Millisecond),
		"bucket": tokenBucket(50, 100*time.Millisecond, 5),
	}
	server := redistest.Start(t)
	for name, l := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, false, one("shop/api", l))
				m := &model{states: map[string]*modelState{}}
				p := w.policies["shop/api"]
				denials := 0
				for i := 0; i < 500 || denials == 0; i++ {
					cost := int64(i % 3)
					row, before, after := w.decideTimed(w.charge("shop/api", cost))
					at := before
					for at <= after && m.row(p, at, big.NewInt(cost)) != row {
						at++
					}
					if at > after {
						t.Fatalf("call %d: %+v fits no time between %d and %d: %+v … %+v", i, row, before, after,
							m.row(p, before, big.NewInt(cost)), m.row(p, after, big.NewInt(cost)))
					}
					if !row.Allowed {
						denials++
						continue
					}
					if cost > 0 {
						m.settle(p, w.chargedAt(l, at), cost)
					}
				}
			})
		})
	}
}

// decideTimed decides between two readings of Redis' clock.
func (w *world) decideTimed(c limit.Charge) (row limit.Row, before, after int64) {
	w.tb.Helper()
	before = w.now()
	row = w.decide(c)[0]
	return row, before, w.now()
}

func (w *world) now() int64 {
	w.tb.Helper()
	now, err := w.client.Time(context.Background()).Result()
	if err != nil {
		w.tb.Fatal(err)
	}
	return now.UnixMicro()
}

// chargedAt reads back from the counter when the charge was made; a window keeps only its begin.
func (w *world) chargedAt(l policy.Limit, fitting int64) int64 {
	w.tb.Helper()
	if l.Algorithm == policy.FixedWindow {
		return fitting
	}
	state, _ := w.do("HGET", w.key("shop/api"), "default").(string)
	var signature string
	var used, at int64
	if _, err := fmt.Sscan(state, &signature, &used, &at); err != nil {
		w.tb.Fatalf("state %q: %v", state, err)
	}
	return at
}
