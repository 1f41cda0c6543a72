package client

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func of(policy, address string) Request {
	return Request{Policy: policy, Subject: map[string]string{"remote_address": address}}
}

func TestBothFormsSpendFromOneBudgetAndAnswerAlike(t *testing.T) {
	limiters := both(t)
	ctx := t.Context()
	request := of("shop/two", "192.0.2.1")
	request.HTTP = true
	first, err := limiters["direct"].Check(ctx, request)
	if err != nil || !first.Allowed || first.Remaining != 1 || first.Mode != Enforced || first.Reason != ReasonOK || first.LimitName != "default" {
		t.Fatalf("%+v, %v", first, err)
	}
	if second, err := limiters["remote"].Check(ctx, request); err != nil || !second.Allowed || second.Remaining != 0 {
		t.Fatalf("%+v, %v", second, err)
	}
	for name, limiter := range limiters {
		v, err := limiter.Check(ctx, request)
		if err != nil || v.Allowed || v.Reason != ReasonLimit || v.RetryAfter <= 0 || !v.Known || v.Limit != 2 || v.Policy != "shop/two" {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		if v.HTTP == nil || v.HTTP.Status != 429 || v.HTTP.Header.Get("X-RateLimit-Limit") != "2" || !strings.Contains(string(v.HTTP.Body), `"shop/two"`) {
			t.Errorf("%s: tells %+v", name, v.HTTP)
		}
		peeked, err := limiter.Peek(ctx, of("shop/two", "192.0.2.2"))
		if err != nil || !peeked.Allowed || peeked.Remaining != 1 {
			t.Errorf("%s: peeked %+v, %v", name, peeked, err)
		}
		unmatched, err := limiter.Check(ctx, Request{Policy: "shop/two", Subject: map[string]string{"user": "a"}})
		if err != nil || !unmatched.Allowed || unmatched.Mode != Unmatched || unmatched.Known || unmatched.Policy != "" {
			t.Errorf("%s: of another subject %+v, %v", name, unmatched, err)
		}
	}
}

func TestWhatWasChargedIsGivenBack(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			request := of("shop/many", name)
			request.ID, request.Cost = "order-1", 3
			if v, err := limiter.Check(ctx, request); err != nil || v.Remaining != 997 || v.ID != "order-1" {
				t.Fatalf("%+v, %v", v, err)
			}
			if v, err := limiter.Check(ctx, request); err != nil || v.Remaining != 997 {
				t.Errorf("asked again: %+v, %v, want charged once", v, err)
			}
			request.Cost = 0
			if done, err := limiter.Refund(ctx, request); err != nil || !done {
				t.Errorf("refunded %t, %v", done, err)
			}
			if done, err := limiter.Refund(ctx, request); err != nil || done {
				t.Errorf("refunded again: %t, %v, want not", done, err)
			}
			if v, err := limiter.Peek(ctx, of("shop/many", name)); err != nil || v.Remaining != 999 {
				t.Errorf("%+v, %v, want all but the one asked for", v, err)
			}
		})
	}
}

func TestABalanceIsToppedUpAndForgotten(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			request := of("shop/balance", name)
			request.Cost = 5
			if now, err := limiter.Credit(ctx, request); err != nil || now != 6 {
				t.Errorf("%d, %v, want 6", now, err)
			}
			if err := limiter.Reset(ctx, request); err != nil {
				t.Error(err)
			}
			if v, err := limiter.Peek(ctx, of("shop/balance", name)); err != nil || v.Remaining != 0 || v.Limit != 1 {
				t.Errorf("%+v, %v, want a new subject's", v, err)
			}
		})
	}
}

func TestASlotIsHeldUntilItIsReleased(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			request := SlotRequest{Policy: "shop/slots", Subject: map[string]string{"remote_address": name}, HTTP: true}
			slot, err := limiter.AcquireSlot(ctx, request)
			if err != nil || !slot.Allowed || slot.SlotID == "" || slot.TTL != time.Minute || slot.HTTP == nil || slot.HTTP.Status != 200 {
				t.Fatalf("%+v, %v", slot, err)
			}
			if second, err := limiter.AcquireSlot(ctx, request); err != nil || second.Allowed || second.TTL != 0 || second.HTTP.Status != 429 {
				t.Errorf("%+v, %v, want no second one", second, err)
			}
			request.ID, request.TTL = slot.SlotID, time.Second
			if again, err := limiter.AcquireSlot(ctx, request); err != nil || !again.Allowed || again.TTL != time.Second {
				t.Errorf("%+v, %v, want it held on", again, err)
			}
			if released, err := limiter.ReleaseSlot(ctx, request); err != nil || !released {
				t.Errorf("released %t, %v", released, err)
			}
			if released, err := limiter.ReleaseSlot(ctx, request); err != nil || released {
				t.Errorf("released again: %t, %v, want not", released, err)
			}
		})
	}
}

