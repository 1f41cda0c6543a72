package limit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// penalized gives a policy of one request a second whose subjects are blocked for 10 s after 3 denials in 20 s, and for
// twice as long when they go on, at most 30 s.
func penalized(limits ...policy.Limit) policy.RateLimit {
	if len(limits) == 0 {
		limits = []policy.Limit{fixedWindow(1, time.Second)}
	}
	p := one("shop/api", limits...)
	p.Penalty = &policy.Penalty{Denials: 3, WithinMs: 20_000, ForMs: 10_000, MaxMs: 30_000}
	return p
}

func TestPenalties(t *testing.T) {
	second, ms := time.Second, time.Millisecond
	once := penalized()
	once.Penalty = &policy.Penalty{Denials: 1, WithinMs: 1000, ForMs: 10_000, MaxMs: 10_000}
	long := penalized(fixedWindow(1, 744*time.Hour))
	long.Penalty = &policy.Penalty{Denials: policy.MaxPenaltyDenials, WithinMs: 744 * 3600 * 1000, ForMs: 100, MaxMs: 744 * 3600 * 1000}
	shadow := penalized()
	shadow.ShadowPercent = 100
	lowered := penalized()
	lowered.Penalty = &policy.Penalty{Denials: 3, WithinMs: 20_000, ForMs: 1000, MaxMs: 2000}
	unpenalized := penalized()
	unpenalized.Penalty = nil
	deny, blocked := "deny 0/1 reset 1s retry 1s", "deny 0/1 reset 1s retry 10s penalty"
	tests := map[string]struct {
		policy policy.RateLimit
		acts   []act
	}{
		"the last denial begins a block, which refuses whatever room there is": {penalized(), []act{
			{do: "charge 1", want: "allow 0/1 reset 1s"},
			{do: "charge 1", want: deny}, {do: "charge 1", want: deny}, {do: "charge 1", want: blocked},
			{at: 5 * second, do: "charge 1", want: "deny 0/1 reset 1s retry 5s penalty"},
			{at: 5 * second, do: "peek 1", want: "deny 0/1 reset 1s retry 5s penalty"},
			{at: 5 * second, do: "peek 0", want: "deny 0/1 reset 0s retry 5s penalty"},
			{at: 10*second - time.Microsecond, do: "charge 1", want: "deny 0/1 reset 1ms retry 1ms penalty"},
			{at: 10 * second, do: "charge 1", want: "allow 0/1 reset 1s"},
		}},
		"denials count for as long as within, from the first": {penalized(), []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 10 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 20 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 21 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 40*second - time.Microsecond, do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
		}},
		"allowances in between change nothing": {penalized(), []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 1", want: "allow 0/1 reset 1s"},
			{do: "charge 1", want: deny}, {at: second, do: "charge 1", want: "allow 0/1 reset 1s"}, {at: second, do: "charge 1", want: blocked},
		}},
		"what a block refuses is not counted": {penalized(), []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{at: 9 * second, do: "charge 2", want: "deny 0/1 reset 0s retry 1s penalty"}, {at: 9 * second, do: "charge 1", want: "deny 0/1 reset 1s retry 1s penalty"},
			{at: 9 * second, do: "charge 1", want: "deny 0/1 reset 1s retry 1s penalty"},
			{at: 10 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: 10 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 10 * second, do: "charge 1", want: "allow 0/1 reset 1s"},
		}},
		"a block within max after the last is twice as long, at most max": {once, []act{
			{do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{at: 10 * second, do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
		}},
		"doubled up to max, and forgotten max after the end": {penalized(), []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{at: 40*second - 2*time.Microsecond, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: 40*second - 2*time.Microsecond, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 40*second - time.Microsecond, do: "charge 2", want: "deny 0/1 reset 0s retry 20s penalty"},
			{at: 60 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: 60 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 60 * second, do: "charge 2", want: "deny 0/1 reset 0s retry 30s penalty"},
			{at: 90 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: 90 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 90 * second, do: "charge 2", want: "deny 0/1 reset 0s retry 30s penalty"},
			{at: 150 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: 150 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 150 * second, do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
		}},
		"looking is not counted": {penalized(fixedWindow(0, second)), []act{
			{do: "peek 1", want: "deny 0/0 reset 0s retry 1s blocked"}, {do: "peek 1", want: "deny 0/0 reset 0s retry 1s blocked"},
			{do: "peek 1", want: "deny 0/0 reset 0s retry 1s blocked"}, {do: "charge 0", want: "allow 0/0 reset 0s"},
			{do: "charge 1", want: "deny 0/0 reset 0s retry 1s blocked"}, {do: "charge 0", want: "allow 0/0 reset 0s"},
			{do: "charge 1", want: "deny 0/0 reset 0s retry 1s blocked"}, {do: "charge 1", want: "deny 0/0 reset 0s retry 10s penalty"},
			{at: 5 * second, do: "charge 0", want: "deny 0/0 reset 0s retry 5s penalty"},
		}},
		"a block shorter than the wait does not shorten it": {penalized(fixedWindow(1, time.Minute)), []act{
			{do: "charge 1", want: "allow 0/1 reset 1m0s"}, {do: "charge 1", want: "deny 0/1 reset 1m0s retry 1m0s"},
			{do: "charge 1", want: "deny 0/1 reset 1m0s retry 1m0s"}, {do: "charge 1", want: "deny 0/1 reset 1m0s retry 1m0s penalty"},
			{at: 9 * second, do: "charge 1", want: "deny 0/1 reset 51s retry 51s penalty"},
			{at: 10 * second, do: "charge 1", want: "deny 0/1 reset 50s retry 50s"},
		}},
		"the clock goes back during a block, which lasts no longer than max": {penalized(), []act{
			{at: time.Hour, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: time.Hour, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: time.Hour, do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{at: 0, do: "charge 1", want: "deny 0/1 reset 1s retry 30s penalty"},
			{at: 20 * second, do: "charge 1", want: "deny 0/1 reset 1s retry 10s penalty"},
			{at: 30 * second, do: "charge 1", want: "allow 0/1 reset 1s"},
		}},
		"the clock goes back after denials, which count as made now": {penalized(), []act{
			{at: time.Hour, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: time.Hour, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 0, do: "charge 1", want: "allow 0/1 reset 1s"},
			{at: 20 * second, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{at: 0, do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {at: 20*second - time.Microsecond, do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
		}},
		"a lowered max ends a block": {penalized(), []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{change: lowered, do: "charge 1", want: "deny 0/1 reset 1s retry 2s penalty"},
			{at: 2 * second, do: "charge 1", want: "allow 0/1 reset 1s"},
		}},
		"a penalty that is gone blocks nobody, and one that comes back remembers": {penalized(), []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{change: unpenalized, do: "charge 1", want: "allow 0/1 reset 1s"},
			{change: penalized(), at: second, do: "charge 1", want: "deny 0/1 reset 1s retry 9s penalty"},
		}},
		"in shadow nobody is denied, but everything counted": {shadow, []act{
			{do: "charge 2", want: "allow 1/1 reset 0s shadow"}, {do: "charge 2", want: "allow 1/1 reset 0s shadow"},
			{do: "charge 2", want: "allow 0/1 reset 0s shadow"}, {do: "charge 1", want: "allow 0/1 reset 1s shadow"},
			{change: penalized(), at: second, do: "charge 1", want: "deny 0/1 reset 1s retry 9s penalty"},
		}},
		"a repeated denial is counted once": {penalized(), []act{
			{do: "charge 2 #a", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2 #a", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2 #a", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2 #b", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2 #c", want: "deny 0/1 reset 0s retry 10s penalty"}, {do: "charge 2 #c", want: "deny 0/1 reset 0s retry 10s penalty"},
		}},
		"every limit waits": {penalized(named("a", slidingLog(1, second)), named("b", tokenBucket(60, time.Minute, 1)), named("c", slidingCounter(9, second)), named("d", balance(5))), []act{
			{do: "charge 1", want: "a: allow"}, {do: "charge 1", want: "a: deny"}, {do: "charge 1", want: "a: deny"}, {do: "charge 1", want: "a: penalty 10s"},
			{at: 10*second - ms, do: "charge 1", want: "a: penalty 1ms"}, {at: 10 * second, do: "charge 1", want: "a: allow"},
		}},
		"the largest": {long, []act{
			{do: "charge 1", want: "allow 0/1 reset 712h0m0s"}, {do: "charge 1", want: "deny 0/1 reset 712h0m0s retry 712h0m0s"},
			{at: 700 * time.Hour, do: "charge 1", want: "deny 0/1 reset 12h0m0s retry 12h0m0s"},
		}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, test.policy)
				if !strings.Contains(test.acts[0].want, ": ") {
					w.playOne(t, test.acts)
					return
				}
				for i, a := range test.acts {
					w.steer(a.at)
					row, err := w.try(a.do)
					got := row.LimitName + ": "
					switch {
					case err != nil:
						t.Fatal(err)
					case row.Allowed:
						got += "allow"
					case row.Reason == limit.ReasonPenalty:
						got += "penalty " + row.RetryAfter.String()
					default:
						got += "deny"
					}
					if got != a.want {
						t.Fatalf("act %d: %s, want %s", i, got, a.want)
					}
				}
			})
		})
	}
}

