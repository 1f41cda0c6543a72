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
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestSlots(t *testing.T) {
	slots := func(n int64, ttl time.Duration) policy.RateLimit { return one("shop/api", concurrency(n, ttl)) }
	shadow := slots(1, time.Minute)
	shadow.ShadowPercent = 100
	tests := map[string]struct {
		policy policy.RateLimit
		acts   []act
	}{
		"as many as there are, and one more when one is released": {slots(2, time.Minute), []act{
			{do: "acquire #a", want: "allow 1/2 reset 1m0s"},
			{at: time.Second, do: "acquire #b", want: "allow 0/2 reset 1m0s"},
			{at: 2 * time.Second, do: "acquire #c", want: "deny 0/2 reset 59s retry 58s"},
			{at: 2 * time.Second, do: "release #a", want: "allow 1/2 reset 59s"},
			{at: 2 * time.Second, do: "acquire #c", want: "allow 0/2 reset 1m0s"},
			{at: 2 * time.Second, do: "acquire #a", want: "deny 0/2 reset 1m0s retry 59s"},
		}},
		"what is released is released once": {slots(2, time.Minute), []act{
			{do: "release #a", want: "allow 2/2 reset 0s absent"},
			{do: "acquire #a", want: "allow 1/2 reset 1m0s"},
			{do: "release #b", want: "allow 1/2 reset 1m0s absent"},
			{do: "release #a", want: "allow 2/2 reset 0s"},
			{do: "release #a", want: "allow 2/2 reset 0s absent"},
		}},
		"who holds a slot holds it for longer, also when none is left": {slots(1, time.Minute), []act{
			{do: "acquire #a", want: "allow 0/1 reset 1m0s"},
			{at: 50 * time.Second, do: "acquire #a", want: "allow 0/1 reset 1m0s"},
			{at: 109 * time.Second, do: "acquire #b", want: "deny 0/1 reset 1s retry 1s"},
			{at: 110 * time.Second, do: "acquire #b", want: "allow 0/1 reset 1m0s"},
		}},
		"who holds a slot may hold it for less": {slots(1, time.Minute), []act{
			{do: "acquire #a", want: "allow 0/1 reset 1m0s"},
			{do: "acquire #a 10s", want: "allow 0/1 reset 10s"},
			{at: 5 * time.Second, do: "acquire #b", want: "deny 0/1 reset 5s retry 5s"},
			{at: 10 * time.Second, do: "acquire #b 1ms", want: "allow 0/1 reset 1ms"},
		}},
		"a slot that is not released expires": {slots(1, time.Minute), []act{
			{do: "acquire #a 20s", want: "allow 0/1 reset 20s"},
			{at: 20*time.Second - time.Microsecond, do: "acquire #b", want: "deny 0/1 reset 1ms retry 1ms"},
			{at: 20 * time.Second, do: "release #a", want: "allow 1/1 reset 0s absent"},
			{at: 20 * time.Second, do: "acquire #b", want: "allow 0/1 reset 1m0s"},
			{at: 80 * time.Second, do: "acquire #b", want: "allow 0/1 reset 1m0s"},
		}},
		"no slot is held for longer than the policy lets it": {slots(2, time.Minute), []act{
			{do: "acquire #a 2h", want: "allow 1/2 reset 1m0s"},
			{at: time.Minute, do: "acquire #b 1h", want: "allow 1/2 reset 1m0s"},
			{at: time.Minute, do: "acquire #b 2501999h", want: "allow 1/2 reset 1m0s"},
		}},
		"retry is when the first slots expire, whoever came first": {slots(2, time.Minute), []act{
			{do: "acquire #a 50s", want: "allow 1/2 reset 50s"},
			{do: "acquire #b 20s", want: "allow 0/2 reset 50s"},
			{do: "acquire #c", want: "deny 0/2 reset 50s retry 20s"},
		}},
		"the clock goes back": {slots(2, time.Minute), []act{
			{at: time.Hour, do: "acquire #a", want: "allow 1/2 reset 1m0s"},
			{at: time.Hour, do: "acquire #b", want: "allow 0/2 reset 1m0s"},
			{at: 0, do: "acquire #c", want: "deny 0/2 reset 1m0s retry 1m0s"},
			{at: 59 * time.Second, do: "acquire #c", want: "deny 0/2 reset 1s retry 1s"},
			{at: time.Minute, do: "acquire #c", want: "allow 1/2 reset 1m0s"},
		}},
		"the clock goes back before an acquisition": {slots(2, time.Minute), []act{
			{at: time.Hour, do: "acquire #a", want: "allow 1/2 reset 1m0s"},
			{at: 0, do: "acquire #b 10s", want: "allow 0/2 reset 1m0s"},
			{at: 10 * time.Second, do: "release #b", want: "allow 1/2 reset 50s absent"},
			{at: time.Minute, do: "acquire #c", want: "allow 1/2 reset 1m0s"},
		}},
		"the clock goes back before a release": {slots(2, time.Minute), []act{
			{at: time.Hour, do: "acquire #a", want: "allow 1/2 reset 1m0s"},
			{at: time.Hour, do: "acquire #b", want: "allow 0/2 reset 1m0s"},
			{at: 0, do: "release #a", want: "allow 1/2 reset 1m0s"},
		}},
		"a lowered slotTTL holds for slots that are held": {slots(1, time.Hour), []act{
			{do: "acquire #a", want: "allow 0/1 reset 1h0m0s"},
			{change: slots(1, time.Minute), do: "acquire #b", want: "deny 0/1 reset 1m0s retry 1m0s"},
			{at: 30 * time.Second, do: "acquire #b", want: "deny 0/1 reset 30s retry 30s"},
			{at: time.Minute, do: "acquire #b", want: "allow 0/1 reset 1m0s"},
		}},
		"lowered slots end by and by": {slots(3, time.Minute), []act{
			{do: "acquire #a 10s", want: "allow 2/3 reset 10s"},
			{do: "acquire #b 20s", want: "allow 1/3 reset 20s"},
			{do: "acquire #c 30s", want: "allow 0/3 reset 30s"},
			{change: slots(1, time.Minute), do: "acquire #d", want: "deny 0/1 reset 30s retry 30s"},
			{do: "acquire #a 40s", want: "allow 0/1 reset 40s"},
			{do: "release #a", want: "allow 0/1 reset 30s"},
			{at: 20 * time.Second, do: "acquire #d", want: "deny 0/1 reset 10s retry 10s"},
			{at: 30 * time.Second, do: "acquire #d", want: "allow 0/1 reset 1m0s"},
		}},
		"raised slots are there at once": {slots(1, time.Minute), []act{
			{do: "acquire #a", want: "allow 0/1 reset 1m0s"},
			{change: slots(2, time.Minute), do: "acquire #b", want: "allow 0/2 reset 1m0s"},
		}},
		"no slots at all": {slots(0, time.Minute), []act{
			{do: "acquire #a", want: "deny 0/0 reset 0s retry 1m0s blocked"},
			{do: "release #a", want: "allow 0/0 reset 0s absent"},
			{change: slots(1, time.Minute), do: "acquire #a 50s", want: "allow 0/1 reset 50s"},
			{change: slots(0, time.Minute), do: "acquire #b", want: "deny 0/0 reset 50s retry 1m0s blocked"},
			{do: "acquire #a 20s", want: "allow 0/0 reset 20s"},
			{do: "release #a", want: "allow 0/0 reset 0s"},
		}},
		"in shadow nobody is denied, and only as many are held": {shadow, []act{
			{do: "acquire #a", want: "allow 0/1 reset 1m0s"},
			{do: "acquire #b", want: "allow 0/1 reset 1m0s shadow"},
			{do: "release #b", want: "allow 0/1 reset 1m0s absent"},
			{do: "release #a", want: "allow 1/1 reset 0s"},
		}},
		"in shadow, without slots": {func() policy.RateLimit { p := shadow; p.Limits = slots(0, time.Minute).Limits; return p }(), []act{
			{do: "acquire #a", want: "allow 0/0 reset 0s shadow"},
		}},
		"another algorithm before": {one("shop/api", slidingLog(5, time.Minute)), []act{
			{do: "charge 5", want: "allow 0/5 reset 1m0s"},
			{change: slots(2, time.Minute), do: "release #1", want: "allow 2/2 reset 0s absent"},
			{do: "acquire #a", want: "allow 1/2 reset 1m0s"},
			{do: "acquire #b", want: "allow 0/2 reset 1m0s"},
			{do: "acquire #c", want: "deny 0/2 reset 1m0s retry 1m0s"},
			{change: one("shop/api", slidingLog(5, time.Minute)), do: "charge 5", want: "allow 0/5 reset 1m0s"},
		}},
		"any visible id": {slots(2, time.Minute), []act{
			{do: "acquire #(+inf", want: "allow 1/2 reset 1m0s"},
			{do: "acquire #" + strings.Repeat("~", 128), want: "allow 0/2 reset 1m0s"},
			{do: "acquire #(+inf", want: "allow 0/2 reset 1m0s"},
			{do: "release #(+inf", want: "allow 1/2 reset 1m0s"},
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

func TestARowOfASlotHasItsIDAndIsNewOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", concurrency(1, time.Minute)))
		for i, a := range []struct {
			do, wantReason string
			wantNew        bool
		}{
			{"release #a", limit.ReasonAbsent, false}, {"acquire #a", limit.ReasonOK, true}, {"acquire #a", limit.ReasonOK, false},
			{"acquire #b", limit.ReasonLimit, false}, {"release #a", limit.ReasonOK, false},
		} {
			row, err := w.try(a.do)
			id := a.do[len(a.do)-1:]
			if err != nil || row.ID != id || row.New != a.wantNew || row.LimitName != "default" || row.Reason != a.wantReason {
				t.Errorf("act %d, %s: %+v, %v", i, a.do, row, err)
			}
		}
	})
}

func TestSlotsOfAnUnlimitedOverrideAreNotCounted(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", concurrency(1, time.Minute))
		p.Descriptors = []policy.Descriptor{{Key: "user"}}
		p.Overrides = []policy.Override{
			{Values: []string{"root"}, Unlimited: true},
			{Values: []string{"team"}, Limits: []policy.Limit{named("of-teams", concurrency(2, 10*time.Second))}},
		}
		w := start(t, mode, true, p)
		w.playOne(t, []act{
			{do: "acquire #a", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{do: "acquire #b", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{do: "release #c", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{do: "reset", want: "allow 9007199254740991/-1 reset 0s override 1"},
		}, "root")
		if dump := w.dump(); dump != "" {
			t.Errorf("wrote %s", dump)
		}
		w.playOne(t, []act{
			{do: "acquire #a", want: "allow 1/2 reset 10s override 2"},
			{do: "acquire #b", want: "allow 0/2 reset 10s override 2"},
			{do: "acquire #c", want: "deny 0/2 reset 10s retry 10s override 2"},
		}, "team")
		if n := w.do("ZCARD", redisops.LogKey(w.key("shop/api", "team"), "of-teams")); n != int64(2) {
			t.Errorf("%v slots stand at the key of the override's limit, want 2", n)
		}
		w.playOne(t, []act{{do: "acquire #a", want: "allow 0/1 reset 1m0s"}, {do: "acquire #b", want: "deny 0/1 reset 1m0s retry 1m0s"}}, "bob")
	})
}

// Faults 30 and 59: what stands at the keys and is not ours counts as nothing, and a missing TTL is repaired.
func TestWhatIsNotASlotCountsAsNone(t *testing.T) {
	server := redistest.Start(t)
	for name, state := range map[string]string{
		"no state": "", "another algorithm's": "S60000 3 1800000000000000", "nearly ours": "N ", "lower case": "n", "more": "N 1",
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", concurrency(2, time.Minute)))
				key := w.key("shop/api")
				log := redisops.LogKey(key, "default")
				if state != "" {
					w.do("HSET", key, "default", state)
				}
				w.do("ZADD", log, "1800000050000000", "a", "1800000050000000", "b", "1800000050000000", "c")
				w.playOne(t, []act{
					{do: "release #a", want: "allow 2/2 reset 0s absent"},
					{do: "acquire #a", want: "allow 1/2 reset 1m0s"},
					{do: "acquire #b", want: "allow 0/2 reset 1m0s"},
					{do: "acquire #c", want: "deny 0/2 reset 1m0s retry 1m0s"},
				})
				if n := w.do("ZCARD", log); n != int64(2) {
					t.Errorf("%v slots, want 2", n)
				}
			})
		})
	}
}

