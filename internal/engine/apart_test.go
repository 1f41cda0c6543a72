package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// cluster is a Limiter that decides each charge by itself, and remembers what is charged.
type cluster struct {
	Limiter // the rest is not asked for
	mu      sync.Mutex
	// fail gives the error of a charge, or nil; room is what a policy still has, 10 without one.
	fail func(c limit.Charge) error
	room map[string]int64
	// charged and seen are by policy; ids are of what is charged.
	charged map[string]int64
	seen    map[string]int
	ids     map[string]limit.Charge
	// undone is called with each Undo, and may fail it.
	undone func(ctx context.Context) error
	made   int
}

func newCluster() *cluster {
	return &cluster{room: map[string]int64{}, charged: map[string]int64{}, seen: map[string]int{}, ids: map[string]limit.Charge{}}
}

func (s *cluster) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, errs := make([]limit.Row, len(charges)), make([]error, len(charges))
	failed := false
	for i, c := range charges {
		s.seen[c.Policy.Name]++
		if s.fail != nil {
			errs[i] = s.fail(c)
		}
		if errs[i] != nil {
			failed = true
			continue
		}
		room, told := s.room[c.Policy.Name]
		if !told {
			room = 10
		}
		rows[i] = denied(room, time.Minute)
		if left := room - s.charged[c.Policy.Name] - c.Cost; left >= 0 {
			rows[i] = allowed(room, left)
			if c.Cost > 0 {
				s.made++
				rows[i].Undo = fmt.Sprint("made-", s.made)
				s.charged[c.Policy.Name] += c.Cost
				c.Values = slices.Clone(c.Values)
				s.ids[rows[i].Undo] = c
			}
		}
	}
	if failed {
		return rows, &limit.PartialError{Errs: errs}
	}
	return rows, nil
}

func (s *cluster) Undo(ctx context.Context, charges []limit.Charge, rows []limit.Row) error {
	if s.undone != nil {
		if err := s.undone(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range rows {
		was, known := s.ids[rows[i].Undo]
		if !known || was.Key != charges[i].Key || was.Cost != charges[i].Cost || !slices.Equal(was.Values, charges[i].Values) {
			return fmt.Errorf("undone %+v, want %+v", charges[i], was)
		}
		delete(s.ids, rows[i].Undo)
		s.charged[was.Policy.Name] -= was.Cost
	}
	return nil
}

func (*cluster) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Hour)
}

func (s *cluster) total() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := int64(0)
	for _, n := range s.charged {
		total += n
	}
	return total
}

// onCluster is a world on a cluster, with the policies user, path and method.
func onCluster(t testing.TB, change ...func(r policy.RateLimit) policy.RateLimit) (*world, *cluster) {
	t.Helper()
	policies := []policy.RateLimit{rateLimit("user", "user", ""), rateLimit("path", "path", ""), rateLimit("method", "method", "")}
	for i, c := range change {
		policies[i] = c(policies[i])
	}
	w := newWorld(t, policies...)
	s := newCluster()
	w.limiter, w.denials = s, nil
	return w, s
}

func asIs(r policy.RateLimit) policy.RateLimit { return r }

var three = []tuple{{"user", "bob"}, {"path", "/"}, {"method", "GET"}}

func TestWhatWasChargedAloneIsUndoneWhenAnotherSlotDenies(t *testing.T) {
	w, s := onCluster(t)
	s.room["shop/path"] = 3
	for i := range 6 {
		result := w.decide(t, three...)
		if want := i < 3; result.Allowed != want {
			t.Fatalf("request %d: %+v, want allowed: %v", i, result, want)
		}
		if result.Verdicts[0].ID != "" {
			t.Errorf("the verdict has the id %q, want none that nobody gave", result.Verdicts[0].ID)
		}
	}
	if got := fmt.Sprint(s.charged); got != "map[shop/method:3 shop/path:3 shop/user:3]" {
		t.Errorf("charged %s, want 3 each", got)
	}
}

