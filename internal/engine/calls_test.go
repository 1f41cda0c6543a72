package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

var (
	errLost    = fmt.Errorf("%w: no reply in time: %w", redisops.ErrUnknownOutcome, context.DeadlineExceeded)
	errNotSent = fmt.Errorf("%w: connection refused", redisops.ErrNotExecuted)
)

// call is one of the calls of the engine.
type call func(*world, context.Context, Call) (Verdict, error)

func slotCall(c Call) SlotCall { return SlotCall{Policy: c.Policy, Lookup: c.Lookup, ID: c.ID} }

var calls = map[string]call{
	"Check":  func(w *world, ctx context.Context, c Call) (Verdict, error) { return w.DecidePolicy(ctx, DoorAPI, c) },
	"Peek":   func(w *world, ctx context.Context, c Call) (Verdict, error) { return w.Peek(ctx, DoorAPI, c) },
	"Refund": func(w *world, ctx context.Context, c Call) (Verdict, error) { return w.Refund(ctx, DoorAPI, c) },
	"Credit": func(w *world, ctx context.Context, c Call) (Verdict, error) { return w.Credit(ctx, DoorAPI, c) },
	"Reset":  func(w *world, ctx context.Context, c Call) (Verdict, error) { return w.Reset(ctx, DoorAPI, c) },
	"AcquireSlot": func(w *world, ctx context.Context, c Call) (Verdict, error) {
		return w.AcquireSlot(ctx, DoorAPI, slotCall(c))
	},
	"ReleaseSlot": func(w *world, ctx context.Context, c Call) (Verdict, error) {
		return w.ReleaseSlot(ctx, DoorAPI, slotCall(c))
	},
}

// methods are what the calls ask the Limiter for.
var methods = map[string]string{
	"Check": "Decide", "Peek": "Peek", "Refund": "Refund", "Credit": "Credit", "Reset": "Reset",
	"AcquireSlot": "AcquireSlot", "ReleaseSlot": "ReleaseSlot",
}

// fitting is a policy shop/p that has the operation.
func fitting(name string) policy.RateLimit {
	p := rateLimit("p", "user", "b*")
	switch name {
	case "AcquireSlot", "ReleaseSlot":
		return of(p, policy.Concurrency)
	case "Credit":
		return of(p, policy.Balance)
	default:
		return p
	}
}

func TestEachCallAsksForItsOperationOfTheSubject(t *testing.T) {
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fitting(name))
			row := limit.Row{Allowed: true, Limit: 10, Remaining: 4, Reset: time.Minute, LimitName: "default", Reason: limit.ReasonOK, ID: "id-1"}
			w.store.rows["shop/p"] = row
			v, err := do(w, t.Context(), Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 3, ID: "id-1"})
			if err != nil {
				t.Fatal(err)
			}
			if !v.Allowed || v.Mode != Enforced || v.Limit != 10 || v.Remaining != 4 || v.ID != "id-1" || v.Reason != limit.ReasonOK || v.Name != "shop/p" {
				t.Errorf("%+v, want what Redis answered", v)
			}
			if !slices.Equal(w.store.methods, []string{methods[name]}) {
				t.Errorf("called %q, want %s", w.store.methods, methods[name])
			}
			charge := w.store.last()[0]
			wantKey := redisops.CounterKey("shop/p", []redisops.Entry{{Key: "user", Value: "bob"}})
			if charge.Key != wantKey || !slices.Equal(charge.Values, []string{"bob"}) || charge.ID != "id-1" {
				t.Errorf("asked %+v, want bob's budget and the id", charge)
			}
		})
	}
}