func TestSlotsLiveAsLongAsTheyAreHeld(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", concurrency(2, time.Hour)))
		key := w.key("shop/api")
		log := redisops.LogKey(key, "default")
		between := func(what string, atLeast, atMost time.Duration) {
			t.Helper()
			counter, slots := w.ttl(key), w.ttl(log)
			if counter < atLeast-5*time.Second || counter > atMost+5*time.Second || slots > counter || slots < atLeast-5*time.Second {
				t.Errorf("%s: the counter has %v, the slots %v, want %v to %v", what, counter, slots, atLeast, atMost)
			}
		}
		w.act("acquire #a 10m")
		between("one slot", 10*time.Minute, 10*time.Minute)
		w.act("acquire #b 20m")
		between("a longer one", 20*time.Minute, 20*time.Minute)
		w.act("acquire #a 1m")
		between("a shorter one", 20*time.Minute, 20*time.Minute)
		for _, do := range []string{"acquire #c", "acquire #a 5m"} {
			w.do("PERSIST", key)
			w.do("PERSIST", log)
			w.act(do)
			between("without TTL, "+do, 5*time.Minute, time.Hour)
		}
		w.act("release #a")
		w.act("release #b")
		if n := w.do("EXISTS", log); n != int64(0) {
			t.Error("there are slots still")
		}
	})
}

