package tracing

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// collector is one of OTLP that remembers what it was sent.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	address string

	mu       sync.Mutex
	requests []*collectorv1.ExportTraceServiceRequest
	refuse   error
}

func (c *collector) Export(_ context.Context, request *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.requests = append(c.requests, request)
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func (c *collector) refuses(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = err
}

// spans are all that came, by their names.
func (c *collector) spans() map[string][]*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string][]*tracev1.Span{}
	for _, request := range c.requests {
		for _, of := range request.GetResourceSpans() {
			for _, in := range of.GetScopeSpans() {
				for _, span := range in.GetSpans() {
					found[span.GetName()] = append(found[span.GetName()], span)
				}
			}
		}
	}
	return found
}

// only is the span of that name, of which there has to be one.
func (c *collector) only(t *testing.T, name string) *tracev1.Span {
	t.Helper()
	spans := c.spans()
	if len(spans[name]) != 1 {
		t.Fatalf("%d spans are named %q, want 1; there are %v", len(spans[name]), name, spans)
	}
	return spans[name][0]
}

func text(attributes []*commonv1.KeyValue) string {
	var all []string
	for _, kv := range attributes {
		value := fmt.Sprint(kv.GetValue().GetStringValue())
		switch v := kv.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_BoolValue:
			value = fmt.Sprint(v.BoolValue)
		case *commonv1.AnyValue_IntValue:
			value = fmt.Sprint(v.IntValue)
		case *commonv1.AnyValue_ArrayValue:
			var items []string
			for _, item := range v.ArrayValue.GetValues() {
				items = append(items, item.GetStringValue())
			}
			value = fmt.Sprint(items)
		}
		all = append(all, kv.GetKey()+"="+value)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func serve(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.address = serve(t, func(s *grpc.Server) { collectorv1.RegisterTraceServiceServer(s, c) })
	return c
}

// start begins to trace to that address.
func start(t *testing.T, address string) (*Tracing, *lines) {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+address)
	log := &lines{}
	tracing, err := Start(t.Context(), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracing.Shutdown(context.Background()) })
	return tracing, log
}

// end sends what there is.
func end(t *testing.T, tracing *Tracing) {
	t.Helper()
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// lines is a log that may be written by others.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// store is a Limiter that gives one row, or fails.
type store struct {
	engine.Limiter // the rest is not asked for
	row            limit.Row
	err            error
}

func (s *store) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	if s.err != nil {
		return nil, s.err
	}
	return slices.Repeat([]limit.Row{s.row}, len(charges)), nil
}

func (s *store) Refund(_ context.Context, _ limit.Charge) (limit.Row, error) { return s.row, s.err }

// reply is an error that Redis gave.
type reply string

func (r reply) Error() string { return string(r) }

// RedisError tells go-redis' errors from others.
func (reply) RedisError() {}

// door asks an engine about what it is sent, as the real ones do.
type door struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
	engine *engine.Engine
	store  *store
}

func newDoor(t *testing.T, tracing *Tracing) *door {
	t.Helper()
	set := policy.NewSet([]policy.RateLimit{policy.RateLimit{
		Name: "shop/per-user", Domain: "shop", OnStoreFailure: policy.FailureAllow, Descriptors: []policy.Descriptor{{Key: "user"}},
		Limits: []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 10, WindowMs: 60_000}},
	}.Sealed()})
	if err := set.Validate(); err != nil {
		t.Fatal(err)
	}
	d := &door{store: &store{row: limit.Row{Allowed: true, Limit: 10, Remaining: 9, LimitName: "default", Reason: limit.ReasonOK}}}
	d.engine = engine.New(engine.Options{Limiter: d.store, Tracer: tracing.Tracer(), NoDenyCache: true})
	d.engine.Use(set)
	return d
}

