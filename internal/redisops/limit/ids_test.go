package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// Fault 55.
func TestADecisionOfAnIDIsMadeOnce(t *testing.T) {
	twice := one("shop/api", fixedWindow(10, time.Hour))
	twice.Penalty = &policy.Penalty{Denials: 2, WithinMs: 60_000, ForMs: 60_000, MaxMs: 60_000}
	raised := one("shop/api", fixedWindow(100, time.Hour))
	tests := map[string]struct {
		policy policy.RateLimit
		acts   []act
	}{
		"the same row for a minute, then anew": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "charge 2", want: "allow 5/10 reset 1h0m0s"},
			{at: 30 * time.Second, do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{at: 60*time.Second - time.Microsecond, do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{at: 60*time.Second - time.Microsecond, do: "charge 0", want: "allow 5/10 reset 59m0.001s"},
			{at: 60 * time.Second, do: "charge 3 #a", want: "allow 2/10 reset 59m0s"},
			{at: 60 * time.Second, do: "charge 0", want: "allow 2/10 reset 59m0s"},
		}},
		"another cost does not make it another decision": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "charge 9 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "charge 0 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "peek 5 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "charge 3 #A", want: "allow 4/10 reset 1h0m0s"},
		}},
		"a changed policy does not either": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{change: raised, do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "charge 3 #b", want: "allow 94/100 reset 1h0m0s"},
		}},
		"a denial, which charged nothing, is decided anew": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 11 #a", want: "deny 10/10 reset 0s retry 1h0m0s"},
			{at: time.Second, do: "charge 1 #a", want: "allow 9/10 reset 59m59s"},
			{at: time.Second, do: "charge 1 #a", want: "allow 9/10 reset 59m59s"},
		}},
		"a denial that somebody has made room for": {one("shop/api", balance(2)), []act{
			{do: "charge 5 #a", want: "deny 2/2 reset 0s retry 1m0s"},
			{do: "credit 10", want: "allow 12/2 reset 0s"},
			{do: "charge 5 #a", want: "allow 7/2 reset 0s"},
		}},
		"a denial that a penalty counts is counted once": {twice, []act{
			{do: "charge 11 #a", want: "deny 10/10 reset 0s retry 1h0m0s"},
			{at: time.Second, do: "charge 11 #a", want: "deny 10/10 reset 0s retry 1h0m0s"},
			{at: time.Second, do: "charge 0", want: "allow 10/10 reset 0s"},
			{at: time.Second, do: "charge 11 #b", want: "deny 0/10 reset 0s retry 1h0m0s penalty"},
			{at: time.Second, do: "reset", want: "allow 10/10 reset 0s"},
			{at: time.Second, do: "charge 1 #b", want: "allow 9/10 reset 59m59s"},
		}},
		"looking leaves no record": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 0 #a", want: "allow 10/10 reset 0s"},
			{do: "peek 5 #a", want: "allow 5/10 reset 1h0m0s"},
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
		}},
		"the clock goes back": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{at: time.Hour, do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{at: 0, do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{at: 0, do: "charge 0", want: "allow 7/10 reset 1h0m0s"},
		}},
		"the largest integers": {one("shop/api", balance(maxInteger)), []act{
			{do: "charge 1 #" + strings.Repeat("~", 128), want: "allow 9007199254740990/9007199254740991 reset 0s"},
			{do: "charge 1 #" + strings.Repeat("~", 128), want: "allow 9007199254740990/9007199254740991 reset 0s"},
			{do: "charge 9007199254740990 #b", want: "allow 0/9007199254740991 reset 0s"},
			{do: "refund 9007199254740990 #b", want: "allow 9007199254740990/9007199254740991 reset 0s"},
		}},
		"several limits, with logs": {one("shop/api", named("a", slidingLog(5, time.Minute)), named("b", slidingLog(9, time.Hour)), named("c", fixedWindow(9, time.Hour))), []act{
			{do: "charge 3 #a", want: "allow 2/5 reset 1m0s"},
			{do: "charge 3 #a", want: "allow 2/5 reset 1m0s"},
			{do: "charge 2 #b", want: "allow 0/5 reset 1m0s"},
			{do: "charge 2 #b", want: "allow 0/5 reset 1m0s"},
		}},
		"a reset forgets it": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "reset", want: "allow 10/10 reset 0s"},
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{do: "charge 0", want: "allow 7/10 reset 1h0m0s"},
		}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				startOn(t, server, mode, true, test.policy).playOne(t, test.acts)
			})
		})
	}
}