func TestWhatIsGivenBackAndAdded(t *testing.T) {
	dear := with(rateLimit("p", "user", ""), func(r *policy.RateLimit) { r.Cost = 5 })
	expression := costing(rateLimit("p", "user", ""), `request.descriptors["user"] == "bob" ? 7 : int(request.path)`)
	for name, test := range map[string]struct {
		policy policy.RateLimit
		do     string
		user   string
		cost   int64
		id     string
		want   int64
	}{
		"the caller's":                                {dear, "Refund", "bob", 2, "", 2},
		"the policy's":                                {dear, "Refund", "bob", PolicyCost, "", 5},
		"the expression's":                            {expression, "Refund", "bob", PolicyCost, "", 7},
		"all that the decision charged":               {dear, "Refund", "bob", PolicyCost, "a", policy.MaxInteger},
		"all of a decision whose cost nobody knows":   {expression, "Refund", "eve", PolicyCost, "a", policy.MaxInteger},
		"a part of what the decision charged":         {dear, "Refund", "bob", 1, "a", 1},
		"a condition that does not hold says nothing": {when(dear, "false"), "Refund", "bob", PolicyCost, "", 5},
		"what failed was charged 1":                   {costing(rateLimit("p", "user", ""), "int(request.path)"), "Refund", "bob", PolicyCost, "", 1},
		"a credit":                                    {of(dear, policy.Balance), "Credit", "bob", 20, "", 20},
		"a reset has none":                            {dear, "Reset", "bob", PolicyCost, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policy)
			if _, err := calls[test.do](w, t.Context(), Call{Policy: "shop/p", Lookup: lookupIn("user", test.user), Cost: test.cost, ID: test.id}); err != nil {
				t.Fatal(err)
			}
			if got := w.store.last()[0].Cost; got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

func TestASlotIsAskedForWithItsTTL(t *testing.T) {
	w := newWorld(t, fitting("AcquireSlot"))
	w.store.rows["shop/p"] = denied(10, 3*time.Second)
	v, err := w.AcquireSlot(t.Context(), DoorAPI, SlotCall{Policy: "shop/p", Lookup: lookupIn("user", "bob"), ID: "s-1", TTL: 5 * time.Second})
	if err != nil || v.Allowed || v.RetryAfter != 3*time.Second || v.ID != "s-1" {
		t.Errorf("%+v, %v; want a denial for 3 s", v, err)
	}
	if got := w.store.slots[0]; got.ID != "s-1" || got.TTL != 5*time.Second {
		t.Errorf("asked for %+v, want the id and the TTL", got)
	}
}

func TestACallThatNoPolicyTakesIsRefusedByItsField(t *testing.T) {
	bob := lookupIn("user", "bob")
	slot := func(id string, ttl time.Duration) SlotCall {
		return SlotCall{Policy: "shop/p", Lookup: bob, ID: id, TTL: ttl}
	}
	for name, test := range map[string]struct {
		do   func(*world) error
		want string
	}{
		"id with a space": {func(w *world) error {
			_, err := calls["Check"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob, ID: "secret id"})
			return err
		}, "id: want 1 to 128"},
		"long id": {func(w *world) error {
			_, err := calls["Refund"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob, ID: strings.Repeat("secret", 30)})
			return err
		}, "id: want 1 to 128"},
		"negative cost": {func(w *world) error {
			_, err := calls["Check"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob, Cost: -2})
			return err
		}, "cost: want 0 to 9007199254740991"},
		"cost beyond count": {func(w *world) error {
			_, err := calls["Peek"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob, Cost: policy.MaxInteger + 1})
			return err
		}, "cost: want 0 to 9007199254740991"},
		"refund beyond count": {func(w *world) error {
			_, err := calls["Refund"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob, Cost: policy.MaxInteger + 1})
			return err
		}, "cost: want 0 to 9007199254740991"},
		"credit of nothing": {func(w *world) error {
			_, err := calls["Credit"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob})
			return err
		}, "amount: want 1 to 9007199254740991"},
		"credit of no amount": {func(w *world) error {
			_, err := calls["Credit"](w, t.Context(), Call{Policy: "shop/p", Lookup: bob, Cost: PolicyCost})
			return err
		}, "amount: want 1 to 9007199254740991"},
		"no slot id":     {func(w *world) error { _, err := w.AcquireSlot(t.Context(), DoorAPI, slot("", 0)); return err }, "slot_id: want 1 to 128"},
		"slot id of two": {func(w *world) error { _, err := w.ReleaseSlot(t.Context(), DoorAPI, slot("secret\nid", 0)); return err }, "slot_id: want 1 to 128"},
		"negative ttl":   {func(w *world) error { _, err := w.AcquireSlot(t.Context(), DoorAPI, slot("a", -1)); return err }, "ttl: want at least a millisecond"},
		"a ttl of microseconds": {
			func(w *world) error {
				_, err := w.AcquireSlot(t.Context(), DoorAPI, slot("a", 999*time.Microsecond))
				return err
			}, "ttl: want at least a millisecond",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fitting(""))
			err := test.do(w)
			var argument *ArgumentError
			if !errors.As(err, &argument) || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %s…", err, test.want)
			}
			if len(w.store.calls) > 0 {
				t.Error("redis was asked")
			}
		})
	}
}

