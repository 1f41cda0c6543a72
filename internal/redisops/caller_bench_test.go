package redisops

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// countScript costs the server about what a decision does.
const countScript = `local n = redis.call('HINCRBY', KEYS[1], 'n', ARGV[1]) redis.call('PEXPIRE', KEYS[1], 60000) return {1, 100, n, 60000, 0, 'all', 'ok', ''}`

// BenchmarkCaller compares ways to send single commands of 64 concurrent callers. Beside the time per command it reports
// the 99th percentile of the waiting, and the CPU time of this process per command (with a round trip, the proxy's too).
func BenchmarkCaller(b *testing.B) {
	server := redistest.Start(b)
	sha, err := server.Client().ScriptLoad(context.Background(), countScript).Result()
	if err != nil {
		b.Fatal(err)
	}
	type do func(args []any) error
	ways := []struct {
		name string
		open func(servers *Servers) (do, func())
	}{
		{"direct", func(servers *Servers) (do, func()) {
			client := servers.Client()
			return func(args []any) error { return client.Do(context.Background(), args...).Err() }, func() {}
		}},
		{"autopipeline", func(servers *Servers) (do, func()) {
			pipeliner, err := servers.Client().(*redis.Client).AutoPipeline()
			if err != nil {
				b.Fatal(err)
			}
			return func(args []any) error {
				return pipeliner.Process(context.Background(), redis.NewCmd(context.Background(), args...))
			}, func() { _ = pipeliner.Close() }
		}},
	}
	for base := 1; base <= 4; base++ {
		ways = append(ways, struct {
			name string
			open func(servers *Servers) (do, func())
		}{fmt.Sprintf("caller-base%d", base), func(servers *Servers) (do, func()) {
			caller := newCaller(servers, CallerOptions{}, bounds{base: base, most: mostBatches, queued: maxQueued})
			return func(args []any) error {
				_, err := caller.Do(context.Background(), args)
				return err
			}, caller.Close
		}})
	}
	for _, way := range ways {
		for _, roundTrip := range []time.Duration{0, 2 * time.Millisecond} {
			b.Run(fmt.Sprintf("%s/roundtrip=%v", way.name, roundTrip), func(b *testing.B) {
				addr := server.Addr
				if roundTrip > 0 {
					proxy := redistest.StartProxy(b, addr)
					proxy.Delay(roundTrip)
					addr = proxy.Addr
				}
				cfg := Config{Addresses: []string{addr}, CommandTimeout: time.Second}
				send, done := way.open(openServers(b, cfg))
				defer done()
				benchmarkSending(b, sha, send)
			})
		}
	}
}

func benchmarkSending(b *testing.B, sha string, send func([]any) error) {
	const callers = 64
	var next atomic.Int64
	waits := make([][]time.Duration, callers)
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				key := "rl:{aaaaaaaaaaaaaaaaaaaaaa}:bench/" + strconv.FormatInt(n%10_000, 10)
				start := time.Now()
				if err := send([]any{"EVALSHA", sha, "1", key, "1"}); err != nil {
					b.Error(err)
					return
				}
				waits[c] = append(waits[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(waits...)
	slices.Sort(all)
	if len(all) == 0 {
		b.Fatal("nothing was sent")
	}
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
