package redisops

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBreakerOpen is an ErrNotExecuted: the server failed too often of late, and was not asked. The cause is wrapped beside it.
var ErrBreakerOpen = fmt.Errorf("%w: the breaker is open", ErrNotExecuted)

const (
	// failuresInARow open a breaker, and so do failuresOfLate among the last 20 calls.
	failuresInARow = 5
	failuresOfLate = 10
	// standstill is how long calls have to have failed, besides, when it was by being late: that is one event within it, however
	// many calls it met. A server, or a machine, that stands still for 30 ms is late to the calls of 20 ms, and of 30 ms where a round trip takes 6.
	standstill = 50 * time.Millisecond
	rowMask    = 1<<failuresInARow - 1
	lateMask   = 1<<20 - 1
	// firstProbePause and mostProbePause bound the pauses between two probes, so that a server that only stood still for a
	// moment, or is back, is soon found to be. What a probe takes is a PING on a connection that stands, or a refused dial.
	firstProbePause = 10 * time.Millisecond
	mostProbePause  = 250 * time.Millisecond
	// calm is how long a breaker has to be closed until the next opening counts as the first one. It is short: a server, or a
	// machine, that stands still now and then serves well in between, and must not be left alone for ever longer.
	calm = 200 * time.Millisecond
	// idleTrial is how long a half-open breaker waits for a call to try before a second probe has to do.
	idleTrial = time.Second
)

// BreakerState tells whether decisions are sent to a server.
type BreakerState int

// States of a breaker.
const (
	// BreakerClosed lets all calls through.
	BreakerClosed BreakerState = iota
	// BreakerHalfOpen lets one call through, whose outcome tells; a probe has succeeded.
	BreakerHalfOpen
	// BreakerOpen lets none through.
	BreakerOpen
)

var breakerStateNames = [...]string{BreakerClosed: "closed", BreakerHalfOpen: "half-open", BreakerOpen: "open"}

// String gives the state in words, for logs and metrics.
func (s BreakerState) String() string {
	if s < 0 || int(s) >= len(breakerStateNames) {
		return "invalid"
	}
	return breakerStateNames[s]
}

// period is the time a breaker spends in one state. A call belongs to the one that let it through, and tells it its outcome;
// what comes after the end of a period is about a server of then, and counts no more.
type period struct {
	state BreakerState
	// since is when the state began; when half-open, when the breaker opened.
	since time.Time
	// cause is why the breaker is not closed, as of the last attempt, and refusal what calls get.
	cause, refusal error
	// late has a bit for each of the last 20 calls of a closed breaker, the lowest for the last one: 1 is a failure.
	late atomic.Uint32
	// began is when the first failure among them came, in nanoseconds since 1970.
	began atomic.Int64
	// trying tells that the one call of a half-open breaker is on its way.
	trying atomic.Bool
}

// breaker keeps calls from a server that does not serve them. Nothing here does I/O: who probes asks for the pauses.
type breaker struct {
	now    func() time.Time
	jitter func(time.Duration) time.Duration // up to so much
	first  time.Duration                     // pauses
	most   time.Duration
	// changed is told of each change of the state, in order.
	changed func(from, to *period)
	// opening gets a value when the breaker opens.
	opening chan struct{}

	current atomic.Pointer[period]
	opened  atomic.Uint64

	mu    sync.Mutex // of transitions
	pause time.Duration
}

func newBreaker(
	minBackoff, maxBackoff time.Duration,
	now func() time.Time, jitter func(time.Duration) time.Duration, changed func(from, to *period),
) *breaker {
	most := min(maxBackoff, mostProbePause)
	b := &breaker{
		now: now, jitter: jitter, first: min(minBackoff, firstProbePause, most), most: most, changed: changed, opening: make(chan struct{}, 1),
	}
	b.current.Store(&period{state: BreakerClosed, since: now()})
	return b
}

