package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// sharing is the policy with LocalShare.
func sharing(r policy.RateLimit, limits ...policy.Limit) policy.RateLimit {
	return with(r, func(r *policy.RateLimit) {
		r.OnStoreFailure = policy.FailureLocalShare
		if len(limits) > 0 {
			r.Limits = limits
		}
	})
}

func limitNamed(name, algorithm string, requests int64, window time.Duration) policy.Limit {
	l := limitOf(algorithm)
	l.Name, l.Requests, l.WindowMs = name, requests, window.Milliseconds()
	if algorithm == policy.TokenBucket {
		l.Burst, l.TickUs = max(requests, 1), policy.TickFor(l.WindowMs)
	}
	return l
}

// newOutage is a world without Redis, in which so many replicas share the limits.
func newOutage(t testing.TB, replicas int, policies ...policy.RateLimit) *world {
	t.Helper()
	w := newWorld(t, policies...)
	w.shares.replicas = func() int { return replicas }
	w.store.fail = failing(redisops.ErrBreakerOpen)
	return w
}

// passes asks so often, and tells how often bob was let pass.
func (w *world) passes(t testing.TB, times int, cost int64) int {
	t.Helper()
	passed := 0
	for range times {
		if w.decideAt(t, cost, tuple{"user", "bob"}).Allowed {
			passed++
		}
	}
	return passed
}

func TestEachReplicaLetsItsShareOfALimitPass(t *testing.T) {
	for _, algorithm := range []string{policy.SlidingLog, policy.SlidingCounter, policy.FixedWindow, policy.TokenBucket} {
		for name, test := range map[string]struct {
			requests int64
			replicas int
			cost     int64
			want     int
		}{
			"alone":                           {10, 1, 1, 10},
			"one of three, rounded down":      {10, 3, 1, 3},
			"more replicas than requests":     {2, 5, 1, 1},
			"dear requests":                   {20, 2, 3, 3},
			"what costs more than the share":  {10, 3, 4, 0},
			"no requests":                     {0, 3, 1, 0},
			"looks, which cost nothing":       {3, 1, 0, 40},
			"nobody has counted the replicas": {10, 0, 1, 10},
		} {
			t.Run(algorithm+", "+name, func(t *testing.T) {
				w := newOutage(t, test.replicas, sharing(rateLimit("user", "user", ""), limitNamed("default", algorithm, test.requests, time.Minute)))
				if got := w.passes(t, 40, test.cost); got != test.want {
					t.Errorf("%d passed, want %d", got, test.want)
				}
			})
		}
	}
}

func TestAShareIsToldAsDegradedWithATimeAfterWhichTheRequestPasses(t *testing.T) {
	for name, l := range map[string]policy.Limit{
		"SlidingLog":           limitNamed("default", policy.SlidingLog, 3, time.Minute),
		"SlidingCounter":       limitNamed("default", policy.SlidingCounter, 3, 7*time.Second),
		"FixedWindow":          limitNamed("default", policy.FixedWindow, 3, time.Minute),
		"TokenBucket":          limitNamed("default", policy.TokenBucket, 3, 10*time.Second),
		"fast TokenBucket":     limitNamed("default", policy.TokenBucket, 7000, 100*time.Millisecond),
		"window of odd length": limitNamed("default", policy.SlidingLog, 5, 101*time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			w := newOutage(t, 1, sharing(rateLimit("user", "user", ""), l))
			w.clock.advance(time.Duration(rand.Int64N(int64(time.Minute))))
			for round := range 20 {
				var v Verdict
				for range l.Requests + 1 {
					v = w.decide(t, tuple{"user", "bob"}).Verdicts[0]
					if v.Mode != Degraded || v.Known || v.Limit != 0 || v.Name != "shop/user" {
						t.Fatalf("%+v, want degraded and without figures", v)
					}
				}
				if v.Allowed || v.RetryAfter < time.Millisecond || v.RetryAfter%time.Millisecond != 0 ||
					v.RetryAfter > time.Duration(l.WindowMs)*time.Millisecond*9/8+time.Millisecond {
					t.Fatalf("round %d: %+v, want a denial with a time in milliseconds", round, v)
				}
				w.clock.advance(v.RetryAfter)
				if again := w.decide(t, tuple{"user", "bob"}); !again.Allowed {
					t.Fatalf("round %d: denied after the %v that it was told", round, v.RetryAfter)
				}
				w.clock.advance(time.Duration(rand.Int64N(2*l.WindowMs)) * time.Millisecond)
			}
		})
	}
}

