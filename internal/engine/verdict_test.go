package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

func TestAVerdictTellsWhatTheRowSays(t *testing.T) {
	several := with(rateLimit("user", "user", ""), func(r *policy.RateLimit) {
		hour := limitOf(policy.FixedWindow)
		hour.Name, hour.WindowMs = "hour", 3_600_000
		r.Limits = append(r.Limits, hour)
		r.Overrides = []policy.Override{
			{Values: []string{"gold"}, Limits: []policy.Limit{limitOf(policy.TokenBucket)}},
			{Values: []string{"root"}, Unlimited: true},
		}
	})
	row := func(override int, name, reason string) limit.Row {
		return limit.Row{Allowed: true, Limit: 10, Remaining: 4, LimitName: name, Reason: reason, Override: override}
	}
	for name, test := range map[string]struct {
		row           limit.Row
		wantMode      Mode
		wantName      string
		wantAlgorithm string // of the binding limit; empty: there is none
		wantRemaining int64
		wantLooksOn   bool
	}{
		"one of several limits":             {row(0, "hour", limit.ReasonOK), Enforced, "shop/user/hour", policy.FixedWindow, 4, false},
		"the only limit of an override":     {row(1, "default", limit.ReasonOK), Enforced, "shop/user", policy.TokenBucket, 4, false},
		"a limit that the override has not": {row(1, "hour", limit.ReasonOK), Enforced, "shop/user", "", 4, false},
		"an override that is not ours yet":  {row(3, "default", limit.ReasonOK), Enforced, "shop/user", "", 4, false},
		"unlimited": {
			limit.Row{Allowed: true, Limit: -1, Reason: limit.ReasonOK, Override: 2}, Enforced, "shop/user", "", policy.MaxInteger, false,
		},
		"in shadow": {row(0, "default", limit.ReasonShadow), Shadow, "shop/user/default", policy.FixedWindow, 4, true},
		"a penalty": {
			limit.Row{Limit: 10, RetryAfter: time.Minute, LimitName: "default", Reason: limit.ReasonPenalty},
			Enforced, "shop/user/default", policy.FixedWindow, 0, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, several)
			w.store.rows["shop/user"] = test.row
			v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]
			algorithm := ""
			if v.Binding != nil {
				algorithm = v.Binding.Algorithm
			}
			if v.Allowed != test.row.Allowed || v.Mode != test.wantMode || v.Name != test.wantName || algorithm != test.wantAlgorithm ||
				v.Remaining != test.wantRemaining || v.Reason != test.row.Reason || v.LooksOn() != test.wantLooksOn {
				t.Errorf("%+v, want %s, %s, %q, %d left", v, test.wantMode, test.wantName, test.wantAlgorithm, test.wantRemaining)
			}
		})
	}
}

func TestWhatOnlyLooksOnDoesNotHideWhatEnforces(t *testing.T) {
	shadowed := limit.Row{Allowed: true, Limit: 1, LimitName: "default", Reason: limit.ReasonShadow}
	for name, test := range map[string]struct {
		share    int64
		row      limit.Row
		wantMode Mode
		want     string
	}{
		"it would have denied":             {100, shadowed, Shadow, "shop/enforces"},
		"it would have, for a share":       {50, shadowed, Shadow, "shop/enforces"},
		"it is tighter":                    {100, allowed(2, 1), Enforced, "shop/enforces"},
		"a share may enforce, and tighter": {50, allowed(2, 1), Enforced, "shop/looks-on"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("enforces", "user", ""), shadowing(rateLimit("looks-on", "user", ""), test.share))
			w.store.rows["shop/looks-on"] = test.row
			v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]
			if !v.Allowed || v.Name != test.want || v.Mode != test.wantMode {
				t.Errorf("%+v, want %s reported, %s", v, test.want, test.wantMode)
			}
		})
	}
}

func TestWhatOnlyLooksOnDeniesNobodyWithoutRedis(t *testing.T) {
	w := newWorld(t, shadowing(denying(rateLimit("user", "user", "")), 100), rateLimit("path", "path", ""))
	w.store.fail = failing(errNotSent)
	result := w.decide(t, tuple{"user", "bob"})
	if v := result.Verdicts[0]; !v.Allowed || v.Mode != Degraded || !result.Degraded {
		t.Errorf("%+v, want it allowed, degraded", result)
	}
	if got := w.series(t, "penstock_decisions_total")["door=rls,namespace=shop,outcome=degraded_allowed,policy=user"]; got != 1 {
		t.Errorf("counted %v, want 1", got)
	}
	// What is not denied does not keep the other budgets of the request from being charged.
	w.store.fail = failingFor("shop/user", func(c limit.Charge) error { return &limit.WrongTypeError{Key: c.Key} })
	w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
	if last := w.store.last(); len(last) != 1 || last[0].Cost != 1 {
		t.Errorf("charged %+v, want the other policy", last)
	}
}

// The share is that of the function library: the first four digits of the digest, as a number, modulo 100.
func TestTheShareInShadowIsByTheDigest(t *testing.T) {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	counted := map[int64]int{}
	for i := range 2000 {
		key := redisops.CounterKey("shop/p", []redisops.Entry{{Key: "user", Value: fmt.Sprint(i)}})
		var n int64
		for _, digit := range key[4:8] {
			for j, d := range digits {
				if d == digit {
					n = n*64 + int64(j)
				}
			}
		}
		before := false
		for _, percent := range []int64{0, 1, 25, 50, 99, 100} {
			got := inShadow(key, percent)
			if want := percent > 0 && n%100 >= 100-percent; got != want {
				t.Fatalf("%s at %d %%: %v, want %v", key, percent, got, want)
			}
			if before && !got {
				t.Fatalf("%s is not in the larger share of %d %%", key, percent)
			}
			if before = got; got {
				counted[percent]++
			}
		}
	}
	if n := counted[25]; n < 400 || n > 600 {
		t.Errorf("%d of 2,000 subjects are in the share of 25 %%", n)
	}
}

func TestModesHaveNames(t *testing.T) {
	for mode, want := range map[Mode]string{
		Unmatched: "unmatched", Enforced: "enforced", Shadow: "shadow", Cached: "cached", Degraded: "degraded",
	} {
		if got := mode.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
