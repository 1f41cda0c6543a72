package limit_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// Fault 33: who slept longer than its slot is held has lost it, and its late release frees nobody else's.
func TestAHolderThatSleptReleasesNoSlotOfAnother(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/jobs", concurrency(1, time.Minute)))
		slot := func(id string) limit.Slot {
			return limit.Slot{Policy: w.policies["shop/jobs"], Key: w.key("shop/jobs"), ID: id}
		}
		ask := func(do func(context.Context, limit.Slot) (limit.Row, error), id string) limit.Row {
			t.Helper()
			row, err := do(context.Background(), slot(id))
			if err != nil {
				t.Fatal(err)
			}
			return row
		}
		ask(w.limiter.AcquireSlot, "sleeper")
		w.steer(time.Minute)
		if row := ask(w.limiter.AcquireSlot, "next"); !row.Allowed {
			t.Fatalf("after the TTL: %+v", row)
		}
		if row := ask(w.limiter.ReleaseSlot, "sleeper"); row.Reason != limit.ReasonAbsent || row.Remaining != 0 {
			t.Errorf("the late release: %+v, want absent and none free", row)
		}
		if row := ask(w.limiter.AcquireSlot, "third"); row.Allowed {
			t.Errorf("beside the next holder: %+v", row)
		}
	})
}

// Fault 34: what is longer than Redis or the numbers of Lua can count is refused before.
func TestWindowsOutOfBoundsAreNoPolicy(t *testing.T) {
	for _, ms := range []int64{0, -1, 1, 99, policy.MaxWindow.Milliseconds() + 1, 10 * 366 * 24 * 3_600_000, math.MaxInt64, math.MinInt64} {
		for _, algorithm := range []string{policy.FixedWindow, policy.SlidingLog, policy.SlidingCounter, policy.TokenBucket, policy.Concurrency} {
			l := policy.Limit{Name: "default", Algorithm: algorithm, Requests: 1, WindowMs: ms}
			switch algorithm {
			case policy.TokenBucket:
				l.Burst, l.TickUs = 1, policy.TickFor(ms)
			case policy.Concurrency:
				l.WindowMs, l.SlotTTLMs = 0, ms
			}
			p := one("shop/api", l).Sealed()
			if p.Validate() == nil {
				t.Errorf("%s of %d ms is taken", algorithm, ms)
			}
		}
	}
}

// Fault 34, from within: the longest times that there are leave no key without TTL, and the shortest none for long.
func TestTheLongestAndTheShortestWindowsLeaveTTLs(t *testing.T) {
	server := redistest.Start(t)
	for _, window := range []time.Duration{policy.MinWindow, policy.MaxWindow} {
		inBothModes(t, func(t *testing.T, mode library.Mode) {
			most := policy.MaxBurst(window.Milliseconds())
			limits := map[string]policy.Limit{
				"shop/window": fixedWindow(1, window), "shop/log": slidingLog(1, window), "shop/counter": slidingCounter(1, window),
				"shop/bucket": tokenBucket(1, window, most), "shop/full": tokenBucket(most, window, most),
			}
			var policies []policy.RateLimit
			for name, l := range limits {
				policies = append(policies, one(name, l))
			}
			w := startOn(t, server, mode, false, append(policies, one("shop/jobs", concurrency(1, window)))...)
			for name, l := range limits {
				c := w.charge(name, 1)
				if row := w.decide(c)[0]; !row.Allowed || row.Reset <= 0 {
					t.Errorf("%s: %+v", name, row)
				}
				if w.ttl(c.Key) <= 0 || l.Algorithm == policy.SlidingLog && w.ttl(redisops.LogKey(c.Key, "default")) <= 0 {
					t.Errorf("%s of %v has no TTL", name, window)
				}
			}
			slot := limit.Slot{Policy: w.policies["shop/jobs"], Key: w.key("shop/jobs"), ID: "job"}
			if _, err := w.limiter.AcquireSlot(context.Background(), slot); err != nil {
				t.Fatal(err)
			}
			if w.ttl(slot.Key) <= 0 || w.ttl(redisops.LogKey(slot.Key, "default")) <= 0 {
				t.Errorf("slots of %v have no TTL", window)
			}
		})
	}
}