func TestACostThatNeverFitsTheShareIsToldTheWindow(t *testing.T) {
	w := newOutage(t, 2, sharing(rateLimit("user", "user", ""), limitNamed("default", policy.TokenBucket, 10, time.Minute)))
	if v := w.decideAt(t, 6, tuple{"user", "bob"}).Verdicts[0]; v.Allowed || v.RetryAfter != time.Minute {
		t.Errorf("%+v, want denied for a minute", v)
	}
}

// However requests come: no more in any window than the limit, over all replicas.
func TestReplicasTogetherKeepASlidingLimitInEveryWindow(t *testing.T) {
	const requests, window, step, replicas = 20, 8 * time.Second, 130 * time.Millisecond, 3
	for _, algorithm := range []string{policy.SlidingLog, policy.SlidingCounter} {
		var all []*world
		for range replicas {
			w := newOutage(t, replicas, sharing(rateLimit("user", "user", ""), limitNamed("default", algorithm, requests, window)))
			w.clock.advance(time.Duration(rand.Int64N(int64(window)))) // they did not begin together
			all = append(all, w)
		}
		var passed []time.Duration
		for at := time.Duration(0); at < 10*window; at += step {
			for _, w := range all {
				for range rand.IntN(3) {
					if w.decide(t, tuple{"user", "bob"}).Allowed {
						passed = append(passed, at)
					}
				}
				w.clock.advance(step)
			}
		}
		for i, at := range passed {
			n := 0
			for _, other := range passed[i:] {
				if other-at < window {
					n++
				}
			}
			if n > requests {
				t.Fatalf("%s: %d passed in the window from %v, want at most %d", algorithm, n, at, requests)
			}
		}
		// A sliding window that is counted in eighths is up to an eighth too long, and 20 among 3 are 18.
		if least := 10 * requests * 7 / 10; len(passed) < least {
			t.Errorf("%s: only %d passed in 10 windows, want at least %d", algorithm, len(passed), least)
		}
	}
}

func TestAllLimitsOfAPolicyAreSharedTogetherOrNone(t *testing.T) {
	w := newOutage(t, 1, sharing(rateLimit("user", "user", ""),
		limitNamed("second", policy.SlidingLog, 2, time.Second), limitNamed("minute", policy.FixedWindow, 5, time.Minute)))
	if got := w.passes(t, 9, 1); got != 2 {
		t.Errorf("%d passed at first, want the 2 of a second", got)
	}
	w.clock.advance(2 * time.Second)
	if got := w.passes(t, 9, 1); got != 2 {
		t.Errorf("%d passed then, want 2: what the second denied the minute has not counted", got)
	}
	w.clock.advance(2 * time.Second)
	v := w.decideAt(t, 2, tuple{"user", "bob"}).Verdicts[0]
	if v.Allowed || v.RetryAfter < 30*time.Second {
		t.Errorf("%+v, want the minute to bind", v)
	}
	if got := w.passes(t, 9, 1); got != 1 {
		t.Errorf("%d passed at last, want the fifth of the minute", got)
	}
}