func TestErrorsAreAlikeInBothForms(t *testing.T) {
	long := strings.Repeat("secret", 50)
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			check := func(r Request) error { _, err := limiter.Check(ctx, r); return err }
			for name, test := range map[string]struct {
				err       error
				want      error
				wantField string
			}{
				"unknown policy":      {check(of("shop/none", "a")), ErrUnknownPolicy, ""},
				"slots have no check": {check(of("shop/slots", "a")), ErrWrongOperation, ""},
				"a long value":        {check(of("shop/two", long)), ErrValueTooLong, "subject"},
				"a long value of a request over HTTP": {
					check(Request{Policy: "shop/two", Subject: map[string]string{"remote_address": long}, HTTP: true}), ErrValueTooLong, "subject",
				},
				"a negative cost": {check(Request{Policy: "shop/two", Cost: -1}), nil, "cost"},
				"a bad id":        {check(Request{Policy: "shop/two", ID: "a b"}), nil, "id"},
				"a lacking value": {func() error { _, err := limiter.Refund(ctx, Request{Policy: "shop/two"}); return err }(), nil, "subject"},
			} {
				if test.err == nil || test.want != nil && !errors.Is(test.err, test.want) {
					t.Errorf("%s: %v, want %v", name, test.err, test.want)
				}
				argument, is := errors.AsType[*ArgumentError](test.err)
				if is != (test.wantField != "") || is && argument.Field != test.wantField {
					t.Errorf("%s: %v, want field %q", name, test.err, test.wantField)
				}
				if test.err != nil && strings.Contains(test.err.Error(), "secret") {
					t.Errorf("%s: %v repeats what was asked", name, test.err)
				}
			}
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := limiter.Check(cancelled, of("shop/two", "a")); !errors.Is(err, context.Canceled) {
				t.Errorf("who has gone: %v", err)
			}
		})
	}
}

func TestAPolicyWithoutANamespaceIsNamed(t *testing.T) {
	remote := newRemote(t, "http://127.0.0.1:1", Options{})
	_, err := remote.Check(t.Context(), Request{Policy: "two"})
	if argument, is := errors.AsType[*ArgumentError](err); !is || argument.Field != "policy" {
		t.Errorf("%v, want the field policy", err)
	}
}

func TestLongValuesThatAPolicyDoesNotLookAtDoNotMatterOverHTTP(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			request := of("shop/many", name)
			request.Subject["path"], request.HTTP = "/"+strings.Repeat("p", 5000), true
			if v, err := limiter.Check(t.Context(), request); err != nil || v.Mode != Enforced {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

func TestBytesThatAreNoTextAreLimitedToo(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			request := Request{Policy: "shop/by-key", Subject: map[string]string{"header.x-api-key": "\xff\xfe" + name}}
			if v, err := limiter.Check(t.Context(), request); err != nil || !v.Allowed {
				t.Errorf("%+v, %v", v, err)
			}
			if v, err := limiter.Check(t.Context(), request); err != nil || v.Allowed {
				t.Errorf("again: %+v, %v, want denied", v, err)
			}
		})
	}
}