// Fault 29.
func TestAKeyOfAnotherTypeFailsItsSlots(t *testing.T) {
	server := redistest.Start(t)
	for _, suffix := range []string{"", ":default"} {
		inBothModes(t, func(t *testing.T, mode library.Mode) {
			w := startOn(t, server, mode, false, one("shop/api", concurrency(2, time.Hour)))
			key := w.key("shop/api") + suffix
			w.do("SET", key, "x")
			before := w.dump()
			for _, do := range []string{"acquire #a", "release #a"} {
				row, err := w.try(do)
				var wrong *limit.WrongTypeError
				if !errors.As(err, &wrong) || wrong.Key != key {
					t.Errorf("%s: %+v, %v, want a WrongTypeError of %s", do, row, err, key)
				}
			}
			if after := w.dump(); after != before {
				t.Errorf("wrote %s, before %s", after, before)
			}
		})
	}
}

// A policy's slots that somebody lets expire far in the future, more of them than one command can shorten.
func TestManySlotsOfTheFutureAreShortened(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", concurrency(100_000, time.Minute)))
		key := w.key("shop/api")
		w.do("HSET", key, "default", "N")
		w.do("EVAL", "for i = 1, 2500 do redis.call('ZADD', KEYS[1], 1900000000000000, i) end return 1", 1, redisops.LogKey(key, "default"))
		w.playOne(t, []act{
			{do: "acquire #a", want: "allow 97499/100000 reset 1m0s"},
			{at: time.Minute, do: "acquire #a", want: "allow 99999/100000 reset 1m0s"},
		})
	})
}

