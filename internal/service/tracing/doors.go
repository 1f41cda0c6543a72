package tracing

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Attributes of spans, as the semantic conventions of OpenTelemetry name them. The engine adds those of decisions.
const (
	attributeSystem  = attribute.Key("rpc.system")
	attributeService = attribute.Key("rpc.service")
	attributeMethod  = attribute.Key("rpc.method")
	attributeCode    = attribute.Key("rpc.grpc.status_code")
	attributeStatus  = attribute.Key("http.response.status_code")
	attributeDoor    = attribute.Key("penstock.door")
)

const traceparent = "traceparent"

// carrier is the traceparent of a request, and nothing else of it.
type carrier string

// Get is of propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	if key == traceparent {
		return string(c)
	}
	return ""
}

// Set is of propagation.TextMapCarrier; nothing is passed on.
func (carrier) Set(string, string) {}

// Keys is of propagation.TextMapCarrier.
func (carrier) Keys() []string { return []string{traceparent} }

// from gives the context of the caller's trace. Of two that it names, none is taken.
func from(ctx context.Context, values []string) context.Context {
	if len(values) != 1 {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, carrier(values[0]))
}

// Unary makes a span of each call, but for those of health checks.
func (t *Tracing) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		method := strings.TrimPrefix(info.FullMethod, "/")
		if strings.HasPrefix(method, "grpc.health.") {
			return handler(ctx, request)
		}
		service, short, _ := strings.Cut(method, "/")
		ctx, span := t.tracer.Start(from(ctx, metadata.ValueFromIncomingContext(ctx, traceparent)), method,
			trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		reply, err := handler(ctx, request)
		if span.IsRecording() {
			code := status.Code(err)
			span.SetAttributes(attributeSystem.String("grpc"), attributeService.String(service), attributeMethod.String(short),
				attributeCode.Int(int(code)))
			if ours(code) {
				span.SetStatus(codes.Error, "")
			}
		}
		return reply, err
	}
}

// ours tells whether a code speaks of a fault on this side.
func ours(code grpccodes.Code) bool {
	switch code {
	case grpccodes.Unknown, grpccodes.DeadlineExceeded, grpccodes.Unimplemented, grpccodes.Internal, grpccodes.Unavailable,
		grpccodes.DataLoss:
		return true
	default:
		return false
	}
}

// Handler makes a span of each request to the door of that name, which has to be one of the program's own, and not what a
// client sent.
func (t *Tracing) Handler(door string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := t.tracer.Start(from(r.Context(), r.Header.Values(traceparent)), door,
			trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		if !span.IsRecording() {
			next.ServeHTTP(w, r)
			return
		}
		span.SetAttributes(attributeDoor.String(door))
		answer := &answer{ResponseWriter: w}
		next.ServeHTTP(answer, r.WithContext(ctx))
		span.SetAttributes(attributeStatus.Int(answer.code()))
		if answer.code() >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
	})
}

// answer remembers the status of a response.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}

// WriteHeader is of http.ResponseWriter. Informational answers (1xx) come before the one that counts.
func (a *answer) WriteHeader(status int) {
	if a.status < http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write is of http.ResponseWriter.
func (a *answer) Write(body []byte) (int, error) {
	if a.status < http.StatusOK {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(body)
}

// Flush is of http.Flusher, which streams ask for by name.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
