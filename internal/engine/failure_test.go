package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
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
		"not sent":      fmt.Errorf("dial: %w", redisops.ErrNotExecuted),
		"no reply":      fmt.Errorf("read: %w", redisops.ErrUnknownOutcome),
		"out of memory": reply("OOM command not allowed when used memory > 'maxmemory'."),
		"busy":          reply("BUSY Redis is busy running a script."),
		"loading":       reply("LOADING Redis is loading the dataset in memory"),
		"no library":    reply("ERR Function not found"),
		"who knows":     errors.New("unexpected"),
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

type shortStore struct{ Limiter }

func (shortStore) Decide(context.Context, []limit.Charge) ([]limit.Row, error) { return nil, nil }

func (shortStore) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func TestRefusedCredentialsAreAnErrorAndNeverAllow(t *testing.T) {
	for name, refusal := range map[string]error{
		"no password":    reply("NOAUTH Authentication required."),
		"wrong password": reply("WRONGPASS invalid username-password pair or user is disabled."),
		"no right":       reply("NOPERM this user has no permissions to run the 'fcall' command"),
		"a server that is far": fmt.Errorf("%w: %w", redisops.ErrBreakerOpen,
			reply("WRONGPASS invalid username-password pair or user is disabled.")),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("lenient", "user", ""))
			w.store.fail = failing(refusal)
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

func TestATimeoutOfTheCallersOwnSaysNothingAboutRedis(t *testing.T) {
	noTime := fmt.Errorf("%w: %w", redisops.ErrNotExecuted, context.DeadlineExceeded)
	noReply := fmt.Errorf("%w: %w", redisops.ErrUnknownOutcome, context.DeadlineExceeded)
	const expired = time.Nanosecond
	for name, test := range map[string]struct {
		deadline time.Duration // 0 is none
		took     time.Duration
		err      error
		outage   bool
	}{
		"no time left":                        {expired, 0, noTime, false},
		"not enough for a round trip":         {expired, 5 * time.Millisecond, noReply, false},
		"more than a decision has by default": {expired, 2 * redisops.DefaultCommandTimeout, noReply, true},
		"no deadline of its own":              {0, 5 * time.Millisecond, noReply, true},
		"a deadline that was not reached":     {time.Hour, 5 * time.Millisecond, noReply, true},
		"Redis gone while in a hurry":         {expired, 0, fmt.Errorf("dial: %w", redisops.ErrNotExecuted), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, denying(rateLimit("user", "user", "")))
			ctx := t.Context()
			if test.deadline > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.deadline)
				defer cancel()
			}
			if test.deadline == expired {
				<-ctx.Done()
			}
			w.store.fail = func([]limit.Charge) error { w.clock.advance(test.took); return test.err }
			result, err := w.Decide(ctx, DoorRLS, request("shop", tuple{"user", "bob"}))
			if err != nil || result.Allowed || !result.Degraded {
				t.Errorf("%+v, %v; want a degraded denial", result, err)
			}
			if gauge := w.value(t, "penstock_degraded"); gauge == 1 != test.outage || strings.Contains(w.log.String(), "does not answer") != test.outage {
				t.Errorf("degraded %v, log %q; want an outage: %v", gauge, w.log, test.outage)
			}
			counted := fmt.Sprint(w.series(t, "penstock_store_errors_total"))
			if own := counted == "map[class=caller_deadline:1]"; own == test.outage {
				t.Errorf("counted %s, want class caller_deadline: %v", counted, !test.outage)
			}
		})
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
	step(nil, TransitionHold)
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
			w.clock.advance(TransitionHold)
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

func gone(c limit.Charge) error {
	return fmt.Errorf("%w: %w", limit.ErrNoPolicy, reply("PENSTOCK_NOPOLICY "+c.Policy.Name))
}

func TestAPolicyThatRedisForgotIsLeftOutUntilTheSetIsReadAgain(t *testing.T) {
	// Strict, since it is no failure of the store at first: onStoreFailure has no say.
	w := newWorld(t, denying(rateLimit("gone", "user", "")), rateLimit("gone-not", "user", ""))
	w.store.fail = failingFor("shop/gone", gone)
	for range 2 {
		result := w.decide(t, tuple{"user", "bob"})
		if v := result.Verdicts[0]; !result.Allowed || result.Degraded || v.Mode != Enforced || v.Name != "shop/gone-not" {
			t.Fatalf("%+v, want the verdict of the policy that is left", result)
		}
		w.clock.advance(grace - time.Millisecond)
	}
	if w.rereads != 2 {
		t.Errorf("asked to read the set again %d times, want 2", w.rereads)
	}
	if n := strings.Count(w.log.String(), "\n"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, w.log)
	}
	w.Use(validSet(t, rateLimit("gone-not", "user", "")))
	if result := w.decide(t, tuple{"user", "bob"}); !result.Allowed || result.Degraded {
		t.Errorf("%+v, want the verdict of the policy that is left", result)
	}
}