// Fault 35: the numbers at the bounds, where doubles are about to leave integers out.
func TestRequestsAtTheirBoundsAreCountedOneByOne(t *testing.T) {
	for _, algorithm := range []string{policy.FixedWindow, policy.SlidingCounter, policy.TokenBucket, policy.Balance} {
		most := map[string]int64{
			policy.FixedWindow: policy.MaxInteger, policy.SlidingCounter: policy.MaxSlidingCounterRequests,
			policy.TokenBucket: policy.MaxBurst(60_000), policy.Balance: policy.MaxInteger,
		}[algorithm]
		t.Run(algorithm, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := start(t, mode, true, one("shop/api", limitOf(algorithm, most)))
				for _, s := range []struct {
					cost, remaining int64
					allowed         bool
				}{{most - 2, 2, true}, {1, 1, true}, {2, 1, false}, {1, 0, true}, {1, 0, false}, {policy.MaxInteger, 0, false}} {
					if row := w.decide(w.charge("shop/api", s.cost))[0]; row.Allowed != s.allowed || row.Remaining != s.remaining {
						t.Fatalf("%d: %+v, want %d left", s.cost, row, s.remaining)
					}
				}
				none := limitOf(algorithm, most)
				none.Requests = 0
				w.publish(one("shop/api", none))
				if row := w.decide(w.charge("shop/api", 1))[0]; row.Allowed || row.Limit != 0 || row.Remaining != 0 {
					t.Errorf("of 0 requests: %+v", row)
				}
			})
		})
	}
	above := one("shop/api", fixedWindow(policy.MaxInteger+1, time.Minute)).Sealed()
	if above.Validate() == nil {
		t.Error("2^53 requests are taken")
	}
}

func limitOf(algorithm string, requests int64) policy.Limit {
	switch algorithm {
	case policy.FixedWindow:
		return fixedWindow(requests, time.Minute)
	case policy.SlidingCounter:
		return slidingCounter(requests, time.Minute)
	case policy.SlidingLog:
		return slidingLog(requests, time.Minute)
	case policy.Balance:
		return balance(requests)
	default:
		return tokenBucket(requests, time.Minute, requests)
	}
}

// Fault 38: at the boundary of two fixed windows twice the requests pass, as documented; the sliding ones hold there, too.
func TestOnlyFixedWindowsLetTwiceTheRequestsPassAtABoundary(t *testing.T) {
	for algorithm, want := range map[string]int{policy.FixedWindow: 20, policy.SlidingCounter: 10, policy.SlidingLog: 10} {
		t.Run(algorithm, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := start(t, mode, true, one("shop/api", limitOf(algorithm, 10)))
				allowed := 0
				for _, at := range []time.Duration{time.Minute - time.Millisecond, time.Minute, time.Minute + time.Millisecond} {
					w.steer(at)
					for range 15 {
						if w.decide(w.charge("shop/api", 1))[0].Allowed {
							allowed++
						}
					}
				}
				if allowed != want {
					t.Errorf("%d passed, want %d", allowed, want)
				}
			})
		})
	}
}

// TestABlockEndsWhenItsRowSays: Retry-After of a penalty is kept to the millisecond, too, and no denial during the block
// makes it longer.
func TestABlockEndsWhenItsRowSays(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		server := redistest.Start(t)
		rapid.Check(t, func(rt *rapid.T) {
			p := one("shop/api", limitOf(rapid.SampledFrom([]string{policy.FixedWindow, policy.SlidingLog, policy.SlidingCounter, policy.TokenBucket}).Draw(rt, "algorithm"), 3))
			p.Penalty = &policy.Penalty{
				Denials: rapid.Int64Range(1, 3).Draw(rt, "denials"), WithinMs: 60_000,
				ForMs: rapid.Int64Range(100, 90_000).Draw(rt, "for"), MaxMs: 200_000,
			}
			w := startOn(t, server, mode, true, p)
			w.tb = rt
			var now, until time.Duration
			for range rapid.IntRange(3, 20).Draw(rt, "steps") {
				now += time.Duration(rapid.Int64Range(0, 30_000_000).Draw(rt, "later")) * time.Microsecond
				w.steer(now)
				c := w.charge("shop/api", rapid.Int64Range(1, 3).Draw(rt, "cost"))
				row := w.decide(c)[0]
				if blocked := now < until; blocked && row.Reason != limit.ReasonPenalty {
					rt.Fatalf("%v before the end of a block: %+v", until-now, row)
				}
				if row.Reason != limit.ReasonPenalty {
					continue
				}
				if now >= until {
					until = now + blockOf(rt, w, c)
				}
				w.steer(now + row.RetryAfter)
				if then := w.peek(c); !then.Allowed {
					rt.Fatalf("%+v, and after that %+v", row, then)
				}
				w.steer(now + row.RetryAfter - time.Millisecond)
				if then := w.peek(c); then.Allowed {
					rt.Fatalf("%+v, and a millisecond before that %+v", row, then)
				}
				w.steer(now)
			}
		})
	})
}

// blockOf gives the length of the block that just began, as the counter has it.
func blockOf(rt *rapid.T, w *world, c limit.Charge) time.Duration {
	text, _ := w.do("HGET", c.Key, "!penalty").(string)
	var denials, since, until, length int64
	if _, err := fmt.Sscan(text, &denials, &since, &until, &length); err != nil || denials != 0 {
		rt.Fatalf("the penalty is %q: %v", text, err)
	}
	return time.Duration(length) * time.Microsecond
}
