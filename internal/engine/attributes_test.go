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

func TestAllPoliciesThatFitTheAttributesApplyTogether(t *testing.T) {
	elsewhere := with(rateLimit("elsewhere", "user", ""), func(r *policy.RateLimit) { r.Domain = "elsewhere" })
	w := newWorld(t,
		rateLimit("any", "user", ""), rateLimit("exact", "user", "bob"), rateLimit("wild", "user", "b*"), rateLimit("other", "user", "eve"),
		rateLimit("pair", "path", "/api/*", "user", ""), rateLimit("lacks", "user", "", "tenant", ""), rateLimit("whole"),
		when(rateLimit("holds", "user", ""), `request.method == "GET"`), when(rateLimit("fails", "user", ""), `request.method == "PUT"`),
		of(rateLimit("slots", "user", ""), policy.Concurrency), of(rateLimit("slots-of-all"), policy.Concurrency), elsewhere,
	)
	result, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "bob", "path", "/api/x", "method", "GET"), PolicyCost)
	if err != nil || !result.Allowed || len(result.Verdicts) != 1 || result.UnknownDomain {
		t.Fatalf("%+v, %v; want one verdict", result, err)
	}
	want := []string{"shop/any", "shop/exact", "shop/holds", "shop/pair", "shop/whole", "shop/wild"}
	if got := w.store.lastPolicies(); !slices.Equal(got, want) || len(w.store.calls) != 1 {
		t.Errorf("charged %q by %d calls, want %q by one", got, len(w.store.calls), want)
	}
	for _, c := range w.store.last() {
		if c.Policy.Name != "shop/pair" {
			continue
		}
		key := redisops.CounterKey("shop/pair", []redisops.Entry{{Key: "path", Value: "/api/x"}, {Key: "user", Value: "bob"}})
		if c.Key != key || !slices.Equal(c.Values, []string{"/api/x", "bob"}) {
			t.Errorf("pair spends from %s by %q, want the policy's order", c.Key, c.Values)
		}
	}
}

func TestTheTightestOfAllThatApplyIsReported(t *testing.T) {
	for name, test := range map[string]struct {
		a, b limit.Row
		want string
		ok   bool
		// wantViolated are all that denied.
		wantViolated []string
	}{
		"both allow":      {allowed(10, 3), allowed(100, 2), "shop/b", true, nil},
		"one denies":      {denied(10, time.Second), allowed(10, 0), "shop/a", false, []string{"shop/a"}},
		"the longer wait": {denied(10, time.Second), denied(10, 2*time.Second), "shop/b", false, []string{"shop/a", "shop/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("a", "user", ""), rateLimit("b", "path", ""))
			w.store.rows["shop/a"], w.store.rows["shop/b"] = test.a, test.b
			result, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "bob", "path", "/"), 1)
			if err != nil || result.Allowed != test.ok || result.Verdicts[0].Allowed != test.ok || result.Verdicts[0].Name != test.want {
				t.Errorf("%+v, %v; want %s", result, err, test.want)
			}
			slices.Sort(result.Violated)
			if !slices.Equal(result.Violated, test.wantViolated) {
				t.Errorf("violated %q, want %q", result.Violated, test.wantViolated)
			}
		})
	}
}

func TestTheVerdictOnAttributesStaysValid(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	result, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "bob"), 1)
	if err != nil {
		t.Fatal(err)
	}
	before := result.Verdicts[0]
	w.store.rows["shop/user"] = denied(10, time.Second)
	for range 3 {
		if _, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "eve"), 1); err != nil {
			t.Fatal(err)
		}
	}
	if result.Verdicts[0] != before {
		t.Errorf("%+v, want it as it was", result.Verdicts[0])
	}
}

func TestADomainOfNoPolicyAllowsAndIsCounted(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	result, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "elsewhere", lookupIn("user", "bob"), 1)
	if err != nil || !result.Allowed || !result.UnknownDomain || result.Verdicts[0].Mode != Unmatched {
		t.Errorf("%+v, %v; want it allowed", result, err)
	}
	if got := w.value(t, "penstock_unknown_domain_total"); got != 1 || len(w.store.calls) > 0 {
		t.Errorf("counted %v after %d calls, want 1 after none", got, len(w.store.calls))
	}
}

func TestADomainOfSlotsAloneIsKnown(t *testing.T) {
	w := newWorld(t, of(rateLimit("slots", "user", ""), policy.Concurrency))
	result, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "bob"), 1)
	if err != nil || !result.Allowed || result.UnknownDomain {
		t.Errorf("attributes: %+v, %v; want it allowed, of a known domain", result, err)
	}
	if result := w.decide(t, tuple{"user", "bob"}); !result.Allowed || result.UnknownDomain || result.Verdicts[0].Mode != Unmatched {
		t.Errorf("descriptors: %+v, want it allowed, of a known domain", result)
	}
	if len(w.store.calls) > 0 {
		t.Error("a slot was taken that nobody releases")
	}
}

func TestAttributesThatCannotBeLimitedAreTheRequestsError(t *testing.T) {
	w := newWorld(t, rateLimit("any", "user", ""), rateLimit("path", "path", "/api/*"))
	long := "/api/" + strings.Repeat("x", 256)
	_, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "bob", "path", long), 1)
	var tooLong *ValueTooLongError
	if !errors.As(err, &tooLong) || tooLong.Key != "path" || len(w.store.calls) > 0 {
		t.Errorf("%v after %d calls, want an error of path", err, len(w.store.calls))
	}
	if _, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("user", "bob", "path", "/web"+long), 1); err != nil {
		t.Errorf("%v where no policy is about it, want a decision", err)
	}
	if _, err := newWorld(t).DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn(), 1); !errors.Is(err, ErrNoSet) {
		t.Errorf("%v without a set, want ErrNoSet", err)
	}
}