func TestDenialsOfOneCallCountOncePerSubject(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, penalized(), one("shop/other", fixedWindow(1, time.Hour)))
		for i, s := range []struct{ charges, want string }{
			{"api=2 api=2 other=1", "deny 1s, deny 1s, allow"},
			// It was not the subject's own denial.
			{"api=1 other=2", "allow, deny 1h0m0s"},
			{"api=0 other=2", "allow, deny 1h0m0s"},
			{"other=1 api=2", "allow, deny 1s"},
			{"api=1 api=1 other=1", "allow, penalty 10s, allow"},
			{"api=1 other=1", "penalty 10s, allow"},
			{"api=0 other=1", "penalty 10s, allow"},
		} {
			var got []string
			for _, row := range w.decide(w.charges(s.charges)...) {
				switch {
				case row.Allowed:
					got = append(got, "allow")
				case row.Reason == limit.ReasonPenalty:
					got = append(got, "penalty "+row.RetryAfter.String())
				default:
					got = append(got, "deny "+row.RetryAfter.String())
				}
			}
			if got := strings.Join(got, ", "); got != s.want {
				t.Fatalf("step %d: %s, want %s", i, got, s.want)
			}
		}
		if row := w.peek(w.charge("shop/other", 1)); !row.Allowed {
			t.Errorf("the other policy was charged: %+v", row)
		}
	})
}

