package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

func TestAllBudgetsOfARequestAreAskedForInOneCall(t *testing.T) {
	w := newWorld(t, rateLimit("whole"), rateLimit("user", "user", ""), rateLimit("path", "path", "/api/*", "method", "GET"))
	r := NewRequest("shop")
	r.Descriptor(3)
	r.Entry("user", "bob")
	r.Descriptor(5)
	r.Entry("path", "/api/x")
	r.Entry("method", "GET")
	defer r.Release()
	if _, err := w.Decide(t.Context(), DoorRLS, r); err != nil {
		t.Fatal(err)
	}
	if len(w.store.calls) != 1 {
		t.Fatalf("%d calls, want 1", len(w.store.calls))
	}
	type charge struct {
		policy, key, values string
		cost                int64
	}
	want := []charge{
		{"shop/whole", redisops.CounterKey("shop/whole", nil), "", 5},
		{"shop/user", redisops.CounterKey("shop/user", []redisops.Entry{{Key: "user", Value: "bob"}}), "bob", 3},
		{"shop/path", redisops.CounterKey("shop/path", []redisops.Entry{{Key: "path", Value: "/api/x"}, {Key: "method", Value: "GET"}}), "/api/x GET", 5},
	}
	var got []charge
	for _, c := range w.store.calls[0] {
		got = append(got, charge{c.Policy.Name, c.Key, strings.Join(c.Values, " "), c.Cost})
	}
	if !slices.Equal(got, want) {
		t.Errorf("charged\n%v, want\n%v", got, want)
	}
}

func TestAPolicyOfTheWholeRequestIsChargedTheLargestCost(t *testing.T) {
	for name, test := range map[string]struct {
		costs []int64
		want  int64
	}{
		"the first is the largest": {[]int64{7, 1}, 7},
		"the last is the largest":  {[]int64{0, 1, 7}, 7},
		"one only looks":           {[]int64{0, 2}, 2},
		"all only look":            {[]int64{0, 0}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("whole"))
			r := NewRequest("shop")
			for _, cost := range test.costs {
				r.Descriptor(cost)
				r.Entry("nobody", "cares")
			}
			defer r.Release()
			if _, err := w.Decide(t.Context(), DoorRLS, r); err != nil {
				t.Fatal(err)
			}
			if got := w.store.calls[0]; len(got) != 1 || got[0].Cost != test.want {
				t.Errorf("charged %+v, want once %d", got, test.want)
			}
		})
	}
}

func TestAValueThatRedisWouldRefuseIsTheRequestsError(t *testing.T) {
	full, long := strings.Repeat("x", 256), strings.Repeat("x", 257)
	for name, test := range map[string]struct {
		user string
		// policies are what applies, or would.
		policies []policy.RateLimit
		want     string
	}{
		"at the bound":                     {full, []policy.RateLimit{rateLimit("p", "user", "")}, ""},
		"a byte more":                      {long, []policy.RateLimit{rateLimit("p", "user", "")}, "user: 257 bytes, want at most 256"},
		"a byte more, with a wildcard":     {long, []policy.RateLimit{rateLimit("p", "user", "x*")}, "user: 257 bytes, want at most 256"},
		"a byte more, where nothing fits":  {long, []policy.RateLimit{rateLimit("p", "user", "y*")}, ""},
		"a byte more, of a descriptorless": {long, []policy.RateLimit{rateLimit("p")}, ""},
	} {
		for via, decide := range map[string]func(*world) error{
			"descriptors": func(w *world) error {
				_, err := w.Decide(t.Context(), DoorRLS, request("shop", tuple{"other", "x"}, tuple{"user", test.user}))
				return err
			},
			"attributes": func(w *world) error {
				_, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/p", Lookup: func(string) (string, bool) { return test.user, true }, Cost: 1})
				return err
			},
		} {
			t.Run(name+", by "+via, func(t *testing.T) {
				w := newWorld(t, test.policies...)
				err := decide(w)
				if test.want == "" {
					if err != nil {
						t.Errorf("%v, want a decision", err)
					}
					return
				}
				var tooLong *ValueTooLongError
				if !errors.As(err, &tooLong) || err.Error() != test.want {
					t.Errorf("%v, want %s", err, test.want)
				}
				if len(w.store.calls) != 0 || w.value(t, "penstock_degraded") != 0 || w.rereads != 0 || w.log.Len() != 0 {
					t.Errorf("%d calls, %d rereads, log %q; want none, and Redis not suspected", len(w.store.calls), w.rereads, w.log)
				}
				if series := w.series(t, "penstock_decisions_total"); len(series) != 1 {
					t.Errorf("decisions counted %v, want one error", series)
				}
			})
		}
	}
}

