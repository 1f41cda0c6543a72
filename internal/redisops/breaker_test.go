package redisops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clockedBreaker is a breaker at a time of the test's, without jitter.
type clockedBreaker struct {
	*breaker
	time    time.Time
	changes []string
}

func newClockedBreaker() *clockedBreaker {
	c := &clockedBreaker{time: time.Unix(1_000_000, 0)}
	c.breaker = newBreaker(50*time.Millisecond, 2*time.Second, func() time.Time { return c.time },
		func(time.Duration) time.Duration { return 0 },
		func(from, to *period) { c.changes = append(c.changes, from.state.String()+" to "+to.state.String()) })
	return c
}

var errTest = errors.New("connection refused")

// tell admits calls, one every 10 ms, and tells their outcomes: "." for a success, "x" for a failure, "-" for neither.
func (c *clockedBreaker) tell(t *testing.T, outcomes string) {
	t.Helper()
	for i, outcome := range outcomes {
		p, err := c.admit()
		if err != nil {
			t.Fatalf("call %d of %q was refused: %v", i, outcomes, err)
		}
		c.time = c.time.Add(10 * time.Millisecond)
		switch outcome {
		case '.':
			c.succeed(p)
		case 'x':
			c.fail(p, errTest)
		default:
			c.release(p)
		}
	}
}

func TestBreakerOpensAfterFailuresInARowOrOfLate(t *testing.T) {
	for name, tc := range map[string]struct {
		outcomes string
		want     BreakerState
	}{
		"nothing":                         {"", BreakerClosed},
		"four in a row":                   {"xxxx", BreakerClosed},
		"five in a row":                   {"xxxxx", BreakerOpen},
		"four, a success, four":           {"xxxx.xxxx", BreakerClosed},
		"in a row but for what is unsaid": {"xx-xx-x", BreakerOpen},
		"nine of the last 20":             {strings.Repeat("x.", 9) + "..", BreakerClosed},
		"ten of the last 20":              {strings.Repeat("x.", 10)[:19], BreakerOpen},
		"one in three, for long":          {strings.Repeat("x..", 100), BreakerClosed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newClockedBreaker()
			b.tell(t, tc.outcomes)
			if got := b.current.Load().state; got != tc.want {
				t.Errorf("after %q the breaker is %v, want %v", tc.outcomes, got, tc.want)
			}
		})
	}
}

// Fault 99: many callers wait when a server stands still.
func TestOneStandstillIsOneEventHoweverManyCallsItMeets(t *testing.T) {
	b := newClockedBreaker()
	for range 64 {
		b.fail(b.current.Load(), errNoReplyInTime)
	}
	b.time = b.time.Add(standstill - 1)
	b.fail(b.current.Load(), errNoReplyInTime)
	if got := b.current.Load().state; got != BreakerClosed {
		t.Errorf("after %v the breaker is %v, want closed", standstill-1, got)
	}
	b.time = b.time.Add(1)
	b.fail(b.current.Load(), errNoReplyInTime)
	if got := b.current.Load().state; got != BreakerOpen {
		t.Errorf("after %v the breaker is %v, want open", standstill, got)
	}
}

func TestOpenBreakerRefusesWithItsCause(t *testing.T) {
	for name, tc := range map[string]struct {
		cause error
		want  Class
	}{
		"connection":     {fmt.Errorf("%w: %w", ErrNotExecuted, errTest), NotExecuted},
		"lost reply":     {fmt.Errorf("%w: %w", ErrUnknownOutcome, errTest), NotExecuted},
		"late reply":     {errNoReplyInTime, NotExecuted},
		"not sent early": {errNotSentInTime, NotExecuted},
		"loading":        {replyError("LOADING x"), NotExecuted},
		"busy":           {replyError("BUSY x"), Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newClockedBreaker()
			for range failuresInARow {
				b.time = b.time.Add(standstill / 4)
				b.fail(b.current.Load(), tc.cause)
			}
			_, err := b.admit()
			if !errors.Is(err, ErrBreakerOpen) || !errors.Is(err, ErrNotExecuted) || errors.Is(err, ErrUnknownOutcome) ||
				errors.Is(err, context.DeadlineExceeded) || Classify(err) != tc.want || !strings.Contains(err.Error(), tc.cause.Error()) {
				t.Errorf("refused with %v of class %q, want an ErrBreakerOpen of class %q that tells the cause", err, Classify(err), tc.want)
			}
		})
	}
}

