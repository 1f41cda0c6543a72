package library_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
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
	window := []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: 60_000}}
	none := []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 0, WindowMs: 60_000}}
	penalty := &policy.Penalty{Denials: 1e6, WithinMs: 60_000, ForMs: 60_000, MaxMs: 60_000}
	exact := func(n int) string { return fmt.Sprintf("192.0.2.%d", policy.MaxOverrides-n) }
	wildcard := func(n int) string { return fmt.Sprintf("192.%d.*.1", policy.MaxOverrides-1-n) }
	tests := []benchmark{
		{"fixed-window", policy.RateLimit{Limits: window}, ""},
		{"fixed-window-denied", policy.RateLimit{Limits: none}, ""},
		{"fixed-window-two", policy.RateLimit{Limits: []policy.Limit{
			{Name: "minute", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: 60_000},
			{Name: "hour", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: 3_600_000},
		}}, ""},
		{"calendar-month", policy.RateLimit{Limits: []policy.Limit{{
			Name: "default", Algorithm: policy.FixedWindow, Requests: 1e9, WindowMs: policy.CalendarWindow(policy.CalendarMonth).Milliseconds(),
			Calendar: policy.CalendarMonth, TimeZone: "Europe/Berlin",
		}}, TimeZones: map[string][][2]int64{"Europe/Berlin": berlin()}}, ""},
		{"sliding-counter", policy.RateLimit{Limits: []policy.Limit{{Name: "default", Algorithm: policy.SlidingCounter, Requests: 1e9, WindowMs: 60_000}}}, ""},
		{"token-bucket", policy.RateLimit{Limits: []policy.Limit{{Name: "default", Algorithm: policy.TokenBucket, Requests: 1e6, WindowMs: 60_000, Burst: 1e6, TickUs: 1}}}, ""},
		{"sliding-log", policy.RateLimit{Limits: []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 1000, WindowMs: 60_000}}}, ""},
		{"sliding-log-denied", policy.RateLimit{Limits: []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 10, WindowMs: 600_000}}}, ""},
		{"balance", policy.RateLimit{Limits: []policy.Limit{{Name: "default", Algorithm: policy.Balance, Requests: 1e9}}}, ""},
		{"concurrency", policy.RateLimit{Limits: []policy.Limit{{Name: "default", Algorithm: policy.Concurrency, Requests: 100, SlotTTLMs: 60_000}}}, "%d"},
		{"penalty", policy.RateLimit{Limits: window, Penalty: penalty}, ""},
		{"penalty-denied", policy.RateLimit{Limits: none, Penalty: penalty}, ""},
		{"overrides-exact", policy.RateLimit{Limits: none, Overrides: overrides(exact, window)}, ""},
		{"overrides-wildcard", policy.RateLimit{Limits: none, Overrides: overrides(wildcard, window)}, ""},
		{"ids", policy.RateLimit{Limits: window}, "%d"},
		{"ids-repeated", policy.RateLimit{Limits: window}, "same"},
	}
	ctx := context.Background()
	server := redistest.Start(b)
	client := server.Client()
	var limits []policy.RateLimit
	for _, test := range tests {
		p := test.policy
		p.Name, p.Domain, p.OnStoreFailure = "bench/"+test.name, "bench", policy.FailureAllow
		p.Descriptors = []policy.Descriptor{{Key: "remote_address"}}
		p = p.Sealed()
		if err := p.Validate(); err != nil {
			b.Fatal(err)
		}
		limits = append(limits, p)
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
				measure(b, client, mode, p, tests[i].id)
			})
		}
	}
}

const benchBatch = 2000

// benchmark is a policy, and the ids of the calls: a format of their number, or the same for all of a subject.
type benchmark struct {
	name   string
	policy policy.RateLimit
	id     string
}

// berlin gives as many changes of the clocks as a policy may hold, of which the last lie in the past.
func berlin() [][2]int64 {
	var offsets [][2]int64
	for i := range int64(policy.MaxOffsets) {
		offsets = append(offsets, [2]int64{i * 15_778_800 / 2, 3600 + i%2*3600})
	}
	return offsets
}

// overrides gives as many as there may be; the last one is for 192.0.2.1.
func overrides(value func(n int) string, limits []policy.Limit) []policy.Override {
	var all []policy.Override
	for n := range policy.MaxOverrides {
		all = append(all, policy.Override{Values: []string{value(n)}, Limits: limits})
	}
	policy.SortOverrides(all)
	return all
}

// numbered gives an id: of that number, where the format has a place for it.
func numbered(format string, n int) string {
	if strings.Contains(format, "%") {
		return fmt.Sprintf(format, n)
	}
	return format
}

func measure(b *testing.B, client *redis.Client, mode library.Mode, p *policy.RateLimit, id string) {
	ctx := context.Background()
	command, function, script, name := "fcall", library.LimitScript, any(library.LimitScript.Name), p.Name
	if p.IsConcurrency() {
		function, script = library.SlotAcquireScript, library.SlotAcquireScript.Name
	}
	if mode == library.ModeScripts {
		document, err := library.PolicyDocument(p)
		if err != nil {
			b.Fatal(err)
		}
		command, script, name = "evalsha", function.SHA, document
	}
	if err := client.FlushDB(ctx).Err(); err != nil {
		b.Fatal(err)
	}
	best, calls := 0.0, 0
	for range max(5, b.N/benchBatch) {
		if err := client.ConfigResetStat(ctx).Err(); err != nil {
			b.Fatal(err)
		}
		for i := 0; i < benchBatch; {
			pipe := client.Pipeline()
			for range 50 {
				subject := []redisops.Entry{{Key: "remote_address", Value: strconv.Itoa(i % 500)}}
				args := []any{command, script, 1, redisops.CounterKey(p.Name, subject), name, 1, numbered(id, calls), "192.0.2.1"}
				if p.IsConcurrency() {
					args = []any{command, script, 1, redisops.CounterKey(p.Name, subject), name, numbered(id, calls), "", "192.0.2.1"}
				}
				pipe.Do(ctx, args...)
				i, calls = i+1, calls+1
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
