package engine

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// again denies bob, and gives what the next request of that cost gets, and whether Redis was asked for it.
func (w *world) again(t *testing.T, first, cost int64) (v Verdict, asked bool) {
	t.Helper()
	w.decideAt(t, first, tuple{"user", "bob"})
	before := len(w.store.calls)
	v = w.decideAt(t, cost, tuple{"user", "bob"}).Verdicts[0]
	return v, len(w.store.calls) > before
}

func TestADenialIsRememberedForAsLongAsItHolds(t *testing.T) {
	for name, test := range map[string]struct {
		retryAfter, passed time.Duration
		wantAsked          bool
		wantRetry          time.Duration
		wantReset          time.Duration
	}{
		"at once":                          {5 * time.Second, 0, false, 5 * time.Second, time.Minute},
		"a moment later":                   {5 * time.Second, 999 * time.Millisecond, false, 4001 * time.Millisecond, 59_001 * time.Millisecond},
		"never longer than a second":       {5 * time.Second, time.Second, true, 5 * time.Second, time.Minute},
		"until it could pass":              {300 * time.Millisecond, 299 * time.Millisecond, false, time.Millisecond, 59_701 * time.Millisecond},
		"and not when it could":            {300 * time.Millisecond, 300 * time.Millisecond, true, 300 * time.Millisecond, time.Minute},
		"a denial of a millisecond is one": {time.Millisecond, 0, false, time.Millisecond, time.Minute},
		"to the millisecond, rounded up":   {5 * time.Second, 452_396 * time.Nanosecond, false, 5 * time.Second, time.Minute},
		"a nanosecond less than two":       {5 * time.Second, 2*time.Millisecond - 1, false, 4999 * time.Millisecond, 59_999 * time.Millisecond},
		"its last nanosecond": {
			300 * time.Millisecond, 300*time.Millisecond - 1, false, time.Millisecond, 59_701 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("user", "user", ""))
			w.store.rows["shop/user"] = denied(10, test.retryAfter)
			w.decide(t, tuple{"user", "bob"})
			w.clock.advance(test.passed)
			v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]
			wantMode := Cached
			if test.wantAsked {
				wantMode = Enforced
			}
			if v.Allowed || v.Mode != wantMode {
				t.Errorf("%+v, want a denial, %s", v, wantMode)
			}
			if asked := len(w.store.calls) == 2; asked != test.wantAsked {
				t.Errorf("redis was asked again: %v, want %v", asked, test.wantAsked)
			}
			if v.RetryAfter != test.wantRetry || v.ResetAfter != test.wantReset {
				t.Errorf("retry after %v, reset after %v; want %v and %v", v.RetryAfter, v.ResetAfter, test.wantRetry, test.wantReset)
			}
			if !v.Known || v.Limit != 10 || v.Reason != limit.ReasonLimit || v.Name != "shop/user" || v.Binding == nil {
				t.Errorf("%+v, want the figures of the denial", v)
			}
		})
	}
}

