package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// ttl gives what a key has left.
func (w *world) ttl(key string) time.Duration {
	w.tb.Helper()
	left, err := w.client.PTTL(context.Background(), key).Result()
	if err != nil {
		w.tb.Fatal(err)
	}
	return left
}

func TestEveryKeyExpiresOnceItsStateDoesNotMatter(t *testing.T) {
	tests := map[string]struct {
		limits []policy.Limit
		// The counter has to live for atLeast, and should not for much longer.
		atLeast, atMost time.Duration
		wantLog         time.Duration
	}{
		"the current window":              {limits: []policy.Limit{fixedWindow(5, 744*time.Hour)}, atMost: 744*time.Hour + 2*time.Second},
		"a log":                           {limits: []policy.Limit{slidingLog(5, time.Hour)}, atLeast: time.Hour, atMost: 90 * time.Minute, wantLog: time.Hour},
		"a bucket":                        {limits: []policy.Limit{tokenBucket(1, time.Minute, 60)}, atLeast: time.Minute, atMost: time.Hour + 2*time.Second},
		"the longest of several":          {limits: []policy.Limit{named("a", slidingLog(5, time.Second)), slidingLog(5, 2*time.Hour), named("c", fixedWindow(5, time.Second))}, atLeast: 2 * time.Hour, atMost: 3 * time.Hour, wantLog: 2 * time.Hour},
		"a bucket that takes ages":        {limits: []policy.Limit{tokenBucket(1, 744*time.Hour, policy.MaxBurst(744*60*60*1000))}, atLeast: 744 * time.Hour, atMost: 2_502_000 * time.Hour},
		"both windows of a counter":       {limits: []policy.Limit{slidingCounter(5, time.Hour)}, atLeast: time.Hour, atMost: 2*time.Hour + 2*time.Second},
		"a month":                         {limits: []policy.Limit{calendarLimit(policy.CalendarMonth, "Europe/Berlin")}, atMost: 746 * time.Hour},
		"a counter and a short log":       {limits: []policy.Limit{slidingLog(5, time.Second), named("b", slidingCounter(5, 2*time.Hour))}, atLeast: 2 * time.Hour, atMost: 5 * time.Hour, wantLog: time.Second},
		"a bucket of the smallest window": {limits: []policy.Limit{tokenBucket(1, 100*time.Millisecond, 1)}, atMost: 2 * time.Second},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, false, one("shop/api", test.limits...))
				charge := w.charge("shop/api", 1)
				for i := range 3 {
					w.decide(charge)
					if left := w.ttl(charge.Key); left <= 0 || left < test.atLeast-time.Second || left > test.atMost {
						t.Errorf("call %d: counter has %v, want %v to %v", i, left, test.atLeast, test.atMost)
					}
					if test.wantLog == 0 {
						continue
					}
					log := w.ttl(redisops.LogKey(charge.Key, "default"))
					if log > test.wantLog || log < test.wantLog-time.Second || log > w.ttl(charge.Key) {
						t.Errorf("call %d: log has %v, want %v and less than the counter", i, log, test.wantLog)
					}
				}
			})
		})
	}
}

