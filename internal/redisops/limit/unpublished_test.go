package limit_test

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// unpublishedCharge is one by a limit of a caller's own, under the name of a policy that is published.
func unpublishedCharge(cost int64, l policy.Limit) limit.Charge {
	p := one("shop/api", l).Sealed()
	key := redisops.CounterKey(p.Name, []redisops.Entry{{Key: "user", Value: "bob"}, {Value: "apart"}})
	return limit.Charge{Policy: &p, Key: key, Cost: cost, Unpublished: true}
}

func TestAPolicyThatIsNotPublishedIsDecidedTogetherWithThoseThatAre(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", fixedWindow(10, time.Minute)))
		own := func(cost int64) limit.Charge { return unpublishedCharge(cost, fixedWindow(3, time.Hour)) }
		for i, s := range []struct {
			charges []limit.Charge
			want    []string
		}{
			{[]limit.Charge{w.charge("shop/api", 2), own(2)}, []string{"allow 8/10 reset 1m0s", "allow 1/3 reset 1h0m0s"}},
			// Denied together: neither is charged.
			{[]limit.Charge{w.charge("shop/api", 2), own(2)}, []string{"allow 6/10 reset 1m0s", "deny 1/3 reset 1h0m0s retry 1h0m0s"}},
			{[]limit.Charge{w.charge("shop/api", 9), own(1)}, []string{"deny 8/10 reset 1m0s retry 1m0s", "allow 0/3 reset 1h0m0s"}},
			{[]limit.Charge{w.charge("shop/api", 1)}, []string{"allow 7/10 reset 1m0s"}},
			{[]limit.Charge{own(1)}, []string{"allow 0/3 reset 1h0m0s"}},
			{[]limit.Charge{own(1)}, []string{"deny 0/3 reset 1h0m0s retry 1h0m0s"}},
		} {
			rows := w.decide(s.charges...)
			for c, want := range s.want {
				if got := show(rows[c]); got != want {
					t.Errorf("call %d, charge %d: %s, want %s", i, c, got, want)
				}
			}
		}
		row, err := w.limiter.Refund(context.Background(), own(2))
		if err != nil || show(row) != "allow 2/3 reset 1h0m0s" {
			t.Errorf("%s, %v; want 2 given back", show(row), err)
		}
		if got := show(w.peek(own(0))); got != "allow 2/3 reset 1h0m0s" {
			t.Errorf("a look: %s", got)
		}
		w.steer(time.Hour)
		if got := show(w.decide(own(1))[0]); got != "allow 2/3 reset 1h0m0s" {
			t.Errorf("in the next window: %s", got)
		}
	})
}

// A request with a limit of its own decides by scripts what others decide by functions.
func TestScriptsAndFunctionsKeepOneState(t *testing.T) {
	for name, l := range map[string]policy.Limit{
		"SlidingLog": slidingLog(5, time.Minute), "SlidingCounter": slidingCounter(5, time.Minute),
		"FixedWindow": fixedWindow(5, time.Minute), "TokenBucket": tokenBucket(5, time.Minute, 5), "Balance": balance(5),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, library.ModeFunctions, true, one("shop/api", l))
			byFunction, byScript := w.charge("shop/api", 1), w.charge("shop/api", 1)
			byScript.Unpublished = true
			for i, c := range []limit.Charge{byFunction, byScript, byFunction, byScript} {
				if row := w.decide(c)[0]; !row.Allowed || row.Remaining != int64(4-i) || row.Garbled {
					t.Fatalf("call %d: %s, want %d left", i, show(row), 4-i)
				}
			}
			if row, err := w.limiter.Refund(context.Background(), byScript); err != nil || row.Remaining != 2 {
				t.Errorf("%s, %v; want 2 left", show(row), err)
			}
			if a, b := w.peek(byFunction), w.peek(byScript); a != b {
				t.Errorf("%+v by the function, %+v by the script", a, b)
			}
		})
	}
}

func TestAKeyOfAnotherPolicyIsRefusedForAnUnpublishedOneToo(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(10, time.Minute)))
	charge := unpublishedCharge(1, fixedWindow(3, time.Hour))
	charge.Key = redisops.CounterKey("shop/other", nil)
	if _, err := w.limiter.Decide(context.Background(), []limit.Charge{charge}); redisops.Classify(err) != redisops.Policy {
		t.Errorf("%v, want a refusal", err)
	}
	if got := w.dump(); got != "" {
		t.Errorf("written: %s", got)
	}
}