func TestWhatFailsInOneSlotIsDecidedByItsOwnPolicy(t *testing.T) {
	share := func(r policy.RateLimit) policy.RateLimit {
		return sharing(r, limitNamed("default", policy.SlidingLog, 2, time.Hour))
	}
	down := fmt.Errorf("%w", redisops.ErrBreakerOpen)
	lost := fmt.Errorf("read: %w", redisops.ErrUnknownOutcome)
	wrongType := func(c limit.Charge) error { return &limit.WrongTypeError{Key: c.Key} }
	always := func(err error) func(limit.Charge) error { return func(limit.Charge) error { return err } }
	for name, test := range map[string]struct {
		path        func(policy.RateLimit) policy.RateLimit
		fail        func(c limit.Charge) error
		wantAllowed int // of 5
		wantCharged string
	}{
		"Allow, a shard is down":      {asIs, always(down), 5, "map[shop/method:5 shop/user:5]"},
		"Allow, no reply":             {asIs, always(lost), 5, "map[shop/method:5 shop/user:5]"},
		"Deny, a shard is down":       {denying, always(down), 0, "map[shop/method:0 shop/user:0]"},
		"Deny, no reply":              {denying, always(lost), 0, "map[shop/method:0 shop/user:0]"},
		"LocalShare, a shard is down": {share, always(down), 2, "map[shop/method:2 shop/user:2]"},
		"Allow, a foreign key":        {asIs, wrongType, 5, "map[shop/method:5 shop/user:5]"},
		"Deny, a foreign key":         {denying, wrongType, 0, "map[shop/method:0 shop/user:0]"},
		"Deny, a policy that is gone": {denying, always(fmt.Errorf("%w: shop/path", limit.ErrNoPolicy)), 5, "map[shop/method:5 shop/user:5]"},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := onCluster(t, asIs, test.path)
			s.fail = func(c limit.Charge) error {
				if c.Policy.Name == "shop/path" {
					return test.fail(c)
				}
				return nil
			}
			allowed := 0
			for range 5 {
				result := w.decide(t, three...)
				if result.Allowed {
					allowed++
				}
				if v := result.Verdicts[0]; v.Mode != Enforced || !v.Known {
					t.Errorf("user: %+v, want it enforced", v)
				}
			}
			if allowed != test.wantAllowed || fmt.Sprint(s.charged) != test.wantCharged {
				t.Errorf("%d allowed, charged %v; want %d, %s", allowed, s.charged, test.wantAllowed, test.wantCharged)
			}
			if s.seen["shop/user"] != 5 {
				t.Errorf("user was decided %d times for 5 requests", s.seen["shop/user"])
			}
		})
	}
}

// Charges of one slot go with one call: that one of them cannot be decided is no reason not to decide the other.
func TestWhoeverShareACallWithACulpritIsDecidedAgainAlone(t *testing.T) {
	w, s := onCluster(t, asIs, denying)
	var culprit error
	s.fail = func(c limit.Charge) error {
		switch c.Policy.Name {
		case "shop/path":
			culprit = &limit.WrongTypeError{Key: c.Key}
			return culprit
		case "shop/method":
			if s.seen["shop/method"] == 1 {
				return culprit
			}
		}
		return nil
	}
	result := w.decide(t, three...)
	if result.Allowed || s.total() != 0 || s.seen["shop/user"] != 1 || s.seen["shop/method"] != 2 {
		t.Errorf("%+v; charged %v, decided %v; want it denied, nothing charged, and method alone decided again", result, s.charged, s.seen)
	}
	if v := result.Verdicts[2]; v.Mode != Enforced || !v.Allowed {
		t.Errorf("method: %+v, want it enforced", v)
	}
	if got := w.series(t, "penstock_store_errors_total"); fmt.Sprint(got) != "map[class=wrong_type:1]" {
		t.Errorf("errors counted: %v, want one of class wrong_type", got)
	}
}