func (d *door) ShouldRateLimit(ctx context.Context, request *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	r := engine.NewRequest(request.GetDomain())
	defer r.Release()
	for _, descriptor := range request.GetDescriptors() {
		r.Descriptor(1)
		for _, entry := range descriptor.GetEntries() {
			r.Entry(entry.GetKey(), entry.GetValue())
		}
	}
	if _, err := d.engine.Decide(ctx, engine.DoorRLS, r); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &ratelimitv3.RateLimitResponse{}, nil
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	lookup := func(string) (string, bool) { return r.Header.Get("X-User"), true }
	_, err := d.engine.Refund(r.Context(), engine.DoorAPI, engine.Call{Policy: "shop/per-user", Lookup: lookup, Cost: 1, ID: r.Header.Get("X-Id")})
	if err == nil {
		_, err = d.engine.DecideAttributes(r.Context(), engine.DoorForwardAuth, r.Header.Get("X-Domain"), lookup, 1)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// dial serves the door over gRPC.
func (d *door) dial(t *testing.T, tracing *Tracing, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	address := serve(t, func(s *grpc.Server) {
		ratelimitv3.RegisterRateLimitServiceServer(s, d)
		healthv1.RegisterHealthServer(s, health.NewServer())
	}, grpc.UnaryInterceptor(tracing.Unary()))
	conn, err := grpc.NewClient(address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func request(domain, key, value string) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: domain, Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{
		Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: key, Value: value}},
	}}}
}

const (
	rlsMethod = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
	traceID   = "0af7651916cd43dd8448eb211c80319c"
	parentID  = "b7ad6b7169203331"
	sampled   = "00-" + traceID + "-" + parentID + "-01"
	unsampled = "00-" + traceID + "-" + parentID + "-00"
)

func TestACallIsASpanOfItsCallersTrace(t *testing.T) {
	c := newCollector(t)
	tracing, _ := start(t, c.address)
	d := newDoor(t, tracing)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", sampled)
	if _, err := ratelimitv3.NewRateLimitServiceClient(d.dial(t, tracing)).ShouldRateLimit(ctx, request("shop", "user", "bob")); err != nil {
		t.Fatal(err)
	}
	end(t, tracing)
	server, redis := c.only(t, rlsMethod), c.only(t, "redis decide")
	for _, span := range []*tracev1.Span{server, redis} {
		if got := hex.EncodeToString(span.GetTraceId()); got != traceID {
			t.Errorf("%s is of trace %s, want the caller's", span.GetName(), got)
		}
	}
	if got := hex.EncodeToString(server.GetParentSpanId()); got != parentID || server.GetKind() != tracev1.Span_SPAN_KIND_SERVER {
		t.Errorf("parent %s, %s; want the caller's, SERVER", got, server.GetKind())
	}
	if !bytes.Equal(redis.GetParentSpanId(), server.GetSpanId()) || redis.GetKind() != tracev1.Span_SPAN_KIND_CLIENT {
		t.Errorf("the call of Redis is not below that of the door, or %s is not CLIENT", redis.GetKind())
	}
	want := "penstock.degraded=false penstock.domain=shop penstock.door=rls penstock.mode=enforced penstock.outcome=allowed " +
		"penstock.policies=[shop/per-user] rpc.grpc.status_code=0 rpc.method=ShouldRateLimit " +
		"rpc.service=envoy.service.ratelimit.v3.RateLimitService rpc.system=grpc"
	if got := text(server.GetAttributes()); got != want {
		t.Errorf("attributes\n%s, want\n%s", got, want)
	}
	if got, want := text(redis.GetAttributes()), "db.system.name=redis penstock.operation=decide penstock.policies=[shop/per-user]"; got != want {
		t.Errorf("attributes\n%s, want\n%s", got, want)
	}
	resource := text(c.requests[0].GetResourceSpans()[0].GetResource().GetAttributes())
	if !strings.Contains(resource, "service.name=penstockd") || !strings.Contains(resource, "service.version=") {
		t.Errorf("resource %s, want the program and its version", resource)
	}
}