func TestAPolicyAloneThatRedisForgotIsNoPolicyAtFirst(t *testing.T) {
	w := newWorld(t, denying(rateLimit("gone", "user", "")))
	w.store.fail = failingFor("shop/gone", gone)
	alone, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/gone", Lookup: func(string) (string, bool) { return "bob", true }, Cost: 1})
	if err != nil || !alone.Allowed || alone.Mode != Unmatched {
		t.Errorf("%+v, %v; want no policy at all", alone, err)
	}
}

func TestAPolicyThatTheSetHasAndRedisDoesNotServeIsAFailure(t *testing.T) {
	for name, test := range map[string]struct {
		strict bool
		// meanwhile happens within the grace.
		meanwhile   func(*testing.T, *world)
		wantAllowed bool
	}{
		"Allow": {false, func(*testing.T, *world) {}, true},
		"Deny":  {true, func(*testing.T, *world) {}, false},
		"Deny, in a newer set as well": {true, func(t *testing.T, w *world) {
			w.Use(validSet(t, denying(rateLimit("absent", "user", "")), rateLimit("sound", "path", ""), rateLimit("new", "team", "")))
		}, false},
		"Deny, though every second answer is of a server that has it": {true, func(t *testing.T, w *world) {
			w.store.fail = nil
			w.decide(t, tuple{"user", "bob"})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			absent := rateLimit("absent", "user", "")
			if test.strict {
				absent = denying(absent)
			}
			w := newWorld(t, absent, rateLimit("sound", "path", ""))
			w.store.fail = failingFor("shop/absent", gone)
			if result := w.decide(t, tuple{"user", "bob"}); !result.Allowed || result.Degraded {
				t.Fatalf("at first: %+v, want it left out", result)
			}
			test.meanwhile(t, w)
			w.store.fail = failingFor("shop/absent", gone)
			w.log.Reset()
			w.clock.advance(grace)
			for range 3 {
				result := w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
				if result.Allowed != test.wantAllowed || !result.Degraded || result.Verdicts[0].Mode != Degraded || result.Verdicts[1].Mode != Enforced {
					t.Fatalf("%+v, want allowed %v, degraded, and the other policy enforced", result, test.wantAllowed)
				}
			}
			if w.rereads != 4 {
				t.Errorf("asked to read the set again %d times, want 4", w.rereads)
			}
			if n := strings.Count(w.log.String(), "\n"); n != 1 || !strings.Contains(w.log.String(), "level=ERROR") {
				t.Errorf("%d lines for one transition, want one error:\n%s", n, w.log)
			}
			if got := w.value(t, "penstock_degraded"); got != 0 {
				t.Errorf("degraded %v, want 0: Redis answers", got)
			}

			w.log.Reset()
			w.store.fail = nil
			w.clock.advance(TransitionHold)
			if result := w.decide(t, tuple{"user", "bob"}); !result.Allowed || result.Degraded {
				t.Errorf("when Redis has it: %+v, want it enforced", result)
			}
			if !strings.Contains(w.log.String(), "serves the policy again") {
				t.Errorf("nothing says that it is over:\n%s", w.log)
			}
			w.store.fail = failingFor("shop/absent", gone)
			if result := w.decide(t, tuple{"user", "bob"}); !result.Allowed || result.Degraded {
				t.Errorf("another time: %+v, want it left out at first", result)
			}
		})
	}
}

func TestATroubleIsNotToldAgainWithEveryPublication(t *testing.T) {
	broken := rateLimit("broken", "user", "")
	w := newWorld(t, broken)
	w.store.fail = failingFor("shop/broken", func(c limit.Charge) error { return &limit.WrongTypeError{Key: c.Key} })
	w.decide(t, tuple{"user", "bob"})
	if n := strings.Count(w.log.String(), "holds something else"); n != 1 {
		t.Fatalf("told %d times, want once:\n%s", n, w.log)
	}
	broken.Limits[0].Requests = 5
	w.Use(validSet(t, broken.Sealed(), rateLimit("new", "path", "")))
	w.decide(t, tuple{"user", "bob"})
	if n := strings.Count(w.log.String(), "holds something else"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, w.log)
	}
	w.store.fail = nil
	w.clock.advance(TransitionHold)
	w.decide(t, tuple{"user", "bob"})
	if !strings.Contains(w.log.String(), "counts again") {
		t.Errorf("nothing says that it is over:\n%s", w.log)
	}
}

