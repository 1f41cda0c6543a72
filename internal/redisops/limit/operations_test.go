package limit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestRefunds(t *testing.T) {
	window, counter := one("shop/api", fixedWindow(10, time.Minute)), one("shop/api", slidingCounter(10, time.Minute))
	log, bucket := one("shop/api", slidingLog(10, time.Minute)), one("shop/api", tokenBucket(60, time.Minute, 10))
	money := one("shop/api", balance(10))
	tests := map[string]struct {
		policy policy.RateLimit
		acts   []act
	}{
		"window": {window, []act{
			{do: "charge 5", want: "allow 5/10 reset 1m0s"},
			{do: "refund 2", want: "allow 7/10 reset 1m0s"},
			{do: "refund 5", want: "allow 10/10 reset 0s"},
			{do: "charge 10", want: "allow 0/10 reset 1m0s"},
		}},
		"window, with an id": {window, []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{do: "charge 3", want: "allow 2/10 reset 1m0s"},
			{do: "refund 9007199254740991 #a", want: "allow 7/10 reset 1m0s"},
			{do: "refund 5 #a", want: "allow 7/10 reset 1m0s absent"},
			{do: "charge 5 #a", want: "allow 2/10 reset 1m0s"},
		}},
		"window, a part": {window, []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{do: "refund 2 #a", want: "allow 7/10 reset 1m0s"},
			{do: "refund 3 #a", want: "allow 7/10 reset 1m0s absent"},
		}},
		"window, nothing of it": {window, []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{do: "refund 0 #a", want: "allow 5/10 reset 1m0s"},
			{do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{do: "refund 5 #a", want: "allow 10/10 reset 0s"},
		}},
		"window, decided still after a part": {window, []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{do: "refund 2 #a", want: "allow 7/10 reset 1m0s"},
			{do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{do: "charge 0", want: "allow 7/10 reset 1m0s"},
		}},
		"window, of the one before": {window, []act{
			{at: 50 * time.Second, do: "charge 5 #a", want: "allow 5/10 reset 10s"},
			{at: 60 * time.Second, do: "charge 3", want: "allow 7/10 reset 1m0s"},
			{at: 60 * time.Second, do: "refund 5 #a", want: "allow 7/10 reset 1m0s"},
			{at: 60 * time.Second, do: "refund 5 #a", want: "allow 7/10 reset 1m0s absent"},
		}},
		"window, the clock goes back": {window, []act{
			{at: time.Hour, do: "charge 5 #a", want: "allow 5/10 reset 1m0s"},
			{at: 10 * time.Second, do: "refund 5 #a", want: "allow 10/10 reset 0s"},
		}},
		"counter": {counter, []act{
			{do: "charge 6", want: "allow 4/10 reset 2m0s"},
			{at: 60 * time.Second, do: "charge 3", want: "allow 1/10 reset 2m0s"},
			// First of what is sure to count in full.
			{at: 60 * time.Second, do: "refund 4", want: "allow 5/10 reset 1m0s"},
			{at: 60 * time.Second, do: "refund 99", want: "allow 10/10 reset 0s"},
		}},
		"counter, with an id": {counter, []act{
			{at: 50 * time.Second, do: "charge 6 #a", want: "allow 4/10 reset 1m10s"},
			{at: 60 * time.Second, do: "charge 3 #b", want: "allow 1/10 reset 2m0s"},
			{at: 90 * time.Second, do: "refund 6 #a", want: "allow 7/10 reset 1m30s"},
			{at: 90 * time.Second, do: "refund 2 #b", want: "allow 9/10 reset 1m30s"},
		}},
		"counter, of a window long ago": {one("shop/api", slidingCounter(10, time.Second)), []act{
			{do: "charge 6 #a", want: "allow 4/10 reset 2s"},
			{at: 2 * time.Second, do: "charge 3", want: "allow 7/10 reset 2s"},
			{at: 2 * time.Second, do: "refund 6 #a", want: "allow 7/10 reset 2s"},
		}},
		"log": {log, []act{
			{do: "charge 3", want: "allow 7/10 reset 1m0s"},
			{at: 10 * time.Second, do: "charge 3", want: "allow 4/10 reset 1m0s"},
			// The oldest, so that no window holds more than it may.
			{at: 10 * time.Second, do: "refund 4", want: "allow 8/10 reset 1m0s"},
			{at: 60 * time.Second, do: "charge 0", want: "allow 8/10 reset 10s"},
			{at: 60 * time.Second, do: "refund 9", want: "allow 10/10 reset 0s"},
		}},
		"log, with an id": {log, []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1m0s"},
			{at: 10 * time.Second, do: "charge 3 #b", want: "allow 4/10 reset 1m0s"},
			{at: 20 * time.Second, do: "charge 3 #c", want: "allow 1/10 reset 1m0s"},
			{at: 20 * time.Second, do: "refund 3 #c", want: "allow 4/10 reset 50s"},
			{at: 20 * time.Second, do: "refund 2 #b", want: "allow 6/10 reset 50s"},
			{at: 60 * time.Second, do: "charge 0", want: "allow 9/10 reset 10s"},
		}},
		"log, what has left the window gives nothing back": {one("shop/api", slidingLog(3, time.Second)), []act{
			{do: "charge 3 #a", want: "allow 0/3 reset 1s"},
			{at: time.Second, do: "charge 3", want: "allow 0/3 reset 1s"},
			{at: time.Second, do: "refund 3 #a", want: "allow 0/3 reset 1s"},
			{at: time.Second, do: "charge 1", want: "deny 0/3 reset 1s retry 1s"},
		}},
		"log, of the future": {log, []act{
			{at: time.Hour, do: "charge 3 #a", want: "allow 7/10 reset 1m0s"},
			{at: time.Hour, do: "charge 3 #b", want: "allow 4/10 reset 1m0s"},
			{at: 0, do: "charge 1", want: "allow 3/10 reset 1m0s"},
			{at: time.Second, do: "refund 3 #a", want: "allow 6/10 reset 59s"},
		}},
		"log, a thousand": {one("shop/api", slidingLog(1000, time.Minute)), []act{
			{do: "charge 1000 #a", want: "allow 0/1000 reset 1m0s"},
			{at: time.Second, do: "refund 1000 #a", want: "allow 1000/1000 reset 0s"},
		}},
		"bucket": {bucket, []act{
			{do: "charge 8", want: "allow 2/10 reset 8s"},
			{do: "refund 3", want: "allow 5/10 reset 5s"},
			{at: time.Second, do: "refund 9", want: "allow 10/10 reset 0s"},
		}},
		"bucket, with an id: what was refilled since is not given back": {bucket, []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 5s"},
			{at: 2 * time.Second, do: "charge 5", want: "allow 2/10 reset 8s"},
			{at: 2 * time.Second, do: "refund 5 #a", want: "allow 5/10 reset 5s"},
		}},
		"bucket, with an id: all was refilled": {bucket, []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 5s"},
			{at: 10 * time.Second, do: "charge 10", want: "allow 0/10 reset 10s"},
			{at: 10 * time.Second, do: "refund 5 #a", want: "allow 0/10 reset 10s"},
		}},
		"bucket, the clock goes back": {bucket, []act{
			{at: time.Hour, do: "charge 5 #a", want: "allow 5/10 reset 5s"},
			{at: 0, do: "refund 5 #a", want: "allow 10/10 reset 0s"},
		}},
		"bucket of 0 requests": {one("shop/api", tokenBucket(60, time.Minute, 10)), []act{
			{do: "charge 5 #a", want: "allow 5/10 reset 5s"},
			{change: one("shop/api", tokenBucket(0, time.Minute, 10)), at: time.Second, do: "refund 5 #a", want: "allow 0/0 reset 0s"},
		}},
		"balance": {money, []act{
			{do: "charge 8 #a", want: "allow 2/10 reset 0s"},
			{at: 50 * time.Second, do: "refund 3 #a", want: "allow 5/10 reset 0s"},
			{at: time.Hour, do: "charge 5", want: "allow 0/10 reset 0s"},
			{at: 99 * time.Hour, do: "refund 5", want: "allow 5/10 reset 0s"},
		}},
		"a subject without state": {log, []act{
			{do: "refund 3", want: "allow 10/10 reset 0s"},
			{do: "refund 3 #a", want: "allow 10/10 reset 0s absent"},
		}},
		"a balance without state gets nothing": {money, []act{
			{do: "refund 3", want: "allow 10/10 reset 0s"},
		}},
		"nothing": {window, []act{
			{do: "charge 3", want: "allow 7/10 reset 1m0s"},
			{do: "refund 0", want: "allow 7/10 reset 1m0s"},
		}},
		"a denial was not charged": {window, []act{
			{do: "charge 5", want: "allow 5/10 reset 1m0s"},
			{do: "charge 6 #a", want: "deny 5/10 reset 1m0s retry 1m0s"},
			{do: "refund 6 #a", want: "allow 5/10 reset 1m0s absent"},
		}},
		"a minute later nobody knows the id": {one("shop/api", fixedWindow(10, time.Hour)), []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1h0m0s"},
			{at: 60*time.Second - time.Microsecond, do: "refund 1 #b", want: "allow 7/10 reset 59m0.001s absent"},
			{at: 60 * time.Second, do: "refund 3 #a", want: "allow 7/10 reset 59m0s absent"},
		}},
		"a credit's id is no decision": {money, []act{
			{do: "credit 3 #a", want: "allow 13/10 reset 0s"},
			{do: "refund 3 #a", want: "allow 13/10 reset 0s absent"},
		}},
		"another window since": {one("shop/api", fixedWindow(10, time.Minute)), []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 1m0s"},
			{change: one("shop/api", slidingLog(10, time.Minute)), do: "charge 2", want: "allow 8/10 reset 1m0s"},
			// Whose entries the log has is not known.
			{do: "refund 3 #a", want: "allow 8/10 reset 1m0s"},
		}},
		"a lowered limit": {window, []act{
			{do: "charge 9 #a", want: "allow 1/10 reset 1m0s"},
			{change: one("shop/api", fixedWindow(5, time.Minute)), do: "charge 1", want: "deny 0/5 reset 1m0s retry 1m0s"},
			{do: "refund 5 #a", want: "allow 1/5 reset 1m0s"},
		}},
		"several limits": {one("shop/api", named("log", slidingLog(9, time.Minute)), named("hour", fixedWindow(20, time.Hour)), named("money", balance(8))), []act{
			{do: "charge 4 #a", want: "allow 4/8 reset 0s"},
			{do: "charge 4 #b", want: "allow 0/8 reset 0s"},
			{do: "refund 3 #a", want: "allow 3/8 reset 0s"},
			{do: "charge 4", want: "deny 3/8 reset 0s retry 1m0s"},
			{do: "charge 3", want: "allow 0/8 reset 0s"},
			{at: time.Second, do: "credit 9", want: "allow 1/9 reset 59s"},
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

// What the functions let somebody leave open: the cost of a refund.
func TestARefundWithoutCostIsTheWholeOrThePolicys(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		fixed, expression := one("shop/api", fixedWindow(10, time.Hour)), one("shop/log", fixedWindow(10, time.Hour))
		fixed.Cost, expression.CostExpression = 3, "2"
		w := start(t, mode, true, fixed, expression)
		remaining := func(function, key string, args ...any) any {
			t.Helper()
			reply, err := w.raw(function, []string{key}, args...)
			if err != nil {
				t.Fatal(err)
			}
			return reply.([]any)[2]
		}
		for i, s := range []struct {
			function, key string
			args          []any
			want          int64
		}{
			{"penstock_limit", apiKey, []any{"shop/api", "", ""}, 7},
			{"penstock_limit", apiKey, []any{"shop/api", 5, "a"}, 2},
			{"penstock_limit_refund", apiKey, []any{"shop/api", "", "a"}, 7},
			{"penstock_limit_refund", apiKey, []any{"shop/api", "", ""}, 10},
			{"penstock_limit_peek", apiKey, []any{"shop/api", "", ""}, 7},
			{"penstock_limit", logKey, []any{"shop/log", 5, "a", "door"}, 5},
			{"penstock_limit_refund", logKey, []any{"shop/log", "", "a"}, 10},
		} {
			if got := remaining(s.function, s.key, s.args...); got != s.want {
				t.Errorf("step %d, %s: %v left, want %d", i, s.function, got, s.want)
			}
		}
	})
}