func TestOverridesHaveSharesOfTheirOwnLimits(t *testing.T) {
	vip := with(sharing(rateLimit("user", "user", ""), limitNamed("default", policy.FixedWindow, 2, time.Minute)), func(r *policy.RateLimit) {
		r.Overrides = []policy.Override{
			{Values: []string{"root"}, Unlimited: true},
			{Values: []string{"vip-*"}, Limits: []policy.Limit{limitNamed("default", policy.FixedWindow, 12, time.Minute)}},
		}
		policy.SortOverrides(r.Overrides)
	})
	w := newOutage(t, 2, vip)
	for user, want := range map[string]int{"bob": 1, "vip-ann": 6, "root": 20} {
		passed := 0
		for range 20 {
			if w.decide(t, tuple{"user", user}).Allowed {
				passed++
			}
		}
		if passed != want {
			t.Errorf("%s: %d passed, want %d", user, passed, want)
		}
	}
}

func TestWhatOnlyLooksOnIsNotDeniedByAShare(t *testing.T) {
	w := newOutage(t, 1, shadowing(sharing(rateLimit("user", "user", "")), 100))
	if got := w.passes(t, 40, 1); got != 40 {
		t.Errorf("%d passed, want all", got)
	}
}

func TestADeniedRequestIsChargedToNoShare(t *testing.T) {
	strict := denying(rateLimit("strict", "path", ""))
	narrow := sharing(rateLimit("narrow", "user", "", "path", ""), limitNamed("default", policy.SlidingLog, 1, time.Minute))
	w := newOutage(t, 1, sharing(rateLimit("user", "user", "")), narrow, strict)
	for range 20 {
		if w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"}).Allowed {
			t.Fatal("allowed, want it denied by strict")
		}
		if w.decide(t, tuple{"path", "/"}, tuple{"user", "bob"}).Allowed {
			t.Fatal("allowed in the other order, want it denied by strict")
		}
	}
	if !w.decide(t, tuple{"user", "bob"}, tuple{"user", "bob", "path", "/"}).Allowed {
		t.Fatal("denied, want the first of narrow to pass")
	}
	for range 20 {
		if w.decide(t, tuple{"user", "bob"}, tuple{"user", "bob", "path", "/"}).Allowed {
			t.Fatal("allowed, want it denied by narrow")
		}
	}
	if got := w.passes(t, 40, 1); got != 9 {
		t.Errorf("%d more passed, want the other 9 of 10", got)
	}
}

func TestADenialByRedisGivesTheShareBack(t *testing.T) {
	for _, algorithm := range []string{policy.SlidingLog, policy.FixedWindow, policy.TokenBucket} {
		w := newWorld(t, sharing(rateLimit("user", "user", ""), limitNamed("default", algorithm, 3, time.Minute)), rateLimit("path", "path", ""))
		wrongType := func(c limit.Charge) error { return &limit.WrongTypeError{Key: c.Key} }
		w.store.fail, w.store.rows["shop/path"] = failingFor("shop/user", wrongType), denied(10, time.Minute)
		w.denials = nil
		for range 10 {
			if w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"}).Allowed {
				t.Fatal("allowed, want it denied by path")
			}
			w.clock.advance(time.Millisecond)
		}
		if got := w.passes(t, 10, 1); got != 3 {
			t.Errorf("%s: %d passed, want 3", algorithm, got)
		}
	}
}

func TestAPeekLeavesAShareAsItIs(t *testing.T) {
	w := newOutage(t, 1, sharing(rateLimit("user", "user", "")))
	call := Call{Policy: "shop/user", Lookup: lookupIn("user", "bob"), Cost: 1}
	for range 30 {
		if v, err := w.Peek(t.Context(), DoorAPI, call); err != nil || !v.Allowed || v.Mode != Degraded {
			t.Fatalf("%+v, %v; want it allowed, degraded", v, err)
		}
	}
	if got := w.passes(t, 30, 1); got != 10 {
		t.Fatalf("%d passed, want 10", got)
	}
	if v, err := w.Peek(t.Context(), DoorAPI, call); err != nil || v.Allowed || v.RetryAfter < time.Millisecond {
		t.Errorf("%+v, %v; want it denied", v, err)
	}
}