// admit gives the period to which the call has to tell its outcome, by exactly one of succeed, fail and release; or why it is
// not to be sent.
func (b *breaker) admit() (*period, error) {
	p := b.current.Load()
	if p.state == BreakerClosed || p.state == BreakerHalfOpen && p.trying.CompareAndSwap(false, true) {
		return p, nil
	}
	return nil, p.refusal
}

// succeed tells that the server served a call.
func (b *breaker) succeed(p *period) {
	if p.state == BreakerHalfOpen {
		b.close(p)
		return
	}
	for late := p.late.Load(); late != 0; late = p.late.Load() {
		if p.late.CompareAndSwap(late, late<<1&lateMask) {
			return
		}
	}
}

// fail tells that the server did not serve a call, and why.
func (b *breaker) fail(p *period, cause error) {
	if p.state == BreakerHalfOpen {
		b.open(p, cause)
		return
	}
	now := b.now().UnixNano()
	for {
		before := p.late.Load()
		if before == 0 {
			p.began.Store(now)
		}
		after := (before<<1 | 1) & lateMask
		if !p.late.CompareAndSwap(before, after) {
			continue
		}
		often := after&rowMask == rowMask || bits.OnesCount32(after) >= failuresOfLate
		if often && (!errors.Is(cause, context.DeadlineExceeded) || now-p.began.Load() >= int64(standstill)) {
			b.open(p, cause)
		}
		return
	}
}

// release tells that the call says nothing about the server.
func (b *breaker) release(p *period) { p.trying.Store(false) }

// nextPause is how long to wait before the next probe.
func (b *breaker) nextPause() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pause + b.jitter(b.pause/2)
}

// probed tells how a probe ended. A successful one half-opens the breaker; where no call has tried since, the second closes it.
func (b *breaker) probed(err error) {
	p := b.current.Load()
	switch {
	case p.state == BreakerClosed:
	case err != nil && p.state == BreakerOpen:
		b.stay(p, err)
	case err != nil:
		b.open(p, err)
	case p.state == BreakerOpen:
		b.change(p, &period{state: BreakerHalfOpen, since: p.since, cause: p.cause, refusal: p.refusal})
	case p.trying.CompareAndSwap(false, true):
		b.close(p)
	}
}

// stay keeps a breaker open after a probe that failed. One that was only late says less than what was known.
func (b *breaker) stay(p *period, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pause = b.longer()
	if !errors.Is(cause, errLateProbe) && b.current.Load() == p {
		b.current.Store(opened(p.since, cause))
	}
}

func opened(since time.Time, cause error) *period {
	return &period{state: BreakerOpen, since: since, cause: cause, refusal: fmt.Errorf("%w: %w", ErrBreakerOpen, proven(cause))}
}

func (b *breaker) open(p *period, cause error) {
	since := p.since
	if p.state == BreakerClosed {
		since = b.now()
	}
	if !b.change(p, opened(since, cause)) {
		return
	}
	select {
	case b.opening <- struct{}{}:
	default:
	}
}

func (b *breaker) close(p *period) { b.change(p, &period{state: BreakerClosed, since: b.now()}) }

// change ends a period, unless it has ended already.
func (b *breaker) change(from, to *period) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current.Load() != from {
		return false
	}
	switch {
	case to.state != BreakerOpen:
	case from.state == BreakerClosed && to.since.Sub(from.since) >= calm:
		b.pause = 0
	case from.state == BreakerClosed && b.opened.Load() == 0:
	default:
		// It failed right after it seemed to be well again: a server that comes and goes is asked less and less often.
		b.pause = b.longer()
	}
	if from.state == BreakerClosed {
		b.opened.Add(1)
	}
	b.current.Store(to)
	b.changed(from, to)
	return true
}

func (b *breaker) longer() time.Duration { return min(max(2*b.pause, b.first), b.most) }

// proven gives the cause without what it says about its own call: the one that is refused was not sent, and is not late.
func proven(cause error) error {
	if errors.Is(cause, ErrUnknownOutcome) || errors.Is(cause, context.DeadlineExceeded) {
		return errors.New(cause.Error())
	}
	return cause
}