func TestADirectNeedsPoliciesUnlessItIsToldToStartWithout(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if d, err := NewDirect(ctx, DirectOptions{Redis: "redis://127.0.0.1:1", Logger: quiet}); err == nil || d != nil ||
		!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "redis cannot be reached") {
		t.Errorf("%v, want the reason", err)
	}
	for mode, want := range map[FailureMode]bool{"": true, Allow: true, Deny: false} {
		d, err := NewDirect(t.Context(), DirectOptions{Redis: "redis://127.0.0.1:1", StartWithoutPolicies: true, OnFailure: mode, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		v, err := d.Check(t.Context(), Request{Policy: "shop/two", HTTP: true})
		if err != nil || v.Allowed != want || v.Degraded != CauseStore || v.HTTP.Header.Get(degradedHeader) != "store" {
			t.Errorf("OnFailure %q: %+v, %v", mode, v, err)
		}
		if slot, err := d.AcquireSlot(t.Context(), SlotRequest{Policy: "shop/slots"}); err != nil || slot.Allowed != want || slot.SlotID == "" {
			t.Errorf("OnFailure %q: %+v, %v", mode, slot, err)
		}
		if _, err := d.Refund(t.Context(), of("shop/two", "a")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a refund: %v, want %v", err, ErrUnavailable)
		}
		_ = d.Close()
	}
}

func TestADirectAnswersByThePolicyWhileRedisIsAwayAndRecovers(t *testing.T) {
	server := startRedis(t)
	d, err := NewDirect(t.Context(), DirectOptions{Redis: "redis://" + server.Addr, CommandTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	server.Kill()
	if v, err := d.Check(t.Context(), of("shop/two", "a")); err != nil || v.Allowed || v.Degraded != CauseStore || v.RetryAfter != time.Second {
		t.Errorf("a policy that denies: %+v, %v", v, err)
	}
	if v, err := d.Check(t.Context(), of("shop/many", "a")); err != nil || !v.Allowed || v.Degraded != CauseStore {
		t.Errorf("a policy that allows: %+v, %v", v, err)
	}
}

func TestWrongOptionsAreRefusedWithoutThePassword(t *testing.T) {
	remote := func(url string, opts Options) error { _, err := New(url, opts); return err }
	direct := func(opts DirectOptions) error { _, err := NewDirect(t.Context(), opts); return err }
	for name, err := range map[string]error{
		"no URL":                  remote("", Options{}),
		"another scheme":          remote("grpc://penstockd:8081", Options{}),
		"no host":                 remote("http://", Options{}),
		"a password":              remote("http://me:hunter2@penstockd", Options{}),
		"garbage and a password":  remote("http://me:hunter2@penstockd:port\x7f", Options{}),
		"a query":                 remote("http://penstockd?a=b", Options{}),
		"a mode there is not":     remote("http://penstockd", Options{OnFailure: "Open"}),
		"a negative timeout":      remote("http://penstockd", Options{Timeout: -1}),
		"two transports":          remote("http://penstockd", Options{Transport: slow{}, HTTP2: true}),
		"no Redis":                direct(DirectOptions{}),
		"garbage as Redis":        direct(DirectOptions{Redis: "redis://me:hunter2@host:port"}),
		"two passwords":           direct(DirectOptions{Redis: "redis://:hunter2@host", Password: "hunter2"}),
		"two users":               direct(DirectOptions{Redis: "redis://me@host", Username: "you"}),
		"two kinds of passwords":  direct(DirectOptions{Redis: "redis://host", Password: "hunter2", PasswordFile: "/dev/null"}),
		"a topology there is not": direct(DirectOptions{Redis: "redis://host", Topology: "Ring"}),
		"sentinels and no name":   direct(DirectOptions{Redis: "redis://host", Topology: "Sentinel"}),
		"a CA and no TLS":         direct(DirectOptions{Redis: "redis://host", TLS: DirectTLS{CAFile: "ca.crt"}}),
		"no file of that name":    direct(DirectOptions{Redis: "redis://host", PasswordFile: "/does/not/exist"}),
		"a negative time":         direct(DirectOptions{Redis: "redis://host", CommandTimeout: -1}),
		"a mode that is not Deny": direct(DirectOptions{Redis: "redis://host", OnFailure: "deny"}),
	} {
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWrongOptionIsNamed(t *testing.T) {
	for want, opts := range map[string]DirectOptions{
		"options: Redis is missing":                 {},
		"options: Topology is \"Ring\"":             {Redis: "redis://host", Topology: "Ring"},
		"options: MasterName is missing":            {Redis: "redis://host", Topology: "Sentinel"},
		"options: PasswordFile: ":                   {Redis: "redis://host", PasswordFile: "/does/not/exist"},
		"options: TLS.CAFile is for TLS":            {Redis: "redis://host", TLS: DirectTLS{CAFile: "ca.crt"}},
		"options: Protocol is 4":                    {Redis: "redis://host", Protocol: 4},
		"options: Topology is Independent":          {Redis: "redis://host", Topology: "Independent"},
		"options: SentinelPassword is for Sentinel": {Redis: "redis://host", SentinelPassword: "secret"},
		"options: PasswordFile is missing":          {Redis: "redis://host", Username: "me"},
	} {
		if _, err := NewDirect(t.Context(), opts); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want it to begin with %q", err, want)
		}
	}
}

func TestMetricsAreRegisteredUntilADirectIsClosed(t *testing.T) {
	server, registry := startRedis(t), prometheus.NewRegistry()
	opts := DirectOptions{Redis: "redis://" + server.Addr, CommandTimeout: patient, Registerer: registry, Logger: slog.New(slog.DiscardHandler)}
	for range 2 { // one after the other
		d, err := NewDirect(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Check(t.Context(), of("shop/many", "a")); err != nil {
			t.Error(err)
		}
		if all, err := registry.Gather(); len(all) == 0 || err != nil {
			t.Errorf("%d metrics, %v", len(all), err)
		}
		if beside, err := NewDirect(t.Context(), opts); err == nil {
			_ = beside.Close()
			t.Error("two have their metrics at one place")
		}
		_ = d.Close()
		if all, err := registry.Gather(); len(all) != 0 || err != nil {
			t.Errorf("after it was closed: %v, %v", all, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	opts.Redis = "redis://127.0.0.1:1"
	for range 2 { // one that failed leaves none behind
		if _, err := NewDirect(gone, opts); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