func TestTheSameSubjectTwiceIsChargedOnceForBoth(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.rows["shop/user"] = denied(10, 2*time.Second)
	result := w.decide(t, tuple{"user", "bob"}, tuple{"user", "alice"}, tuple{"user", "bob"})
	var costs []int64
	for _, c := range w.store.calls[0] {
		costs = append(costs, c.Cost)
	}
	if !slices.Equal(costs, []int64{2, 1}) {
		t.Errorf("costs %v, want bob's two together and alice's one", costs)
	}
	for i, v := range result.Verdicts {
		if v.Allowed || v.RetryAfter != 2*time.Second {
			t.Errorf("verdict %d: %+v, want a denial", i, v)
		}
	}
}

func TestThereIsOneVerdictForEachDescriptor(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.store.rows["shop/user"] = allowed(10, 4)
	w.store.rows["shop/path"] = denied(20, 7*time.Second)
	result := w.decide(t, tuple{"user", "bob"}, tuple{"nobody", "cares"}, tuple{"path", "/"})
	if result.Allowed || result.Degraded || result.UnknownDomain {
		t.Errorf("%+v, want a plain denial", result)
	}
	type short struct {
		allowed   bool
		mode      Mode
		name      string
		remaining int64
		retry     int64
	}
	want := []short{
		{true, Enforced, "shop/user", 4, 0},
		{true, Unmatched, "", 0, 0},
		{false, Enforced, "shop/path", 0, 7},
	}
	var got []short
	for _, v := range result.Verdicts {
		got = append(got, short{v.Allowed, v.Mode, v.Name, v.Remaining, v.RetryAfterSeconds()})
	}
	if !slices.Equal(got, want) {
		t.Errorf("verdicts\n%+v, want\n%+v", got, want)
	}
}

func TestTheTightestPolicyIsReported(t *testing.T) {
	for name, test := range map[string]struct {
		a, b limit.Row
		want string
	}{
		"fewer left":                         {allowed(10, 3), allowed(100, 2), "shop/b"},
		"a denial before any permission":     {denied(10, time.Second), allowed(10, 0), "shop/a"},
		"the denial that lasts longer":       {denied(10, time.Second), denied(10, 2*time.Second), "shop/b"},
		"a limit before none":                {limit.Row{Allowed: true, Limit: -1}, allowed(10, 9), "shop/b"},
		"as much left: the one that lasts":   {allowed(10, 3), limit.Row{Allowed: true, Limit: 10, Remaining: 3, Reset: time.Hour, LimitName: "default"}, "shop/b"},
		"all equal: the first by its name":   {allowed(10, 3), allowed(10, 3), "shop/a"},
		"a denial before a wider permission": {allowed(5, 0), denied(100, time.Millisecond), "shop/b"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("a", "user", ""), rateLimit("b", "user", ""))
			w.store.rows["shop/a"], w.store.rows["shop/b"] = test.a, test.b
			if got := w.decide(t, tuple{"user", "bob"}).Verdicts[0].Name; got != test.want {
				t.Errorf("reported %s, want %s", got, test.want)
			}
		})
	}
}

func TestAPolicyWithoutDescriptorsIsReportedWithTheFirst(t *testing.T) {
	w := newWorld(t, rateLimit("whole"))
	w.store.rows["shop/whole"] = denied(10, time.Second)
	result := w.decide(t, tuple{"a", "1"}, tuple{"b", "2"})
	if result.Verdicts[0].Name != "shop/whole" || result.Verdicts[0].Allowed {
		t.Errorf("first verdict %+v, want the denial", result.Verdicts[0])
	}
	if result.Verdicts[1].Mode != Unmatched || !result.Verdicts[1].Allowed {
		t.Errorf("second verdict %+v, want none", result.Verdicts[1])
	}
	if n := len(w.store.calls[0]); n != 1 {
		t.Errorf("%d charges, want the one", n)
	}
}

func TestALimitIsNamedWhenThePolicyHasSeveral(t *testing.T) {
	r := rateLimit("api", "user", "")
	r.Limits = []policy.Limit{
		{Name: "burst", Algorithm: policy.FixedWindow, Requests: 5, WindowMs: 1000},
		{Name: "day", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 86_400_000},
	}
	w := newWorld(t, r.Sealed())
	for name, test := range map[string]struct {
		limit, wantName string
		wantWindow      int64
	}{
		"a limit of ours":                  {"day", "shop/api/day", 86_400_000},
		"one that only Redis knows so far": {"hour", "shop/api", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w.store.rows["shop/api"] = limit.Row{Allowed: true, Limit: 100, LimitName: test.limit}
			v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]
			var window int64
			if v.Binding != nil {
				window = v.Binding.WindowMs
			}
			if v.Name != test.wantName || window != test.wantWindow {
				t.Errorf("name %q, window %d; want %q, %d", v.Name, window, test.wantName, test.wantWindow)
			}
		})
	}
}

