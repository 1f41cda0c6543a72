package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
)

// stallingClient answers every check after a millisecond, but those that reach it during its one stall when that ends.
// Nothing of it is a network, so that it works by the clock of synctest.
type stallingClient struct {
	began            time.Time
	stallAt, stallTo time.Duration
	err              error
}

func (c *stallingClient) ShouldRateLimit(ctx context.Context, _ *rlsv3.RateLimitRequest, _ ...grpc.CallOption) (*rlsv3.RateLimitResponse, error) {
	takes := time.Millisecond
	if at := time.Since(c.began); at >= c.stallAt && at < c.stallTo {
		takes = c.stallTo - at
	}
	if err := wait(ctx, takes); err != nil {
		return nil, err
	}
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, c.err
}

// everyMillisecond is when n checks are due.
func everyMillisecond(n int) []time.Duration {
	due := make([]time.Duration, n)
	for i := range due {
		due[i] = time.Duration(i) * time.Millisecond
	}
	return due
}

func TestAStallIsSeenByAllThatWereDueMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &stallingClient{began: time.Now(), stallAt: 100 * time.Millisecond, stallTo: 200 * time.Millisecond}
		l := openLoad{requests: subjects(3), inFlight: 200, sleep: time.Sleep}
		checks, err := l.run(t.Context(), []rlsv3.RateLimitServiceClient{client}, everyMillisecond(300))
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range checks {
			want := time.Millisecond
			if i >= 100 && i < 200 {
				want = time.Duration(200-i) * time.Millisecond
			}
			if c.verdict != allowed || c.lateness() != 0 || c.latency() != want {
				t.Fatalf("check %d is %+v with a latency of %v, want %v", i, c, c.latency(), want)
			}
		}

		var r openRound
		r.summarize(checks, 50*time.Millisecond, 250*time.Millisecond)
		// 250 count, of which 99 took 2 to 100 ms.
		want := openRound{
			P50: time.Millisecond, P90: 75 * time.Millisecond, P99: 98 * time.Millisecond, P999: 100 * time.Millisecond, Max: 100 * time.Millisecond,
			Due: 250, OK: 250, AnsweredPerSecond: 1000,
		}
		if r != want {
			t.Errorf("got %+v, want %+v", r, want)
		}
	})
}

func TestLatencyBeginsWhenACheckWasDueAlthoughItWasSentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &stallingClient{began: time.Now()}
		oversleeps := func(d time.Duration) { time.Sleep(d + 5*time.Millisecond) }
		l := openLoad{requests: subjects(1), inFlight: 10, sleep: oversleeps}
		checks, err := l.run(t.Context(), []rlsv3.RateLimitServiceClient{client}, everyMillisecond(4))
		if err != nil {
			t.Fatal(err)
		}
		// The load sleeps until the second is due, wakes 5 ms later, and sends all that are due by then.
		var lateness, latencies []time.Duration
		for _, c := range checks {
			lateness = append(lateness, c.lateness()/time.Millisecond)
			latencies = append(latencies, c.latency()/time.Millisecond)
		}
		if want := []time.Duration{0, 5, 4, 3}; !slices.Equal(lateness, want) {
			t.Errorf("sent %d ms late, want %d", lateness, want)
		}
		if want := []time.Duration{1, 6, 5, 4}; !slices.Equal(latencies, want) {
			t.Errorf("latencies of %d ms, want %d", latencies, want)
		}
	})
}

func TestWhatIsDueBeyondTheCapIsCountedAndMakesARoundInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &stallingClient{began: time.Now(), stallAt: 100 * time.Millisecond, stallTo: 200 * time.Millisecond}
		l := openLoad{requests: subjects(3), inFlight: 10, sleep: time.Sleep}
		checks, err := l.run(t.Context(), []rlsv3.RateLimitServiceClient{client}, everyMillisecond(300))
		if err != nil {
			t.Fatal(err)
		}
		// The stall holds ten; it ends in the same instant in which the check of 200 ms is due, which may find room or not.
		sum := tally(checks)
		if notSent := int64(len(checks)) - sum.total(); notSent < 90 || notSent > 91 {
			t.Errorf("%d were not sent, want 90 or 91", notSent)
		}
		for i := 110; i < 200; i++ {
			if checks[i].verdict != unsent {
				t.Errorf("check %d was sent: %+v", i, checks[i])
			}
		}

		var r openRound
		r.summarize(checks[:200], 0, 200*time.Millisecond)
		if want := "over capacity: 90 of 200 not sent"; r.Invalid != want || r.Unsent != 90 || r.OK != 110 {
			t.Errorf("got %+v, want %q", r, want)
		}
	})
}

func TestFailuresAndBacklogsMakeARoundInvalid(t *testing.T) {
	late := make([]openCheck, 100)
	for i := range late {
		late[i] = openCheck{due: time.Duration(i) * 10 * time.Millisecond, answered: 1200 * time.Millisecond, verdict: allowed}
	}
	spoilt := func(by openVerdict) []openCheck {
		checks := make([]openCheck, 100)
		for i := range checks {
			at := time.Duration(i) * 10 * time.Millisecond
			checks[i] = openCheck{due: at, sent: at, answered: at + time.Millisecond, verdict: allowed}
		}
		checks[7].verdict = by
		return checks
	}
	for name, test := range map[string]struct {
		checks []openCheck
		want   string
	}{
		"all is well": {checks: spoilt(allowed)},
		"a failure":   {checks: spoilt(failed), want: "1 failed, 0 denied"},
		"a denial":    {checks: spoilt(denied), want: "0 failed, 1 denied"},
		"a backlog":   {checks: late, want: "over capacity: a backlog was left"},
	} {
		t.Run(name, func(t *testing.T) {
			var r openRound
			r.summarize(test.checks, 0, time.Second)
			if r.Invalid != test.want {
				t.Errorf("got %q, want %q", r.Invalid, test.want)
			}
		})
	}
}

func TestAnOpenLoadCountsFailuresAndEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clients := []rlsv3.RateLimitServiceClient{&stallingClient{began: time.Now(), err: errors.New("out of order")}}
		l := openLoad{requests: subjects(1), inFlight: 4, sleep: time.Sleep}
		checks, err := l.run(t.Context(), clients, everyMillisecond(20))
		if got := tally(checks); err != nil || got != (answers{failed: 20}) {
			t.Errorf("got %+v, %v; want 20 failures", got, err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := l.run(ctx, clients, []time.Duration{time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the end of the context", err)
		}
		if passed := time.Since(began); passed > 1100*time.Millisecond {
			t.Errorf("it took %v to end", passed)
		}
	})
}
