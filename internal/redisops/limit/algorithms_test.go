package limit_test

import (
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// step is one call in steered time, and what it must answer.
type step struct {
	at   time.Duration
	cost int64
	peek bool
	// limit, when it is not zero, is published first.
	limit policy.Limit
	want  string
}

const maxInteger = policy.MaxInteger

func TestAlgorithms(t *testing.T) {
	tests := map[string]struct {
		limit policy.Limit
		steps []step
	}{
		"fixed window: counts, denies, and starts anew at a multiple of the window": {fixedWindow(3, time.Minute), []step{
			{at: 10 * time.Second, cost: 1, want: "allow 2/3 reset 50s"},
			{at: 10 * time.Second, cost: 2, want: "allow 0/3 reset 50s"},
			{at: 59*time.Second + 999_999*time.Microsecond, cost: 1, want: "deny 0/3 reset 1ms retry 1ms"},
			{at: time.Minute, cost: 1, want: "allow 2/3 reset 1m0s"},
		}},
		"fixed window: twice the limit can pass around the edge": {fixedWindow(2, time.Second), []step{
			{at: 999 * time.Millisecond, cost: 2, want: "allow 0/2 reset 1ms"},
			{at: 1000 * time.Millisecond, cost: 2, want: "allow 0/2 reset 1s"},
		}},
		"fixed window: a window of the past is forgotten, however long ago": {fixedWindow(1, 100*time.Millisecond), []step{
			{at: 0, cost: 1, want: "allow 0/1 reset 100ms"},
			{at: 24 * time.Hour, cost: 1, want: "allow 0/1 reset 100ms"},
		}},
		"fixed window: what was refused is not counted": {fixedWindow(3, time.Minute), []step{
			{cost: 2, want: "allow 1/3 reset 1m0s"},
			{cost: 2, want: "deny 1/3 reset 1m0s retry 1m0s"},
			{cost: 1, want: "allow 0/3 reset 1m0s"},
		}},
		"fixed window: the clock goes back": {fixedWindow(2, time.Minute), []step{
			{at: time.Hour + 30*time.Second, cost: 1, want: "allow 1/2 reset 30s"},
			{at: 0, cost: 0, want: "allow 1/2 reset 1m0s"},
			{at: 0, cost: 1, want: "allow 0/2 reset 1m0s"},
			{at: 59 * time.Second, cost: 1, want: "deny 0/2 reset 1s retry 1s"},
			{at: 60 * time.Second, cost: 1, want: "allow 1/2 reset 1m0s"},
		}},
		"fixed window: the clock goes back on a full window, which ends all the same": {fixedWindow(1, time.Minute), []step{
			{at: time.Hour, cost: 1, want: "allow 0/1 reset 1m0s"},
			{at: 30 * time.Second, cost: 1, want: "deny 0/1 reset 30s retry 30s"},
			{at: 60 * time.Second, cost: 1, want: "allow 0/1 reset 1m0s"},
		}},
		"fixed window: a changed number of requests keeps what was used": {fixedWindow(10, time.Minute), []step{
			{cost: 6, want: "allow 4/10 reset 1m0s"},
			{cost: 1, limit: fixedWindow(5, time.Minute), want: "deny 0/5 reset 1m0s retry 1m0s"},
			{cost: 0, want: "deny 0/5 reset 1m0s retry 1m0s"},
			{cost: 1, limit: fixedWindow(8, time.Minute), want: "allow 1/8 reset 1m0s"},
		}},
		"fixed window: the largest integers": {fixedWindow(maxInteger, time.Hour), []step{
			{cost: maxInteger - 1, want: "allow 1/9007199254740991 reset 1h0m0s"},
			{cost: maxInteger, want: "deny 1/9007199254740991 reset 1h0m0s retry 1h0m0s"},
			{cost: 2, want: "deny 1/9007199254740991 reset 1h0m0s retry 1h0m0s"},
			{cost: 1, want: "allow 0/9007199254740991 reset 1h0m0s"},
			{cost: 1, want: "deny 0/9007199254740991 reset 1h0m0s retry 1h0m0s"},
			{cost: 0, want: "allow 0/9007199254740991 reset 1h0m0s"},
		}},
		"fixed window: a cost above the limit can never succeed": {fixedWindow(3, time.Hour), []step{
			{at: 59 * time.Minute, cost: 4, want: "deny 3/3 reset 0s retry 1h0m0s"},
		}},
		"fixed window: 0 denies all": {fixedWindow(0, time.Minute), []step{
			{cost: 1, want: "deny 0/0 reset 0s retry 1m0s"},
			{cost: 0, want: "allow 0/0 reset 0s"},
		}},
		"fixed window: the longest one": {fixedWindow(1, 744*time.Hour), []step{
			{cost: 1, want: "allow 0/1 reset 712h0m0s"},
			{cost: 1, at: 712*time.Hour - time.Millisecond, want: "deny 0/1 reset 1ms retry 1ms"},
			{cost: 1, at: 712 * time.Hour, want: "allow 0/1 reset 744h0m0s"},
		}},

		"sliding counter: the window before counts by the share that is left of it": {slidingCounter(10, time.Minute), []step{
			{at: 0, cost: 10, want: "allow 0/10 reset 2m0s"},
			{at: 0, cost: 1, want: "deny 0/10 reset 2m0s retry 1m6.001s"},
			{at: 60*time.Second - time.Microsecond, cost: 1, want: "deny 0/10 reset 1m0.001s retry 6.002s"},
			{at: 60 * time.Second, cost: 5, want: "deny 0/10 reset 1m0s retry 30s"},
			{at: 66 * time.Second, cost: 1, want: "deny 0/10 reset 54s retry 1ms"},
			{at: 66*time.Second + time.Millisecond - time.Microsecond, cost: 1, want: "deny 0/10 reset 54s retry 1ms"},
			{at: 66*time.Second + time.Millisecond, cost: 1, want: "allow 0/10 reset 1m53.999s"},
			{at: 90 * time.Second, cost: 0, want: "allow 4/10 reset 1m30s"},
			{at: 120 * time.Second, cost: 0, want: "allow 9/10 reset 1m0s"},
			{at: 180 * time.Second, cost: 10, want: "allow 0/10 reset 2m0s"},
		}},
		"sliding counter: half a window later half of it has room": {slidingCounter(10, time.Minute), []step{
			{at: 0, cost: 10, want: "allow 0/10 reset 2m0s"},
			{at: 90*time.Second - time.Millisecond, cost: 5, want: "deny 4/10 reset 30.001s retry 1ms"},
			{at: 90 * time.Second, cost: 5, want: "allow 0/10 reset 1m30s"},
			{at: 90 * time.Second, cost: 1, want: "deny 0/10 reset 1m30s retry 6.001s"},
			{at: 90 * time.Second, cost: 6, want: "deny 0/10 reset 1m30s retry 42.001s"},
			{at: 90 * time.Second, cost: 11, want: "deny 0/10 reset 1m30s retry 1m0s"},
		}},
		"sliding counter: not twice the limit around the edge": {slidingCounter(2, time.Second), []step{
			{at: 999 * time.Millisecond, cost: 2, want: "allow 0/2 reset 1.001s"},
			{at: 1000 * time.Millisecond, cost: 1, want: "deny 0/2 reset 1s retry 500ms"},
			{at: 1500 * time.Millisecond, cost: 1, want: "allow 0/2 reset 1.5s"},
		}},
		"sliding counter: forgotten after two windows, however long ago": {slidingCounter(1, 100*time.Millisecond), []step{
			{at: 0, cost: 1, want: "allow 0/1 reset 200ms"},
			{at: 199 * time.Millisecond, cost: 1, want: "deny 0/1 reset 1ms retry 1ms"},
			{at: 200 * time.Millisecond, cost: 1, want: "allow 0/1 reset 200ms"},
			{at: 24 * time.Hour, cost: 1, want: "allow 0/1 reset 200ms"},
		}},
		"sliding counter: the clock goes back": {slidingCounter(10, time.Minute), []step{
			{at: time.Hour, cost: 4, want: "allow 6/10 reset 2m0s"},
			{at: 0, cost: 0, want: "allow 6/10 reset 2m0s"},
			{at: 0, cost: 1, want: "allow 5/10 reset 2m0s"},
			{at: 30 * time.Second, cost: 6, want: "deny 5/10 reset 1m30s retry 42.001s"},
			{at: 60 * time.Second, cost: 5, want: "allow 0/10 reset 2m0s"},
		}},
		"sliding counter: the clock goes back on a full window, which ends all the same": {slidingCounter(10, time.Minute), []step{
			{at: time.Hour, cost: 10, want: "allow 0/10 reset 2m0s"},
			{at: 30 * time.Second, cost: 1, want: "deny 0/10 reset 1m30s retry 36.001s"},
			{at: 60 * time.Second, cost: 1, want: "deny 0/10 reset 1m0s retry 6.001s"},
			{at: 120 * time.Second, cost: 1, want: "allow 9/10 reset 2m0s"},
		}},
		"sliding counter: a changed number of requests keeps what was used": {slidingCounter(10, time.Minute), []step{
			{cost: 6, want: "allow 4/10 reset 2m0s"},
			{cost: 1, limit: slidingCounter(5, time.Minute), want: "deny 0/5 reset 2m0s retry 1m20.001s"},
			{cost: 2, limit: slidingCounter(8, time.Minute), want: "allow 0/8 reset 2m0s"},
		}},
		"sliding counter: 0 denies all": {slidingCounter(0, time.Minute), []step{
			{cost: 1, want: "deny 0/0 reset 0s retry 1m0s"},
			{cost: 0, want: "allow 0/0 reset 0s"},
		}},
		"sliding counter: the most requests in the longest window": {slidingCounter(policy.MaxSlidingCounterRequests, 744*time.Hour), []step{
			{cost: 1 << 33, want: "allow 0/8589934592 reset 1456h0m0s"},
			{cost: 1, want: "deny 0/8589934592 reset 1456h0m0s retry 712h0m2.555s"},
			{cost: 1 << 33, want: "deny 0/8589934592 reset 1456h0m0s retry 1456h0m0s"},
			{cost: maxInteger, want: "deny 0/8589934592 reset 1456h0m0s retry 744h0m0s"},
			{at: 712*time.Hour + 2554*time.Millisecond, cost: 1, want: "deny 0/8589934592 reset 743h59m57.446s retry 1ms"},
			{at: 712*time.Hour + 2555*time.Millisecond, cost: 1, want: "allow 8191/8589934592 reset 1487h59m57.445s"},
		}},
		"another window or algorithm starts a sliding counter anew": {slidingCounter(2, time.Minute), []step{
			{cost: 2, want: "allow 0/2 reset 2m0s"},
			{cost: 2, limit: slidingCounter(2, time.Hour), want: "allow 0/2 reset 2h0m0s"},
			{cost: 2, limit: fixedWindow(2, time.Hour), want: "allow 0/2 reset 1h0m0s"},
			{cost: 2, limit: balance(2), want: "allow 0/2 reset 0s"},
			{cost: 1, want: "deny 0/2 reset 0s retry 1m0s"},
			{cost: 2, limit: slidingCounter(2, time.Hour), want: "allow 0/2 reset 2h0m0s"},
			{cost: 2, limit: slidingLog(2, time.Hour), want: "allow 0/2 reset 1h0m0s"},
		}},

		"sliding log: the limit holds in any window": {slidingLog(3, time.Minute), []step{
			{at: 0, cost: 1, want: "allow 2/3 reset 1m0s"},
			{at: 20 * time.Second, cost: 1, want: "allow 1/3 reset 1m0s"},
			{at: 40 * time.Second, cost: 1, want: "allow 0/3 reset 1m0s"},
			{at: 50 * time.Second, cost: 1, want: "deny 0/3 reset 50s retry 10s"},
			{at: 50 * time.Second, cost: 2, want: "deny 0/3 reset 50s retry 30s"},
			{at: 50 * time.Second, cost: 3, want: "deny 0/3 reset 50s retry 50s"},
			{at: 50 * time.Second, cost: 4, want: "deny 0/3 reset 50s retry 1m0s"},
			{at: 60*time.Second - time.Microsecond, cost: 1, want: "deny 0/3 reset 40.001s retry 1ms"},
			{at: 60 * time.Second, cost: 1, want: "allow 0/3 reset 1m0s"},
			{at: 80 * time.Second, cost: 0, want: "allow 1/3 reset 40s"},
		}},
		"sliding log: several at once, and forgotten at once": {slidingLog(1000, time.Minute), []step{
			{cost: 999, want: "allow 1/1000 reset 1m0s"},
			{at: time.Second, cost: 2, want: "deny 1/1000 reset 59s retry 59s"},
			{at: time.Second, cost: 1, want: "allow 0/1000 reset 1m0s"},
			{at: time.Minute, cost: 1000, want: "deny 999/1000 reset 1s retry 1s"},
			{at: time.Minute, cost: 999, want: "allow 0/1000 reset 1m0s"},
			{at: time.Hour, cost: 1000, want: "allow 0/1000 reset 1m0s"},
			{at: time.Hour, cost: 1, want: "deny 0/1000 reset 1m0s retry 1m0s"},
		}},
		"sliding log: the clock goes back": {slidingLog(2, time.Minute), []step{
			{at: time.Hour, cost: 1, want: "allow 1/2 reset 1m0s"},
			{at: 0, cost: 0, want: "allow 1/2 reset 1m0s"},
			{at: 0, cost: 1, want: "allow 0/2 reset 1m0s"},
			{at: 30 * time.Second, cost: 1, want: "deny 0/2 reset 30s retry 30s"},
			{at: 60 * time.Second, cost: 2, want: "allow 0/2 reset 1m0s"},
		}},
		"sliding log: the clock goes back on a full log, which empties all the same": {slidingLog(1000, time.Minute), []step{
			{at: time.Hour, cost: 1000, want: "allow 0/1000 reset 1m0s"},
			{at: 30 * time.Second, cost: 1, want: "deny 0/1000 reset 1m0s retry 1m0s"},
			{at: 60 * time.Second, cost: 1, want: "deny 0/1000 reset 30s retry 30s"},
			{at: 90 * time.Second, cost: 1000, want: "allow 0/1000 reset 1m0s"},
		}},
		"sliding log: a changed number of requests keeps what was used": {slidingLog(10, time.Minute), []step{
			{cost: 6, want: "allow 4/10 reset 1m0s"},
			{at: time.Second, cost: 1, limit: slidingLog(5, time.Minute), want: "deny 0/5 reset 59s retry 59s"},
			{at: time.Second, cost: 0, want: "deny 0/5 reset 59s retry 59s"},
			{at: time.Second, cost: 2, limit: slidingLog(8, time.Minute), want: "allow 0/8 reset 1m0s"},
			{at: time.Minute, cost: 6, want: "allow 0/8 reset 1m0s"},
		}},
		"sliding log: 0 denies all": {slidingLog(0, time.Minute), []step{
			{cost: 1, want: "deny 0/0 reset 0s retry 1m0s"},
			{cost: 0, want: "allow 0/0 reset 0s"},
		}},

		"token bucket: refills evenly up to burst": {tokenBucket(60, time.Minute, 3), []step{
			{at: 0, cost: 3, want: "allow 0/3 reset 3s"},
			{at: 0, cost: 1, want: "deny 0/3 reset 3s retry 1s"},
			{at: 0, cost: 2, want: "deny 0/3 reset 3s retry 2s"},
			{at: 0, cost: 4, want: "deny 0/3 reset 3s retry 1m0s"},
			{at: time.Second - time.Microsecond, cost: 1, want: "deny 0/3 reset 2.001s retry 1ms"},
			{at: time.Second, cost: 1, want: "allow 0/3 reset 3s"},
			{at: 2500 * time.Millisecond, cost: 1, want: "allow 0/3 reset 2.5s"},
			{at: time.Hour, cost: 0, want: "allow 3/3 reset 0s"},
			{at: time.Hour, cost: 1, want: "allow 2/3 reset 1s"},
		}},
		"token bucket: a quiet time of many windows fills a burst of many windows": {tokenBucket(1, time.Second, 100), []step{
			{at: 0, cost: 100, want: "allow 0/100 reset 1m40s"},
			{at: 50 * time.Second, cost: 0, want: "allow 50/100 reset 50s"},
			{at: 100 * time.Second, cost: 100, want: "allow 0/100 reset 1m40s"},
		}},
		"token bucket: nothing is rounded": {tokenBucket(3, time.Second, 1), []step{
			{at: 0, cost: 1, want: "allow 0/1 reset 334ms"},
			{at: 333_333 * time.Microsecond, cost: 1, want: "deny 0/1 reset 1ms retry 1ms"},
			{at: 333_334 * time.Microsecond, cost: 1, want: "allow 0/1 reset 334ms"},
			{at: 666_667 * time.Microsecond, cost: 1, want: "deny 0/1 reset 1ms retry 1ms"},
			{at: 666_668 * time.Microsecond, cost: 1, want: "allow 0/1 reset 334ms"},
			{at: 1_000_002 * time.Microsecond, cost: 1, want: "allow 0/1 reset 334ms"},
		}},
		"token bucket: a tick of a second": {tokenBucket(744, 744*time.Hour, 2), []step{
			{at: 500 * time.Millisecond, cost: 2, want: "allow 0/2 reset 1h59m59.5s"},
			{at: 1500 * time.Millisecond, cost: 1, want: "deny 0/2 reset 1h59m58.5s retry 59m58.5s"},
			{at: time.Hour, cost: 1, want: "allow 0/2 reset 2h0m0s"},
		}},
		"token bucket: the clock goes back": {tokenBucket(60, time.Minute, 3), []step{
			{at: time.Hour, cost: 2, want: "allow 1/3 reset 2s"},
			{at: 0, cost: 0, want: "allow 1/3 reset 2s"},
			{at: 0, cost: 1, want: "allow 0/3 reset 3s"},
			{at: time.Second, cost: 1, want: "allow 0/3 reset 3s"},
		}},
		"token bucket: the clock goes back on an empty bucket, which refills all the same": {tokenBucket(60, time.Minute, 1), []step{
			{at: time.Hour, cost: 1, want: "allow 0/1 reset 1s"},
			{at: 0, cost: 1, want: "deny 0/1 reset 1s retry 1s"},
			{at: time.Second, cost: 1, want: "allow 0/1 reset 1s"},
		}},
		"token bucket: a changed number of requests keeps what was used": {tokenBucket(60, time.Minute, 10), []step{
			{cost: 6, want: "allow 4/10 reset 6s"},
			{cost: 1, limit: tokenBucket(120, time.Minute, 10), want: "allow 3/10 reset 3.5s"},
			{cost: 1, limit: tokenBucket(120, time.Minute, 20), want: "allow 12/20 reset 4s"},
		}},
		"token bucket: a lowered burst is an empty bucket and no debt": {tokenBucket(60, time.Minute, 1000), []step{
			{cost: 1000, want: "allow 0/1000 reset 16m40s"},
			{cost: 1, limit: tokenBucket(60, time.Minute, 2), want: "deny 0/2 reset 2s retry 1s"},
			{at: 500 * time.Millisecond, cost: 1, want: "deny 0/2 reset 1.5s retry 500ms"},
			{at: time.Second, cost: 1, want: "allow 0/2 reset 2s"},
		}},
		"token bucket: 0 denies all, whatever the burst": {tokenBucket(0, time.Minute, 5), []step{
			{cost: 1, want: "deny 0/0 reset 0s retry 1m0s"},
			{cost: 0, want: "allow 0/0 reset 0s"},
		}},
		"token bucket: 0 for a while keeps what was used": {tokenBucket(60, time.Minute, 10), []step{
			{cost: 10, want: "allow 0/10 reset 10s"},
			{cost: 1, limit: tokenBucket(0, time.Minute, 10), want: "deny 0/0 reset 1m0s retry 1m0s"},
			{cost: 0, want: "deny 0/0 reset 1m0s retry 1m0s"},
			{at: time.Second, cost: 1, limit: tokenBucket(60, time.Minute, 10), want: "allow 0/10 reset 10s"},
		}},
		"token bucket: 0 while the clock goes back": {tokenBucket(60, time.Minute, 10), []step{
			{at: time.Hour, cost: 10, want: "allow 0/10 reset 10s"},
			{at: 0, cost: 1, limit: tokenBucket(0, time.Minute, 10), want: "deny 0/0 reset 1m0s retry 1m0s"},
			{at: time.Second, cost: 1, limit: tokenBucket(60, time.Minute, 10), want: "allow 0/10 reset 10s"},
		}},
		"token bucket: the largest burst, refilled by one token a month": {tokenBucket(1, 744*time.Hour, policy.MaxBurst((744 * time.Hour).Milliseconds())), []step{
			{cost: 3_362_902_947, want: "allow 0/3362902947 reset 2501999h47m34.741s"},
			{cost: 1, want: "deny 0/3362902947 reset 2501999h47m34.741s retry 744h0m0s"},
			{at: 744 * time.Hour, cost: 1, want: "allow 0/3362902947 reset 2501999h47m34.741s"},
		}},

		"another window starts the limit anew": {slidingLog(2, time.Minute), []step{
			{cost: 2, want: "allow 0/2 reset 1m0s"},
			{cost: 2, limit: slidingLog(2, time.Hour), want: "allow 0/2 reset 1h0m0s"},
			{cost: 1, want: "deny 0/2 reset 1h0m0s retry 1h0m0s"},
		}},
		"another algorithm starts the limit anew": {slidingLog(2, time.Minute), []step{
			{cost: 2, want: "allow 0/2 reset 1m0s"},
			{cost: 1, limit: fixedWindow(2, time.Minute), want: "allow 1/2 reset 1m0s"},
			{cost: 2, limit: tokenBucket(2, time.Minute, 2), want: "allow 0/2 reset 1m0s"},
			{cost: 2, limit: slidingLog(2, time.Minute), want: "allow 0/2 reset 1m0s"},
			{cost: 1, want: "deny 0/2 reset 1m0s retry 1m0s"},
			{at: time.Second, cost: 1, limit: fixedWindow(2, time.Minute), want: "allow 1/2 reset 59s"},
		}},
		"a peek answers as a decision and writes nothing": {slidingLog(2, time.Minute), []step{
			{cost: 1, peek: true, want: "allow 1/2 reset 1m0s"},
			{cost: 2, peek: true, want: "allow 0/2 reset 1m0s"},
			{cost: 1, want: "allow 1/2 reset 1m0s"},
			{at: time.Second, cost: 0, peek: true, want: "allow 1/2 reset 59s"},
			{at: time.Second, cost: 2, peek: true, want: "deny 1/2 reset 59s retry 59s"},
			{at: time.Second, cost: 1, want: "allow 0/2 reset 1m0s"},
		}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", test.limit))
				for i, s := range test.steps {
					if s.limit.Name != "" {
						w.publish(one("shop/api", s.limit))
					}
					w.steer(s.at)
					before := w.dump()
					charge := w.charge("shop/api", s.cost)
					row := limitRow(w, charge, s.peek)
					if got := show(row); got != s.want {
						t.Fatalf("step %d: %s, want %s", i, got, s.want)
					}
					if after := w.dump(); (s.peek || s.cost == 0) && before != after {
						t.Fatalf("step %d wrote: %s, before %s", i, after, before)
					}
					if row.LimitName != "default" || row.ID != "" || (row.Reason == "ok") != row.Allowed {
						t.Fatalf("step %d: %+v", i, row)
					}
				}
			})
		})
	}
}