func TestAnOperationThatThePolicyHasNotNamesItsRemedy(t *testing.T) {
	p := rateLimit("p", "user", "")
	for name, test := range map[string]struct {
		policy policy.RateLimit
		want   map[string]string
	}{
		"requests": {p, map[string]string{
			"Check": "", "Peek": "", "Refund": "", "Credit": "use Refund", "Reset": "", "AcquireSlot": "use Check", "ReleaseSlot": "use Check",
		}},
		"Balance": {of(p, policy.Balance), map[string]string{
			"Check": "", "Peek": "", "Refund": "", "Credit": "", "Reset": "", "AcquireSlot": "use Check", "ReleaseSlot": "use Check",
		}},
		"Concurrency": {of(p, policy.Concurrency), map[string]string{
			"Check": "use AcquireSlot", "Peek": "use AcquireSlot", "Refund": "use AcquireSlot", "Credit": "no Balance", "Reset": "",
			"AcquireSlot": "", "ReleaseSlot": "",
		}},
	} {
		for op, want := range test.want {
			t.Run(name+", "+op, func(t *testing.T) {
				w := newWorld(t, test.policy)
				_, err := calls[op](w, t.Context(), Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1, ID: "a"})
				switch {
				case want == "" && err != nil:
					t.Errorf("%v, want it done", err)
				case want != "" && (!errors.Is(err, ErrWrongOperation) || !strings.Contains(err.Error(), want) || len(w.store.calls) > 0):
					t.Errorf("%v after %d calls, want it refused with %q", err, len(w.store.calls), want)
				}
			})
		}
	}
}

func TestEveryCallNeedsASetAndAPolicy(t *testing.T) {
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			call := Call{Policy: "shop/nobody", Lookup: lookupIn("user", "bob"), Cost: 1, ID: "a"}
			if _, err := do(w, t.Context(), call); !errors.Is(err, ErrNoSet) {
				t.Errorf("%v, want ErrNoSet", err)
			}
			w.Use(validSet(t, fitting(name)))
			if _, err := do(w, t.Context(), call); !errors.Is(err, ErrUnknownPolicy) {
				t.Errorf("%v, want ErrUnknownPolicy", err)
			}
		})
	}
}

func TestASubjectThatThePolicyIsNotAbout(t *testing.T) {
	const unmatched, missing = "unmatched", "missing"
	for name, test := range map[string]struct {
		lookup func(string) (string, bool)
		when   string
		want   map[string]string
	}{
		"a descriptor is missing": {lookupIn("path", "/"), "true", map[string]string{
			"Check": unmatched, "Peek": unmatched, "Refund": missing, "Credit": missing, "Reset": missing, "AcquireSlot": missing, "ReleaseSlot": missing,
		}},
		"a value does not fit": {lookupIn("user", "eve"), "true", map[string]string{
			"Check": unmatched, "Peek": unmatched, "Refund": missing, "Credit": missing, "Reset": missing, "AcquireSlot": unmatched, "ReleaseSlot": missing,
		}},
		"a condition does not hold": {lookupIn("user", "bob"), "false", map[string]string{
			"Check": unmatched, "Peek": unmatched, "Refund": "", "Credit": "", "Reset": "", "AcquireSlot": unmatched, "ReleaseSlot": "",
		}},
	} {
		for op, want := range test.want {
			t.Run(name+", "+op, func(t *testing.T) {
				w := newWorld(t, when(fitting(op), test.when))
				v, err := calls[op](w, t.Context(), Call{Policy: "shop/p", Lookup: test.lookup, Cost: 1, ID: "a"})
				var lacks *MissingAttributeError
				switch {
				case want == unmatched:
					if err != nil || v.Mode != Unmatched || !v.Allowed || v.ID != "a" {
						t.Errorf("%+v, %v; want it allowed, unmatched", v, err)
					}
				case want == missing:
					if !errors.As(err, &lacks) || lacks.Key != "user" || strings.Contains(err.Error(), "eve") {
						t.Errorf("%v, want the missing key user", err)
					}
				case err != nil || v.Mode != Enforced:
					t.Errorf("%+v, %v; want it done", v, err)
				}
				if asked := len(w.store.calls) > 0; asked != (want == "") {
					t.Errorf("redis was asked: %v", asked)
				}
			})
		}
	}
}