// Fault 30: an older bug, or somebody, left a key without TTL.
func TestAMissingTTLIsRepaired(t *testing.T) {
	tests := map[string]struct {
		limit policy.Limit
		cost  int64
		peek  bool
		want  bool
	}{
		"window, by a charge":  {limit: fixedWindow(5, 744*time.Hour), cost: 1, want: true},
		"window, by a denial":  {limit: fixedWindow(5, 744*time.Hour), cost: 9, want: true},
		"log, by a charge":     {limit: slidingLog(5, time.Hour), cost: 1, want: true},
		"log, by a denial":     {limit: slidingLog(5, time.Hour), cost: 9, want: true},
		"bucket, by a charge":  {limit: tokenBucket(5, time.Hour, 5), cost: 1, want: true},
		"bucket, by a denial":  {limit: tokenBucket(5, time.Hour, 5), cost: 9, want: true},
		"counter, by a charge": {limit: slidingCounter(5, time.Hour), cost: 1, want: true},
		"counter, by a denial": {limit: slidingCounter(5, time.Hour), cost: 9, want: true},
		"month, by a charge":   {limit: calendarLimit(policy.CalendarMonth, "UTC"), cost: 1, want: true},
		"month, by a denial":   {limit: calendarLimit(policy.CalendarMonth, "UTC"), cost: 9, want: true},
		"not by a peek":        {limit: slidingLog(5, time.Hour), cost: 1, peek: true},
		"not by only looking":  {limit: slidingLog(5, time.Hour), cost: 0},
		"of 0 requests":        {limit: fixedWindow(0, time.Hour), cost: 1, want: true},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				was := test.limit
				was.Requests = 5
				w := startOn(t, server, mode, false, one("shop/api", was))
				w.decide(w.charge("shop/api", 1))
				w.publish(one("shop/api", test.limit))
				charge := w.charge("shop/api", test.cost)
				keys := []string{charge.Key}
				if test.limit.Algorithm == policy.SlidingLog {
					keys = append(keys, redisops.LogKey(charge.Key, "default"))
				}
				for _, key := range keys {
					if w.do("PERSIST", key) != int64(1) {
						t.Fatalf("%s had no TTL before", key)
					}
				}
				limitRow(w, charge, test.peek)
				for _, key := range keys {
					if got := w.ttl(key) > 0; got != test.want {
						t.Errorf("%s has a TTL: %v, want %v", key, got, test.want)
					}
				}
			})
		})
	}
}

// A lowered rate makes a bucket's state matter for longer than its TTL was set for.
func TestTTLGrowsWithWhatTheStateNeeds(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", tokenBucket(1000, time.Hour, 1000)))
		charge := w.charge("shop/api", 10)
		w.decide(charge)
		w.publish(one("shop/api", tokenBucket(1, time.Hour, 1000)))
		w.decide(w.charge("shop/api", 10))
		if left := w.ttl(charge.Key); left < 20*time.Hour-time.Minute {
			t.Errorf("counter has %v, want at least 20 hours", left)
		}
	})
}

// Fault 29.
func TestAKeyOfAnotherTypeFailsOnlyItsOwnCharges(t *testing.T) {
	tests := map[string]struct {
		suffix string
		write  func(key string) []any
	}{
		"counter is a string": {"", func(key string) []any { return []any{"SET", key, "x"} }},
		"counter is a list":   {"", func(key string) []any { return []any{"RPUSH", key, "x"} }},
		"log is a string":     {":log", func(key string) []any { return []any{"SET", key, "x"} }},
		"log is a hash":       {":log", func(key string) []any { return []any{"HSET", key, "x", "y"} }},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		for _, several := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, several limits %v", name, several), func(t *testing.T) {
				inBothModes(t, func(t *testing.T, mode library.Mode) {
					limits := []policy.Limit{named("log", slidingLog(5, time.Hour))}
					if several {
						limits = append(limits, named("window", fixedWindow(5, 744*time.Hour)))
					}
					w := startOn(t, server, mode, false, one("shop/api", limits...), one("shop/other", fixedWindow(5, 744*time.Hour)))
					bad, good := w.charge("shop/api", 1), w.charge("shop/other", 1)
					w.do(test.write(bad.Key + test.suffix)...)
					before := w.dump()
					for _, charges := range [][]limit.Charge{{bad}, {good, bad}, {bad, good}} {
						_, err := w.limiter.Decide(context.Background(), charges)
						var wrong *limit.WrongTypeError
						if !errors.As(err, &wrong) || wrong.Key != bad.Key+test.suffix {
							t.Errorf("%d charges: %v, want a WrongTypeError of %s", len(charges), err, bad.Key+test.suffix)
						}
					}
					if _, err := w.limiter.Peek(context.Background(), []limit.Charge{bad}); err == nil {
						t.Error("peek did not fail")
					}
					if after := w.dump(); after != before {
						t.Errorf("wrote %s, before %s", after, before)
					}
					if rows := w.decide(good); rows[0].Remaining != 4 {
						t.Errorf("the other policy has %d left, want 4", rows[0].Remaining)
					}
				})
			})
		}
	}
}