func TestASpanTellsWhatWasDecided(t *testing.T) {
	denial := limit.Row{Limit: 10, RetryAfter: time.Minute, LimitName: "default", Reason: limit.ReasonLimit}
	for name, test := range map[string]struct {
		domain string
		row    limit.Row
		err    error
		want   string
		failed bool
	}{
		"a denial": {"shop", denial, nil, "penstock.degraded=false penstock.denied_by=[shop/per-user] penstock.domain=shop " +
			"penstock.door=rls penstock.mode=enforced penstock.outcome=denied penstock.policies=[shop/per-user] rpc.grpc.status_code=0", false},
		"an outage": {"shop", denial, errors.New("connection refused"), "penstock.degraded=true penstock.domain=shop " +
			"penstock.door=rls penstock.mode=degraded penstock.outcome=allowed penstock.policies=[shop/per-user] rpc.grpc.status_code=0", false},
		"an error": {"shop", denial, reply("NOPERM no rights"), "penstock.domain=shop penstock.door=rls " +
			"penstock.policies=[shop/per-user] rpc.grpc.status_code=13", true},
		"an unknown domain": {"elsewhere", denial, nil, "penstock.degraded=false penstock.door=rls penstock.mode=unmatched " +
			"penstock.outcome=allowed penstock.unknown_domain=true rpc.grpc.status_code=0", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t)
			tracing, _ := start(t, c.address)
			d := newDoor(t, tracing)
			d.store.row, d.store.err = test.row, test.err
			_, err := ratelimitv3.NewRateLimitServiceClient(d.dial(t, tracing)).ShouldRateLimit(t.Context(), request(test.domain, "user", "bob"))
			if (err != nil) != test.failed {
				t.Fatal(err)
			}
			end(t, tracing)
			span := c.only(t, rlsMethod)
			if got, _, _ := strings.Cut(text(span.GetAttributes()), " rpc.method"); got != test.want {
				t.Errorf("attributes\n%s, want\n%s", got, test.want)
			}
			if got := span.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR; got != test.failed {
				t.Errorf("marked as failed: %t, want %t", got, test.failed)
			}
			if redis := c.spans()["redis decide"]; test.err != nil && redis[0].GetStatus().GetCode() != tracev1.Status_STATUS_CODE_ERROR {
				t.Error("the call of Redis is not marked as failed")
			}
		})
	}
}

func TestARequestOverHTTPIsASpanOfItsDoor(t *testing.T) {
	c := newCollector(t)
	tracing, _ := start(t, c.address)
	d := newDoor(t, tracing)
	for _, answer := range []int{0, http.StatusTooManyRequests, http.StatusBadGateway} {
		server := httptest.NewServer(tracing.Handler("forwardauth", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusEarlyHints)
			if answer != 0 {
				w.WriteHeader(answer)
			}
			_, _ = io.WriteString(w, "text")
			w.(http.Flusher).Flush()
		})))
		ask, err := http.NewRequestWithContext(t.Context(), "PURGE", server.URL+"/auth/shop/per-user/path?query", nil)
		if err != nil {
			t.Fatal(err)
		}
		ask.Header.Set("traceparent", sampled)
		ask.Header.Set("X-User", "bob")
		ask.Header.Set("X-Domain", "shop")
		reply, err := server.Client().Do(ask)
		if err != nil {
			t.Fatal(err)
		}
		_ = reply.Body.Close()
		server.Close()
	}
	end(t, tracing)
	spans := c.spans()
	if len(spans) != 3 || len(spans["forwardauth"]) != 3 || len(spans["redis decide"]) != 3 || len(spans["redis refund"]) != 3 {
		t.Fatalf("spans %v, want three of the door, and for each two of Redis", spans)
	}
	for i, want := range []string{"200", "429", "502"} {
		span := spans["forwardauth"][i]
		want = "http.response.status_code=" + want + " penstock.degraded=false penstock.domain=shop penstock.door=forwardauth " +
			"penstock.mode=enforced penstock.outcome=allowed penstock.policies=[shop/per-user]"
		if got := text(span.GetAttributes()); got != want {
			t.Errorf("attributes\n%s, want\n%s", got, want)
		}
		if got := span.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR; got != (i == 2) {
			t.Errorf("%s is marked as failed: %t", want, got)
		}
		if hex.EncodeToString(span.GetTraceId()) != traceID {
			t.Errorf("the span is of another trace than the caller's")
		}
	}
}