func TestALongValueIsRefusedByEveryCall(t *testing.T) {
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fitting(name))
			_, err := do(w, t.Context(), Call{Policy: "shop/p", Lookup: lookupIn("user", strings.Repeat("b", 257)), Cost: 1, ID: "a"})
			var tooLong *ValueTooLongError
			if !errors.As(err, &tooLong) || len(w.store.calls) > 0 {
				t.Errorf("%v after %d calls, want ValueTooLongError", err, len(w.store.calls))
			}
		})
	}
}

func TestWithoutRedisDecisionsAreThePolicysAndOperationsFail(t *testing.T) {
	for name, test := range map[string]struct {
		err error
		// want is the error of what is no decision, and wantSeries how it is counted.
		want       error
		wantSeries string
	}{
		"the command was not sent": {errNotSent, ErrStoreUnavailable, "failed"},
		"the reply was lost":       {errLost, ErrUnknownOutcome, "unknown"},
		"redis is out of memory":   {reply("OOM command not allowed"), ErrStoreUnavailable, "failed"},
		"redis is busy":            {reply("BUSY Redis is busy running a script"), ErrStoreUnavailable, "failed"},
		"it failed in the middle":  {reply("ERR something broke"), ErrUnknownOutcome, "unknown"},
		"another version":          {reply("PENSTOCK_BADARG 1 values, want 2"), ErrStoreUnavailable, "failed"},
		"a foreign key":            {&limit.WrongTypeError{Key: redisops.CounterKey("shop/p", []redisops.Entry{{Key: "user", Value: "bob"}})}, ErrStoreUnavailable, "failed"},
		"the policy was deleted":   {fmt.Errorf("%w: PENSTOCK_NOPOLICY shop/p", limit.ErrNoPolicy), ErrUnknownPolicy, "failed"},
		"redis refuses us":         {reply("NOPERM no rights"), ErrConfiguration, "failed"},
	} {
		for op, do := range calls {
			t.Run(name+", "+op, func(t *testing.T) {
				w := newWorld(t, denying(fitting(op)))
				w.store.fail = func([]limit.Charge) error { return test.err }
				v, err := do(w, t.Context(), Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1, ID: "a"})
				if op == "Check" || op == "Peek" || op == "AcquireSlot" {
					switch {
					case errors.Is(test.want, ErrConfiguration):
						if !errors.Is(err, ErrConfiguration) {
							t.Errorf("%+v, %v; want an error", v, err)
						}
					case errors.Is(test.want, ErrUnknownPolicy):
						if err != nil || v.Mode != Unmatched {
							t.Errorf("%+v, %v; want it left out", v, err)
						}
					case err != nil || v.Allowed || v.Mode != Degraded || v.RetryAfter == 0 || v.ID != "a":
						t.Errorf("%+v, %v; want onStoreFailure", v, err)
					}
					return
				}
				if !errors.Is(err, test.want) || v != (Verdict{}) {
					t.Errorf("%+v, %v; want %v", v, err, test.want)
				}
				if errors.Is(err, ErrUnknownOutcome) != errors.Is(err, redisops.ErrUnknownOutcome) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v is to be told by one error alone", err)
				}
				for labels, n := range w.series(t, "penstock_operations_total") {
					if !strings.Contains(labels, "outcome="+test.wantSeries) || n != 1 {
						t.Errorf("counted %s %v times, want %s", labels, n, test.wantSeries)
					}
				}
			})
		}
	}
}

