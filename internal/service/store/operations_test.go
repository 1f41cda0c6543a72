package store_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/store"
)

func TestUntilTheServerIsKnownNothingIsSent(t *testing.T) {
	s, err := store.Open(store.Options{Load: store.Always(redisops.Config{Addresses: []string{"127.0.0.1:1"}}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	one := func(call func(context.Context, limit.Charge) (limit.Row, error)) func() error {
		return func() error { _, err := call(t.Context(), limit.Charge{}); return err }
	}
	several := func(call func(context.Context, []limit.Charge) ([]limit.Row, error)) func() error {
		return func() error { _, err := call(t.Context(), make([]limit.Charge, 1)); return err }
	}
	slot := func(call func(context.Context, limit.Slot) (limit.Row, error)) func() error {
		return func() error { _, err := call(t.Context(), limit.Slot{}); return err }
	}
	for name, call := range map[string]func() error{
		"Decide": several(s.Decide), "Peek": several(s.Peek), "Refund": one(s.Refund), "Credit": one(s.Credit), "Reset": one(s.Reset),
		"AcquireSlot": slot(s.AcquireSlot), "ReleaseSlot": slot(s.ReleaseSlot),
	} {
		if err := call(); !errors.Is(err, redisops.ErrNotExecuted) {
			t.Errorf("%s: %v, want ErrNotExecuted", name, err)
		}
	}
}

// step is one operation on the subject bob, and what is left after it.
type step struct {
	name        string
	do          func(context.Context, engine.Door, engine.Call) (engine.Verdict, error)
	cost        int64
	id          string
	wantAllowed bool
	wantLeft    int64
	wantReason  string
}

func TestOperationsReachRedisInBothModes(t *testing.T) {
	server := redistest.Start(t)
	requests := rateLimit("requests", "user", policy.FailureAllow, policy.SlidingLog)
	balance := rateLimit("balance", "user", policy.FailureAllow, policy.Balance)
	balance.Limits[0].WindowMs, balance.Limits[0].Requests = 0, 5
	slots := rateLimit("slots", "user", policy.FailureAllow, policy.Concurrency)
	slots.Limits[0] = policy.Limit{Name: "default", Algorithm: policy.Concurrency, Requests: 1, SlotTTLMs: 60_000}
	policies := []policy.RateLimit{requests, balance.Sealed(), slots.Sealed()}
	for name, set := range map[string]*policy.Set{"functions": nil, "scripts": policy.NewSet(policies)} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			publish(t, server, policies...)
			p := start(t, server.Addr, set)
			p.ready(t)
			lookup := func(key string) (string, bool) { return "bob", key == "user" }
			e := p.engine
			for policyName, steps := range map[string][]step{
				"shop/requests": {
					{"check", e.DecidePolicy, 30, "a", true, 70, limit.ReasonOK},
					{"the same again", e.DecidePolicy, 30, "a", true, 70, limit.ReasonOK},
					{"more than there is", e.DecidePolicy, 71, "", false, 70, limit.ReasonLimit},
					{"look", e.Peek, 1, "", true, 69, limit.ReasonOK},
					{"refund by id", e.Refund, engine.PolicyCost, "a", true, 100, limit.ReasonOK},
					{"refund it twice", e.Refund, engine.PolicyCost, "a", true, 100, limit.ReasonAbsent},
					{"the refund made room", e.DecidePolicy, 71, "", true, 29, limit.ReasonOK},
					{"the policy's cost", e.DecidePolicy, engine.PolicyCost, "", true, 28, limit.ReasonOK},
					{"refund without an id", e.Refund, 2, "", true, 30, limit.ReasonOK},
					{"reset", e.Reset, 0, "", true, 100, limit.ReasonOK},
				},
				"shop/balance": {
					{"spend", e.DecidePolicy, 5, "", true, 0, limit.ReasonOK},
					{"nothing left", e.DecidePolicy, 1, "", false, 0, limit.ReasonLimit},
					{"top up", e.Credit, 3, "c", true, 3, limit.ReasonOK},
					{"the same again", e.Credit, 3, "c", true, 3, limit.ReasonOK},
					{"spend again", e.DecidePolicy, 2, "", true, 1, limit.ReasonOK},
				},
			} {
				for _, s := range steps {
					v, err := s.do(t.Context(), engine.DoorAPI, engine.Call{Policy: policyName, Lookup: lookup, Cost: s.cost, ID: s.id})
					if err != nil || v.Allowed != s.wantAllowed || v.Remaining != s.wantLeft || v.Reason != s.wantReason {
						t.Errorf("%s, %s: %+v, %v; want %v, %d left, %s", policyName, s.name, v, err, s.wantAllowed, s.wantLeft, s.wantReason)
					}
				}
			}
			slot := func(id string) engine.SlotCall {
				return engine.SlotCall{Policy: "shop/slots", Lookup: lookup, ID: id, TTL: time.Second}
			}
			for _, s := range []struct {
				do          func(context.Context, engine.Door, engine.SlotCall) (engine.Verdict, error)
				id          string
				wantAllowed bool
				wantReason  string
			}{
				{e.AcquireSlot, "one", true, limit.ReasonOK},
				{e.AcquireSlot, "two", false, limit.ReasonLimit},
				{e.ReleaseSlot, "one", true, limit.ReasonOK},
				{e.ReleaseSlot, "one", true, limit.ReasonAbsent},
				{e.AcquireSlot, "two", true, limit.ReasonOK},
			} {
				v, err := s.do(t.Context(), engine.DoorAPI, slot(s.id))
				if err != nil || v.Allowed != s.wantAllowed || v.Reason != s.wantReason || !v.Allowed && (v.RetryAfter <= 0 || v.RetryAfter > time.Second) {
					t.Errorf("slot %s: %+v, %v; want %v, %s", s.id, v, err, s.wantAllowed, s.wantReason)
				}
			}
		})
	}
}

// Who is only looked on at is decided in Lua, and while Redis is gone in Go.
func TestTheSameSubjectsAreInShadowWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	r := rateLimit("shares", "user", policy.FailureDeny, policy.FixedWindow)
	r.Limits[0].Requests, r.ShadowPercent = 0, 40
	r = r.Sealed()
	p := start(t, server.Addr, policy.NewSet([]policy.RateLimit{r}))
	p.ready(t)
	ask := func(user int) engine.Verdict {
		lookup := func(string) (string, bool) { return strconv.Itoa(user), true }
		v, err := p.engine.DecidePolicy(t.Context(), engine.DoorAPI, engine.Call{Policy: r.Name, Lookup: lookup, Cost: 1})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const users = 200
	shadow := make([]bool, users)
	found := 0
	for user := range users {
		v := ask(user)
		if shadow[user] = v.Mode == engine.Shadow; shadow[user] != v.Allowed || v.Mode == engine.Degraded {
			t.Fatalf("%+v, want it allowed exactly in shadow", v)
		}
		if shadow[user] {
			found++
		}
	}
	if found < users/4 || found > users/2+users/10 {
		t.Errorf("%d of %d are in the share of 40 %%", found, users)
	}
	server.Kill()
	eventually(t, "what was denied a moment ago is forgotten", func() bool {
		for user := range users {
			if !shadow[user] && ask(user).Mode != engine.Degraded {
				return false
			}
		}
		return true
	})
	for user := range users {
		if v := ask(user); v.Mode != engine.Degraded || v.Allowed != shadow[user] {
			t.Errorf("user %d without Redis: %+v; in shadow before: %v", user, v, shadow[user])
		}
	}
}