func TestOpenBreakerTellsWhatTheLastProbeFoundOut(t *testing.T) {
	b := newClockedBreaker()
	b.tell(t, "xxxxx")
	since := b.current.Load().since
	b.time = b.time.Add(time.Minute)
	for _, probe := range []error{replyError("BUSY x"), errLateProbe} {
		b.probed(fmt.Errorf("probing: %w", probe))
		if p := b.current.Load(); Classify(p.cause) != Unavailable || Classify(p.refusal) != Unavailable || p.since != since {
			t.Errorf("after a probe with %v: open since %v by %v", probe, p.since, p.cause)
		}
	}
}

func TestHalfOpenBreakerLetsOneCallTry(t *testing.T) {
	for name, tc := range map[string]struct {
		outcome string
		want    BreakerState
	}{"served": {".", BreakerClosed}, "failed": {"x", BreakerOpen}, "says nothing, then served": {"-.", BreakerClosed}} {
		t.Run(name, func(t *testing.T) {
			b := newClockedBreaker()
			b.tell(t, "xxxxx")
			b.probed(nil)
			trial, err := b.admit()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.admit(); !errors.Is(err, ErrBreakerOpen) {
				t.Errorf("a second call beside the trial: %v, want ErrBreakerOpen", err)
			}
			b.release(trial)
			b.tell(t, tc.outcome)
			if got := b.current.Load().state; got != tc.want {
				t.Errorf("the breaker is %v, want %v", got, tc.want)
			}
		})
	}
}

func TestProbesAloneCloseABreakerThatNobodyCalls(t *testing.T) {
	b := newClockedBreaker()
	b.tell(t, "xxxxx")
	b.probed(nil)
	b.probed(errTest)
	if got := b.current.Load().state; got != BreakerOpen {
		t.Errorf("after a failed second probe the breaker is %v, want open", got)
	}
	b.probed(nil)
	b.probed(nil)
	if got := b.current.Load().state; got != BreakerClosed {
		t.Errorf("after two probes the breaker is %v, want closed", got)
	}
	b.probed(errTest) // one that was on its way
	want := []string{"closed to open", "open to half-open", "half-open to open", "open to half-open", "half-open to closed"}
	if !slices.Equal(b.changes, want) || b.opened.Load() != 1 {
		t.Errorf("%d openings by the changes %q, want one by %q", b.opened.Load(), b.changes, want)
	}
}

func TestSecondProbeLeavesTheDecisionToACallOnItsWay(t *testing.T) {
	b := newClockedBreaker()
	b.tell(t, "xxxxx")
	b.probed(nil)
	trial, err := b.admit()
	if err != nil {
		t.Fatal(err)
	}
	b.probed(nil)
	if got := b.current.Load().state; got != BreakerHalfOpen {
		t.Errorf("the breaker is %v while a call tries, want half-open", got)
	}
	b.succeed(trial)
	if got := b.current.Load().state; got != BreakerClosed {
		t.Errorf("the breaker is %v, want closed", got)
	}
}

func TestOutcomesOfAnEarlierPeriodDoNotCount(t *testing.T) {
	b := newClockedBreaker()
	before, _ := b.admit()
	b.tell(t, "xxxxx")
	b.succeed(before)
	if got := b.current.Load().state; got != BreakerOpen {
		t.Errorf("a success of before made the breaker %v", got)
	}
	b.probed(nil)
	b.tell(t, ".")
	for range 2 * failuresInARow {
		b.fail(before, errTest)
	}
	if got := b.current.Load().state; got != BreakerClosed {
		t.Errorf("failures of before made the breaker %v", got)
	}
}