func TestACallWithoutCostIsChargedThePolicys(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		fixed := one("shop/api", fixedWindow(10, time.Hour))
		fixed.Cost = 3
		w := start(t, mode, true, fixed, one("shop/log", slidingLog(10, time.Hour)))
		reply, err := w.raw("penstock_limit_many", []string{apiKey, logKey, apiKey}, "shop/api", "", "", "shop/log", "", "", "shop/api", 1, "")
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []int64{7, 9, 6} {
			if got := reply.([]any)[i].([]any)[2]; got != want {
				t.Errorf("charge %d: %v left, want %d", i, got, want)
			}
		}
	})
}

func TestCredits(t *testing.T) {
	money := one("shop/api", balance(10))
	tests := map[string]struct {
		policy policy.RateLimit
		acts   []act
	}{
		"what is spent is credited, and more": {money, []act{
			{do: "charge 11", want: "deny 10/10 reset 0s retry 1m0s"},
			{do: "charge 10", want: "allow 0/10 reset 0s"},
			{at: 744 * time.Hour, do: "charge 1", want: "deny 0/10 reset 0s retry 1m0s"},
			{at: 744 * time.Hour, do: "credit 5", want: "allow 5/10 reset 0s"},
			{at: 744 * time.Hour, do: "credit 15", want: "allow 20/10 reset 0s"},
			{at: 744 * time.Hour, do: "charge 20", want: "allow 0/10 reset 0s"},
			{at: 0, do: "charge 1", want: "deny 0/10 reset 0s retry 1m0s"},
		}},
		"of a subject without state": {money, []act{
			{do: "credit 5", want: "allow 15/10 reset 0s"},
			{do: "peek 15", want: "allow 0/10 reset 0s"},
			{do: "charge 16", want: "deny 15/10 reset 0s retry 1m0s"},
		}},
		"nothing at first": {one("shop/api", balance(0)), []act{
			{do: "charge 1", want: "deny 0/0 reset 0s retry 1m0s"},
			{do: "credit 2", want: "allow 2/0 reset 0s"},
			{do: "charge 2", want: "allow 0/0 reset 0s"},
		}},
		"with an id, once a minute": {money, []act{
			{do: "credit 5 #a", want: "allow 15/10 reset 0s"},
			{do: "charge 3", want: "allow 12/10 reset 0s"},
			{do: "credit 5 #a", want: "allow 15/10 reset 0s"},
			{do: "credit 6 #a", want: "allow 15/10 reset 0s"},
			{do: "peek 0", want: "allow 12/10 reset 0s"},
			{at: 59 * time.Second, do: "credit 5 #b", want: "allow 17/10 reset 0s"},
			{at: 60 * time.Second, do: "credit 5 #a", want: "allow 22/10 reset 0s"},
		}},
		"an id of a decision is another": {money, []act{
			{do: "charge 3 #a", want: "allow 7/10 reset 0s"},
			{do: "credit 5 #a", want: "allow 12/10 reset 0s"},
			{do: "charge 3 #a", want: "allow 7/10 reset 0s"},
		}},
		"up to 2^53-1": {money, []act{
			{do: "credit 9007199254740981", want: "allow 9007199254740991/10 reset 0s"},
			{do: "credit 1", want: "PENSTOCK_BADARG cost: the balance would be more than 9007199254740991"},
			{do: "credit 9007199254740991", want: "PENSTOCK_BADARG cost: the balance would be more"},
			{do: "charge 9007199254740990", want: "allow 1/10 reset 0s"},
			{do: "credit 1", want: "allow 2/10 reset 0s"},
			{do: "refund 9007199254740991", want: "allow 10/10 reset 0s"},
		}},
		"a refund of nobody knows what is no credit": {money, []act{
			{do: "charge 4", want: "allow 6/10 reset 0s"},
			{do: "refund 1000000", want: "allow 10/10 reset 0s"},
			{do: "credit 5", want: "allow 15/10 reset 0s"},
			{do: "charge 3 #a", want: "allow 12/10 reset 0s"},
			{do: "refund 1", want: "allow 12/10 reset 0s"},
			{do: "refund 3 #a", want: "allow 15/10 reset 0s"},
		}},
		"the largest balance": {one("shop/api", balance(maxInteger)), []act{
			{do: "credit 1", want: "PENSTOCK_BADARG cost: the balance would be more"},
			{do: "charge 1", want: "allow 9007199254740990/9007199254740991 reset 0s"},
			{do: "credit 1", want: "allow 9007199254740991/9007199254740991 reset 0s"},
			{do: "charge 9007199254740991", want: "allow 0/9007199254740991 reset 0s"},
			{do: "charge 1", want: "deny 0/9007199254740991 reset 0s retry 1m0s"},
		}},
		"a changed number of requests changes what everybody has": {money, []act{
			{do: "charge 4", want: "allow 6/10 reset 0s"},
			{change: one("shop/api", balance(100)), do: "charge 0", want: "allow 96/100 reset 0s"},
			{change: one("shop/api", balance(3)), do: "charge 0", want: "allow 0/3 reset 0s"},
			{do: "credit 1", want: "allow 0/3 reset 0s"},
			{do: "credit 1", want: "allow 1/3 reset 0s"},
		}},
		"above 2^53-1 by a changed number": {money, []act{
			{do: "credit 9007199254740981", want: "allow 9007199254740991/10 reset 0s"},
			{change: one("shop/api", balance(maxInteger)), do: "charge 0", want: "allow 9007199254740991/9007199254740991 reset 0s"},
			{do: "credit 1", want: "PENSTOCK_BADARG cost: the balance would be more"},
		}},
		"each balance, and no other limit": {one("shop/api", named("a", balance(10)), named("b", balance(20)), named("c", fixedWindow(5, time.Minute))), []act{
			{do: "charge 5", want: "allow 0/5 reset 1m0s"},
			{do: "credit 7", want: "allow 0/5 reset 1m0s"},
			{at: time.Minute, do: "charge 5", want: "allow 0/5 reset 1m0s"},
			{at: 2 * time.Minute, do: "charge 3", want: "allow 2/5 reset 1m0s"},
			{at: 3 * time.Minute, do: "charge 5", want: "deny 4/10 reset 0s retry 1m0s"},
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

// A look afterwards may be a denial, whose record would not live as long.
func TestACreditDuringABlockIsMadeOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", balance(1))
		p.Penalty = &policy.Penalty{Denials: 1, WithinMs: 1000, ForMs: 100, MaxMs: 100}
		w := start(t, mode, true, p)
		w.playOne(t, []act{
			{do: "charge 2", want: "deny 0/1 reset 0s retry 1m0s penalty"},
			{do: "credit 5 #a", want: "deny 0/1 reset 0s retry 100ms penalty"},
		})
		// See steering for the hour.
		if left := w.ttl(w.key("shop/api")+"+a") - time.Hour; left < 50*time.Second {
			t.Errorf("the credit is remembered for %v, want a minute", left)
		}
		w.playOne(t, []act{{at: time.Second, do: "charge 6", want: "allow 0/1 reset 0s"}})
	})
}

func TestAResetForgetsTheSubject(t *testing.T) {
	penalized := one("shop/api", fixedWindow(1, time.Minute))
	penalized.Penalty = &policy.Penalty{Denials: 1, WithinMs: 60_000, ForMs: 600_000, MaxMs: 600_000}
	blocked := one("shop/api", fixedWindow(0, time.Minute))
	tests := map[string]struct {
		policy policy.RateLimit
		acts   []act
	}{
		"window": {one("shop/api", fixedWindow(3, time.Minute)), []act{
			{do: "charge 3", want: "allow 0/3 reset 1m0s"}, {do: "reset", want: "allow 3/3 reset 0s"}, {do: "charge 3", want: "allow 0/3 reset 1m0s"},
		}},
		"counter": {one("shop/api", slidingCounter(3, time.Minute)), []act{
			{do: "charge 3", want: "allow 0/3 reset 2m0s"}, {at: time.Minute, do: "reset", want: "allow 3/3 reset 0s"}, {at: time.Minute, do: "charge 3", want: "allow 0/3 reset 2m0s"},
		}},
		"logs": {one("shop/api", named("a", slidingLog(3, time.Minute)), named("b", slidingLog(4, time.Hour))), []act{
			{do: "charge 3", want: "allow 0/3 reset 1m0s"}, {do: "reset", want: "allow 3/3 reset 0s"}, {do: "charge 3", want: "allow 0/3 reset 1m0s"},
		}},
		"bucket": {one("shop/api", tokenBucket(60, time.Minute, 3)), []act{
			{do: "charge 3", want: "allow 0/3 reset 3s"}, {do: "reset", want: "allow 3/3 reset 0s"}, {do: "charge 3", want: "allow 0/3 reset 3s"},
		}},
		"balance": {one("shop/api", balance(3)), []act{
			{do: "charge 3", want: "allow 0/3 reset 0s"}, {do: "reset", want: "allow 3/3 reset 0s"},
			{do: "credit 3", want: "allow 6/3 reset 0s"}, {do: "reset", want: "allow 3/3 reset 0s"},
		}},
		"slots": {one("shop/api", concurrency(1, time.Minute)), []act{
			{do: "acquire #a", want: "allow 0/1 reset 1m0s"}, {do: "reset", want: "allow 1/1 reset 0s"},
			{do: "release #a", want: "allow 1/1 reset 0s absent"}, {do: "acquire #b", want: "allow 0/1 reset 1m0s"},
		}},
		"a block": {penalized, []act{
			{do: "charge 1", want: "allow 0/1 reset 1m0s"}, {do: "charge 1", want: "deny 0/1 reset 1m0s retry 10m0s penalty"},
			{do: "reset", want: "allow 1/1 reset 0s"}, {do: "charge 1", want: "allow 0/1 reset 1m0s"},
		}},
		"of a subject without state": {blocked, []act{{do: "reset", want: "allow 0/0 reset 0s"}}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, test.policy)
				w.playOne(t, test.acts)
				w.act("reset")
				w.do("DEL", w.key("shop/api")+"!reset") // which tells only when it was
				if dump := w.dump(); dump != "" {
					t.Errorf("left %s", dump)
				}
			})
		})
	}
}

