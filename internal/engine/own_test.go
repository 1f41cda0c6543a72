package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// limited is a request of one descriptor that brings its limit along.
func limited(requests int64, window time.Duration, t tuple) *Request {
	r := requestOf(PolicyCost, "shop", t)
	r.Limit(requests, window)
	return r
}

func decideRequest(t *testing.T, w *world, r *Request) Result {
	t.Helper()
	result, err := w.Decide(t.Context(), DoorRLS, r)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestALimitOfTheRequestStandsInThePlaceOfThePoliciesThatApply(t *testing.T) {
	first := with(costing(denying(shadowing(rateLimit("a", "user", ""), 1)), "3"), func(r *policy.RateLimit) {
		r.Penalty = &policy.Penalty{Denials: 1, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
		r.Response = &policy.Response{Status: 503}
		r.Overrides = []policy.Override{{Values: []string{"bob"}, Unlimited: true}}
	})
	w := newWorld(t, first, rateLimit("b", "user", ""), rateLimit("whole"))
	w.store.rows["shop/a"] = limit.Row{Allowed: true, Limit: 7, Remaining: 4, Reset: time.Hour, LimitName: ownLimitName, Reason: limit.ReasonOK}
	r := limited(7, time.Hour, tuple{"user", "bob"})
	defer r.Release()
	result := decideRequest(t, w, r)

	if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/a", "shop/whole"}) {
		t.Fatalf("charged %v, want one budget for the descriptor, and the whole request's", got)
	}
	own := w.store.last()[1]
	want := policy.RateLimit{
		Name: "shop/a", Domain: "shop", OnStoreFailure: policy.FailureDeny, ShadowPercent: 1, Response: &policy.Response{Status: 503},
		Limits: []policy.Limit{{Name: "override", Algorithm: policy.FixedWindow, Requests: 7, WindowMs: 3_600_000}},
	}.Sealed()
	if got := *own.Policy; got.ContentHash != want.ContentHash {
		t.Errorf("decided by %+v\nwant %+v", got, want)
	}
	if own.Cost != 3 || !own.Unpublished || len(own.Values) != 0 || w.store.last()[0].Unpublished {
		t.Errorf("charged %+v, want the policy's cost by a policy that is not published", own)
	}
	v := result.Verdicts[0]
	if v.Name != "shop/a" || v.Limit != 7 || v.Remaining != 4 || v.Binding == nil || v.Binding.Requests != 7 {
		t.Errorf("reported %+v, want the figures of the limit under the name of the policy", v)
	}
	if got := w.series(t, "penstock_decisions_total"); got["door=rls,namespace=shop,outcome=allowed,policy=a"] != 1 {
		t.Errorf("counted %v, want one for the policy", got)
	}
}

func TestALimitOfTheRequestStandsAloneWhereNoPolicyApplies(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), when(rateLimit("closed", "path", ""), "false"))
	for name, test := range map[string]struct {
		request *Request
		want    string
	}{
		"no policy on the keys":        {limited(5, time.Minute, tuple{"tenant", "a"}), LimitPolicy},
		"a condition that is not true": {limited(5, time.Minute, tuple{"path", "/"}), LimitPolicy},
		"more keys than policies have": {limited(5, time.Minute, slices.Repeat(tuple{"a", "b"}, 16)), LimitPolicy},
		"no entries":                   {limited(5, time.Minute, nil), LimitPolicy},
	} {
		t.Run(name, func(t *testing.T) {
			result := decideRequest(t, w, test.request)
			charges := w.store.last()
			if len(charges) != 1 || charges[0].Policy.Name != test.want || charges[0].Cost != 1 || !charges[0].Unpublished {
				t.Errorf("charged %+v, want 1 by %s", charges, test.want)
			}
			if v := result.Verdicts[0]; v.Name != test.want || v.Mode != Enforced {
				t.Errorf("%+v", v)
			}
			test.request.Release()
		})
	}
	r := NewRequest("nowhere")
	r.Descriptor(1)
	r.Entry("user", "bob")
	r.Limit(5, time.Minute)
	calls := len(w.store.calls)
	if result := decideRequest(t, w, r); !result.UnknownDomain || len(w.store.calls) != calls {
		t.Errorf("%+v, want nothing charged in an unknown domain", result)
	}
}