// Fault 46: whatever is sent, wherever it is sent, it is nothing for whoever reads traces.
func TestNothingOfAUserIsInASpan(t *testing.T) {
	const marker = "sEcReT"
	c := newCollector(t)
	tracing, _ := start(t, c.address)
	d := newDoor(t, tracing)
	rls := ratelimitv3.NewRateLimitServiceClient(d.dial(t, tracing, grpc.WithUserAgent(marker), grpc.WithAuthority(marker)))
	server := httptest.NewServer(tracing.Handler("forwardauth", d))
	defer server.Close()
	for _, failure := range []error{nil, errors.New(marker), reply("ERR " + marker), reply("NOPERM " + marker), reply("PENSTOCK_BADARG " + marker)} {
		d.store.err = failure
		for _, parent := range []string{sampled, marker, "00-" + marker + "-" + marker + "-01"} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", parent, "tracestate", "vendor="+marker, "baggage", marker+"="+marker, marker, marker)
			for _, domain := range []string{"shop", marker} {
				_, _ = rls.ShouldRateLimit(ctx, request(domain, "user", marker)) // an error is one of the answers
				_, _ = rls.ShouldRateLimit(ctx, request(domain, marker, marker))
				_, _ = rls.ShouldRateLimit(ctx, request(domain, "user", strings.Repeat(marker, 100)))
				ask, err := http.NewRequestWithContext(t.Context(), marker, server.URL+"/auth/"+marker+"?"+marker, strings.NewReader(marker))
				if err != nil {
					t.Fatal(err)
				}
				ask.Host = marker
				ask.SetBasicAuth(marker, marker)
				for _, name := range []string{"X-User", "X-Id", "User-Agent", "Referer", "Cookie", "X-Forwarded-For", "Baggage", marker} {
					ask.Header.Set(name, marker)
				}
				ask.Header.Set("X-Domain", domain)
				ask.Header.Set("Traceparent", parent)
				ask.Header.Set("Tracestate", "vendor="+marker)
				reply, err := server.Client().Do(ask)
				if err != nil {
					t.Fatal(err)
				}
				_ = reply.Body.Close()
			}
		}
	}
	end(t, tracing)
	if spans := c.spans(); len(spans[rlsMethod]) != 90 || len(spans["forwardauth"]) != 30 || len(spans["redis refund"]) != 30 {
		t.Fatalf("%d, %d and %d spans; want one of each request", len(spans[rlsMethod]), len(spans["forwardauth"]), len(spans["redis refund"]))
	}
	for _, sent := range c.requests {
		wire, err := proto.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(bytes.ToLower(wire), []byte(strings.ToLower(marker))) || bytes.Contains(wire, []byte("127.0.0.1")) {
			t.Fatalf("what users sent is among the spans:\n%v", sent)
		}
	}
}

func TestHealthChecksMakeNoSpans(t *testing.T) {
	c := newCollector(t)
	tracing, _ := start(t, c.address)
	if _, err := healthv1.NewHealthClient(newDoor(t, tracing).dial(t, tracing)).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	end(t, tracing)
	if got := c.spans(); len(got) != 0 {
		t.Errorf("spans %v, want none", got)
	}
}

func TestWhatIsNotSampledIsLeftAsItIs(t *testing.T) {
	c := newCollector(t)
	t.Setenv(samplerVariable, "parentbased_always_off")
	tracing, _ := start(t, c.address)
	recorder := httptest.NewRecorder()
	for _, parent := range []string{"", unsampled} {
		ask := httptest.NewRequest(http.MethodGet, "/", nil)
		ask.Header.Set("traceparent", parent)
		tracing.Handler("json", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if w != recorder || r != ask {
				t.Error("the request or its answer is not the server's own")
			}
		})).ServeHTTP(recorder, ask)
	}
	ask := httptest.NewRequest(http.MethodGet, "/", nil)
	ask.Header["Traceparent"] = []string{sampled, sampled}
	tracing.Handler("json", http.NotFoundHandler()).ServeHTTP(recorder, ask)
	end(t, tracing)
	if got := c.spans(); len(got) != 0 {
		t.Errorf("spans %v, want none: two parents are none", got)
	}
}