// Another program's key is not worth keeping: whoever resets wants it gone.
func TestAResetRemovesKeysOfAnotherType(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", slidingLog(3, time.Minute)))
		w.do("SET", w.key("shop/api"), "x")
		w.do("SET", redisops.LogKey(w.key("shop/api"), "default"), "x")
		w.playOne(t, []act{{do: "reset", want: "allow 3/3 reset 0s"}, {do: "charge 1", want: "allow 2/3 reset 1m0s"}})
	})
}

// A limit of another override that counts alike keeps the same state, so what was charged is given back there.
func TestARefundFollowsTheStateToAnotherOverride(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		before := one("shop/api", fixedWindow(10, time.Minute))
		before.Descriptors = []policy.Descriptor{{Key: "user"}}
		after := before
		after.Overrides = []policy.Override{{Values: []string{"bob"}, Limits: []policy.Limit{fixedWindow(20, time.Minute)}}}
		free := before
		free.Overrides = []policy.Override{{Values: []string{"bob"}, Unlimited: true}}
		w := start(t, mode, true, before)
		w.playOne(t, []act{
			{do: "charge 4 #a", want: "allow 6/10 reset 1m0s"},
			{do: "charge 4 #b", want: "allow 2/10 reset 1m0s"},
			{change: after, do: "charge 0", want: "allow 12/20 reset 1m0s override 1"},
			{change: free, do: "refund 4 #a", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{do: "refund 4", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{do: "credit 4", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{change: before, do: "charge 0", want: "allow 2/10 reset 1m0s"},
			{change: after, do: "refund 4 #a", want: "allow 16/20 reset 1m0s override 1"},
			{change: before, do: "refund 4 #b", want: "allow 10/10 reset 0s"},
			{change: after, do: "reset", want: "allow 20/20 reset 0s override 1"},
		}, "bob")
	})
}

// Neither a reset nor a change of window may make a free pass of what was charged before.
func TestARefundOfWhatWasForgottenChangesNothing(t *testing.T) {
	server := redistest.Start(t)
	for name, l := range map[string]policy.Limit{
		"log": slidingLog(3, 20*time.Second), "window": fixedWindow(3, 20*time.Second), "counter": slidingCounter(3, 20*time.Second),
		"bucket": tokenBucket(3, 20*time.Second, 3), "balance": balance(3),
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", l))
				w.act("charge 2 #a")
				w.act("reset")
				w.act("charge 3")
				w.steer(time.Second)
				if got := w.act("refund 2 #a"); !strings.Contains(got, " 0/3") || !strings.Contains(got, "absent") {
					t.Errorf("after a reset: %s, want nothing", got)
				}
				if l.Algorithm == policy.Balance {
					return
				}
				w.act("reset")
				w.act("charge 2 #b")
				longer := l
				longer.WindowMs *= 2
				w.publish(one("shop/api", longer))
				w.act("charge 3")
				if got := w.act("refund 2 #b"); !strings.Contains(got, " 0/3") {
					t.Errorf("after a change of window: %s, want nothing", got)
				}
			})
		})
	}
}