func TestWhatRedisRefusesIsAnsweredByTheMode(t *testing.T) {
	for name, text := range map[string]string{
		"another number of values":  "PENSTOCK_BADARG shop/user: 1 values, want 2",
		"a value that does not fit": `PENSTOCK_BADARG value 1 (user) is "bob-s-secret": shop/user is for "x*"`,
		"a key":                     "PENSTOCK_BADKEY key 1",
		"a policy that is not ours": "PENSTOCK_NOPOLICY shop/another",
	} {
		t.Run(name, func(t *testing.T) {
			deny := rateLimit("path", "path", "")
			deny.OnStoreFailure = policy.FailureDeny
			deny = deny.Sealed()
			w := newWorld(t, rateLimit("user", "user", ""), deny)
			w.store.fail = failing(reply(text))
			for range 3 {
				result, err := w.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"}, tuple{"path", "/"}))
				if err != nil || !result.Degraded || result.Allowed {
					t.Fatalf("%+v, %v; want a degraded denial", result, err)
				}
			}
			if w.rereads != 3 {
				t.Errorf("asked to read the set again %d times, want 3", w.rereads)
			}
			if got := w.value(t, "penstock_degraded"); got != 0 {
				t.Errorf("degraded %v, want 0: it is no outage", got)
			}
			if got := w.series(t, "penstock_store_errors_total"); fmt.Sprint(got) != "map[class=policy:3]" {
				t.Errorf("errors counted: %v, want 3 of class policy", got)
			}
			if n := strings.Count(w.log.String(), "\n"); n != 1 || !strings.Contains(w.log.String(), "level=ERROR") || !strings.Contains(w.log.String(), text[:strings.Index(text, " ")]) {
				t.Errorf("%d lines, want one error with the code:\n%s", n, w.log)
			}
			if strings.Contains(w.log.String(), "secret") {
				t.Errorf("the log has a value of the request:\n%s", w.log)
			}
			w.log.Reset()
			w.store.fail = nil
			w.clock.advance(TransitionHold)
			w.decide(t, tuple{"user", "bob"})
			if !strings.Contains(w.log.String(), "takes all charges again") {
				t.Errorf("nothing says that it is over:\n%s", w.log)
			}
		})
	}
}

func TestTheLogHasNoArgumentsOfACommandThatRedisDoesNotKnow(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	w.store.fail = failing(reply("ERR unknown command 'FCALL', with args beginning with: 'penstock_limit' '1' 'bob-s-secret' "))
	if _, err := w.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"})); !errors.Is(err, ErrConfiguration) {
		t.Fatalf("%v, want ErrConfiguration", err)
	}
	if text := w.log.String(); strings.Contains(text, "secret") || !strings.Contains(text, "FCALL") {
		t.Errorf("want the command without its arguments:\n%s", text)
	}
}

// slowStore takes so long for each call, by the clock of the test, and meets a foreign key in the first two.
type slowStore struct {
	*store
	clock  *clock
	starts []time.Time
	second []context.Context
}

type withinKey struct{}

func (s *slowStore) Decide(ctx context.Context, charges []limit.Charge) ([]limit.Row, error) {
	s.clock.advance(3 * time.Millisecond)
	if len(s.calls) > 0 {
		s.second = append(s.second, ctx)
	}
	return s.store.Decide(ctx, charges)
}

func (s *slowStore) Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	s.starts = append(s.starts, start)
	return context.WithCancel(context.WithValue(ctx, withinKey{}, true))
}

func TestADecisionThatTakesSeveralCallsHasTheTimeOfOne(t *testing.T) {
	w := newWorld(t, rateLimit("a", "a", ""), rateLimit("b", "b", ""), rateLimit("c", "c", ""))
	w.store.fail = func(charges []limit.Charge) error {
		if len(charges) > 1 {
			return &limit.WrongTypeError{Key: charges[0].Key}
		}
		return nil
	}
	s := &slowStore{store: w.store, clock: w.clock}
	e := New(Options{Limiter: s, Now: w.clock.Now})
	e.Use(w.Set())
	begin := w.clock.Now()
	if _, err := e.Decide(t.Context(), DoorRLS, request("shop", tuple{"a", "1"}, tuple{"b", "2"}, tuple{"c", "3"})); err != nil {
		t.Fatal(err)
	}
	if len(s.starts) != 1 || !s.starts[0].Equal(begin) {
		t.Errorf("bounded from %v, want once from the beginning %v", s.starts, begin)
	}
	if len(s.second) != 2 {
		t.Fatalf("%d further calls, want 2", len(s.second))
	}
	for i, ctx := range s.second {
		if ctx.Value(withinKey{}) == nil {
			t.Errorf("further call %d has the time of the caller, want what is left of one call", i)
		}
		if ctx.Err() == nil {
			t.Errorf("the context of further call %d is still there afterwards", i)
		}
	}
}
