package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// reply is an error that Redis answered with.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

func failing(err error) func([]limit.Charge) error {
	return func([]limit.Charge) error { return err }
}

// failingFor fails every call that has a charge of the policy.
func failingFor(policy string, make func(c limit.Charge) error) func([]limit.Charge) error {
	return func(charges []limit.Charge) error {
		for _, c := range charges {
			if c.Policy.Name == policy {
				return make(c)
			}
		}
		return nil
	}
}

func TestWhileRedisIsGoneThePolicyDecides(t *testing.T) {
	for name, err := range map[string]error{
		"not sent":        fmt.Errorf("dial: %w", redisops.ErrNotExecuted),
		"no reply":        fmt.Errorf("read: %w", redisops.ErrUnknownOutcome),
		"out of memory":   reply("OOM command not allowed when used memory > 'maxmemory'."),
		"busy":            reply("BUSY Redis is busy running a script."),
		"loading":         reply("LOADING Redis is loading the dataset in memory"),
		"no library":      reply("ERR Function not found"),
		"refused by ours": reply("PENSTOCK_BADARG cost: want an integer"),
		"who knows":       errors.New("unexpected"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("lenient", "user", ""), denying(rateLimit("strict", "path", "")))
			w.store.fail = failing(err)
			lenient := w.decide(t, tuple{"user", "bob"})
			if v := lenient.Verdicts[0]; !lenient.Allowed || !lenient.Degraded || v.Mode != Degraded || v.Known || v.Name != "shop/lenient" {
				t.Errorf("Allow: %+v, want allowed, degraded, without figures", lenient)
			}
			strict := w.decide(t, tuple{"path", "/"})
			if v := strict.Verdicts[0]; strict.Allowed || !strict.Degraded || v.Mode != Degraded || v.Known || v.RetryAfterSeconds() < 1 {
				t.Errorf("Deny: %+v, want denied, degraded, with a time to retry", strict)
			}
			both := w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
			if both.Allowed || !both.Verdicts[0].Allowed || both.Verdicts[1].Allowed {
				t.Errorf("both: %+v, want each by its own mode and the whole denied", both)
			}
		})
	}
}

func TestTooFewRowsAreAFailureAndNotAPanic(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	e := New(Options{Limiter: shortStore{}})
	e.Use(w.Set())
	result, err := e.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"}))
	if err != nil || !result.Degraded {
		t.Errorf("%+v, %v; want degraded", result, err)
	}
}

type shortStore struct{}

func (shortStore) Decide(context.Context, []limit.Charge) ([]limit.Row, error) { return nil, nil }

func TestRefusedCredentialsAreAnErrorAndNeverAllow(t *testing.T) {
	for name, text := range map[string]string{
		"no password":    "NOAUTH Authentication required.",
		"wrong password": "WRONGPASS invalid username-password pair or user is disabled.",
		"no right":       "NOPERM this user has no permissions to run the 'fcall' command",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("lenient", "user", ""))
			w.store.fail = failing(reply(text))
			for range 3 {
				if result, err := w.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"})); !errors.Is(err, ErrConfiguration) {
					t.Fatalf("%+v, %v; want ErrConfiguration", result, err)
				}
			}
			if got := w.series(t, "penstock_store_errors_total"); fmt.Sprint(got) != "map[class=configuration:3]" {
				t.Errorf("errors counted: %v, want 3 of class configuration", got)
			}
			if got := w.series(t, "penstock_decisions_total"); fmt.Sprint(got) != "map[door=rls,namespace=shop,outcome=error,policy=lenient:3]" {
				t.Errorf("decisions counted: %v, want 3 errors", got)
			}
			if n := strings.Count(w.log.String(), "level=ERROR"); n != 1 {
				t.Errorf("%d lines for one transition, want 1:\n%s", n, w.log)
			}
		})
	}
}

func TestACallerThatWentAwaySaysNothingAboutRedis(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	ctx, cancel := context.WithCancel(t.Context())
	w.store.fail = func([]limit.Charge) error { cancel(); return redisops.ErrUnknownOutcome }
	if _, err := w.Decide(ctx, DoorRLS, request("shop", tuple{"user", "bob"})); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if got := w.value(t, "penstock_degraded"); got != 0 || w.log.Len() != 0 {
		t.Errorf("degraded %v, log %q; want neither", got, w.log)
	}
}

