package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

func noPolicy(name string) error {
	return fmt.Errorf("%w: PENSTOCK_NOPOLICY %s is not a policy of this store", limit.ErrNoPolicy, name)
}

// part is a descriptor of a request.
type part struct {
	tuple   tuple
	cost    int64
	returns bool
}

func requestOfParts(parts ...part) *Request {
	r := NewRequest("shop")
	for _, p := range parts {
		r.Descriptor(p.cost)
		for i := 0; i < len(p.tuple); i += 2 {
			r.Entry(p.tuple[i], p.tuple[i+1])
		}
		if p.returns {
			r.GiveBack()
		}
	}
	return r
}

// asked are the calls as "<method> <policy> <cost>", sorted, since what is given back is under way side by side.
func (s *store) asked() []string {
	var out []string
	for i, call := range s.calls {
		for _, c := range call {
			out = append(out, fmt.Sprint(s.methods[i], " ", c.Policy.Name, " ", c.Cost))
		}
	}
	slices.Sort(out)
	return out
}

func TestADescriptorGivesBackWhatItWouldElseBeCharged(t *testing.T) {
	bob, path := tuple{"user", "bob"}, tuple{"path", "/"}
	for name, test := range map[string]struct {
		parts []part
		want  []string
	}{
		"so many":               {[]part{{bob, 4, true}}, []string{"Refund shop/user 4", "Refund shop/whole 4"}},
		"the policy's cost":     {[]part{{path, PolicyCost, true}}, []string{"Refund shop/path 3", "Refund shop/whole 1"}},
		"nothing, only to look": {[]part{{bob, 0, true}}, []string{"Refund shop/user 0", "Refund shop/whole 0"}},
		"beside a charge": {
			[]part{{bob, 4, true}, {path, 2, false}}, []string{"Decide shop/path 2", "Decide shop/whole 2", "Refund shop/user 4"},
		},
		"one subject twice": {[]part{{bob, 4, true}, {bob, 1, true}}, []string{"Refund shop/user 5", "Refund shop/whole 4"}},
		"one subject both ways": {
			[]part{{bob, 4, false}, {bob, 1, true}}, []string{"Decide shop/user 4", "Decide shop/whole 4", "Refund shop/user 1"},
		},
		"what no policy is about": {[]part{{tuple{"a", "b"}, 1, true}, {bob, 1, false}}, []string{"Decide shop/user 1", "Decide shop/whole 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("user", "user", ""), costing(rateLimit("path", "path", ""), "3"), rateLimit("whole"))
			r := requestOfParts(test.parts...)
			defer r.Release()
			result := decideRequest(t, w, r)
			if got := w.store.asked(); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
			if !result.Allowed || result.Degraded || len(result.Verdicts) != len(test.parts) {
				t.Errorf("%+v", result)
			}
		})
	}
}

func TestADescriptorThatGivesBackIsAllowedWhateverIsLeft(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.store.rows["shop/user"] = denied(10, time.Minute)
	w.store.rows["shop/path"] = denied(10, time.Minute)
	r := requestOfParts(part{tuple{"user", "bob"}, 1, true}, part{tuple{"path", "/"}, 1, false})
	defer r.Release()
	result := decideRequest(t, w, r)
	if back := result.Verdicts[0]; !back.Allowed || back.RetryAfter != 0 || !back.Known || back.Limit != 10 {
		t.Errorf("%+v, want it allowed with figures", back)
	}
	if result.Allowed || result.Verdicts[1].Allowed {
		t.Errorf("%+v, want the other denied", result)
	}
	if got := w.series(t, "penstock_operations_total"); got["door=rls,namespace=shop,operation=refund,outcome=done,policy=user"] != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestAPolicyOfTheWholeRequestIsReportedWithTheFirstDescriptorThatIsCharged(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("whole"))
	w.store.rows["shop/whole"] = denied(10, time.Minute)
	r := requestOfParts(part{tuple{"user", "bob"}, 1, true}, part{tuple{"a", "b"}, 1, false})
	defer r.Release()
	result := decideRequest(t, w, r)
	if v := result.Verdicts; !v[0].Allowed || v[1].Allowed || v[1].Name != "shop/whole" {
		t.Errorf("%+v, want the second denied", v)
	}
}

func TestWhatGivesBackEndsARememberedDenial(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.rows["shop/user"] = denied(10, time.Minute)
	w.decide(t, tuple{"user", "bob"})
	if v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]; v.Mode != Cached {
		t.Fatalf("%+v, want it cached", v)
	}
	w.store.rows["shop/user"] = allowed(10, 5)
	r := requestOfParts(part{tuple{"user", "bob"}, 1, true})
	defer r.Release()
	decideRequest(t, w, r)
	if v := w.decide(t, tuple{"user", "bob"}).Verdicts[0]; v.Mode != Enforced {
		t.Errorf("%+v, want redis asked", v)
	}
}