func TestConcurrentCallersNeverHoldMoreSlotsThanThereAre(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		const slots, callers, each = 5, 20, 10
		w := start(t, mode, false, one("shop/api", concurrency(slots, time.Hour)))
		charge := w.charge("shop/api", 0)
		var held, most, granted atomic.Int64
		var running sync.WaitGroup
		for caller := range callers {
			running.Go(func() {
				for i := range each {
					slot := limit.Slot{Policy: charge.Policy, Key: charge.Key, ID: fmt.Sprintf("%d-%d", caller, i)}
					row, err := w.limiter.AcquireSlot(context.Background(), slot)
					if err != nil {
						t.Error(err)
						return
					}
					if !row.Allowed {
						continue
					}
					granted.Add(1)
					if n := held.Add(1); n > most.Load() {
						most.Store(n)
					}
					held.Add(-1)
					if row, err := w.limiter.ReleaseSlot(context.Background(), slot); err != nil || row.Reason != limit.ReasonOK {
						t.Errorf("%+v, %v", row, err)
					}
				}
			})
		}
		running.Wait()
		if most.Load() > slots || granted.Load() < slots {
			t.Errorf("%d held at once and %d in all, want at most %d and some", most.Load(), granted.Load(), slots)
		}
		if n := w.do("EXISTS", redisops.LogKey(charge.Key, "default")); n != int64(0) {
			t.Error("not all slots were released")
		}
	})
}