// Fault 6: what was let pass meanwhile is forgotten, neither charged to Redis nor kept for the next outage.
func TestAShareIsForgottenWhenRedisDecidesForTheSubjectAgain(t *testing.T) {
	w := newOutage(t, 1, sharing(rateLimit("user", "user", ""), limitNamed("default", policy.SlidingLog, 10, time.Hour)))
	down, up := w.store.fail, func([]limit.Charge) error { return nil }
	if got := w.passes(t, 30, 1); got != 10 {
		t.Fatalf("%d passed, want 10", got)
	}
	for range 5 { // a server that comes and goes
		w.clock.advance(TransitionHold / 10)
		w.store.fail = up
		w.passes(t, 3, 1)
		w.store.fail = down
		if got := w.passes(t, 30, 1); got != 0 {
			t.Fatalf("%d passed when Redis was gone again at once, want none", got)
		}
	}
	w.clock.advance(TransitionHold)
	w.store.fail = up
	w.decide(t, tuple{"user", "ann"})
	w.store.fail = down
	if got := w.passes(t, 30, 1); got != 0 {
		t.Errorf("%d passed after Redis decided for somebody else, whose server may be another one; want none", got)
	}

	w.store.fail = up
	before := len(w.store.calls)
	if got := w.passes(t, 1, 1); got != 1 || w.store.last()[0].Cost != 1 || len(w.store.calls) != before+1 {
		t.Errorf("charged %+v in %d calls; want the one request and nothing of before", w.store.last(), len(w.store.calls)-before)
	}
	w.store.fail = down
	if got := w.passes(t, 30, 1); got != 10 {
		t.Errorf("%d passed in the next outage, want 10", got)
	}
	if known := w.shares.known.Load(); known != 1 {
		t.Errorf("%d subjects are known, want 1", known)
	}
}

// A key that holds something else is no outage: while others are decided, the subject has one share and not a new one
// every few seconds.
func TestAShareHoldsWhileOtherSubjectsAreDecided(t *testing.T) {
	w := newWorld(t, sharing(rateLimit("user", "user", ""), limitNamed("default", policy.SlidingLog, 3, time.Hour)), rateLimit("path", "path", ""))
	w.store.fail = failingFor("shop/user", func(c limit.Charge) error { return &limit.WrongTypeError{Key: c.Key} })
	passed := 0
	for range 20 {
		passed += w.passes(t, 1, 1)
		w.decide(t, tuple{"path", "/"})
		w.Answers()
		w.clock.advance(2 * TransitionHold)
	}
	if passed != 3 {
		t.Errorf("%d passed, want 3", passed)
	}
}

// Nobody has to ask: penstockd tells when all of Redis answers.
func TestAnOutageIsOverThoughNobodyAsks(t *testing.T) {
	w := newOutage(t, 1, rateLimit("user", "user", ""))
	w.passes(t, 1, 1)
	w.clock.advance(TransitionHold - 1)
	w.Answers()
	if w.value(t, "penstock_degraded") != 1 {
		t.Error("the outage counts as over at once, want it to last a while")
	}
	w.clock.advance(1)
	w.Answers()
	w.Answers()
	if n := strings.Count(w.log.String(), "answers again"); w.value(t, "penstock_degraded") != 0 || n != 1 {
		t.Errorf("told %d times that the outage is over, want once:\n%s", n, w.log)
	}
}

func TestAChangedPolicyHasANewShare(t *testing.T) {
	w := newOutage(t, 1, sharing(rateLimit("user", "user", ""), limitNamed("default", policy.SlidingLog, 4, time.Hour)))
	w.passes(t, 10, 1)
	w.Use(validSet(t, sharing(rateLimit("user", "user", ""), limitNamed("default", policy.FixedWindow, 6, time.Hour))))
	if got := w.passes(t, 10, 1); got != 6 {
		t.Errorf("%d passed, want 6", got)
	}
}

