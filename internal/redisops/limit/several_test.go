package limit_test

import (
	"context"
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

func showNamed(r limit.Row) string { return r.LimitName + ": " + show(r) }

func TestLimitsOfOnePolicyAreChargedTogetherOrNotAtAll(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api",
			named("second", slidingLog(2, time.Second)),
			named("minute", fixedWindow(5, time.Minute)),
			named("burst", tokenBucket(60, time.Minute, 3))))
		for i, s := range []step{
			{at: 0, cost: 1, want: "second: allow 1/2 reset 1s"},
			// Of those with as much left, the one that is whole again last.
			{at: 0, cost: 1, want: "second: allow 0/2 reset 1s"},
			{at: 500 * time.Millisecond, cost: 1, want: "second: deny 0/2 reset 500ms retry 500ms"},
			{at: 1000 * time.Millisecond, cost: 2, want: "burst: allow 0/3 reset 3s"},
			// Both refuse: the one that takes longer binds.
			{at: 1500 * time.Millisecond, cost: 1, want: "second: deny 0/2 reset 500ms retry 500ms"},
			{at: 2000 * time.Millisecond, cost: 2, want: "minute: deny 1/5 reset 58s retry 58s"},
			{at: 2000 * time.Millisecond, cost: 1, want: "minute: allow 0/5 reset 58s"},
			{at: 60 * time.Second, cost: 4, want: "burst: deny 3/3 reset 0s retry 1m0s"},
			{at: 60 * time.Second, cost: 2, want: "second: allow 0/2 reset 1s"},
		} {
			w.steer(s.at)
			if got := showNamed(w.decide(w.charge("shop/api", s.cost))[0]); got != s.want {
				t.Fatalf("step %d: %s, want %s", i, got, s.want)
			}
		}
	})
}

func TestReorderedLimitsKeepTheirState(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		a, b := named("a", fixedWindow(10, time.Minute)), named("b", fixedWindow(20, time.Hour))
		w := start(t, mode, true, one("shop/api", a, b))
		w.decide(w.charge("shop/api", 4))
		w.publish(one("shop/api", b, a))
		if got, want := showNamed(w.decide(w.charge("shop/api", 4))[0]), "a: allow 2/10 reset 1m0s"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// manyStep is one call with several charges.
type manyStep struct {
	at      time.Duration
	charges string // <policy>=<cost> …
	want    string
}

func TestChargesOfOneCallAreMadeTogetherOrNotAtAll(t *testing.T) {
	tests := map[string][]manyStep{
		"all allow": {
			{charges: "a=1 b=2", want: "allow 2/3 reset 1m0s, allow 3/5 reset 1m0s"},
			{charges: "a=2 b=3", want: "allow 0/3 reset 1m0s, allow 0/5 reset 1m0s"},
		},
		"one denies: the rows say what each would answer, and nothing is charged": {
			{charges: "a=1 b=6", want: "allow 2/3 reset 1m0s, deny 5/5 reset 0s retry 1m0s"},
			{charges: "b=6 a=1", want: "deny 5/5 reset 0s retry 1m0s, allow 2/3 reset 1m0s"},
			{charges: "a=3 b=5", want: "allow 0/3 reset 1m0s, allow 0/5 reset 1m0s"},
		},
		"charges of one key have to fit together": {
			{charges: "a=2 a=2", want: "allow 1/3 reset 1m0s, deny 3/3 reset 0s retry 1m0s"},
			{charges: "a=2 a=1", want: "allow 1/3 reset 1m0s, allow 0/3 reset 1m0s"},
			{charges: "a=1 b=1", want: "deny 0/3 reset 1m0s retry 1m0s, allow 4/5 reset 1m0s"},
			{charges: "b=5 b=0", want: "allow 0/5 reset 1m0s, allow 0/5 reset 1m0s"},
		},
		"what is denied takes no room from later charges of its key": {
			{charges: "a=4 a=3", want: "deny 3/3 reset 0s retry 1m0s, allow 0/3 reset 1m0s"},
		},
		"the largest costs together": {
			{charges: "big=9007199254740991 big=1", want: "allow 0/9007199254740991 reset 1m0s, deny 9007199254740991/9007199254740991 reset 0s retry 1m0s"},
			{charges: "big=9007199254740990 big=1", want: "allow 1/9007199254740991 reset 1m0s, allow 0/9007199254740991 reset 1m0s"},
			{charges: "big=9007199254740991 big=9007199254740991", want: "deny 0/9007199254740991 reset 1m0s retry 1m0s, deny 0/9007199254740991 reset 1m0s retry 1m0s"},
		},
		"looking only, beside a charge": {
			{charges: "a=0 b=1", want: "allow 3/3 reset 0s, allow 4/5 reset 1m0s"},
			{charges: "a=0 b=0", want: "allow 3/3 reset 0s, allow 4/5 reset 1m0s"},
		},
		"a log and another charge": {
			{charges: "log=1 a=1 log=1", want: "allow 1/2 reset 1m0s, allow 2/3 reset 1m0s, allow 0/2 reset 1m0s"},
			{at: time.Second, charges: "log=1 a=1", want: "deny 0/2 reset 59s retry 59s, allow 1/3 reset 59s"},
			{at: time.Minute, charges: "log=1 log=1 log=1", want: "allow 1/2 reset 1m0s, allow 0/2 reset 1m0s, deny 2/2 reset 0s retry 1m0s"},
			{at: time.Minute, charges: "log=2 a=3", want: "allow 0/2 reset 1m0s, allow 0/3 reset 1m0s"},
		},
		"a counter and a balance twice": {
			{charges: "counter=2 counter=1 money=4", want: "allow 3/5 reset 2m0s, allow 2/5 reset 2m0s, allow 1/5 reset 0s"},
			{charges: "counter=2 counter=1 money=1", want: "allow 0/5 reset 2m0s, deny 2/5 reset 2m0s retry 1m20.001s, allow 0/5 reset 0s"},
			{charges: "money=1 money=1", want: "allow 0/5 reset 0s, deny 1/5 reset 0s retry 1m0s"},
			{charges: "money=1 counter=0", want: "allow 0/5 reset 0s, allow 2/5 reset 2m0s"},
			{charges: "counter=0 money=1", want: "allow 2/5 reset 2m0s, deny 0/5 reset 0s retry 1m0s"},
		},
		"a bucket twice": {
			{charges: "bucket=2 bucket=1", want: "allow 1/3 reset 2s, allow 0/3 reset 3s"},
			{at: time.Second, charges: "bucket=1 bucket=1", want: "allow 0/3 reset 3s, deny 1/3 reset 2s retry 1s"},
		},
	}
	server := redistest.Start(t)
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true,
					one("shop/a", fixedWindow(3, time.Minute)), one("shop/b", fixedWindow(5, time.Minute)),
					one("shop/big", fixedWindow(maxInteger, time.Minute)), one("shop/log", slidingLog(2, time.Minute)),
					one("shop/bucket", tokenBucket(60, time.Minute, 3)), one("shop/counter", slidingCounter(5, time.Minute)), one("shop/money", balance(5)))
				for i, s := range steps {
					w.steer(s.at)
					var charges []limit.Charge
					for word := range strings.FieldsSeq(s.charges) {
						policyName, number, _ := strings.Cut(word, "=")
						var cost int64
						if _, err := fmt.Sscan(number, &cost); err != nil {
							t.Fatal(err)
						}
						charges = append(charges, w.charge("shop/"+policyName, cost))
					}
					var got []string
					for _, row := range w.decide(charges...) {
						got = append(got, show(row))
					}
					if got := strings.Join(got, ", "); got != s.want {
						t.Fatalf("step %d: %s, want %s", i, got, s.want)
					}
				}
			})
		})
	}
}