func TestAPenaltyLivesAsLongAsItMatters(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", fixedWindow(1, 100*time.Millisecond))
		p.Penalty = &policy.Penalty{Denials: 2, WithinMs: 600_000, ForMs: 300_000, MaxMs: 3_600_000}
		w := start(t, mode, false, p)
		key := w.key("shop/api")
		for i, atLeast := range []time.Duration{10 * time.Minute, time.Hour + 5*time.Minute, time.Hour + 5*time.Minute} {
			w.act("charge 2")
			if left := w.ttl(key); left < atLeast-10*time.Second || left > 2*time.Hour+time.Minute {
				t.Errorf("denial %d: the counter has %v, want %v", i, left, atLeast)
			}
		}
		w.do("PERSIST", key)
		w.act("charge 2")
		if left := w.ttl(key); left < time.Hour || left > 2*time.Hour+time.Minute {
			t.Errorf("repaired: the counter has %v", left)
		}
	})
}

// Fault 59.
func TestAPenaltyThatIsNotOursCountsAsNone(t *testing.T) {
	// It would be a block until 10 s after t0.
	good := "0 1800000000000000 1800000010000000 10000000"
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, penalized())
		key := w.key("shop/api")
		for _, state := range []string{
			"", " ", "x", "0", good + " ", " " + good, good + " 1", strings.TrimSuffix(good, " 10000000"),
			"x 1800000000000000 1800000010000000 10000000", "0 x 1800000010000000 10000000", "0 1800000000000000 x 10000000",
			"0 1800000000000000 1800000010000000 x", "-1 1800000000000000 1800000010000000 10000000", "0 1e3 1800000010000000 10000000",
			"0 1800000000000000 9007199254740992 10000000", "0 1800000000000000 1800000010000000 99999999999999999999", strings.Repeat("9", 10_000),
		} {
			w.do("DEL", key)
			w.do("HSET", key, "!penalty", state)
			if got, want := w.act("charge 1"), "allow 0/1 reset 1s"; got != want {
				t.Errorf("%q: %s, want %s", state, got, want)
			}
		}
		w.do("DEL", key)
		w.do("HSET", key, "!penalty", good)
		if got, want := w.act("charge 1"), "deny 0/1 reset 1s retry 10s penalty"; got != want {
			t.Errorf("a good one: %s, want %s", got, want)
		}
		// Times that nothing of ours can have written are no longer than what can be.
		w.do("DEL", key)
		w.do("HSET", key, "!penalty", "9007199254740991 9007199254740991 9007199254740991 9007199254740991")
		if got, want := w.act("charge 1"), "deny 0/1 reset 1s retry 30s penalty"; got != want {
			t.Errorf("the largest one: %s, want %s", got, want)
		}
	})
}