// Whatever there was to reset: a subject without limits at the moment, one whose counter has expired.
func TestAResetForgetsIDsInAnyCase(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		money, free := one("shop/api", balance(10)), one("shop/api", balance(10))
		money.Descriptors = []policy.Descriptor{{Key: "user"}}
		free.Descriptors = money.Descriptors
		free.Overrides = []policy.Override{{Values: []string{"bob"}, Unlimited: true}}
		w := start(t, mode, true, money)
		w.playOne(t, []act{
			{do: "charge 8 #a", want: "allow 2/10 reset 0s"},
			{change: free, do: "reset", want: "allow 9007199254740991/-1 reset 0s override 1"},
			{change: money, do: "charge 1", want: "allow 9/10 reset 0s"},
			{do: "refund 8 #a", want: "allow 9/10 reset 0s absent"},
		}, "bob")

		w.publish(one("shop/short", fixedWindow(10, time.Second)))
		c := w.charge("shop/short", 3)
		c.ID = "a"
		w.decide(c)
		w.do("DEL", c.Key)
		if _, err := w.limiter.Reset(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		if row := w.decide(c)[0]; !row.New || row.Remaining != 7 {
			t.Errorf("after a reset of an expired counter: %+v, want a new decision", row)
		}
	})
}

// The clock went back behind a reset: what is decided from then on is remembered as ever.
func TestIDsWorkWhenTheClockWentBackBehindAReset(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", fixedWindow(10, time.Hour)))
		w.playOne(t, []act{
			{at: 25 * time.Second, do: "charge 2 #a", want: "allow 8/10 reset 59m35s"},
			{at: 30 * time.Second, do: "reset", want: "allow 10/10 reset 0s"},
			{at: 10 * time.Second, do: "charge 3 #b", want: "allow 7/10 reset 59m50s"},
			{at: 10 * time.Second, do: "charge 3 #b", want: "allow 7/10 reset 59m50s"},
			{at: 10 * time.Second, do: "refund 2 #a", want: "allow 7/10 reset 59m50s absent"},
			{at: 10 * time.Second, do: "refund 3 #b", want: "allow 10/10 reset 0s"},
		})
	})
}