// Fault 59: somebody writes our keys.
func TestStateThatIsNotOursStartsItsLimitAnew(t *testing.T) {
	states := []string{
		"", " ", "x", "F", "F60000", "F60000 ", "F60000 1800000000000", "F60000 1800000000000 ", "F60000 1800000000000 x",
		"F60000 1800000000000 -1", "F60000 1800000000000 1.5", "F60000 1800000000000 1e3", "F60000 1800000000000 0x1",
		"F60000 1800000000000 9007199254740992", "F60000 1800000000000 " + strings.Repeat("9", 400), "F60000 1800000000000 5 5",
		"F60000 1800000000000 5\n", " F60000 1800000000000 5", "F60000 9999999999999999 5", "F60000 x 5", "F60000 -1 5",
		"F60001 1800000000000 5", "F6000 1800000000000 5", "T60000 5 1800000000000000", "S60000 5 1800000000000000",
		"T60000 x 1800000000000000", "T60000 60000000", "T60000 60000000 x", "T60000 9007199254740992 1800000000000000",
		"T60000 60000000 9007199254740993", "T60000 -1 -1", "T60000 1e9 1e9", "T60000 60000000 1800000000000000 ",
		"S60000 x 1800000000000000", "S60000 1", "S60000 1 x", "S60000 9007199254740991 1800000000000000", "S60000 1 1 1",
		"S60000 99999999999999999999 1800000000000000", strings.Repeat("S60000 1 1", 1000),
		"C", "C60000", "C60000 1800000000000 5", "C60000 1800000000000 x 0", "C60000 1800000000000 5 x", "C60000 1800000000000 -1 0",
		"C60000 1800000000000 8589934593 0", "C60000 1800000000000 0 8589934593", "C60000 9007199254740992 5 5", "C60000 x 5 5",
		"C60000 1800000000000 5 5 5", "C60001 1800000000000 5 5", "C60000 1800000000000 5 5\n", "C60000 1799999880000 5 5",
		"C60000 1800000000000 5.0 5", "c60000 1800000000000 5 5", "F60000 1800000000000 5 5", "C60000 1800000000000 5 0",
		"K", "KDay", "KDay/UTC", "KDay/UTC 1799971200000", "KDay/UTC 1799971200000 x", "KDay/UTC 1799971200000 -1",
		"KDay/UTC 1799971200000 5 5", "KDay/UTC 1799971200000 9007199254740992", "KDay/UTC x 5", "KDay/UTC 9999999999999999999 5",
		"KDay/utc 1799971200000 5", "KWeek/UTC 1799971200000 5", "KDay/UTCx 1799971200000 5", "KDay 1799971200000 5",
		"F86400000 1799971200000 5", "KDay/UTC 1799884800000 5", "KDay/UTC 1799971200000 5",
		"B", "B ", "B x", "B -", "B --1", "B +1", "B 1.5", "B 1e3", "B 0x1", "B 9007199254740992", "B -9007199254740992", "B 5 5",
		"B  5", "B 5 ", "b 5", "B5", "N", "N 5", "B 5",
	}
	// What of these is a state of the algorithm after all.
	own := map[string]string{
		"window": "", "bucket": "T60000 5 1800000000000000", "log": "S60000 5 1800000000000000",
		"counter": "C60000 1800000000000 5 0", "day": "KDay/UTC 1799971200000 5", "balance": "B 5",
	}
	server := redistest.Start(t)
	for name, l := range map[string]policy.Limit{
		"window": fixedWindow(5, time.Minute), "bucket": tokenBucket(5, time.Minute, 5), "log": slidingLog(5, time.Minute),
		"counter": slidingCounter(5, time.Minute), "day": calendarLimit(policy.CalendarDay, "UTC"), "balance": balance(5),
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", l, named("other", fixedWindow(50, time.Minute))))
				charge := w.charge("shop/api", 2)
				log := redisops.LogKey(charge.Key, "default")
				for _, state := range states {
					if state == own[name] && state != "" {
						continue
					}
					w.do("DEL", charge.Key, log)
					w.do("HSET", charge.Key, "default", state, "other", "F60000 1800000000000 10")
					if l.Algorithm == policy.SlidingLog {
						w.do("ZADD", log, "1800000000000000", "1", "1800000000000000", "2", "1800000000000000", "3", "1800000000000000", "4")
					}
					if got, want := show(w.decide(charge)[0]), "allow 3/5 reset"; !strings.HasPrefix(got, want) {
						t.Errorf("%q: %s, want %s", state, got, want)
					}
					if got, want := w.do("HGET", charge.Key, "other"), "F60000 1800000000000 12"; got != want {
						t.Errorf("%q: the other limit is %q, want %q", state, got, want)
					}
					if got, want := show(w.decide(charge)[0]), "allow 1/5 reset"; !strings.HasPrefix(got, want) {
						t.Errorf("%q, then: %s, want %s", state, got, want)
					}
				}
			})
		})
	}
}