func TestARepeatedRowIsTheSameButNotNew(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", fixedWindow(10, time.Hour))
		p.Descriptors = []policy.Descriptor{{Key: "user"}}
		p.Overrides = []policy.Override{{Values: []string{"bob"}, Limits: []policy.Limit{named("of-bob", fixedWindow(5, time.Hour))}}}
		w := start(t, mode, true, p)
		for _, do := range []string{"charge 2 #a", "charge 6 #b"} {
			first, err := w.try(do, "bob")
			if err != nil {
				t.Fatal(err)
			}
			if first.New != first.Allowed || first.Override != 1 || first.LimitName != "of-bob" {
				t.Errorf("%s: %+v", do, first)
			}
			first.New = false
			if again, err := w.try(do, "bob"); err != nil || again != first {
				t.Errorf("%s again: %+v, %v, want %+v", do, again, err, first)
			}
		}
	})
}

// A record lives for a minute. That of a denial, where a penalty counts them, ends when the same call can succeed.
func TestRecordsExpire(t *testing.T) {
	penalized := one("shop/api", tokenBucket(60, time.Minute, 10))
	penalized.Penalty = &policy.Penalty{Denials: 1, WithinMs: 1000, ForMs: 30_000, MaxMs: 30_000}
	// Penalties that count and never come.
	counted, hourly, shadow := one("shop/api", tokenBucket(60, time.Minute, 30)), one("shop/api", fixedWindow(10, time.Hour)), one("shop/api", fixedWindow(0, time.Second))
	never := &policy.Penalty{Denials: 100, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
	counted.Penalty, hourly.Penalty, shadow.Penalty, shadow.ShadowPercent = never, never, never, 100
	tests := map[string]struct {
		policy          policy.RateLimit
		before, do      string
		suffix          string
		atLeast, atMost time.Duration
	}{
		"a charge":                      {one("shop/api", fixedWindow(10, 100*time.Millisecond)), "charge 0", "charge 3 #a", "#a", 50 * time.Second, time.Minute},
		"a denial for 20 s":             {counted, "charge 30", "charge 20 #a", "#a", 10 * time.Second, 20 * time.Second},
		"a denial for an hour":          {hourly, "charge 0", "charge 11 #a", "#a", 50 * time.Second, time.Minute},
		"a block":                       {penalized, "charge 10", "charge 1 #a", "#a", 20 * time.Second, 30 * time.Second},
		"what shadow allows":            {shadow, "charge 0", "charge 1 #a", "#a", 50 * time.Second, time.Minute},
		"a credit":                      {one("shop/api", balance(1)), "charge 0", "credit 3 #a", "+a", 50 * time.Second, time.Minute},
		"a credit to whom nothing left": {one("shop/api", balance(1), named("b", fixedWindow(0, time.Hour))), "charge 0", "credit 3 #a", "+a", 50 * time.Second, time.Minute},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, test.policy)
				w.act(test.before)
				w.act(test.do)
				// See steering for the hour.
				if left := w.ttl(w.key("shop/api")+test.suffix) - time.Hour; left < test.atLeast || left > test.atMost {
					t.Errorf("the record has %v, want %v to %v", left, test.atLeast, test.atMost)
				}
			})
		})
	}
}