// A key of another type beside the counter is in the way of a refund by id, and named.
func TestAForeignNoteOfAResetIsNamed(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", fixedWindow(10, time.Minute)))
		w.act("charge 3 #a")
		w.do("LPUSH", w.key("shop/api")+"!reset", "x")
		var wrong *limit.WrongTypeError
		if _, err := w.try("refund 3 #a"); !errors.As(err, &wrong) || wrong.Key != w.key("shop/api")+"!reset" {
			t.Errorf("refund: %v, want a WrongTypeError of the note", err)
		}
		w.playOne(t, []act{
			{do: "reset", want: "allow 10/10 reset 0s"}, // which replaces it
			{do: "charge 3 #a", want: "allow 7/10 reset 1m0s"},
		})
	})
}

// Fault 59: nothing is given back of entries that belong to no state of ours.
func TestARefundOfAForeignLogStartsItAnew(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", slidingLog(5, time.Minute), named("other", fixedWindow(9, time.Minute))))
		key := w.key("shop/api")
		w.do("HSET", key, "default", "x", "other", "F60000 1800000000000 4")
		w.do("ZADD", redisops.LogKey(key, "default"), "1800000000000000", "1", "1800000000000000", "2")
		w.playOne(t, []act{
			{do: "refund 2", want: "allow 5/5 reset 0s"},
			{do: "charge 5", want: "allow 0/5 reset 1m0s"},
		})
		if got, want := w.do("HGET", key, "other"), "F60000 1800000000000 7"; got != want {
			t.Errorf("the other limit is %q, want %q", got, want)
		}
	})
}