// What the lists above leave out: a state of each algorithm is one.
func TestStateThatIsOursIsTaken(t *testing.T) {
	server := redistest.Start(t)
	for name, test := range map[string]struct {
		limit       policy.Limit
		state, want string
	}{
		"window":                  {fixedWindow(5, time.Minute), "F60000 1800000000000 4", "allow 1/5 reset 1m0s"},
		"bucket":                  {tokenBucket(5, time.Minute, 5), "T60000 120000000 1800000000000000", "allow 3/5 reset 24s"},
		"counter":                 {slidingCounter(5, time.Minute), "C60000 1800000000000 1 3", "allow 1/5 reset 2m0s"},
		"counter of before":       {slidingCounter(5, time.Minute), "C60000 1799999940000 1 3", "allow 4/5 reset 1m0s"},
		"counter of long ago":     {slidingCounter(5, time.Minute), "C60000 1799999880000 1 3", "allow 5/5 reset 0s"},
		"counter of the future":   {slidingCounter(5, time.Minute), "C60000 1900000000000 1 3", "allow 1/5 reset 2m0s"},
		"counter with the most":   {slidingCounter(5, time.Minute), "C60000 1800000000000 8589934592 8589934592", "deny 0/5 reset 2m0s retry 2m0s"},
		"day":                     {calendarLimit(policy.CalendarDay, "UTC"), "KDay/UTC 1799971200000 4", "allow 1/5 reset 16h0m0s"},
		"day of the future":       {calendarLimit(policy.CalendarDay, "UTC"), "KDay/UTC 1800057600000 4", "allow 1/5 reset 16h0m0s"},
		"day of before":           {calendarLimit(policy.CalendarDay, "UTC"), "KDay/UTC 1799884800000 4", "allow 5/5 reset 0s"},
		"balance":                 {balance(5), "B 4", "allow 1/5 reset 0s"},
		"balance with credit":     {balance(5), "B -4", "allow 9/5 reset 0s"},
		"balance in debt":         {balance(5), "B 9007199254740991", "allow 0/5 reset 0s"},
		"balance beyond all else": {balance(5), "B -9007199254740991", "allow 9007199254740991/5 reset 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", test.limit))
				w.do("HSET", w.key("shop/api"), "default", test.state)
				if got := w.act("peek 0"); got != test.want {
					t.Errorf("%q: %s, want %s", test.state, got, test.want)
				}
			})
		})
	}
}