func TestSubjectsHaveBudgetsOfTheirOwn(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", fixedWindow(1, time.Hour))
		p.Descriptors = []policy.Descriptor{{Key: "path", Value: "/v1/*"}, {Key: "user"}}
		w := start(t, mode, true, p)
		for _, user := range []string{"bob", "alice", "{bob}", "", "b\x00b", "böb\r\n", strings.Repeat("x", 256)} {
			charge := w.charge("shop/api", 1, "/v1/carts", user)
			if rows := w.decide(charge); !rows[0].Allowed {
				t.Errorf("first request of %q was denied", user)
			}
			if rows := w.decide(charge); rows[0].Allowed {
				t.Errorf("second request of %q was allowed", user)
			}
		}
	})
}

func TestConcurrentCallersNeverExceedTheLimit(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		const limited, callers, each = 100, 20, 25
		for algorithm, l := range map[string]policy.Limit{
			"log": slidingLog(limited, time.Hour), "window": fixedWindow(limited, 744*time.Hour), "bucket": tokenBucket(1, 744*time.Hour, limited),
			"counter": slidingCounter(limited, 744*time.Hour), "balance": balance(limited), "month": withRequests(calendarLimit(policy.CalendarMonth, "UTC"), limited),
		} {
			w := start(t, mode, false, one("shop/api", l))
			var allowed atomic.Int64
			var running sync.WaitGroup
			for range callers {
				running.Go(func() {
					for range each {
						rows, err := w.limiter.Decide(context.Background(), []limit.Charge{w.charge("shop/api", 1)})
						if err != nil {
							t.Error(err)
							return
						}
						if rows[0].Allowed {
							allowed.Add(1)
						}
					}
				})
			}
			running.Wait()
			if allowed.Load() != limited {
				t.Errorf("%s: %d of %d were allowed, want %d", algorithm, allowed.Load(), callers*each, limited)
			}
		}
	})
}

func TestNoChargesNeedNoRedis(t *testing.T) {
	limiter := limit.New(nil, nil, library.ModeFunctions)
	for name, ask := range map[string]func(context.Context, []limit.Charge) ([]limit.Row, error){"decide": limiter.Decide, "peek": limiter.Peek} {
		if rows, err := ask(context.Background(), nil); err != nil || len(rows) != 0 {
			t.Errorf("%s: %v, %v", name, rows, err)
		}
	}
}
