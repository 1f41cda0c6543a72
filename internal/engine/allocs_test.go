//go:build !race

// Under the race detector sync.Pool forgets at random, so allocations cannot be counted.

package engine

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/penstock-dev/penstock/internal/policy"
)

// The key of each charge is the one thing that must be made anew.
func TestADecisionAllocatesOnlyItsKeys(t *testing.T) {
	e := benchEngine(t)
	for name, test := range map[string]struct {
		decide func(testing.TB, *Engine)
		most   float64
	}{
		"one descriptor":    {decideOne, 1},
		"three descriptors": {decideThree, 3},
	} {
		t.Run(name, func(t *testing.T) {
			if got := testing.AllocsPerRun(1000, func() { test.decide(t, e) }); got > test.most {
				t.Errorf("%v allocations, want at most %v", got, test.most)
			}
		})
	}
}

func TestADenialThatIsRememberedAllocatesOnlyItsKey(t *testing.T) {
	limiter := newInstant()
	limiter.rows[0] = denied(10, time.Hour)
	now := time.Unix(1_800_000_000, 0)
	e := New(Options{Limiter: limiter, Now: func() time.Time { return now }})
	e.Use(validSet(t, rateLimit("user", "user", "")))
	var mode Mode
	ask := func() {
		r := request("shop", tuple{"user", "bob"})
		result, err := e.Decide(t.Context(), DoorRLS, r)
		if err != nil || result.Allowed {
			t.Fatalf("%+v, %v; want a denial", result, err)
		}
		mode = result.Verdicts[0].Mode
		r.Release()
	}
	ask()
	if got := testing.AllocsPerRun(1000, ask); got > 1 || mode != Cached {
		t.Errorf("%v allocations, %s; want at most 1, cached", got, mode)
	}
}

func TestWhileTheBreakerIsOpenADecisionAllocatesOnlyItsKey(t *testing.T) {
	e := outageEngine(t)
	for _, key := range []string{"allow", "deny", "share"} {
		t.Run(key, func(t *testing.T) {
			allowed := 0
			if got := testing.AllocsPerRun(1000, func() {
				if decideWithout(t, e, key) {
					allowed++
				}
			}); got > 1 {
				t.Errorf("%v allocations, want at most 1", got)
			}
			if want := map[string]int{"allow": 1001, "deny": 0, "share": 10}[key]; allowed != want {
				t.Errorf("%d allowed, want %d", allowed, want)
			}
		})
	}
}

func TestWhoeverLooksOnCostsNoAllocation(t *testing.T) {
	limiter := newInstant()
	limiter.rows[0] = denied(10, time.Hour)
	told := 0
	e := New(Options{
		Limiter: limiter, NoDenyCache: true, Tracer: noop.NewTracerProvider().Tracer(""),
		Denied: func(*policy.RateLimit, string, []string) { told++ },
	})
	e.Use(validSet(t, rateLimit("user", "user", "")))
	if got := testing.AllocsPerRun(1000, func() {
		r := request("shop", tuple{"user", "bob"})
		if result, err := e.Decide(t.Context(), DoorRLS, r); err != nil || result.Allowed {
			t.Fatalf("%+v, %v; want a denial", result, err)
		}
		r.Release()
	}); got > 1 {
		t.Errorf("%v allocations, want at most 1", got)
	}
	if told != 1001 {
		t.Errorf("told of %d denials, want 1,001", told)
	}
}
