package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

const (
	// callTimeout bounds every call; only a hung server gets near it.
	callTimeout = time.Second
	// failurePause keeps a caller from spinning on a server that refuses.
	failurePause = 10 * time.Millisecond
)

// load is a closed loop: each caller has one check under way and sends the next as soon as it has the answer.
type load struct {
	callers  int
	requests []*rlsv3.RateLimitRequest
}

// answers counts what was answered.
type answers struct {
	ok, overLimit, failed int64
}

func (a *answers) add(b answers) {
	a.ok += b.ok
	a.overLimit += b.overLimit
	a.failed += b.failed
}

func (a answers) total() int64 { return a.ok + a.overLimit + a.failed }

// measurement is what one run of a load saw.
type measurement struct {
	// all counts every answer, also those of the warm-up and of the last calls under way.
	all answers
	// measured counts the answers that arrived while the clock ran, and latencies are theirs, without the failed.
	measured  answers
	latencies []time.Duration
	elapsed   time.Duration
	// firstError is one of the failures, if any.
	firstError error
}

// Phases of a run.
const (
	warming int32 = iota
	measuring
	stopping
)

// run loads the target: warm up, call begin, measure, call end, and let the calls under way finish. It fails when ctx
// ends before, or with the error of begin or end.
func (l load) run(ctx context.Context, clients []rlsv3.RateLimitServiceClient, warm, measure time.Duration, begin, end func() error) (measurement, error) {
	var phase atomic.Int32
	perCaller := make([]measurement, l.callers)
	var callers sync.WaitGroup
	for i := range perCaller {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(len(l.requests))))
			perCaller[i] = l.call(ctx, clients[i%len(clients)], random, &phase)
		})
	}

	elapsed, err := l.timed(ctx, &phase, warm, measure, begin, end)
	phase.Store(stopping)
	callers.Wait()
	if err != nil {
		return measurement{}, err
	}

	total := measurement{elapsed: elapsed}
	for i := range perCaller {
		total.all.add(perCaller[i].all)
		total.measured.add(perCaller[i].measured)
		total.latencies = append(total.latencies, perCaller[i].latencies...)
		if total.firstError == nil {
			total.firstError = perCaller[i].firstError
		}
	}
	return total, nil
}

func (l load) timed(ctx context.Context, phase *atomic.Int32, warm, measure time.Duration, begin, end func() error) (time.Duration, error) {
	if err := wait(ctx, warm); err != nil {
		return 0, err
	}
	if err := begin(); err != nil {
		return 0, err
	}
	started := time.Now()
	phase.Store(measuring)
	if err := wait(ctx, measure); err != nil {
		return 0, err
	}
	phase.Store(stopping)
	elapsed := time.Since(started)
	return elapsed, end()
}

func (l load) call(ctx context.Context, client rlsv3.RateLimitServiceClient, random *rand.Rand, phase *atomic.Int32) measurement {
	var m measurement
	for phase.Load() != stopping && ctx.Err() == nil {
		request := l.requests[random.IntN(len(l.requests))]
		started := time.Now()
		var one answers
		response, err := check(ctx, client, request)
		latency := time.Since(started)
		switch {
		case err != nil:
			one.failed = 1
			if m.firstError == nil {
				m.firstError = err
			}
		case response.GetOverallCode() == rlsv3.RateLimitResponse_OK:
			one.ok = 1
		default:
			one.overLimit = 1
		}
		m.all.add(one)
		if phase.Load() == measuring {
			m.measured.add(one)
			if err == nil {
				m.latencies = append(m.latencies, latency)
			}
		}
		if err != nil {
			_ = wait(ctx, failurePause)
		}
	}
	return m
}

// check sends one request, bounded by callTimeout.
func check(ctx context.Context, client rlsv3.RateLimitServiceClient, request *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return client.ShouldRateLimit(ctx, request)
}

// requestFor asks about one descriptor of one entry.
func requestFor(key, value string) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{
		Domain: domain,
		Descriptors: []*ratelimitv3.RateLimitDescriptor{{
			Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: key, Value: value}},
		}},
	}
}

// subjects gives a request for each of n different addresses.
func subjects(n int) []*rlsv3.RateLimitRequest {
	requests := make([]*rlsv3.RateLimitRequest, n)
	for i := range requests {
		requests[i] = requestFor(loadKey, fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255))
	}
	return requests
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
