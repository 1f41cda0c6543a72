package limit_test

import (
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// What somebody paid for must not expire.
func TestABalanceNeverExpires(t *testing.T) {
	alone, others := one("shop/api", balance(10)), one("shop/api", named("log", slidingLog(10, time.Hour)), named("money", balance(10)))
	penalized := one("shop/api", balance(10))
	penalized.Penalty = &policy.Penalty{Denials: 1, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
	window := one("shop/api", named("log", slidingLog(10, time.Hour)))
	inOverride := window
	inOverride.Descriptors = []policy.Descriptor{{Key: "user"}}
	inOverride.Overrides = []policy.Override{{Values: []string{"bob"}, Limits: []policy.Limit{balance(10)}}}
	tests := map[string]struct {
		before, policy policy.RateLimit
		do             []string
		values         []string
		want           bool
	}{
		"alone":                            {policy: alone, do: []string{"charge 1", "charge 99", "credit 5", "refund 1", "charge 0"}},
		"a credit at first":                {policy: alone, do: []string{"credit 5"}},
		"beside a log":                     {policy: others, do: []string{"charge 1", "charge 99", "credit 5", "refund 1"}},
		"with a penalty":                   {policy: penalized, do: []string{"charge 99", "charge 1"}},
		"another limit gave a TTL":         {before: window, policy: others, do: []string{"charge 1"}},
		"another limit gave one, a refund": {before: window, policy: others, do: []string{"refund 1"}},
		"of an override":                   {policy: inOverride, do: []string{"charge 1"}, values: []string{"bob"}},
		"gone from the policy":             {before: others, policy: window, do: []string{"charge 1"}, want: true},
		"gone from the policy, a denial":   {before: others, policy: window, do: []string{"charge 99"}, want: true},
		"gone from the policy, a refund":   {before: others, policy: window, do: []string{"refund 1"}, want: true},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, false)
				if test.before.Name != "" {
					w.publish(test.before)
					w.act("charge 1", test.values...)
				}
				w.publish(test.policy)
				key := w.key("shop/api", test.values...)
				for _, do := range test.do {
					w.act(do, test.values...)
					if left := w.ttl(key); w.do("EXISTS", key) != int64(0) && left > 0 != test.want {
						t.Errorf("%s: the counter has the TTL %v", do, left)
					}
				}
				if w.policies["shop/api"].Limits[0].Name == "log" && len(test.values) == 0 {
					if left := w.ttl(redisops.LogKey(key, "log")); left == -1 {
						t.Errorf("the log has the TTL %v", left)
					}
				}
			})
		})
	}
}

// Nothing is lost by a denial that finds no TTL, and the clock does not matter.
func TestABalanceIsExact(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", balance(5)))
		spent, credited := int64(0), int64(0)
		for i := range int64(60) {
			w.steer(time.Duration(i*7919%100-50) * time.Hour)
			cost := i%4 + 1
			row, err := w.try([]string{"charge ", "charge ", "credit "}[i%3] + []string{"1", "2", "3", "4"}[cost-1])
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case i%3 == 2:
				credited += cost
			case row.Allowed:
				spent += cost
			}
			if want := 5 + credited - spent; row.Remaining != want || want < 0 {
				t.Fatalf("act %d: %d left, want %d", i, row.Remaining, want)
			}
		}
	})
}

// Fault 45: how many subjects there are is counted by those that were not there before.
func TestASubjectIsNewOnceItIsChargedFirst(t *testing.T) {
	server := redistest.Start(t)
	penalized := one("shop/api", fixedWindow(5, time.Minute), named("log", slidingLog(5, time.Minute)))
	penalized.Penalty = &policy.Penalty{Denials: 9, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
	for name, p := range map[string]policy.RateLimit{
		"window": one("shop/api", fixedWindow(5, time.Minute)), "counter": one("shop/api", slidingCounter(5, time.Minute)),
		"log": one("shop/api", slidingLog(5, time.Minute)), "bucket": one("shop/api", tokenBucket(5, time.Minute, 5)),
		"balance": one("shop/api", balance(5)),
		"several": one("shop/api", named("a", fixedWindow(5, time.Minute)), named("b", balance(5)), named("c", slidingLog(5, time.Minute))),
		"penalty": penalized,
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, p)
				for i, s := range []struct {
					do   string
					want bool
				}{
					{"peek 1", false}, {"charge 0", false}, {"refund 1", false}, {"charge 1 #a", true}, {"charge 1 #a", false},
					{"charge 1", false}, {"charge 9", false}, {"reset", false}, {"peek 1", false}, {"charge 1", true}, {"charge 1", false},
				} {
					if row, err := w.try(s.do); err != nil || row.New != s.want {
						t.Errorf("act %d, %s: %+v, %v, want new %v", i, s.do, row, err, s.want)
					}
				}
				w.act("reset")
				w.publish(one("shop/other", fixedWindow(1, time.Minute)))
				for i, s := range []struct {
					charges string
					want    []bool
				}{
					{"api=1 other=2", []bool{false, false}}, {"api=0 other=1", []bool{false, true}}, {"api=1 api=1", []bool{true, false}}, {"api=1 api=1", []bool{false, false}},
				} {
					for c, row := range w.decide(w.charges(s.charges)...) {
						if row.New != s.want[c] {
							t.Errorf("call %d: row %d is new: %v", i, c, row.New)
						}
					}
				}
			})
		})
	}
}