func TestALogIsWorthNothingWithoutItsCounter(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", slidingLog(5, time.Minute)))
		charge := w.charge("shop/api", 1)
		w.decide(w.charge("shop/api", 4))
		w.do("DEL", charge.Key)
		if got, want := show(w.decide(charge)[0]), "allow 4/5 reset 1m0s"; got != want {
			t.Errorf("after the loss of the counter: %s, want %s", got, want)
		}
		if n := w.do("ZCARD", redisops.LogKey(charge.Key, "default")); n != int64(1) {
			t.Errorf("the log has %d entries, want the new one", n)
		}
		w.do("DEL", redisops.LogKey(charge.Key, "default"))
		if got, want := show(w.decide(charge)[0]), "allow 4/5 reset 1m0s"; got != want {
			t.Errorf("after the loss of the log: %s, want %s", got, want)
		}
	})
}

// A log that somebody filled with more entries of the future than one command can re-date.
func TestManyEntriesOfTheFutureAreRedated(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", slidingLog(5, time.Minute)))
		charge := w.charge("shop/api", 1)
		log := redisops.LogKey(charge.Key, "default")
		w.do("HSET", charge.Key, "default", "S60000 9000 1900000000000000")
		w.do("EVAL", "for i = 1, 9000 do redis.call('ZADD', KEYS[1], 1900000000000000, i) end return 1", 1, log)
		if got, want := show(w.decide(charge)[0]), "deny 0/5 reset 1m0s retry 1m0s"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if n := w.do("ZCOUNT", log, "(1800000000000000", "+inf"); n != int64(0) {
			t.Errorf("%d entries lie in the future still", n)
		}
		w.steer(time.Minute)
		if got, want := show(w.decide(charge)[0]), "allow 4/5 reset 1m0s"; got != want {
			t.Errorf("a window later: %s, want %s", got, want)
		}
	})
}

// Fault 10: what Redis refuses for lack of memory has not written a part.
func TestOutOfMemoryWritesNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", slidingLog(5, time.Hour), named("b", slidingLog(5, time.Hour))))
		w.decide(w.charge("shop/api", 1))
		w.do("CONFIG", "SET", "maxmemory", "1")
		before := w.dump()
		_, err := w.limiter.Decide(context.Background(), []limit.Charge{w.charge("shop/api", 1)})
		if redisops.Classify(err) != redisops.OutOfMemory {
			t.Errorf("got %v, want %v", err, redisops.OutOfMemory)
		}
		if after := w.dump(); after != before {
			t.Errorf("wrote %s, before %s", after, before)
		}
		if row := w.peek(w.charge("shop/api", 1)); row.Remaining != 3 {
			t.Errorf("a peek has %d left, want 3: it needs no memory", row.Remaining)
		}
		w.do("CONFIG", "SET", "maxmemory", "0")
		if rows := w.decide(w.charge("shop/api", 1)); rows[0].Remaining != 3 {
			t.Errorf("with memory again %d left, want 3", rows[0].Remaining)
		}
	})
}

// Whose TTL is missing, or whose state lies in the future, is mended also by a call that another charge denies.
func TestADeniedCallMendsTheCountersThatHadRoom(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/a", fixedWindow(10, time.Minute)), one("shop/b", fixedWindow(0, time.Minute)))
		w.steer(time.Hour)
		w.decide(w.charge("shop/a", 4))
		w.do("PERSIST", w.key("shop/a"))
		w.steer(0)
		rows := w.decide(w.charge("shop/a", 1), w.charge("shop/b", 1))
		if rows[0].Remaining != 5 || rows[1].Allowed {
			t.Fatalf("%+v", rows)
		}
		if got, want := w.do("HGET", w.key("shop/a"), "default"), fmt.Sprintf("F60000 %d 4", t0/1000); got != want {
			t.Errorf("the state is %v, want %s: drawn near, and not charged", got, want)
		}
		if w.ttl(w.key("shop/a")) <= 0 {
			t.Error("there is no TTL still")
		}
	})
}