func TestAConfigurationErrorInOneSlotEndsTheRequestAndChargesNothing(t *testing.T) {
	w, s := onCluster(t)
	s.fail = func(c limit.Charge) error {
		if c.Policy.Name == "shop/path" {
			return reply("NOPERM this user has no permissions to run the 'fcall' command")
		}
		return nil
	}
	if _, err := w.Decide(t.Context(), DoorRLS, request("shop", three...)); !errors.Is(err, ErrConfiguration) {
		t.Fatalf("%v, want ErrConfiguration", err)
	}
	if s.total() != 0 {
		t.Errorf("charged %v, want nothing", s.charged)
	}
}

func TestACallThatFailsForSeveralChargesIsCountedOnce(t *testing.T) {
	w, s := onCluster(t)
	one, other := fmt.Errorf("a: %w", redisops.ErrUnknownOutcome), fmt.Errorf("b: %w", redisops.ErrUnknownOutcome)
	s.fail = func(c limit.Charge) error {
		if c.Policy.Name == "shop/method" {
			return other
		}
		return one
	}
	w.decide(t, three...)
	if got := w.series(t, "penstock_store_errors_total"); fmt.Sprint(got) != "map[class=unknown_outcome:2]" {
		t.Errorf("errors counted: %v, want those of 2 calls", got)
	}
}

// The caller may go, or be in a hurry: what was charged is undone all the same.
func TestUndoingGoesOnWhenTheCallerHasGone(t *testing.T) {
	w, s := onCluster(t)
	s.room["shop/path"] = 0
	ctx, cancel := context.WithCancel(t.Context())
	begun, goOn := make(chan struct{}), make(chan struct{})
	s.undone = func(ctx context.Context) error {
		close(begun)
		<-goOn
		if deadline, has := ctx.Deadline(); !has || time.Until(deadline) > undoTimeout {
			t.Error("undoing has no bound")
		}
		return ctx.Err()
	}
	go func() {
		<-begun
		cancel()
	}()
	r := request("shop", three...)
	if result, err := w.Decide(ctx, DoorRLS, r); err != nil || result.Allowed {
		t.Fatalf("%+v, %v; want a denial", result, err)
	}
	r.Release()
	close(goOn)
	for deadline := time.Now().Add(5 * time.Second); s.total() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("charged %v, want nothing", s.charged)
		}
	}
}

func TestWhatCannotBeUndoneIsCountedAndStaysCharged(t *testing.T) {
	w, s := onCluster(t)
	s.room["shop/path"] = 0
	s.undone = func(context.Context) error { return redisops.ErrUnknownOutcome }
	if w.decide(t, three...).Allowed {
		t.Fatal("allowed, want it denied by path")
	}
	if got := w.value(t, "penstock_store_errors_total"); got != 1 || s.total() != 2 {
		t.Errorf("%v counted, %v charged; want 1, and the two that stay", got, s.charged)
	}
}

func TestADenialOfOneSlotIsRemembered(t *testing.T) {
	w, s := onCluster(t)
	w.denials = newDenials()
	s.room["shop/path"] = 0
	w.decide(t, three...)
	if result := w.decide(t, three...); result.Allowed || result.Verdicts[1].Mode != Cached || s.seen["shop/path"] != 1 {
		t.Errorf("%+v after %v; want it from memory", result, s.seen)
	}
	if result := w.decide(t, three[0]); !result.Allowed || result.Verdicts[0].Mode != Enforced {
		t.Errorf("user alone: %+v, want it decided", result)
	}
}

func TestWhileABreakerIsOpenItIsAnOutageOfOneLine(t *testing.T) {
	w := newOutage(t, 1, rateLimit("user", "user", ""))
	for range 5 {
		if result := w.decide(t, tuple{"user", "bob"}); !result.Allowed || !result.Degraded {
			t.Fatalf("%+v, want it allowed, degraded", result)
		}
	}
	if got := w.series(t, "penstock_store_errors_total"); fmt.Sprint(got) != "map[class=breaker_open:5]" {
		t.Errorf("errors counted: %v, want 5 of class breaker_open", got)
	}
	if n := strings.Count(w.log.String(), "\n"); n != 1 || w.value(t, "penstock_degraded") != 1 {
		t.Errorf("degraded %v, %d lines; want 1 and 1:\n%s", w.value(t, "penstock_degraded"), n, w.log)
	}
}
