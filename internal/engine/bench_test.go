package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// instant is a Limiter that costs nothing, so that what is measured is the engine.
type instant struct {
	Limiter // the rest is not asked for
	rows    [4]limit.Row
}

func newInstant() *instant {
	s := &instant{}
	for i := range s.rows {
		s.rows[i] = allowed(10, 9)
	}
	return s
}

func (s *instant) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return s.rows[:len(charges)], nil
}

func (s *instant) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func benchEngine(tb testing.TB) *Engine {
	policies := []policy.RateLimit{rateLimit("user", "user", ""), rateLimit("api", "path", "/api/*", "method", "GET")}
	for i := range 1000 {
		policies = append(policies, rateLimit(fmt.Sprintf("tenant-%d", i), "tenant", fmt.Sprintf("t%d", i)))
	}
	e := New(Options{Limiter: newInstant()})
	e.Use(validSet(tb, policies...))
	return e
}

func decideOne(tb testing.TB, e *Engine) {
	r := NewRequest("shop")
	r.Descriptor(1)
	r.Entry("tenant", "t500")
	result, err := e.Decide(tb.Context(), DoorRLS, r)
	if err != nil || !result.Allowed || result.Verdicts[0].Mode != Enforced {
		tb.Fatalf("%+v, %v", result, err)
	}
	r.Release()
}

func decideThree(tb testing.TB, e *Engine) {
	r := NewRequest("shop")
	r.Descriptor(1)
	r.Entry("user", "bob")
	r.Descriptor(1)
	r.Entry("path", "/api/things")
	r.Entry("method", "GET")
	r.Descriptor(1)
	r.Entry("tenant", "t7")
	if result, err := e.Decide(tb.Context(), DoorRLS, r); err != nil || !result.Allowed {
		tb.Fatalf("%+v, %v", result, err)
	}
	r.Release()
}

// refusing is a Limiter whose breaker is open.
type refusing struct{ instant }

func (*refusing) Decide(context.Context, []limit.Charge) ([]limit.Row, error) {
	return nil, redisops.ErrBreakerOpen
}

// outageEngine is an engine without Redis, for policies of each onStoreFailure.
func outageEngine(tb testing.TB) *Engine {
	e := New(Options{Limiter: &refusing{}})
	e.Use(validSet(tb, rateLimit("allow", "allow", ""), denying(rateLimit("deny", "deny", "")), sharing(rateLimit("share", "share", ""))))
	return e
}

// decideWithout decides one descriptor while Redis is gone, and tells whether it was allowed.
func decideWithout(tb testing.TB, e *Engine, key string) bool {
	r := NewRequest("shop")
	defer r.Release()
	r.Descriptor(1)
	r.Entry(key, "bob")
	result, err := e.Decide(tb.Context(), DoorRLS, r)
	if err != nil || result.Verdicts[0].Mode != Degraded {
		tb.Fatalf("%+v, %v", result, err)
	}
	return result.Allowed
}

func BenchmarkDecideWhileTheBreakerIsOpen(b *testing.B) {
	e := outageEngine(b)
	for _, key := range []string{"allow", "deny", "share"} {
		b.Run(key, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					decideWithout(b, e, key)
				}
			})
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	e := benchEngine(b)
	for name, decide := range map[string]func(testing.TB, *Engine){"one": decideOne, "three": decideThree} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					decide(b, e)
				}
			})
		})
	}
}