// Fault 59: somebody writes our keys.
func TestARecordThatIsNotOursCountsAsNone(t *testing.T) {
	good := "1800000000000000 3 1 10 1 60000 0 ok 0 default"
	records := []string{
		"", " ", "x", "1800000000000000", " " + good, "x" + good, strings.Replace(good, " ", "  ", 1),
		"1799999940000000 3 1 10 1 60000 0 ok 0 default", "9007199254740992 3 1 10 1 60000 0 ok 0 default",
		"-1 3 1 10 1 60000 0 ok 0 default", "1800000000000000 x 1 10 1 60000 0 ok 0 default",
		"1800000000000000 -3 1 10 1 60000 0 ok 0 default", "1800000000000000 1e3 1 10 1 60000 0 ok 0 default",
		"1800000000000000 9007199254740992 1 10 1 60000 0 ok 0 default", "1800000000000000 3 2 10 1 60000 0 ok 0 default",
		"1800000000000000 3 1 -2 1 60000 0 ok 0 default", "1800000000000000 3 1 9007199254740992 1 60000 0 ok 0 default",
		"1800000000000000 3 1 10 -1 60000 0 ok 0 default", "1800000000000000 3 1 10 1 0x10 0 ok 0 default",
		"1800000000000000 3 1 10 1 99999999999999999 0 ok 0 default", "1800000000000000 3 1 10 1 60000 -1 ok 0 default",
		"1800000000000000 3 1 10 1 60000 0 OK 0 default", "1800000000000000 3 1 10 1 60000 0  0 default",
		"1800000000000000 3 1 10 1 60000 0 ok -1 default", "1800000000000000 3 1 10 1 60000 0 ok x default",
		// A denial that ends at once, or an allowance that asks to wait.
		"1800000000000000 0 0 10 1 60000 0 limit 0 default", "1800000000000000 3 1 10 1 60000 5 ok 0 default",
		strings.Repeat("9 ", 1000),
	}
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", fixedWindow(10, time.Minute)), one("shop/money", balance(10)))
		record := w.key("shop/api") + "#a"
		for _, text := range records {
			w.do("DEL", w.key("shop/api"))
			w.do("SET", record, text)
			if got, want := w.act("refund 1 #a"), "allow 10/10 reset 0s absent"; got != want {
				t.Errorf("%q, refund: %s, want %s", text, got, want)
			}
			if got, want := w.act("charge 3 #a"), "allow 7/10 reset 1m0s"; got != want {
				t.Errorf("%q, charge: %s, want %s", text, got, want)
			}
			if got, want := w.act("charge 3 #a"), "allow 7/10 reset 1m0s"; got != want {
				t.Errorf("%q, charge again: %s, want %s", text, got, want)
			}
			w.do("DEL", w.key("shop/money"))
			w.do("SET", w.key("shop/money")+"+a", text)
			credit := w.charge("shop/money", 3)
			credit.ID = "a"
			if row, err := w.limiter.Credit(context.Background(), credit); err != nil || row.Remaining != 13 {
				t.Errorf("%q, credit: %+v, %v, want 13 left", text, row, err)
			}
		}
		w.do("SET", record, good)
		if got, want := w.act("charge 5 #a"), "allow 1/10 reset 1m0s"; got != want {
			t.Errorf("a good one: %s, want %s", got, want)
		}
	})
}

// idStep is one call with several charges, <policy>=<cost>[#<id>] …, and what is left of each policy afterwards.
type idStep struct {
	at            time.Duration
	charges, want string
	wantLeft      string
}

func TestChargesOfOneCallAreRepeatedByTheirIDs(t *testing.T) {
	tests := map[string][]idStep{
		"all again": {
			{charges: "a=1#x b=2#x", want: "allow 9/10, allow 8/10", wantLeft: "9 8 10"},
			{charges: "a=1#x b=2#x", want: "allow 9/10, allow 8/10", wantLeft: "9 8 10"},
		},
		"a part again": {
			{charges: "a=1#x", want: "allow 9/10", wantLeft: "9 10 10"},
			{charges: "a=1#x b=2#x log=3#x", want: "allow 9/10, allow 8/10, allow 7/10", wantLeft: "9 8 7"},
			{charges: "log=3#x a=2#y", want: "allow 7/10, allow 7/10", wantLeft: "7 8 7"},
		},
		"one is denied: the others are not remembered": {
			{charges: "a=1#x b=11#x", want: "allow 9/10, deny 10/10", wantLeft: "10 10 10"},
			{charges: "a=3#x", want: "allow 7/10", wantLeft: "7 10 10"},
			{charges: "a=3#y b=11#x", want: "allow 4/10, deny 10/10", wantLeft: "7 10 10"},
			{charges: "a=3#y b=1#x", want: "allow 4/10, allow 9/10", wantLeft: "4 9 10"},
		},
		"a remembered allowance, and a denial beside it": {
			{charges: "a=4#x", want: "allow 6/10", wantLeft: "6 10 10"},
			{charges: "a=4#x b=11", want: "allow 6/10, deny 10/10", wantLeft: "6 10 10"},
		},
		"one key, several ids": {
			{charges: "a=4#x a=4#y", want: "allow 6/10, allow 2/10", wantLeft: "2 10 10"},
			{charges: "a=4#y a=4#x a=1#z", want: "allow 2/10, allow 6/10, allow 1/10", wantLeft: "1 10 10"},
			{charges: "a=4#y a=4#w", want: "allow 2/10, deny 1/10", wantLeft: "1 10 10"},
		},
		"one id on several keys": {
			{charges: "a=4#x b=4#x", want: "allow 6/10, allow 6/10", wantLeft: "6 6 10"},
			{charges: "b=4#x", want: "allow 6/10", wantLeft: "6 6 10"},
		},
		"with and without": {
			{charges: "log=2 log=3#x log=1 log=2#y", want: "allow 8/10, allow 5/10, allow 4/10, allow 2/10", wantLeft: "10 10 2"},
			{charges: "log=3#x log=1", want: "allow 5/10, allow 1/10", wantLeft: "10 10 1"},
		},
		"looking leaves no record": {
			{charges: "a=0#x b=1", want: "allow 10/10, allow 9/10", wantLeft: "10 9 10"},
			{charges: "a=3#x b=1", want: "allow 7/10, allow 8/10", wantLeft: "7 8 10"},
		},
		"a minute later": {
			{charges: "a=1#x b=1#x", want: "allow 9/10, allow 9/10", wantLeft: "9 9 10"},
			{at: time.Minute, charges: "a=1#x b=1#x", want: "allow 8/10, allow 8/10", wantLeft: "8 8 10"},
		},
		"a call of one and one of many know each other": {
			{charges: "a=1#x b=1#y", want: "allow 9/10, allow 9/10", wantLeft: "9 9 10"},
			{charges: "a=1#x", want: "allow 9/10", wantLeft: "9 9 10"},
			{charges: "b=1#y", want: "allow 9/10", wantLeft: "9 9 10"},
		},
	}
	server := redistest.Start(t)
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/a", fixedWindow(10, time.Hour)), one("shop/b", fixedWindow(10, time.Hour)), one("shop/log", slidingLog(10, time.Hour)))
				for i, s := range steps {
					w.steer(s.at)
					charges := w.charges(s.charges)
					var got []string
					for c, row := range w.decide(charges...) {
						text, _, _ := strings.Cut(show(row), " reset")
						got = append(got, text)
						if row.ID != charges[c].ID {
							t.Errorf("step %d: row %d has the id %q", i, c, row.ID)
						}
					}
					var left []string
					for _, name := range []string{"shop/a", "shop/b", "shop/log"} {
						left = append(left, fmt.Sprint(w.peek(w.charge(name, 0)).Remaining))
					}
					if got, left := strings.Join(got, ", "), strings.Join(left, " "); got != s.want || left != s.wantLeft {
						t.Fatalf("step %d: %s, %s left, want %s, %s left", i, got, left, s.want, s.wantLeft)
					}
				}
			})
		})
	}
}