func TestWhichDenialsAreRemembered(t *testing.T) {
	user := rateLimit("user", "user", "")
	override := func(l policy.Limit) func(*policy.RateLimit) {
		return func(r *policy.RateLimit) {
			r.Overrides = []policy.Override{{Values: []string{"eve"}, Limits: []policy.Limit{l}}}
		}
	}
	penalty := with(user, func(r *policy.RateLimit) {
		r.Penalty = &policy.Penalty{Denials: 3, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
	})
	shared := with(rateLimit("user", "user", "b*"), func(r *policy.RateLimit) { r.Descriptors[0].Shared = true })
	reason := func(reason string) limit.Row {
		row := denied(10, time.Second)
		row.Reason = reason
		return row
	}
	for name, test := range map[string]struct {
		policy policy.RateLimit
		row    limit.Row
		want   bool
	}{
		"SlidingLog":     {of(user, policy.SlidingLog), denied(10, time.Second), true},
		"SlidingCounter": {of(user, policy.SlidingCounter), denied(10, time.Second), true},
		"FixedWindow":    {of(user, policy.FixedWindow), denied(10, time.Second), true},
		"TokenBucket":    {of(user, policy.TokenBucket), denied(10, time.Second), true},
		"Balance":        {of(user, policy.Balance), denied(10, time.Minute), false},
		"Balance beside another": {
			with(user, func(r *policy.RateLimit) {
				r.Limits = append(slices.Clip(r.Limits), policy.Limit{Name: "paid", Algorithm: policy.Balance, Requests: 10})
			}),
			denied(10, time.Second), false,
		},
		"Balance of an override":        {with(user, override(limitOf(policy.Balance))), denied(10, time.Minute), false},
		"an override that refills":      {with(user, override(limitOf(policy.SlidingLog))), denied(10, time.Second), true},
		"a limit of 0 requests":         {user, reason(limit.ReasonBlocked), true},
		"with a penalty":                {penalty, denied(10, time.Second), false},
		"a penalty that Redis knows of": {user, reason(limit.ReasonPenalty), false},
		"a shared budget":               {shared, denied(10, time.Second), true},
		"in shadow":                     {user, limit.Row{Allowed: true, Limit: 10, Reason: limit.ReasonShadow, LimitName: "default"}, false},
		"a share in shadow":             {shadowing(user, 50), denied(10, time.Second), true},
		"allowed":                       {user, allowed(10, 9), false},
		"with its conditions":           {when(user, "true"), denied(10, time.Second), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policy)
			w.store.rows["shop/user"] = test.row
			if v, asked := w.again(t, 1, 1); asked == test.want || (v.Mode == Cached) != test.want {
				t.Errorf("redis was asked again: %v, %+v; want it remembered: %v", asked, v, test.want)
			}
		})
	}
}

func TestARememberedDenialIsForItsCostAndMore(t *testing.T) {
	for name, test := range map[string]struct {
		first, next int64
		wantAsked   bool
	}{
		"as much":            {3, 3, false},
		"more":               {3, 4, false},
		"less may have room": {3, 2, true},
		"a look":             {1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("user", "user", ""))
			w.store.rows["shop/user"] = denied(10, time.Second)
			if _, asked := w.again(t, test.first, test.next); asked != test.wantAsked {
				t.Errorf("redis was asked: %v, want %v", asked, test.wantAsked)
			}
		})
	}
}

// A penalty has to see each denial, also when another policy of the request is remembered to deny.
func TestNothingIsRememberedBesideAPenalty(t *testing.T) {
	penalizing := rateLimit("path", "path", "")
	penalizing.Penalty = &policy.Penalty{Denials: 3, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
	w := newWorld(t, rateLimit("user", "user", ""), penalizing)
	w.store.rows["shop/user"], w.store.rows["shop/path"] = denied(10, time.Second), denied(10, time.Second)
	for range 5 {
		w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
	}
	if n := len(w.store.calls); n != 5 {
		t.Errorf("redis was asked %d times, want 5", n)
	}
}

func TestARememberedDenialIsForItsSubject(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.store.rows["shop/user"] = denied(10, time.Second)
	w.decide(t, tuple{"user", "bob"})
	w.decide(t, tuple{"user", "eve"})
	w.decide(t, tuple{"path", "bob"})
	if n := len(w.store.calls); n != 3 {
		t.Errorf("%d calls, want one for each subject", n)
	}
}

func TestARememberedDenialIsForAllWhoShareTheBudget(t *testing.T) {
	w := newWorld(t, with(rateLimit("path", "path", "/api/*", "user", ""), func(r *policy.RateLimit) {
		r.Descriptors[0].Shared = true
		r.Overrides = []policy.Override{{Values: []string{"", "eve"}, Limits: []policy.Limit{limitOf(policy.SlidingLog)}}}
	}))
	w.store.rows["shop/path"] = denied(10, time.Second)
	for _, user := range []string{"bob", "eve"} {
		w.decide(t, tuple{"path", "/api/a", "user", user})
		before := len(w.store.calls)
		v := w.decide(t, tuple{"path", "/api/b", "user", user}).Verdicts[0]
		if v.Allowed || v.Mode != Cached || len(w.store.calls) != before {
			t.Errorf("%s: %+v after %d more calls, want the denial of the other path", user, v, len(w.store.calls)-before)
		}
	}
}

func TestANewSetDropsWhatWasRemembered(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.rows["shop/user"] = denied(10, time.Second)
	w.decide(t, tuple{"user", "bob"})
	w.store.rows["shop/user"] = allowed(20, 9)
	w.Use(validSet(t, with(rateLimit("user", "user", ""), func(r *policy.RateLimit) {
		l := limitOf(policy.FixedWindow)
		l.Requests = 20
		r.Limits = []policy.Limit{l}
	})))
	if v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]; !v.Allowed {
		t.Errorf("%+v, want the raised limit", v)
	}
}

