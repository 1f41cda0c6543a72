package engine

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Attributes of spans. Like the labels of metrics they are names of policies and constants, never what a request carries.
const (
	attributeDoor          = attribute.Key("penstock.door")
	attributeDomain        = attribute.Key("penstock.domain")
	attributeUnknownDomain = attribute.Key("penstock.unknown_domain")
	attributePolicies      = attribute.Key("penstock.policies")
	attributeDeniedBy      = attribute.Key("penstock.denied_by")
	attributeOutcome       = attribute.Key("penstock.outcome")
	attributeMode          = attribute.Key("penstock.mode")
	attributeDegraded      = attribute.Key("penstock.degraded")
	attributeOperation     = attribute.Key("penstock.operation")
	attributeSystem        = attribute.Key("db.system.name")
	attributeError         = attribute.Key("error.type")
)

// mostNames bounds how many policies a span names.
const mostNames = 32

// mark tells the span of the request, if it is one that is recorded, what was decided; result is nil when nothing was.
func (e *Engine) mark(ctx context.Context, door Door, t *tables, r *Request, result *Result) {
	if e.tracer == nil {
		return
	}
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attributeDoor.String(doorNames[door]))
	if t.domains[r.domain] != nil {
		span.SetAttributes(attributeDomain.String(r.domain))
	} else {
		// Its name may be anybody's text.
		span.SetAttributes(attributeUnknownDomain.Bool(true))
	}
	var asked, deniedBy []string
	for i := range r.answers {
		name := r.answers[i].policy.policy.Name
		asked = appendName(asked, name)
		if result != nil {
			if v := r.verdict(i); !v.Allowed {
				deniedBy = appendName(deniedBy, name)
			}
		}
	}
	if len(asked) > 0 {
		span.SetAttributes(attributePolicies.StringSlice(asked))
	}
	if result == nil {
		return
	}
	mode := Unmatched
	for i := range result.Verdicts {
		mode = max(mode, result.Verdicts[i].Mode)
	}
	decided := outcomeAllowed
	if !result.Allowed {
		decided = outcomeDenied
		span.SetAttributes(attributeDeniedBy.StringSlice(deniedBy))
	}
	span.SetAttributes(attributeOutcome.String(outcomeNames[decided]), attributeMode.String(mode.String()),
		attributeDegraded.Bool(result.Degraded))
}

// appendName appends a name that is not there yet, while there is room.
func appendName(names []string, name string) []string {
	if slices.Contains(names, name) || len(names) == mostNames {
		return names
	}
	return append(names, name)
}

// traced is a Limiter whose calls are spans of the requests that are recorded.
type traced struct {
	Limiter
	tracer trace.Tracer
}

// span begins that of a call, and gives what ends it.
func (l traced) span(ctx context.Context, operation string, policies ...string) (context.Context, func(error)) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, func(error) {}
	}
	ctx, span := l.tracer.Start(ctx, "redis "+operation, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attributeSystem.String("redis"), attributeOperation.String(operation), attributePolicies.StringSlice(policies)))
	return ctx, func(err error) {
		if err != nil {
			// The class alone: what stands in an error of Redis may be a value of the request.
			span.SetAttributes(attributeError.String(redisops.Classify(err).String()))
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

func (l traced) many(ctx context.Context, operation string, charges []limit.Charge) (context.Context, func(error)) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, func(error) {}
	}
	var names []string
	for i := range charges {
		names = appendName(names, charges[i].Policy.Name)
	}
	return l.span(ctx, operation, names...)
}

// Decide is the Limiter's.
func (l traced) Decide(ctx context.Context, charges []limit.Charge) ([]limit.Row, error) {
	ctx, end := l.many(ctx, "decide", charges)
	rows, err := l.Limiter.Decide(ctx, charges)
	end(err)
	return rows, err
}

// Undo is the Limiter's.
func (l traced) Undo(ctx context.Context, charges []limit.Charge, rows []limit.Row) error {
	ctx, end := l.many(ctx, "undo", charges)
	err := l.Limiter.Undo(ctx, charges, rows)
	end(err)
	return err
}

// Peek is the Limiter's.
func (l traced) Peek(ctx context.Context, charges []limit.Charge) ([]limit.Row, error) {
	ctx, end := l.many(ctx, "peek", charges)
	rows, err := l.Limiter.Peek(ctx, charges)
	end(err)
	return rows, err
}

// Refund is the Limiter's.
func (l traced) Refund(ctx context.Context, charge limit.Charge) (limit.Row, error) {
	return l.one(ctx, operationNames[opRefund], charge, l.Limiter.Refund)
}

// Credit is the Limiter's.
func (l traced) Credit(ctx context.Context, charge limit.Charge) (limit.Row, error) {
	return l.one(ctx, operationNames[opCredit], charge, l.Limiter.Credit)
}

// Reset is the Limiter's.
func (l traced) Reset(ctx context.Context, charge limit.Charge) (limit.Row, error) {
	return l.one(ctx, operationNames[opReset], charge, l.Limiter.Reset)
}

// AcquireSlot is the Limiter's.
func (l traced) AcquireSlot(ctx context.Context, slot limit.Slot) (limit.Row, error) {
	ctx, end := l.span(ctx, "acquire", slot.Policy.Name)
	row, err := l.Limiter.AcquireSlot(ctx, slot)
	end(err)
	return row, err
}

// ReleaseSlot is the Limiter's.
func (l traced) ReleaseSlot(ctx context.Context, slot limit.Slot) (limit.Row, error) {
	ctx, end := l.span(ctx, operationNames[opRelease], slot.Policy.Name)
	row, err := l.Limiter.ReleaseSlot(ctx, slot)
	end(err)
	return row, err
}

// one makes a call about one charge.
func (l traced) one(ctx context.Context, operation string, charge limit.Charge,
	call func(context.Context, limit.Charge) (limit.Row, error),
) (limit.Row, error) {
	ctx, end := l.span(ctx, operation, charge.Policy.Name)
	row, err := call(ctx, charge)
	end(err)
	return row, err
}
