package extauthz

import (
	"context"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// instant is a limiter that costs nothing, so that what is measured is the door and the engine.
type instant struct {
	engine.Limiter // the rest is not asked for
	row            [1]limit.Row
}

func (s *instant) Decide(context.Context, []limit.Charge) ([]limit.Row, error) { return s.row[:], nil }

func (s *instant) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

// measured are the answers that are measured, and by how many allocations each may be made.
func measured(t testing.TB) map[string]measurement {
	asking := func(row limit.Row, r *authv3.CheckRequest, most float64) measurement {
		eng := engineOf(t, &instant{row: [1]limit.Row{row}}, policyOf("api", "remote_address"))
		return measurement{New(eng, Options{Callers: callers.Everybody()}), r, most}
	}
	rawHeaders := request("penstock-policy", "shop/api")
	rawHeaders.Attributes.Request.Http.HeaderMap = raw(":method", "GET", "user-agent", "curl", "accept", "*/*", "x-request-id", "1")
	return map[string]measurement{
		// The attributes and their lookup, the address, the key of the charge, the answer, and the values of two headers.
		"allowed by a policy": asking(has42Left, request("penstock-policy", "shop/api"), 7),
		// And the verdict, which outlives the request of the engine.
		"allowed by a domain":        asking(has42Left, request("penstock-domain", "shop"), 8),
		"allowed, with raw headers":  asking(has42Left, rawHeaders, 12),
		"denied":                     asking(isSpent, request("penstock-policy", "shop/api"), 34),
		"denied to a client of gRPC": asking(isSpent, withHeader(request("penstock-policy", "shop/api"), "content-type", "application/grpc"), 34),
	}
}

type measurement struct {
	door    *Server
	request *authv3.CheckRequest
	most    float64
}

func BenchmarkCheck(b *testing.B) {
	for name, m := range measured(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.door.Check(b.Context(), m.request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