func TestEveryLimitOfRequestsHasACounterOfItsOwn(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), with(rateLimit("path", "path", "/api/*"), func(r *policy.RateLimit) { r.Descriptors[0].Shared = true }))
	keyOf := func(r *Request) string {
		defer r.Release()
		decideRequest(t, w, r)
		return w.store.last()[0].Key
	}
	base := keyOf(limited(5, time.Minute, tuple{"user", "bob"}))
	if again := keyOf(limited(5, time.Minute, tuple{"user", "bob"})); again != base {
		t.Errorf("%s, then %s for the same", base, again)
	}
	seen := map[string]string{base: "5 a minute for bob"}
	elsewhere := limited(5, time.Minute, tuple{"tenant", "a"})
	for name, r := range map[string]*Request{
		"the policy itself": request("shop", tuple{"user", "bob"}),
		"other requests":    limited(6, time.Minute, tuple{"user", "bob"}),
		"another window":    limited(5, time.Hour, tuple{"user", "bob"}),
		"another subject":   limited(5, time.Minute, tuple{"user", "eve"}),
		"no policy":         elsewhere,
		"no policy, with the limit's text as an entry": limited(5, time.Minute, tuple{"tenant", "a", "", "5/60000"}),
		"a pattern that is shared":                     limited(5, time.Minute, tuple{"path", "/api/a"}),
	} {
		key := keyOf(r)
		if before, found := seen[key]; found {
			t.Errorf("%s has the counter of %s", name, before)
		}
		seen[key] = name
	}
	if key := keyOf(limited(5, time.Minute, tuple{"path", "/api/b"})); seen[key] != "a pattern that is shared" {
		t.Errorf("/api/b has a counter of its own, want that of all values of the pattern")
	}
}

func TestDescriptorsWithOneLimitOfTheirOwnSpendByOneCharge(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	r := limited(5, time.Minute, tuple{"user", "bob"})
	r.Descriptor(4)
	r.Entry("user", "bob")
	r.Limit(5, time.Minute)
	r.Descriptor(1)
	r.Entry("user", "bob")
	defer r.Release()
	decideRequest(t, w, r)
	if got := w.store.last(); len(got) != 2 || got[0].Cost != 5 || got[1].Cost != 1 || got[1].Unpublished {
		t.Errorf("%+v, want 5 by the limit and 1 by the policy", got)
	}
}

func TestADenialByALimitOfTheRequestIsRememberedForThatLimitOnly(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.rows["shop/user"] = denied(5, time.Minute)
	modeOf := func(r *Request) Mode {
		defer r.Release()
		return decideRequest(t, w, r).Verdicts[0].Mode
	}
	modeOf(limited(5, time.Minute, tuple{"user", "bob"}))
	if got := modeOf(limited(5, time.Minute, tuple{"user", "bob"})); got != Cached {
		t.Errorf("%v, want cached", got)
	}
	if got := modeOf(limited(6, time.Minute, tuple{"user", "bob"})); got != Enforced {
		t.Errorf("another limit: %v, want redis asked", got)
	}
	if got := modeOf(requestOf(PolicyCost, "shop", tuple{"user", "bob"})); got != Enforced {
		t.Errorf("the policy: %v, want redis asked", got)
	}
}

func TestWithoutRedisALimitOfTheRequestFailsAsItsPolicy(t *testing.T) {
	w := newWorld(t, denying(rateLimit("user", "user", "")))
	w.store.fail = func([]limit.Charge) error { return errNotSent }
	for name, test := range map[string]struct {
		tuple tuple
		want  bool
	}{"a policy that denies": {tuple{"user", "bob"}, false}, "no policy": {tuple{"tenant", "a"}, true}} {
		r := limited(5, time.Minute, test.tuple)
		if v := decideRequest(t, w, r).Verdicts[0]; v.Allowed != test.want || v.Mode != Degraded {
			t.Errorf("%s: %+v", name, v)
		}
		r.Release()
	}
}

func TestLimitsOfRequestsAreKeptInBoundedMemory(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	for i := range int64(mostOwnLimits + 10) {
		r := limited(i, time.Minute, tuple{"user", "bob"})
		decideRequest(t, w, r)
		r.Release()
	}
	kept := 0
	w.current.Load().own.known.Range(func(any, any) bool { kept++; return true })
	if kept == 0 || kept > mostOwnLimits {
		t.Errorf("%d are kept, want 1 to %d", kept, mostOwnLimits)
	}
}

// What a script answers with its policy says nothing of whether the library serves the policy.
func TestAScriptDoesNotHideThatRedisLacksAPolicy(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	missing := true
	w.store.fail = func(charges []limit.Charge) error {
		if missing && !charges[0].Unpublished {
			return noPolicy("shop/user")
		}
		return nil
	}
	w.decide(t, tuple{"user", "bob"})
	w.log.Reset()
	w.clock.advance(TransitionHold)
	r := limited(5, time.Minute, tuple{"user", "bob"})
	defer r.Release()
	decideRequest(t, w, r)
	if got := w.log.String(); got != "" {
		t.Errorf("logged %s", got)
	}
	missing = false
	w.decide(t, tuple{"user", "bob"})
	if got := w.log.String(); !strings.Contains(got, "redis serves the policy again") {
		t.Errorf("logged %q", got)
	}
}

func TestTheKeyOfALimitOfTheRequestIsOneOfItsPolicy(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	r := limited(5, time.Minute, tuple{"user", "bob"})
	defer r.Release()
	decideRequest(t, w, r)
	key := w.store.last()[0].Key
	want := redisops.CounterKey("shop/user", []redisops.Entry{{Key: "user", Value: "bob"}, {Value: "5/60000"}})
	if key != want {
		t.Errorf("%s, want %s", key, want)
	}
}
