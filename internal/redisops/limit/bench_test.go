package limit_test

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// canned answers at once.
type canned struct {
	limit.Caller
	reply any
}

func (c canned) Do(context.Context, []any) (any, error) { return c.reply, nil }

func (canned) Slotted() bool { return false }

// BenchmarkDecide is what a decision costs on our side of the wire.
func BenchmarkDecide(b *testing.B) {
	row := []any{int64(1), int64(100), int64(99), int64(60000), int64(0), "default", "ok", "", int64(0), int64(0)}
	p := one("shop/api", fixedWindow(100, time.Minute))
	p.Descriptors = []policy.Descriptor{{Key: "user"}}
	charge := limit.Charge{Policy: &p, Key: redisops.CounterKey(p.Name, []redisops.Entry{{Key: "user", Value: "bob"}}), Values: []string{"bob"}, Cost: 1}
	for name, test := range map[string]struct {
		charges []limit.Charge
		reply   any
	}{
		"one": {[]limit.Charge{charge}, row},
		"two": {[]limit.Charge{charge, charge}, []any{row, row}},
	} {
		b.Run(name, func(b *testing.B) {
			limiter := limit.New(canned{reply: test.reply}, nil, library.ModeFunctions)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := limiter.Decide(context.Background(), test.charges); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