func TestADecisionWithAnIDIsNeitherRememberedNorRecalled(t *testing.T) {
	call := func(id string) Call {
		return Call{Policy: "shop/user", Lookup: lookupIn("user", "bob"), Cost: 1, ID: id}
	}
	for name, test := range map[string]struct {
		ids       []string
		wantCalls int
	}{
		"recalled without":           {[]string{"", ""}, 1},
		"an id is not recalled":      {[]string{"", "a"}, 2},
		"an id is not remembered":    {[]string{"a", ""}, 2},
		"nor recalled by an id":      {[]string{"a", "a"}, 2},
		"nor does it drop the other": {[]string{"", "a", ""}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("user", "user", ""))
			w.store.rows["shop/user"] = denied(10, time.Second)
			for _, id := range test.ids {
				if v, err := w.DecidePolicy(t.Context(), DoorAPI, call(id)); err != nil || v.Allowed || v.ID != id {
					t.Fatalf("%+v, %v; want a denial with its id", v, err)
				}
			}
			if n := len(w.store.calls); n != test.wantCalls {
				t.Errorf("%d calls, want %d", n, test.wantCalls)
			}
		})
	}
}

func TestALookIsAlwaysFresh(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.rows["shop/user"] = denied(10, time.Second)
	call := Call{Policy: "shop/user", Lookup: lookupIn("user", "bob"), Cost: 1}
	for range 2 {
		if v, err := w.Peek(t.Context(), DoorAPI, call); err != nil || v.Mode != Enforced {
			t.Fatalf("%+v, %v; want Redis asked", v, err)
		}
	}
	if _, err := w.DecidePolicy(t.Context(), DoorAPI, call); err != nil {
		t.Fatal(err)
	}
	if v, err := w.Peek(t.Context(), DoorAPI, call); err != nil || v.Mode != Enforced {
		t.Errorf("%+v, %v; want Redis asked, though it is remembered", v, err)
	}
	if want := []string{"Peek", "Peek", "Decide", "Peek"}; !slices.Equal(w.store.methods, want) {
		t.Errorf("called %q, want %q", w.store.methods, want)
	}
}

func TestARememberedDenialSparesTheWholeRequest(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.store.rows["shop/user"] = denied(10, time.Second)
	w.decide(t, tuple{"user", "bob"})
	result := w.decide(t, tuple{"path", "/"}, tuple{"user", "bob"})
	if result.Allowed || len(w.store.calls) != 1 {
		t.Fatalf("%+v after %d calls, want a denial after the first", result, len(w.store.calls))
	}
	other, bob := result.Verdicts[0], result.Verdicts[1]
	if !other.Allowed || other.Mode != Cached || other.Known || other.Name != "shop/path" || other.RetryAfter != 0 {
		t.Errorf("the other: %+v, want it allowed without figures", other)
	}
	if bob.Allowed || bob.Mode != Cached || !bob.Known {
		t.Errorf("bob: %+v, want the denial", bob)
	}
	want := map[string]float64{
		"door=rls,namespace=shop,outcome=denied,policy=user": 1,
		"door=rls,namespace=shop,outcome=cached,policy=user": 1,
	}
	if got := w.series(t, "penstock_decisions_total"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted\n%v, want\n%v", got, want)
	}
}