// Fault 10: what only releases works without memory, what takes does not, and writes nothing.
func TestOutOfMemoryLetsOnlyReleases(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", named("log", slidingLog(5, 744*time.Hour)), named("money", balance(5)), named("w", fixedWindow(9, 744*time.Hour))))
		w.act("charge 3 #a")
		w.act("charge 1")
		w.act("credit 0 #b") // So that the server has the script.
		w.do("CONFIG", "SET", "maxmemory", "1")
		before := w.dump()
		for _, do := range []string{"charge 1", "charge 1 #c", "credit 1", "credit 1 #d"} {
			if row, err := w.try(do); redisops.Classify(err) != redisops.OutOfMemory {
				t.Errorf("%s: %+v, %v, want %v", do, row, err, redisops.OutOfMemory)
			}
		}
		if after := w.dump(); after != before {
			t.Errorf("wrote %s, before %s", after, before)
		}
		for _, s := range []struct{ do, want string }{
			{"peek 0", "allow 1/5"}, {"refund 3 #a", "allow 4/5"}, {"refund 1", "allow 5/5"}, {"reset", "allow 5/5"},
		} {
			if got := w.act(s.do); !strings.HasPrefix(got, s.want) {
				t.Errorf("%s: %s, want %s", s.do, got, s.want)
			}
		}
		w.do("CONFIG", "SET", "maxmemory", "0")
		w.publish(one("shop/api", concurrency(2, time.Hour)))
		w.act("acquire #a")
		w.do("CONFIG", "SET", "maxmemory", "1")
		if row, err := w.try("acquire #b"); redisops.Classify(err) != redisops.OutOfMemory {
			t.Errorf("acquire: %+v, %v, want %v", row, err, redisops.OutOfMemory)
		}
		if got, want := w.act("release #a"), "allow 2/2 reset 0s"; got != want {
			t.Errorf("release: %s, want %s", got, want)
		}
	})
}

