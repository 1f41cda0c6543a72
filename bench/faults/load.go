package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-dev/penstock/internal/redisops"
)

const (
	// callTimeout bounds every call; only a server that hangs gets near it.
	callTimeout = time.Second
	// connections is how many HTTP/2 connections the callers share.
	connections = 4
	// subjects is how many different ones are asked about.
	subjects = 1000
	// degradedHeader is in an answer that was given without Redis.
	degradedHeader = "x-penstock-degraded"
)

// outcome is what an answer was.
type outcome int8

const (
	// enforced was decided by Redis.
	enforced outcome = iota
	// degraded was decided by onStoreFailure.
	degraded
	// failed is an error, or a denial, since no limit is near.
	failed
)

// answer is one of penstockd's.
type answer struct {
	// sent is the time since the load began.
	sent    time.Duration
	latency time.Duration
	outcome outcome
	// slot is the hash slot of the subject's counter.
	slot int
}

// at is when the answer came.
func (a answer) at() time.Duration { return a.sent + a.latency }

// question is a request and the slot of its counter.
type question struct {
	request *rlsv3.RateLimitRequest
	slot    int
}

// questions gives one about each of n subjects.
func questions(n int) []question {
	all := make([]question, n)
	for i := range all {
		value := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
		all[i] = question{
			request: &rlsv3.RateLimitRequest{
				Domain: domain,
				Descriptors: []*ratelimitv3.RateLimitDescriptor{{
					Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: descriptor, Value: value}},
				}},
			},
			slot: redisops.Slot(redisops.CounterKey(policyName, []redisops.Entry{{Key: descriptor, Value: value}})),
		}
	}
	return all
}

// asker asks one penstockd.
type asker struct {
	conns   []*grpc.ClientConn
	clients []rlsv3.RateLimitServiceClient
}

func connect(address string) (*asker, error) {
	a := &asker{}
	for range connections {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			a.close()
			return nil, fmt.Errorf("connecting to penstockd: %w", err)
		}
		a.conns = append(a.conns, conn)
		a.clients = append(a.clients, rlsv3.NewRateLimitServiceClient(conn))
	}
	return a, nil
}

func (a *asker) close() {
	for _, conn := range a.conns {
		_ = conn.Close()
	}
}

// ask sends one request.
func ask(ctx context.Context, client rlsv3.RateLimitServiceClient, request *rlsv3.RateLimitRequest) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := client.ShouldRateLimit(ctx, request)
	if err != nil {
		return failed, err
	}
	return outcomeOf(response)
}

// outcomeOf reads an answer.
func outcomeOf(response *rlsv3.RateLimitResponse) (outcome, error) {
	for _, header := range response.GetResponseHeadersToAdd() {
		if header.GetKey() == degradedHeader {
			return degraded, nil
		}
	}
	if response.GetOverallCode() != rlsv3.RateLimitResponse_OK {
		return failed, fmt.Errorf("denied, and no limit is near: %s", response.GetOverallCode())
	}
	return enforced, nil
}

// recording is all that was answered under a load, in the order of sending.
type recording struct {
	began   time.Time
	answers []answer
	// firstError is one of the failures, if any.
	firstError error
}

// loading is a load that is under way: each caller asks at its own equal distances, and waits for each answer. So one that waited
// too long sends the next one late, and at once.
type loading struct {
	began   time.Time
	stop    context.CancelFunc
	callers sync.WaitGroup
	records []recording
}

// startLoad lets so many callers ask rate times a second each, until finish or the end of ctx.
func startLoad(ctx context.Context, a *asker, about []question, callers, rate int) *loading {
	ctx, stop := context.WithCancel(ctx)
	l := &loading{began: time.Now(), stop: stop, records: make([]recording, callers)}
	for i := range l.records {
		l.callers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(callers)))
			l.call(ctx, &l.records[i], a.clients[i%len(a.clients)], about, random, time.Second/time.Duration(rate))
		})
	}
	return l
}

func (l *loading) call(
	ctx context.Context, r *recording, client rlsv3.RateLimitServiceClient, about []question, random *rand.Rand, every time.Duration,
) {
	for due := l.began.Add(rand.N(every)); ; due = due.Add(every) {
		if wait(ctx, time.Until(due)) != nil {
			return
		}
		q := about[random.IntN(len(about))]
		started := time.Now()
		// A call under way when the load ends is waited for: it is no failure.
		got, err := ask(context.WithoutCancel(ctx), client, q.request)
		r.answers = append(r.answers, answer{sent: started.Sub(l.began), latency: time.Since(started), outcome: got, slot: q.slot})
		if err != nil && r.firstError == nil {
			r.firstError = err
		}
	}
}

// now is the time since the load began.
func (l *loading) now() time.Duration { return time.Since(l.began) }

// finish ends the load and gives what was answered.
func (l *loading) finish() *recording {
	l.stop()
	l.callers.Wait()
	all := &recording{began: l.began}
	for _, r := range l.records {
		all.answers = append(all.answers, r.answers...)
		if all.firstError == nil {
			all.firstError = r.firstError
		}
	}
	slices.SortFunc(all.answers, func(a, b answer) int { return int(a.sent - b.sent) })
	return all
}

// wait waits for d, or until ctx ends, whose error it gives then.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return ctx.Err()
	}
}
