package library_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// BenchmarkDecision reports what one decision costs the server, in microseconds of its time (INFO commandstats): the
// best of several batches, since the machine may be busy with other things. ns/op says nothing.
func BenchmarkDecision(b *testing.B) {
	tests := []struct {
		name   string
		limits []policy.Limit
	}{
		{"fixed-window", []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: 60_000}}},
		{"fixed-window-denied", []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 0, WindowMs: 60_000}}},
		{"fixed-window-two", []policy.Limit{
			{Name: "minute", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: 60_000},
			{Name: "hour", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: 3_600_000},
		}},
		{"token-bucket", []policy.Limit{{Name: "default", Algorithm: policy.TokenBucket, Requests: 1e6, WindowMs: 60_000, Burst: 1e6, TickUs: 1}}},
		{"sliding-log", []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 1000, WindowMs: 60_000}}},
		{"sliding-log-denied", []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 10, WindowMs: 600_000}}},
	}
	ctx := context.Background()
	server := redistest.Start(b)
	client := server.Client()
	var limits []policy.RateLimit
	for _, test := range tests {
		limits = append(limits, policy.RateLimit{
			Name: "bench/" + test.name, Domain: "bench", Descriptors: []policy.Descriptor{{Key: "remote_address"}},
			Limits: test.limits, OnStoreFailure: policy.FailureAllow,
		}.Sealed())
	}
	text, err := library.Render(policy.NewSet(limits))
	if err != nil {
		b.Fatal(err)
	}
	if err := library.Load(ctx, client, text, false); err != nil {
		b.Fatal(err)
	}
	if err := library.LoadScripts(ctx, client); err != nil {
		b.Fatal(err)
	}
	for _, mode := range []library.Mode{library.ModeFunctions, library.ModeScripts} {
		for i := range limits {
			p := &limits[i]
			b.Run(mode.String()+"/"+tests[i].name, func(b *testing.B) {
				measure(b, client, mode, p)
			})
		}
	}
}

const benchBatch = 2000

func measure(b *testing.B, client *redis.Client, mode library.Mode, p *policy.RateLimit) {
	ctx := context.Background()
	command, script, name := "fcall", "penstock_limit", p.Name
	if mode == library.ModeScripts {
		document, err := library.PolicyDocument(p)
		if err != nil {
			b.Fatal(err)
		}
		command, script, name = "evalsha", library.LimitScript.SHA, document
	}
	if err := client.FlushDB(ctx).Err(); err != nil {
		b.Fatal(err)
	}
	best := 0.0
	for range max(5, b.N/benchBatch) {
		if err := client.ConfigResetStat(ctx).Err(); err != nil {
			b.Fatal(err)
		}
		for i := 0; i < benchBatch; {
			pipe := client.Pipeline()
			for range 50 {
				subject := []redisops.Entry{{Key: "remote_address", Value: strconv.Itoa(i % 500)}}
				pipe.Do(ctx, command, script, 1, redisops.CounterKey(p.Name, subject), name, 1, "", "192.0.2.1")
				i++
			}
			if _, err := pipe.Exec(ctx); err != nil {
				b.Fatal(err)
			}
		}
		info, err := client.Info(ctx, "commandstats").Result()
		if err != nil {
			b.Fatal(err)
		}
		match := regexp.MustCompile(`cmdstat_` + command + `:calls=(\d+),usec=(\d+)`).FindStringSubmatch(info)
		if match == nil || match[1] != fmt.Sprint(benchBatch) {
			b.Fatalf("no %d calls of %s in %s", benchBatch, command, info)
		}
		usec, _ := strconv.ParseFloat(match[2], 64)
		if cost := usec / benchBatch; best == 0 || cost < best {
			best = cost
		}
	}
	b.ReportMetric(best, "redis-µs/op")
	b.ReportMetric(0, "ns/op")
}