// Fault 46 has another side: whoever can send a header can ask for traces.
func TestCallersCannotHaveAllTracesRecorded(t *testing.T) {
	foreign := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{7: 1}, TraceFlags: trace.FlagsSampled, Remote: true,
	}))
	count := func(ctx context.Context, name, argument string) int {
		sampler, err := samplerOf(name, argument)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for range 10_000 {
			result := sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: ctx, TraceID: trace.TraceID{15: 1}})
			if result.Decision == sdktrace.RecordAndSample {
				n++
			}
		}
		return n
	}
	for _, test := range []struct {
		name, argument       string
		mostForeign, mostOwn int
	}{
		{"", "", 10_000, 10_000},
		{"parentbased_always_on", "", 10_000, 10_000},
		{"always_on", "", 10_000, 10_000},
		{"always_off", "", 0, 0},
		{"parentbased_always_off", "", 5000, 0},
		{" ParentBased_TraceIDRatio ", " 0.5 ", 5000, 10_000},
		{"traceidratio", "1e-9", 5000, 10_000}, // the id of this trace is one that is always taken
		{"traceidratio", "0", 0, 0},
	} {
		if got := count(foreign, test.name, test.argument); got > test.mostForeign || test.mostForeign > 0 && got < mostForeign {
			t.Errorf("%s %s: %d of a caller's, want at most %d, and at least %d of them", test.name, test.argument, got, test.mostForeign, mostForeign)
		}
		if got := count(t.Context(), test.name, test.argument); got != test.mostOwn {
			t.Errorf("%s %s: %d of those that begin here, want %d", test.name, test.argument, got, test.mostOwn)
		}
	}
}

func TestACollectorThatIsGoneStopsNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "50")
	tracing, log := start(t, listener.Addr().String())
	begin := time.Now()
	for range 20_000 {
		_, span := tracing.Tracer().Start(t.Context(), "span")
		span.End()
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("20,000 spans took %s", took)
	}
	begin = time.Now()
	_ = tracing.Shutdown(t.Context()) // whether it gives an error does not matter
	if took := time.Since(begin); took > shutdownTimeout+time.Second {
		t.Errorf("the shutdown took %s, want at most %s", took, shutdownTimeout)
	}
	if got := strings.Count(log.String(), "\n"); got != 1 || !strings.Contains(log.String(), "traces cannot be sent") {
		t.Errorf("log:\n%s, want one line that says so", log)
	}
}

func TestACollectorThatNeverAnswersDoesNotHoldTheShutdown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	tracing, _ := start(t, listener.Addr().String())
	_, span := tracing.Tracer().Start(t.Context(), "span")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := tracing.Shutdown(ctx); err == nil {
		t.Error("no error, though the last span was not sent")
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the shutdown took %s", took)
	}
}

func TestACollectorThatComesBackIsToldOfOnce(t *testing.T) {
	c := newCollector(t)
	tracing, log := start(t, c.address)
	send := func() {
		_, span := tracing.Tracer().Start(t.Context(), "span")
		span.End()
		if err := tracing.provider.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, refuse := range []error{status.Error(codes.InvalidArgument, "no"), nil} {
		c.refuses(refuse)
		for range 3 {
			send()
		}
	}
	if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "traces cannot be sent") || !strings.Contains(got, "traces are sent again") {
		t.Errorf("log:\n%s, want a line for each of two transitions", got)
	}
	if got := len(c.spans()["span"]); got != 3 {
		t.Errorf("%d spans arrived, want those after it came back", got)
	}
}

func TestAMistakeInTheEnvironmentIsAnErrorAtTheStart(t *testing.T) {
	for variable, test := range map[string]struct{ value, want string }{
		samplerVariable:                  {"sometimes", "OTEL_TRACES_SAMPLER: want "},
		argumentVariable:                 {"11", "OTEL_TRACES_SAMPLER_ARG: want a number from 0 to 1"},
		"OTEL_EXPORTER_OTLP_PROTOCOL":    {"http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL: want grpc"},
		"OTEL_EXPORTER_OTLP_HEADERS":     {"authorization sEcReT", "OTEL_EXPORTER_OTLP_*: parse headers"},
		"OTEL_EXPORTER_OTLP_ENDPOINT":    {"http://user:sEcReT@\x7f", "OTEL_EXPORTER_OTLP_*: parse url"},
		"OTEL_EXPORTER_OTLP_CERTIFICATE": {"/nowhere.pem", "OTEL_EXPORTER_OTLP_*: read tls ca cert file"},
		"OTEL_RESOURCE_ATTRIBUTES":       {"sEcReT", "OTEL_RESOURCE_ATTRIBUTES: want "},
	} {
		t.Run(variable, func(t *testing.T) {
			if variable == argumentVariable {
				t.Setenv(samplerVariable, "traceidratio")
			}
			t.Setenv(variable, test.value)
			_, err := Start(t.Context(), slog.New(slog.DiscardHandler))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "sEcReT") {
				t.Errorf("%v, want %s…, and nothing secret", err, test.want)
			}
		})
	}
}