func TestACallerThatHasGoneIsToldSo(t *testing.T) {
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fitting(name))
			ctx, cancel := context.WithCancel(t.Context())
			w.store.fail = func([]limit.Charge) error { cancel(); return errLost }
			if _, err := do(w, ctx, Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1, ID: "a"}); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want context.Canceled", err)
			}
			if w.value(t, "penstock_degraded") != 0 {
				t.Error("redis is suspected")
			}
		})
	}
}

func TestACreditThatTheSubjectCannotTakeIsNoFaultOfRedis(t *testing.T) {
	for name, test := range map[string]struct {
		refusal string
		want    func(error) bool
	}{
		"too much": {"PENSTOCK_BADARG cost: the balance would be more than 9007199254740991", func(err error) bool {
			var argument *ArgumentError
			return errors.As(err, &argument) && argument.Field == "amount"
		}},
		"an override without a balance": {"PENSTOCK_BADARG policy shop/p has no limit of algorithm Balance to credit", func(err error) bool {
			return errors.Is(err, ErrWrongOperation)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, of(rateLimit("p", "user", ""), policy.Balance))
			w.store.fail = func([]limit.Charge) error { return reply(test.refusal) }
			_, err := w.Credit(t.Context(), DoorAPI, Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: policy.MaxInteger})
			if !test.want(err) {
				t.Errorf("got %v", err)
			}
			if w.rereads > 0 || w.log.Len() > 0 {
				t.Errorf("%d rereads, log %q; want the set not suspected", w.rereads, w.log)
			}
		})
	}
}

func TestOperationsAreCountedByWhatBecameOfThem(t *testing.T) {
	w := newWorld(t, fitting("Refund"))
	call := Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1}
	for _, reason := range []string{limit.ReasonOK, limit.ReasonAbsent} {
		row := allowed(10, 9)
		row.Reason = reason
		w.store.rows["shop/p"] = row
		if v, err := w.Refund(t.Context(), DoorAPI, call); err != nil || v.Reason != reason {
			t.Fatalf("%+v, %v; want the reason %s", v, err, reason)
		}
	}
	if _, err := w.Reset(t.Context(), DoorAPI, call); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"door=api,namespace=shop,operation=refund,outcome=done,policy=p":   1,
		"door=api,namespace=shop,operation=refund,outcome=absent,policy=p": 1,
		"door=api,namespace=shop,operation=reset,outcome=absent,policy=p":  1,
	}
	if got := w.series(t, "penstock_operations_total"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted\n%v, want\n%v", got, want)
	}
	if got := w.series(t, "penstock_decisions_total"); len(got) != 0 {
		t.Errorf("decisions %v, want none", got)
	}
	w.Use(validSet(t, rateLimit("other", "user", "")))
	if got := w.series(t, "penstock_operations_total"); len(got) != 0 {
		t.Errorf("%v of a policy that is gone, want none", got)
	}
}

// An id is the caller's: it stands in the key of the record, and so in what Redis says of it.
func TestAnIDIsNeverLogged(t *testing.T) {
	key := redisops.CounterKey("shop/p", []redisops.Entry{{Key: "user", Value: "bob"}})
	for _, mark := range []string{"#", "+"} {
		w := newWorld(t, rateLimit("p", "user", ""))
		w.store.fail = func([]limit.Charge) error { return &limit.WrongTypeError{Key: key + mark + "secret-id"} }
		v, err := w.DecidePolicy(t.Context(), DoorAPI, Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1, ID: "secret-id"})
		if err != nil || v.Mode != Degraded {
			t.Errorf("%+v, %v; want onStoreFailure for the subject", v, err)
		}
		if text := w.log.String(); strings.Contains(text, "secret-id") || !strings.Contains(text, key) {
			t.Errorf("logged\n%s\nwant the key without the id", text)
		}
	}
}