// Fault 29.
func TestAKeyOfAnotherTypeFailsOperations(t *testing.T) {
	server := redistest.Start(t)
	for name, test := range map[string]struct {
		suffix string
		do     []string
	}{
		"counter":            {"", []string{"charge 1 #a", "refund 1", "refund 1 #a", "credit 1", "credit 1 #a"}},
		"log":                {":log", []string{"charge 1", "refund 1", "credit 1"}},
		"record":             {"#a", []string{"charge 1 #a", "peek 1 #a", "refund 1 #a"}},
		"record of a credit": {"+a", []string{"credit 1 #a"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", named("log", slidingLog(5, time.Hour)), named("money", balance(5))), one("shop/other", fixedWindow(5, time.Hour)))
				key := w.key("shop/api") + test.suffix
				w.do("RPUSH", key, "x")
				before := w.dump()
				for _, do := range test.do {
					row, err := w.try(do)
					var wrong *limit.WrongTypeError
					if !errors.As(err, &wrong) || wrong.Key != key {
						t.Errorf("%s: %+v, %v, want a WrongTypeError of %s", do, row, err, key)
					}
				}
				bad := w.charge("shop/api", 1)
				bad.ID = "a"
				if rows, err := w.limiter.Decide(context.Background(), []limit.Charge{w.charge("shop/other", 1), bad}); test.suffix != "+a" && err == nil {
					t.Errorf("beside another charge: %+v, want an error", rows)
				} else if after := w.dump(); err != nil && after != before {
					t.Errorf("wrote %s, before %s", after, before)
				}
			})
		})
	}
}