func TestWhatAnOperationChangesIsForgotten(t *testing.T) {
	balances := with(rateLimit("user", "user", ""), func(r *policy.RateLimit) {
		r.Overrides = []policy.Override{{Values: []string{"eve"}, Limits: []policy.Limit{limitOf(policy.Balance)}}}
	})
	for name, operate := range map[string]func(*world, Call) error{
		"refund": func(w *world, c Call) error { _, err := w.Refund(t.Context(), DoorAPI, c); return err },
		"reset":  func(w *world, c Call) error { _, err := w.Reset(t.Context(), DoorAPI, c); return err },
		"credit": func(w *world, c Call) error { _, err := w.Credit(t.Context(), DoorAPI, c); return err },
	} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, its answer lost: %v", name, lost), func(t *testing.T) {
				w := newWorld(t, balances)
				call := Call{Policy: "shop/user", Lookup: lookupIn("user", "bob"), Cost: 1}
				row := denied(10, time.Second)
				w.store.rows["shop/user"] = row
				w.decide(t, tuple{"user", "bob"})
				charge := w.store.last()[0]
				w.denials.remember(charge.Key, w.current.Load().generation, 1, &row, w.clock.Now())
				if lost {
					w.store.fail = func([]limit.Charge) error { return errLost }
				}
				if err := operate(w, call); (err != nil) != lost {
					t.Fatal(err)
				}
				w.store.fail = nil
				w.store.rows["shop/user"] = allowed(10, 0)
				if v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]; !v.Allowed {
					t.Errorf("%+v, want Redis asked again", v)
				}
			})
		}
	}
}

func TestADegradedDenialIsNotRemembered(t *testing.T) {
	w := newWorld(t, denying(rateLimit("user", "user", "")))
	w.store.fail = func([]limit.Charge) error { return errLost }
	if v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]; v.Allowed || v.Mode != Degraded {
		t.Fatalf("%+v, want a degraded denial", v)
	}
	w.store.fail = nil
	if v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]; !v.Allowed || v.Mode != Enforced {
		t.Errorf("%+v, want Redis asked", v)
	}
}

func TestWithoutADenyCacheRedisIsAlwaysAsked(t *testing.T) {
	w := newWorld(t)
	e := New(Options{Limiter: w.store, Now: w.clock.Now, NoDenyCache: true})
	e.Use(validSet(t, rateLimit("user", "user", "")))
	w.store.rows["shop/user"] = denied(10, time.Second)
	for range 3 {
		if result, err := e.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"})); err != nil || result.Verdicts[0].Mode != Enforced {
			t.Fatalf("%+v, %v; want Redis to decide", result, err)
		}
	}
	if _, err := e.Reset(t.Context(), DoorAPI, Call{Policy: "shop/user", Lookup: lookupIn("user", "bob")}); err != nil {
		t.Fatal(err)
	}
	if n := len(w.store.calls); n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
}

func TestTheLaterOfTwoDenialsHasTheirPlace(t *testing.T) {
	d := newDenials()
	row, now := denied(10, time.Second), time.Unix(1_800_000_000, 0)
	d.remember("a", 1, 1, &row, now)
	other := ""
	for i := 0; other == ""; i++ {
		if key := fmt.Sprint("b", i); d.place(key) == d.place("a") {
			other = key
		}
	}
	if _, known := d.find(other, 1, 1, now); known {
		t.Fatal("one key gets the denial of another")
	}
	d.remember(other, 1, 1, &row, now)
	if _, known := d.find(other, 1, 1, now); !known {
		t.Error("the later one is not there")
	}
	if _, known := d.find("a", 1, 1, now); known {
		t.Error("the earlier one is still there")
	}
}

func TestADenialOfBeforeARefundIsNotRememberedAfterIt(t *testing.T) {
	d := newDenials()
	row, now := denied(10, time.Second), time.Unix(1_800_000_000, 0)
	d.forget("a", now.Add(time.Millisecond))
	d.remember("a", 1, 1, &row, now)
	if _, known := d.find("a", 1, 1, now.Add(2*time.Millisecond)); known {
		t.Error("a decision that was on its way is remembered")
	}
	later := now.Add(2 * time.Millisecond)
	d.remember("a", 1, 1, &row, later)
	if _, known := d.find("a", 1, 1, later); !known {
		t.Error("one that was asked for afterwards is not")
	}
}

func TestDenialsMayBeRememberedAndForgottenAtOnce(t *testing.T) {
	d := newDenials()
	row, now := denied(10, time.Second), time.Unix(1_800_000_000, 0)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 1000 {
				key := fmt.Sprint(i % 10)
				d.remember(key, 1, 1, &row, now)
				if got, known := d.find(key, 1, 1, now); known && got != row {
					t.Errorf("%+v, want the row or none", got)
				}
				d.forget(key, now)
			}
		})
	}
	all.Wait()
}