func TestSecondsAreRoundedUp(t *testing.T) {
	for name, test := range map[string]struct {
		verdict              Verdict
		wantRetry, wantReset int64
	}{
		"a millisecond is a second":            {Verdict{RetryAfter: time.Millisecond, ResetAfter: time.Millisecond}, 1, 1},
		"a second is a second":                 {Verdict{RetryAfter: time.Second, ResetAfter: time.Second}, 1, 1},
		"a little more is two":                 {Verdict{RetryAfter: time.Second + 1, ResetAfter: time.Second + 1}, 2, 2},
		"a denial is never told to try now":    {Verdict{}, 1, 0},
		"a permission is not told to retry":    {Verdict{Allowed: true, ResetAfter: 31 * 24 * time.Hour}, 0, 2_678_400},
		"what is negative is none":             {Verdict{Allowed: true, ResetAfter: -1}, 0, 0},
		"the longest window does not overflow": {Verdict{RetryAfter: 744 * time.Hour, ResetAfter: 744 * time.Hour}, 2_678_400, 2_678_400},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.verdict.RetryAfterSeconds(); got != test.wantRetry {
				t.Errorf("retry after %d s, want %d", got, test.wantRetry)
			}
			if got := test.verdict.ResetAfterSeconds(); got != test.wantReset {
				t.Errorf("reset after %d s, want %d", got, test.wantReset)
			}
		})
	}
}

func TestAnUnknownDomainIsAllowedAndCounted(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	result, err := w.Decide(t.Context(), DoorRLS, request("elsewhere", tuple{"user", "bob"}, tuple{"user", "alice"}))
	if err != nil || !result.Allowed || !result.UnknownDomain || len(result.Verdicts) != 2 {
		t.Fatalf("%+v, %v; want both allowed", result, err)
	}
	if len(w.store.calls) != 0 {
		t.Errorf("redis was asked %d times, want not at all", len(w.store.calls))
	}
	if got := w.value(t, "penstock_unknown_domain_total"); got != 1 {
		t.Errorf("counted %v, want 1", got)
	}
}

func TestWithoutAPolicySetNothingIsDecided(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"})); !errors.Is(err, ErrNoSet) {
		t.Errorf("Decide: %v, want ErrNoSet", err)
	}
	if _, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/user", Lookup: nil, Cost: 1}); !errors.Is(err, ErrNoSet) {
		t.Errorf("DecidePolicy: %v, want ErrNoSet", err)
	}
	select {
	case <-w.Ready():
		t.Error("ready without a set")
	default:
	}
	w.Use(validSet(t, rateLimit("user", "user", "")))
	select {
	case <-w.Ready():
	default:
		t.Error("not ready with a set")
	}
}

func TestANewSetAppliesToTheNextRequest(t *testing.T) {
	w := newWorld(t, rateLimit("old", "user", ""))
	w.decide(t, tuple{"user", "bob"})
	w.Use(validSet(t, rateLimit("new", "user", "")))
	w.decide(t, tuple{"user", "bob"})
	if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/new"}) {
		t.Errorf("charged %q, want the new policy only", got)
	}
}

func TestOnePolicyIsDecidedByAttributes(t *testing.T) {
	attributes := map[string]string{"user": "bob", "path": "/api/x", "empty": ""}
	lookup := func(key string) (string, bool) { v, ok := attributes[key]; return v, ok }
	for name, test := range map[string]struct {
		policy     policy.RateLimit
		wantMode   Mode
		wantValues []string
	}{
		"all there":                   {rateLimit("p", "user", "", "path", "/api/*"), Enforced, []string{"bob", "/api/x"}},
		"in the policy's order":       {rateLimit("p", "path", "", "user", "bob"), Enforced, []string{"/api/x", "bob"}},
		"an empty attribute is there": {rateLimit("p", "empty", ""), Enforced, []string{""}},
		"one missing":                 {rateLimit("p", "user", "", "tenant", ""), Unmatched, nil},
		"one that does not fit":       {rateLimit("p", "user", "", "path", "/web/*"), Unmatched, nil},
		"no descriptors: one budget":  {rateLimit("p"), Enforced, []string{}},
		"another value":               {rateLimit("p", "user", "alice"), Unmatched, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policy)
			v, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/p", Lookup: lookup, Cost: 1})
			if err != nil || v.Mode != test.wantMode || !v.Allowed {
				t.Fatalf("%+v, %v; want %s", v, err, test.wantMode)
			}
			if test.wantMode == Unmatched {
				if len(w.store.calls) != 0 {
					t.Error("something was charged")
				}
				return
			}
			if got := w.store.calls[0][0].Values; !slices.Equal(got, test.wantValues) {
				t.Errorf("subject %q, want %q", got, test.wantValues)
			}
		})
	}
}

func TestBothWaysToAPolicySpendTheSameBudget(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.decide(t, tuple{"user", "bob"})
	if _, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/user", Lookup: func(string) (string, bool) { return "bob", true }, Cost: 1}); err != nil {
		t.Fatal(err)
	}
	if a, b := w.store.calls[0][0].Key, w.store.calls[1][0].Key; a != b {
		t.Errorf("keys %s and %s, want the same", a, b)
	}
}

func TestAnUnknownPolicyIsAnError(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	if _, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/nobody", Lookup: nil, Cost: 1}); !errors.Is(err, ErrUnknownPolicy) {
		t.Errorf("%v, want ErrUnknownPolicy", err)
	}
}
