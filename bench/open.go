package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// openLoad is an open loop: checks are sent when they are due, whatever became of those before, as the requests of clients
// that do not wait for each other.
type openLoad struct {
	requests []*rlsv3.RateLimitRequest
	// inFlight is how many checks may be under way. One that is due beyond is never sent, and counted.
	inFlight int
	// sleep passes the time until the next is due.
	sleep func(time.Duration)
}

// openCheck is one check of an open loop, with its times since the beginning.
type openCheck struct {
	due, sent, answered time.Duration
	verdict             openVerdict
}

// openVerdict is what became of a check.
type openVerdict uint8

const (
	unsent openVerdict = iota
	allowed
	denied
	failed
)

// latency counts from the time that the check was due: a server that stalls delays also those that could not be sent
// meanwhile, or that waited behind others.
func (c openCheck) latency() time.Duration { return c.answered - c.due }

// lateness is how much later than due it was sent, by no fault of the server.
func (c openCheck) lateness() time.Duration { return c.sent - c.due }

// run sends a check, about a subject by chance, at each of these times since now, and waits for the answers of all. It fails
// when ctx ends before.
func (l openLoad) run(ctx context.Context, clients []rlsv3.RateLimitServiceClient, due []time.Duration) ([]openCheck, error) {
	checks := make([]openCheck, len(due))
	for i := range checks {
		checks[i].due = due[i]
	}
	began := time.Now()
	next := make(chan int, l.inFlight)
	var underWay atomic.Int64
	var senders sync.WaitGroup
	for n := range l.inFlight {
		senders.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), uint64(len(l.requests))))
			for i := range next {
				checks[i].send(ctx, clients[i%len(clients)], l.requests[random.IntN(len(l.requests))], began)
				underWay.Add(-1)
			}
		})
	}
	l.hand(ctx, due, began, next, &underWay)
	close(next)
	senders.Wait()
	return checks, ctx.Err()
}

// hand gives each check to a sender when it is due, unless as many are under way as may be.
func (l openLoad) hand(ctx context.Context, due []time.Duration, began time.Time, next chan<- int, underWay *atomic.Int64) {
	// longestSleep is how long the end of ctx may go unnoticed.
	const longestSleep = 100 * time.Millisecond
	for i := 0; i < len(due) && ctx.Err() == nil; {
		if early := due[i] - time.Since(began); early > 0 {
			l.sleep(min(early, longestSleep))
			continue
		}
		// There is room for every check that is under way, so this never blocks.
		if underWay.Load() < int64(l.inFlight) {
			underWay.Add(1)
			next <- i
		}
		i++
	}
}

// send asks, and notes what became of it and when.
func (c *openCheck) send(ctx context.Context, client rlsv3.RateLimitServiceClient, request *rlsv3.RateLimitRequest, began time.Time) {
	c.sent = time.Since(began)
	response, err := check(ctx, client, request)
	c.answered = time.Since(began)
	switch {
	case err != nil:
		c.verdict = failed
	case response.GetOverallCode() == rlsv3.RateLimitResponse_OK:
		c.verdict = allowed
	default:
		c.verdict = denied
	}
}

// tally counts answers; what was not sent is none.
func tally(checks []openCheck) (sum answers) {
	for i := range checks {
		switch checks[i].verdict {
		case allowed:
			sum.ok++
		case denied:
			sum.overLimit++
		case failed:
			sum.failed++
		case unsent:
		}
	}
	return sum
}

// exactSleep sleeps in the kernel. The scheduler of Go, when it has nothing else to do, waits in whole milliseconds, in which
// several checks would be due.
func exactSleep(d time.Duration) {
	rest := syscall.NsecToTimespec(int64(d))
	// Whoever is woken early by a signal looks at the clock and sleeps again.
	_ = syscall.Nanosleep(&rest, nil)
}

// wakeInTime has the kernel wake this thread when it asked for it: by default it may take 50 µs more, to wake several at once.
// The goroutine must keep its thread.
func wakeInTime() error {
	const setTimerSlack = 29 // PR_SET_TIMERSLACK
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0); errno != 0 {
		return fmt.Errorf("setting the timer slack: %w", errno)
	}
	return nil
}