func TestWhatCannotBeGivenBackIsSaidAndDeniesNobody(t *testing.T) {
	for name, test := range map[string]struct {
		fail         error
		wantMode     Mode
		wantDegraded bool
		wantErr      error
	}{
		"the command was not sent": {errNotSent, Degraded, true, nil},
		"the reply was lost":       {errLost, Degraded, true, nil},
		"the policy was deleted":   {noPolicy("shop/user"), Unmatched, false, nil},
		"redis refuses us":         {reply("NOPERM no rights"), Degraded, false, ErrConfiguration},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, denying(rateLimit("user", "user", "")))
			w.store.fail = func([]limit.Charge) error { return test.fail }
			r := requestOfParts(part{tuple{"user", "bob"}, 1, true})
			defer r.Release()
			result, err := w.Decide(t.Context(), DoorRLS, r)
			if !errors.Is(err, test.wantErr) {
				t.Fatalf("%v, want %v", err, test.wantErr)
			}
			if err != nil {
				return
			}
			v := result.Verdicts[0]
			if !result.Allowed || result.Degraded != test.wantDegraded || !v.Allowed || v.Known || v.Mode != test.wantMode {
				t.Errorf("%+v", result)
			}
		})
	}
}

func TestACallerThatHasGoneBeforeItGaveBackIsToldSo(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	ctx, cancel := context.WithCancel(t.Context())
	w.store.fail = func([]limit.Charge) error {
		cancel()
		return errLost
	}
	r := requestOfParts(part{tuple{"user", "bob"}, 1, true})
	defer r.Release()
	if _, err := w.Decide(ctx, DoorRLS, r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestALongValueIsRefusedBeforeAnythingIsChargedOrGivenBack(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	long := strings.Repeat("x", MaxValueBytes+1)
	for name, r := range map[string]*Request{
		"of what gives back": requestOfParts(part{tuple{"user", long}, 1, true}, part{tuple{"user", "bob"}, 1, false}),
		"of what is charged": requestOfParts(part{tuple{"user", "bob"}, 1, true}, part{tuple{"user", long}, 1, false}),
	} {
		t.Run(name, func(t *testing.T) {
			defer r.Release()
			var tooLong *ValueTooLongError
			if _, err := w.Decide(t.Context(), DoorRLS, r); !errors.As(err, &tooLong) || len(w.store.calls) != 0 {
				t.Errorf("%v, %d calls", err, len(w.store.calls))
			}
		})
	}
}

func TestALimitOfTheRequestGetsBackWhatWasItsOwn(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	charged := limited(5, time.Minute, tuple{"user", "bob"})
	defer charged.Release()
	decideRequest(t, w, charged)
	key := w.store.last()[0].Key
	back := limited(5, time.Minute, tuple{"user", "bob"})
	back.GiveBack()
	defer back.Release()
	decideRequest(t, w, back)
	if got := w.store.last()[0]; got.Key != key || !got.Unpublished || w.store.methods[1] != "Refund" {
		t.Errorf("%s %+v, want %s refunded", w.store.methods[1], got, key)
	}
}

func TestWhatIsDeniedStaysDeniedWhenAnotherPartCannotBeGivenBack(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.store.rows["shop/path"] = denied(10, time.Minute)
	w.store.fail = func(charges []limit.Charge) error {
		if charges[0].Policy.Name == "shop/user" { // what is given back
			return reply("NOPERM no rights")
		}
		return nil
	}
	r := requestOfParts(part{tuple{"user", "bob"}, 1, true}, part{tuple{"path", "/"}, 1, false})
	defer r.Release()
	result, err := w.Decide(t.Context(), DoorRLS, r)
	if err != nil || result.Allowed || !result.Degraded || !result.Verdicts[0].Allowed || result.Verdicts[1].Allowed {
		t.Errorf("%+v, %v; want the denial", result, err)
	}
}

// panicking is a store that meets an error in the program.
type panicking struct{ *store }

func (panicking) Refund(context.Context, limit.Charge) (limit.Row, error) { panic("a bug") }

func TestAPanicWhileGivingBackIsThatOfTheRequest(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.limiter = panicking{w.store}
	defer func() {
		if recover() != "a bug" {
			t.Error("no panic where the door recovers")
		}
	}()
	r := requestOfParts(part{tuple{"user", "bob"}, 1, true}, part{tuple{"path", "/"}, 1, true})
	_, _ = w.Decide(t.Context(), DoorRLS, r)
}