func TestALimitThatTheRequestBringsAlongIsSharedToo(t *testing.T) {
	w := newOutage(t, 2, sharing(rateLimit("user", "user", "")))
	passed := 0
	for range 20 {
		r := NewRequest("shop")
		r.Descriptor(1)
		r.Entry("user", "bob")
		r.Limit(4, time.Hour)
		if result, err := w.Decide(t.Context(), DoorRLS, r); err != nil {
			t.Fatal(err)
		} else if result.Allowed {
			passed++
		}
		r.Release()
	}
	if passed != 2 {
		t.Errorf("%d passed, want 2", passed)
	}
}

func TestSharesTakeBoundedMemory(t *testing.T) {
	w := newOutage(t, 1, sharing(rateLimit("user", "user", "")))
	const many = 2 * mostShared
	for i := range many {
		w.decide(t, tuple{"user", fmt.Sprint(i)})
	}
	known := 0
	for i := range w.shares.parts {
		p := &w.shares.parts[i]
		ring := 0
		for s := p.ring.next; s != &p.ring; s = s.next {
			ring++
		}
		if ring != len(p.subjects) {
			t.Fatalf("part %d: %d subjects, %d of them in the ring", i, len(p.subjects), ring)
		}
		known += ring
	}
	if known > mostShared || known < mostShared*9/10 {
		t.Errorf("%d subjects are known after %d, want at most %d and not many less", known, many, mostShared)
	}
}

func TestOfTooManySubjectsTheOneOfLongestAgoIsForgotten(t *testing.T) {
	w := newOutage(t, 1, sharing(rateLimit("user", "user", ""), limitNamed("default", policy.SlidingLog, 1, time.Hour)))
	w.decide(t, tuple{"user", "bob"})
	for i := range 2 * mostShared {
		w.decide(t, tuple{"user", fmt.Sprint(i)})
		if i%1000 == 0 && w.decide(t, tuple{"user", "bob"}).Allowed {
			t.Fatalf("bob was forgotten after %d others, though he is asked about all the time", i)
		}
	}
}

func TestManyAtOnceGetNoMoreThanTheShare(t *testing.T) {
	for _, algorithm := range []string{policy.SlidingLog, policy.FixedWindow, policy.TokenBucket} {
		w := newOutage(t, 1, sharing(rateLimit("user", "user", ""), limitNamed("default", algorithm, 100, time.Hour)),
			sharing(rateLimit("path", "path", ""), limitNamed("default", algorithm, 150, time.Hour)))
		var passed atomic.Int64
		var running sync.WaitGroup
		for range 8 {
			running.Go(func() {
				for range 100 {
					r := request("shop", tuple{"user", "bob"}, tuple{"path", "/"})
					if result, err := w.Decide(t.Context(), DoorRLS, r); err != nil {
						t.Error(err)
					} else if result.Allowed {
						passed.Add(1)
					}
					r.Release()
				}
			})
		}
		running.Wait()
		if passed.Load() != 100 {
			t.Errorf("%s: %d passed, want 100", algorithm, passed.Load())
		}
	}
}

func TestAClockThatIsSetBackGivesNoShareAnew(t *testing.T) {
	daily := policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: 4, Calendar: policy.CalendarDay, TimeZone: "UTC",
		WindowMs: policy.CalendarWindow(policy.CalendarDay).Milliseconds()}
	for name, l := range map[string]policy.Limit{
		"FixedWindow": limitNamed("default", policy.FixedWindow, 4, time.Minute), "a calendar": daily,
		"SlidingLog": limitNamed("default", policy.SlidingLog, 4, time.Minute), "TokenBucket": limitNamed("default", policy.TokenBucket, 4, time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			w := newOutage(t, 1, with(sharing(rateLimit("user", "user", ""), l), func(r *policy.RateLimit) {
				if l.Calendar != "" {
					r.TimeZones = map[string][][2]int64{"UTC": {{0, 0}}}
				}
			}))
			w.clock.now = time.Date(2027, 1, 15, 0, 0, 0, int(5*time.Millisecond), time.UTC)
			if got := w.passes(t, 6, 1); got != 4 {
				t.Fatalf("%d passed, want 4", got)
			}
			for _, step := range []time.Duration{-10 * time.Millisecond, 10 * time.Millisecond} {
				w.clock.advance(step)
				if got := w.passes(t, 6, 1); got != 0 {
					t.Errorf("%d passed after a step of %v, want none", got, step)
				}
			}
		})
	}
}

