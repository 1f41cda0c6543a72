package rls

import (
	"context"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// instant is a limiter that costs nothing, so that what is measured is the door and the engine.
type instant struct {
	engine.Limiter // the rest is not asked for
	rows           [4]limit.Row
}

func (s *instant) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return s.rows[:len(charges)], nil
}

func (s *instant) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func instantDoor() *Server {
	st := &instant{}
	for i := range st.rows {
		st.rows[i] = limit.Row{Allowed: true, Limit: 100, Remaining: 99, Reset: time.Minute, LimitName: "default", Reason: limit.ReasonOK}
	}
	eng := engine.New(engine.Options{Limiter: st})
	eng.Use(policy.NewSet([]policy.RateLimit{policyOf("user", "user", perMinute), policyOf("path", "path", perMinute), policyOf("tenant", "tenant", perMinute)}))
	return New(eng, Options{Callers: callers.Everybody()})
}

var (
	oneDescriptor    = request(descriptor("user", "bob"))
	threeDescriptors = request(descriptor("user", "bob"), descriptor("path", "/"), descriptor("tenant", "a"))
)

func BenchmarkShouldRateLimit(b *testing.B) {
	door := instantDoor()
	for name, r := range map[string]*ratelimitv3.RateLimitRequest{"one": oneDescriptor, "three": threeDescriptors} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := door.ShouldRateLimit(b.Context(), r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