func TestPausesBetweenProbesGrowToABound(t *testing.T) {
	b := newClockedBreaker()
	b.tell(t, "xxxxx")
	var pauses []time.Duration
	for range 8 {
		pauses = append(pauses, b.nextPause()/time.Millisecond)
		b.probed(errTest)
	}
	if want := []time.Duration{0, 10, 20, 40, 80, 160, 250, 250}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %d ms, want %d", pauses, want)
	}
	b.probed(nil)
	b.tell(t, "x")
	if got := b.nextPause(); got != mostProbePause {
		t.Errorf("after a failed trial the pause is %v, want the longest, %v", got, mostProbePause)
	}
	b.jitter = func(d time.Duration) time.Duration { return d }
	if got, want := b.nextPause(), mostProbePause*3/2; got != want {
		t.Errorf("with all the jitter the pause is %v, want %v", got, want)
	}
}

func TestServerThatComesAndGoesIsAskedLessOften(t *testing.T) {
	b := newClockedBreaker()
	var pauses []time.Duration
	flap := func(up time.Duration) {
		b.time = b.time.Add(up)
		b.tell(t, "xxxxx")
		pauses = append(pauses, b.nextPause()/time.Millisecond)
		b.time = b.time.Add(time.Second)
		b.probed(nil)
		b.tell(t, ".")
	}
	for range 8 {
		flap(calm / 2)
	}
	if want := []time.Duration{0, 10, 20, 40, 80, 160, 250, 250}; !slices.Equal(pauses, want) {
		t.Errorf("first pauses %d ms, want %d", pauses, want)
	}
	flap(calm)
	if last := pauses[len(pauses)-1]; last != 0 {
		t.Errorf("after a calm time the first pause is %d ms, want none", last)
	}
}

func TestBreakerAllocatesNothing(t *testing.T) {
	b := newClockedBreaker()
	served := testing.AllocsPerRun(100, func() {
		p, _ := b.admit()
		b.succeed(p)
	})
	b.tell(t, "xxxxx")
	refused := testing.AllocsPerRun(100, func() {
		if _, err := b.admit(); err == nil {
			t.Error("an open breaker admitted a call")
		}
	})
	if served != 0 || refused != 0 {
		t.Errorf("%v allocations of a served and %v of a refused call, want none", served, refused)
	}
}

func TestOneCallTriesHoweverManyCome(t *testing.T) {
	b := newClockedBreaker()
	b.tell(t, "xxxxx")
	b.probed(nil)
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := b.admit(); err == nil {
				admitted.Add(1)
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 1 {
		t.Errorf("%d calls were let through, want one", admitted.Load())
	}
}

func TestConcurrentFailuresOpenABreakerOnce(t *testing.T) {
	b := newClockedBreaker()
	b.tell(t, "xxxx")
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if p, err := b.admit(); err == nil {
				b.fail(p, errTest)
			}
		})
	}
	wg.Wait()
	if got := b.opened.Load(); got != 1 || b.current.Load().state != BreakerOpen {
		t.Errorf("opened %d times and is %v", got, b.current.Load().state)
	}
}

func TestBreakerStatesHaveNames(t *testing.T) {
	for state := BreakerClosed; state <= BreakerOpen; state++ {
		if state.String() == "invalid" {
			t.Errorf("state %d has no name", state)
		}
	}
	if got := BreakerState(9).String(); got != "invalid" {
		t.Errorf("BreakerState(9) = %q", got)
	}
}

func BenchmarkBreaker(b *testing.B) {
	breaker := newClockedBreaker()
	b.Run("closed", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				p, _ := breaker.admit()
				breaker.succeed(p)
			}
		})
	})
	for range failuresInARow {
		breaker.time = breaker.time.Add(standstill)
		breaker.fail(breaker.current.Load(), errTest)
	}
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := breaker.admit(); err == nil {
				b.Fatal("admitted")
			}
		}
	})
}
