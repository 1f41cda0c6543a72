package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name under which the spans are made.
const scope = "github.com/penstock-dev/penstock"

// shutdownTimeout bounds how long the last spans may take to be sent.
const shutdownTimeout = 5 * time.Second

// Tracing makes spans and sends them. All methods may be called concurrently.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// Start begins to send spans to the collector that the environment names. It does not wait for the collector, and the log
// gets one line when spans cannot be sent, and one when they can again. It fails when the environment holds what cannot be
// understood. A process calls it once: what OpenTelemetry has to say of itself goes to the log from then on.
func Start(ctx context.Context, log *slog.Logger) (*Tracing, error) {
	sampler, err := samplerOf(os.Getenv(samplerVariable), os.Getenv(argumentVariable))
	if err != nil {
		return nil, err
	}
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := os.Getenv(variable); protocol != "" && protocol != "grpc" {
			return nil, fmt.Errorf("%s: want grpc, which is the one protocol that traces are sent by", variable)
		}
	}
	described, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "penstockd"), attribute.String("service.version", version())),
		resource.WithFromEnv())
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES: want <key>=<value>, separated by commas")
	}

	mistakes := &mistakes{}
	otel.SetLogger(logr.New(mistakes))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(mistakes.add))
	exporter, err := otlptracegrpc.New(ctx)
	if err := errors.Join(err, mistakes.found()); err != nil {
		if exporter != nil {
			_ = exporter.Shutdown(ctx)
		}
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_*: %w", err)
	}
	// From here on there is nothing to be heard that steady would not tell.
	otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Debug("tracing", "error", err.Error()) }))
	return newTracing(&steady{SpanExporter: exporter, log: log}, sampler, described), nil
}

func newTracing(exporter sdktrace.SpanExporter, sampler sdktrace.Sampler, described *resource.Resource) *Tracing {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithSampler(sampler), sdktrace.WithResource(described))
	return &Tracing{provider: provider, tracer: provider.Tracer(scope)}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// Tracer makes the spans of the engine.
func (t *Tracing) Tracer() trace.Tracer { return t.tracer }

// Shutdown sends what is left to be sent, and ends. It takes no longer than 5 s, and no longer than ctx.
func (t *Tracing) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last spans: %w", err)
	}
	return nil
}

// steady is an exporter that tells of its errors once, until it has none any more.
type steady struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	failing atomic.Bool
}

// ExportSpans sends spans. Whoever calls it has nothing to do about an error, so that it gives none.
func (s *steady) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := s.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !s.failing.Swap(true):
		s.log.Warn("traces cannot be sent, and are dropped; decisions go on. Check the collector and OTEL_EXPORTER_OTLP_*",
			"error", err.Error())
	case err == nil && s.failing.Swap(false):
		s.log.Info("traces are sent again")
	}
	return nil
}

// mistakes collects what the exporter says of the environment, which it reads as it is made: it goes on without what it
// does not understand.
type mistakes struct {
	mu   sync.Mutex
	errs []error
}

func (m *mistakes) add(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs = append(m.errs, err)
}

func (m *mistakes) found() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.errs...)
}

// Init is of logr.LogSink.
func (m *mistakes) Init(logr.RuntimeInfo) {}

// Enabled is of logr.LogSink: only errors matter.
func (m *mistakes) Enabled(int) bool { return false }

// Info is of logr.LogSink.
func (m *mistakes) Info(int, string, ...any) {}

// Error keeps the message. What comes with it may be a secret: the value of a variable.
func (m *mistakes) Error(err error, message string, _ ...any) {
	var invalid *url.Error
	var escape url.EscapeError
	if err == nil || errors.As(err, &invalid) || errors.As(err, &escape) {
		m.add(errors.New(message))
		return
	}
	m.add(fmt.Errorf("%s: %w", message, err))
}

// WithValues is of logr.LogSink.
func (m *mistakes) WithValues(...any) logr.LogSink { return m }

// WithName is of logr.LogSink.
func (m *mistakes) WithName(string) logr.LogSink { return m }