func TestACallerInAHurryIsAnsweredByThePolicy(t *testing.T) {
	w := newWorld(t, denying(rateLimit("user", "user", "")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	w.store.fail = failing(fmt.Errorf("%w: %w", redisops.ErrNotExecuted, context.DeadlineExceeded))
	result, err := w.Decide(ctx, DoorRLS, request("shop", tuple{"user", "bob"}))
	if err != nil || result.Allowed || !result.Degraded {
		t.Errorf("%+v, %v; want a degraded denial", result, err)
	}
}

func TestAnOutageIsLoggedWhenItBeginsAndWhenItEnds(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	step := func(err error, after time.Duration) {
		w.clock.advance(after)
		w.store.fail = failing(err)
		w.decide(t, tuple{"user", "bob"})
	}
	for range 100 {
		step(redisops.ErrUnknownOutcome, time.Millisecond)
	}
	for range 100 { // flapping: every second call succeeds
		step(nil, time.Millisecond)
		step(redisops.ErrUnknownOutcome, time.Millisecond)
	}
	if got := w.value(t, "penstock_degraded"); got != 1 {
		t.Errorf("degraded %v while it flaps, want 1", got)
	}
	step(nil, hold)
	for range 100 {
		step(nil, time.Millisecond)
	}
	if got := w.value(t, "penstock_degraded"); got != 0 {
		t.Errorf("degraded %v when it is over, want 0", got)
	}
	if lines := strings.Count(w.log.String(), "\n"); lines != 2 ||
		!strings.Contains(w.log.String(), "redis does not answer") || !strings.Contains(w.log.String(), "redis answers again") {
		t.Errorf("want two lines, the beginning and the end:\n%s", w.log)
	}
}

func TestAKeyThatHoldsSomethingElseHarmsOnlyItsOwnPolicy(t *testing.T) {
	wrongType := func(c limit.Charge) error { return &limit.WrongTypeError{Key: c.Key} }
	wrongLog := func(c limit.Charge) error { return &limit.WrongTypeError{Key: redisops.LogKey(c.Key, "default")} }
	for name, test := range map[string]struct {
		strict      bool
		make        func(limit.Charge) error
		wantAllowed bool
		wantCost    int64
	}{
		"Allow: the others are charged":             {false, wrongType, true, 1},
		"Allow, by the key of its log":              {false, wrongLog, true, 1},
		"Deny: what is refused charges nobody else": {true, wrongType, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			broken := rateLimit("broken", "user", "")
			if test.strict {
				broken = denying(broken)
			}
			w := newWorld(t, rateLimit("whole"), broken, denying(rateLimit("sound", "path", "")))
			w.store.fail = failingFor("shop/broken", test.make)
			for range 3 {
				result := w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
				if result.Allowed != test.wantAllowed || !result.Degraded {
					t.Fatalf("%+v, want allowed %v and degraded", result, test.wantAllowed)
				}
				if v := result.Verdicts[1]; v.Mode != Enforced || !v.Allowed || v.Name != "shop/sound" || v.Remaining != 9 {
					t.Errorf("the other policy: %+v, want it enforced", v)
				}
			}
			last := w.store.calls[len(w.store.calls)-1]
			if len(last) != 2 || last[0].Policy.Name != "shop/whole" || last[1].Policy.Name != "shop/sound" || last[0].Cost != test.wantCost || last[1].Cost != test.wantCost {
				t.Errorf("decided again: %+v, want the two others at cost %d", last, test.wantCost)
			}
			if n := strings.Count(w.log.String(), "\n"); n != 1 {
				t.Errorf("%d lines for one transition, want 1:\n%s", n, w.log)
			}
			if got := w.series(t, "penstock_store_errors_total"); fmt.Sprint(got) != "map[class=wrong_type:3]" {
				t.Errorf("errors counted: %v, want 3 of class wrong_type", got)
			}
			w.log.Reset()
			w.store.fail = nil
			w.clock.advance(hold)
			w.decide(t, tuple{"user", "bob"})
			if !strings.Contains(w.log.String(), "counts again") {
				t.Errorf("nothing says that it is over:\n%s", w.log)
			}
		})
	}
}

func TestSeveralBrokenKeysAreTakenOutOneByOne(t *testing.T) {
	w := newWorld(t, rateLimit("a", "a", ""), rateLimit("b", "b", ""), rateLimit("c", "c", ""))
	w.store.fail = func(charges []limit.Charge) error {
		for _, c := range charges {
			if c.Policy.Name != "shop/b" {
				return &limit.WrongTypeError{Key: c.Key}
			}
		}
		return nil
	}
	result := w.decide(t, tuple{"a", "1"}, tuple{"b", "2"}, tuple{"c", "3"})
	for i, want := range []Mode{Degraded, Enforced, Degraded} {
		if got := result.Verdicts[i].Mode; got != want {
			t.Errorf("verdict %d is %s, want %s", i, got, want)
		}
	}
}

func TestABrokenKeyOfNobodyIsAFailureOfAll(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.fail = failing(&limit.WrongTypeError{Key: "rl:{another}:shop/user"})
	if result := w.decide(t, tuple{"user", "bob"}); !result.Degraded || len(w.store.calls) != 1 {
		t.Errorf("%+v after %d calls, want degraded after one", result, len(w.store.calls))
	}
}

func TestAPolicyThatRedisForgotIsLeftOutAndTheSetReadAgain(t *testing.T) {
	gone := func(c limit.Charge) error {
		return fmt.Errorf("%w: %w", limit.ErrNoPolicy, reply("PENSTOCK_NOPOLICY "+c.Policy.Name))
	}
	// Strict, since it is no failure of the store: onStoreFailure has no say.
	w := newWorld(t, denying(rateLimit("gone", "user", "")), rateLimit("gone-not", "user", ""))
	w.store.fail = failingFor("shop/gone", gone)
	for range 2 {
		result := w.decide(t, tuple{"user", "bob"})
		if v := result.Verdicts[0]; !result.Allowed || result.Degraded || v.Mode != Enforced || v.Name != "shop/gone-not" {
			t.Fatalf("%+v, want the verdict of the policy that is left", result)
		}
	}
	if w.rereads != 2 {
		t.Errorf("asked to read the set again %d times, want 2", w.rereads)
	}
	if n := strings.Count(w.log.String(), "\n"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, w.log)
	}
	alone, err := w.DecidePolicy(t.Context(), DoorForwardAuth, "shop/gone", func(string) (string, bool) { return "bob", true }, 1)
	if err != nil || !alone.Allowed || alone.Mode != Unmatched {
		t.Errorf("alone: %+v, %v; want no policy at all", alone, err)
	}
}

func TestWhatRedisHasAnotherVersionOfIsReadAgain(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.fail = failing(reply("PENSTOCK_BADARG shop/user: 1 values, want 2"))
	if result := w.decide(t, tuple{"user", "bob"}); !result.Degraded || w.rereads != 1 {
		t.Errorf("%+v after %d rereads, want degraded after one", result, w.rereads)
	}
}