func TestAShareOfACalendarBeginsWithItsWindow(t *testing.T) {
	berlin := [][2]int64{{0, 3600}, {1_806_195_600, 7200}, {1_824_944_400, 3600}} // 2027-03-28 01:00Z, 2027-10-31 01:00Z
	for name, test := range map[string]struct {
		calendar string
		now      string
		began    string
		ends     string
	}{
		"minute":                    {policy.CalendarMinute, "2027-01-15T08:00:30Z", "2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z"},
		"hour":                      {policy.CalendarHour, "2027-01-15T08:59:59Z", "2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z"},
		"day":                       {policy.CalendarDay, "2027-01-15T23:30:00Z", "2027-01-15T23:00:00Z", "2027-01-16T23:00:00Z"},
		"week":                      {policy.CalendarWeek, "2027-01-15T08:00:00Z", "2027-01-10T23:00:00Z", "2027-01-17T23:00:00Z"},
		"month":                     {policy.CalendarMonth, "2027-02-28T22:59:59Z", "2027-01-31T23:00:00Z", "2027-02-28T23:00:00Z"},
		"month of December":         {policy.CalendarMonth, "2027-12-15T00:00:00Z", "2027-11-30T23:00:00Z", "2027-12-31T23:00:00Z"},
		"day of 23 hours":           {policy.CalendarDay, "2027-03-28T12:00:00Z", "2027-03-27T23:00:00Z", "2027-03-28T22:00:00Z"},
		"day of 25 hours":           {policy.CalendarDay, "2027-10-31T00:30:00Z", "2027-10-30T22:00:00Z", "2027-10-31T23:00:00Z"},
		"first of two equal hours":  {policy.CalendarHour, "2027-10-31T00:30:00Z", "2027-10-31T00:00:00Z", "2027-10-31T01:00:00Z"},
		"second of two equal hours": {policy.CalendarHour, "2027-10-31T01:30:00Z", "2027-10-31T01:00:00Z", "2027-10-31T02:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			parse := func(text string) time.Time {
				at, err := time.Parse(time.RFC3339, text)
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			l := policy.Limit{
				Name: "default", Algorithm: policy.FixedWindow, Requests: 4, Calendar: test.calendar, TimeZone: "Europe/Berlin",
				WindowMs: policy.CalendarWindow(test.calendar).Milliseconds(),
			}
			w := newOutage(t, 1, with(sharing(rateLimit("user", "user", ""), l), func(r *policy.RateLimit) {
				r.TimeZones = map[string][][2]int64{"Europe/Berlin": berlin}
			}))
			w.clock.now = parse(test.now)
			if began, ends := windowOf(&l, &w.Set().RateLimits[0], w.clock.now); !began.Equal(parse(test.began)) || !ends.Equal(parse(test.ends)) {
				t.Errorf("from %v to %v, want from %s to %s", began.UTC(), ends.UTC(), test.began, test.ends)
			}
			if got := w.passes(t, 6, 1); got != 4 {
				t.Errorf("%d passed, want 4", got)
			}
			v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]
			if want := parse(test.ends).Sub(w.clock.now); v.RetryAfter != want {
				t.Errorf("retry after %v, want %v", v.RetryAfter, want)
			}
			w.clock.advance(v.RetryAfter)
			if got := w.passes(t, 6, 1); got != 4 {
				t.Errorf("%d passed in the next window, want 4", got)
			}
		})
	}
}
