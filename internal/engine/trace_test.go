package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// recording has the engine of the world make spans, and gives them.
func (w *world) recording(t *testing.T) (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	w.tracer = provider.Tracer("engine")
	w.limiter = traced{Limiter: w.store, tracer: w.tracer}
	return provider, recorder
}

func TestEachCallOfRedisIsASpan(t *testing.T) {
	w := newWorld(t, of(rateLimit("p", "user", ""), policy.Balance), of(rateLimit("slots", "user", ""), policy.Concurrency))
	_, recorder := w.recording(t)
	call := Call{Policy: "shop/p", Lookup: lookupIn("user", "bob"), Cost: 1}
	slot := SlotCall{Policy: "shop/slots", Lookup: call.Lookup, ID: "a"}
	ignore := func(_ Verdict, err error) error { return err }
	operations := map[string]func(ctx context.Context) error{
		"redis decide":  func(ctx context.Context) error { return ignore(w.DecidePolicy(ctx, DoorAPI, call)) },
		"redis peek":    func(ctx context.Context) error { return ignore(w.Peek(ctx, DoorAPI, call)) },
		"redis refund":  func(ctx context.Context) error { return ignore(w.Refund(ctx, DoorAPI, call)) },
		"redis credit":  func(ctx context.Context) error { return ignore(w.Credit(ctx, DoorAPI, call)) },
		"redis reset":   func(ctx context.Context) error { return ignore(w.Reset(ctx, DoorAPI, call)) },
		"redis acquire": func(ctx context.Context) error { return ignore(w.AcquireSlot(ctx, DoorAPI, slot)) },
		"redis release": func(ctx context.Context) error { return ignore(w.ReleaseSlot(ctx, DoorAPI, slot)) },
	}
	for name, operation := range operations {
		if err := operation(t.Context()); err != nil {
			t.Fatal(name, err)
		}
		if got := len(recorder.Started()); got != 0 {
			t.Fatalf("%s: %d spans without one of the request, want none", name, got)
		}
	}
	for name, operation := range operations {
		recorder.Reset()
		ctx, span := w.tracer.Start(t.Context(), "door")
		if err := operation(ctx); err != nil {
			t.Fatal(name, err)
		}
		span.End()
		ended := recorder.Ended()
		if len(ended) != 2 || ended[0].Name() != name || ended[0].Parent().SpanID() != span.SpanContext().SpanID() {
			t.Errorf("%s: spans %v, want one of that name below the door's", name, ended)
		}
	}
}

// A door may serve a thousand descriptors of other policies at once; a span stays small.
func TestASpanNamesEachPolicyOnceAndNotTooMany(t *testing.T) {
	var policies []policy.RateLimit
	for i := range 2 * mostNames {
		policies = append(policies, rateLimit(fmt.Sprintf("p%d", i), "user", ""))
	}
	w := newWorld(t, policies...)
	_, recorder := w.recording(t)
	for i := range 2 * mostNames {
		w.store.rows[fmt.Sprintf("shop/p%d", i)] = denied(1, time.Second)
	}
	ctx, span := w.tracer.Start(t.Context(), "door")
	if _, err := w.Decide(ctx, DoorRLS, request("shop", tuple{"user", "bob"}, tuple{"user", "eve"})); err != nil {
		t.Fatal(err)
	}
	span.End()
	for _, ended := range recorder.Ended() {
		for _, a := range ended.Attributes() {
			if a.Key != attributePolicies && a.Key != attributeDeniedBy {
				continue
			}
			names := a.Value.AsStringSlice()
			if got := len(slices.Compact(slices.Sorted(slices.Values(names)))); got != mostNames || len(names) != mostNames {
				t.Errorf("%s: %s names %d policies, %d of them different; want %d", ended.Name(), a.Key, len(names), got, mostNames)
			}
		}
	}
}

func TestARequestThatIsNotRecordedCostsNoSpan(t *testing.T) {
	w := newWorld(t, rateLimit("p", "user", ""))
	provider, recorder := w.recording(t)
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	defer func() { _ = never.Shutdown(t.Context()) }()
	ctx, span := never.Tracer("door").Start(t.Context(), "door")
	defer span.End()
	if _, err := w.Decide(ctx, DoorRLS, request("shop", tuple{"user", "bob"})); err != nil {
		t.Fatal(err)
	}
	if err := provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := recorder.Started(); len(got) != 0 {
		t.Errorf("%d spans, want none", len(got))
	}
}

func TestACallThatFailsIsMarkedByItsClassAlone(t *testing.T) {
	w := newWorld(t, rateLimit("p", "user", ""))
	_, recorder := w.recording(t)
	w.store.fail = func([]limit.Charge) error { return reply("NOPERM bob has no rights") }
	ctx, span := w.tracer.Start(t.Context(), "door")
	if _, err := w.Decide(ctx, DoorRLS, request("shop", tuple{"user", "bob"})); err == nil {
		t.Fatal("no error")
	}
	span.End()
	redis := recorder.Ended()[0]
	if got := redis.Status(); got.Code.String() != "Error" || got.Description != "" || len(redis.Events()) != 0 {
		t.Errorf("%v with events %v, want an error without a text", got, redis.Events())
	}
	if !slices.Contains(redis.Attributes(), attributeError.String("configuration")) {
		t.Errorf("attributes %v, want the class of the error", redis.Attributes())
	}
}
