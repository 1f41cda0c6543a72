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

func TestWhatDeniesIsTold(t *testing.T) {
	row := func(allowed bool, reason string) limit.Row {
		return limit.Row{Allowed: allowed, Limit: 10, LimitName: "default", Reason: reason, RetryAfter: time.Minute}
	}
	shadow := func(r *policy.RateLimit) { r.ShadowPercent = 100 }
	for name, test := range map[string]struct {
		row    limit.Row
		err    error
		change func(*policy.RateLimit)
		// times is how often it is asked, and want how often somebody is told.
		times, want int
	}{
		"a denial":                        {row(false, limit.ReasonLimit), nil, nil, 1, 1},
		"one that is remembered":          {row(false, limit.ReasonLimit), nil, nil, 3, 3},
		"a penalty":                       {row(false, limit.ReasonPenalty), nil, nil, 1, 1},
		"a blocked subject":               {row(false, limit.ReasonBlocked), nil, nil, 1, 1},
		"an outage that denies":           {limit.Row{}, errNotSent, func(r *policy.RateLimit) { r.OnStoreFailure = policy.FailureDeny }, 1, 1},
		"an outage that denies nothing":   {limit.Row{}, errNotSent, nil, 1, 0},
		"an outage of what only looks on": {limit.Row{}, errNotSent, func(r *policy.RateLimit) { shadow(r); r.OnStoreFailure = policy.FailureDeny }, 1, 0},
		"what only looks on":              {row(true, limit.ReasonShadow), nil, shadow, 1, 0},
		"what is allowed":                 {row(true, limit.ReasonOK), nil, nil, 1, 0},
		"an error":                        {limit.Row{}, reply("NOPERM no rights"), nil, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := rateLimit("p", "user", "", "path", "/*")
			if test.change != nil {
				test.change(&p)
				p = p.Sealed()
			}
			w := newWorld(t, p, rateLimit("other", "method", ""))
			var told []string
			w.denied = func(p *policy.RateLimit, key string, values []string) {
				told = append(told, p.Name+" "+key+" "+strings.Join(values, " "))
			}
			w.store.rows["shop/p"], w.store.fail = test.row, func([]limit.Charge) error { return test.err }
			for range test.times {
				r := request("shop", tuple{"user", "bob", "path", "/a"}, tuple{"method", "GET"})
				_, _ = w.Decide(t.Context(), DoorRLS, r) // an error is one of the answers
				r.Release()
			}
			key := redisops.CounterKey("shop/p", []redisops.Entry{{Key: "user", Value: "bob"}, {Key: "path", Value: "/a"}})
			if want := slices.Repeat([]string{"shop/p " + key + " bob /a"}, test.want); !slices.Equal(told, want) {
				t.Errorf("told %q, want %q", told, want)
			}
		})
	}
}

func TestADenialOfOneCallIsToldAndThatOfALookIsNot(t *testing.T) {
	w := newWorld(t, rateLimit("p", "user", ""), of(rateLimit("slots", "user", ""), policy.Concurrency))
	var told []string
	w.denied = func(p *policy.RateLimit, _ string, values []string) { told = append(told, p.Name+" "+values[0]) }
	w.store.rows["shop/p"], w.store.rows["shop/slots"] = denied(10, time.Minute), denied(10, time.Minute)
	call := Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1}
	if _, err := w.Peek(t.Context(), DoorAPI, call); err != nil || len(told) > 0 {
		t.Fatalf("%v, told %q of a look", err, told)
	}
	if _, err := w.DecidePolicy(t.Context(), DoorAPI, call); err != nil {
		t.Fatal(err)
	}
	if _, err := w.AcquireSlot(t.Context(), DoorAPI, SlotCall{Policy: "shop/slots", Lookup: call.Lookup, ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DecideAttributes(t.Context(), DoorExtAuthz, "shop", call.Lookup, 1); err != nil {
		t.Fatal(err)
	}
	if want := []string{"shop/p bob", "shop/slots bob", "shop/p bob"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