// charges reads <policy>=<cost>[#<id>] ….
func (w *world) charges(text string) []limit.Charge {
	w.tb.Helper()
	var charges []limit.Charge
	for word := range strings.FieldsSeq(text) {
		name, rest, _ := strings.Cut(word, "=")
		number, id, _ := strings.Cut(rest, "#")
		var cost int64
		if _, err := fmt.Sscan(number, &cost); err != nil {
			w.tb.Fatal(err)
		}
		charge := w.charge("shop/"+name, cost)
		charge.ID = id
		charges = append(charges, charge)
	}
	return charges
}

// Entries that one call writes for several ids are told apart.
func TestChargesOfOneCallAreRefundedByTheirIDs(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", slidingLog(20, time.Minute)))
		w.decide(w.charges("api=5 api=3#x api=2 api=4#y")...)
		w.playOne(t, []act{
			{do: "refund 3 #x", want: "allow 9/20 reset 1m0s"},
			{do: "refund 4 #y", want: "allow 13/20 reset 1m0s"},
			{do: "refund 7", want: "allow 20/20 reset 0s"},
		})
	})
}

func TestManyCallersOfOneIDAreChargedOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", fixedWindow(100, 744*time.Hour)))
		charge := w.charge("shop/api", 7)
		charge.ID = "a"
		var running sync.WaitGroup
		var fresh atomic.Int64
		for range 20 {
			running.Go(func() {
				rows, err := w.limiter.Decide(context.Background(), []limit.Charge{charge})
				if err != nil || rows[0].Remaining != 93 {
					t.Errorf("%+v, %v, want 93 left", rows, err)
				} else if rows[0].New {
					fresh.Add(1)
				}
			})
		}
		running.Wait()
		if row := w.peek(w.charge("shop/api", 0)); row.Remaining != 93 || fresh.Load() != 1 {
			t.Errorf("%d left, new %d times, want 93 and once", row.Remaining, fresh.Load())
		}
	})
}

// What a record of another type is in the way of is not charged, even in part.
func TestARecordOfAnotherTypeFailsTheWholeCall(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/a", fixedWindow(10, time.Hour)), one("shop/b", fixedWindow(10, time.Hour)))
		key := w.key("shop/b") + "#x"
		w.do("HSET", key, "x", "y")
		before := w.dump()
		_, err := w.limiter.Decide(context.Background(), w.charges("a=1#x b=1#x"))
		var wrong *limit.WrongTypeError
		if !errors.As(err, &wrong) || wrong.Key != key {
			t.Errorf("%v, want a WrongTypeError of %s", err, key)
		}
		if after := w.dump(); after != before {
			t.Errorf("wrote %s, before %s", after, before)
		}
	})
}