// A bucket that is whole needs no time, and gets a TTL all the same.
func TestARefundRepairsAMissingTTL(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", tokenBucket(10, 48*time.Hour, 10)))
		c := w.charge("shop/api", 5)
		w.decide(c)
		w.do("PERSIST", c.Key)
		if _, err := w.limiter.Refund(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		if w.ttl(c.Key) <= 0 {
			t.Error("there is no TTL still")
		}
	})
}

// Fault 59: whoever reads the row can tell that somebody else writes there, and a changed policy from that.
func TestAStateThatIsNotOursIsTold(t *testing.T) {
	server := redistest.Start(t)
	limits := map[string]policy.Limit{
		"log": slidingLog(5, time.Minute), "window": fixedWindow(5, time.Minute), "counter": slidingCounter(5, time.Minute),
		"bucket": tokenBucket(5, time.Minute, 5), "balance": balance(5),
	}
	for name, l := range limits {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				for _, policies := range []policy.RateLimit{one("shop/api", l), one("shop/api", l, named("other", fixedWindow(50, time.Minute)))} {
					w := startOn(t, server, mode, true, policies)
					c := w.charge("shop/api", 1)
					told := func(state string) bool {
						w.do("DEL", c.Key, redisops.LogKey(c.Key, "default"))
						w.do("HSET", c.Key, "default", state, "other", "F60000 1800000000000 1")
						if w.peek(c).Garbled {
							t.Errorf("%q: told by a peek, which replaces nothing", state)
						}
						return w.decide(c)[0].Garbled
					}
					for _, state := range []string{"rubbish", "", "F", "F60000 1800000000000 -1", "X60000 1 1"} {
						if !told(state) {
							t.Errorf("%q is not told", state)
						}
					}
					for _, state := range []string{
						"F1000 1800000000000 1", "S1000 1 1800000000000000", "T1000 1 1800000000000000", "C1000 1800000000000 1 1",
						"KDay/America/Port-au-Prince 1800000000000 1", "B -1", "N",
					} {
						if told(state) {
							t.Errorf("%q, which a changed policy leaves, is told", state)
						}
					}
				}
			})
		})
	}
}

func TestPeekAnswersOnAReplica(t *testing.T) {
	primary := start(t, library.ModeFunctions, false, one("shop/api", slidingLog(5, time.Hour), named("money", balance(9))))
	replica := redistest.Start(t, "--replicaof", strings.Replace(primary.server.Addr, ":", " ", 1))
	primary.decide(primary.charge("shop/api", 2))
	if n := primary.do("WAIT", 1, 10_000); n != int64(1) {
		t.Fatalf("%v replicas have the charge, want 1", n)
	}
	limiter := limit.New(direct{client: replica.Client()}, replica.Client(), library.ModeFunctions)
	rows, err := limiter.Peek(context.Background(), []limit.Charge{primary.charge("shop/api", 1)})
	if err != nil || rows[0].Remaining != 2 {
		t.Errorf("got %+v, %v, want 2 left", rows, err)
	}
	charge, slot := primary.charge("shop/api", 1), limit.Slot{Policy: primary.policies["shop/api"], Key: primary.key("shop/api"), ID: "a"}
	for name, call := range map[string]func() error{
		"decide": func() error { _, err := limiter.Decide(context.Background(), []limit.Charge{charge}); return err },
		"both": func() error {
			_, err := limiter.Decide(context.Background(), []limit.Charge{charge, charge})
			return err
		},
		"refund":  func() error { _, err := limiter.Refund(context.Background(), charge); return err },
		"credit":  func() error { _, err := limiter.Credit(context.Background(), charge); return err },
		"reset":   func() error { _, err := limiter.Reset(context.Background(), charge); return err },
		"acquire": func() error { _, err := limiter.AcquireSlot(context.Background(), slot); return err },
		"release": func() error { _, err := limiter.ReleaseSlot(context.Background(), slot); return err },
	} {
		if err := call(); redisops.Classify(err) != redisops.ReadOnly {
			t.Errorf("%s on a replica: %v, want %v", name, err, redisops.ReadOnly)
		}
	}
}
