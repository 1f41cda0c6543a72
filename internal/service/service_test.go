package service

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// store is a Limiter that runs what it is given.
type store struct {
	engine.Limiter // the rest is not asked for
	decide         func(charges []limit.Charge) ([]limit.Row, error)
}

func (s store) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return s.decide(charges)
}

func (s store) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func allowAll(charges []limit.Charge) ([]limit.Row, error) {
	rows := make([]limit.Row, len(charges))
	for i := range rows {
		rows[i] = limit.Row{Allowed: true, Limit: 100, Remaining: 99, LimitName: "default"}
	}
	return rows, nil
}

func testSet() *policy.Set {
	return policy.NewSet([]policy.RateLimit{policy.RateLimit{
		Name: "shop/api", Domain: "shop", OnStoreFailure: policy.FailureAllow,
		Descriptors: []policy.Descriptor{{Key: "remote_address"}},
		Limits:      []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}},
	}.Sealed()})
}

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// running is a Service that serves on the loopback.
type running struct {
	*Service
	engine *engine.Engine
	log    *lines
	conn   *grpc.ClientConn
	// stop ends it, and ended gives what Run gave.
	stop  context.CancelFunc
	ended chan error
}

func start(t *testing.T, cfg Config, decide func([]limit.Charge) ([]limit.Row, error)) *running {
	t.Helper()
	return startWith(t, cfg, time.Sleep, decide)
}

func startWith(t *testing.T, cfg Config, pause func(time.Duration), decide func([]limit.Charge) ([]limit.Row, error)) *running {
	t.Helper()
	cfg.HTTP, cfg.GRPC, cfg.Metrics = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	r := &running{log: &lines{}, ended: make(chan error, 1)}
	registry := NewRegistry()
	log := slog.New(slog.NewJSONHandler(r.log, nil))
	r.engine = engine.New(engine.Options{Limiter: store{decide: decide}, Logger: log, Registerer: registry})
	var err error
	if r.Service, err = New(cfg, r.engine, registry, log); err != nil {
		t.Fatal(err)
	}
	r.pause = pause
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r.ended <- r.Run(ctx)
	}()
	t.Cleanup(func() { r.stop(); <-finished })
	if r.conn, err = grpc.NewClient(r.Addresses().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r
}

// use puts the set in force and waits until all of the service knows.
func (r *running) use(t *testing.T) {
	t.Helper()
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r.engine.Use(testSet())
	for {
		got, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			return
		}
	}
}

// get asks over HTTP and gives the status and the body.
func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (r *running) health(t *testing.T, name string) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	got, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	return got.GetStatus()
}

const rlsName = "envoy.service.ratelimit.v3.RateLimitService"

func (r *running) shouldRateLimit(ctx context.Context) (*ratelimitv3.RateLimitResponse, error) {
	return ratelimitv3.NewRateLimitServiceClient(r.conn).ShouldRateLimit(ctx, &ratelimitv3.RateLimitRequest{
		Domain: "shop",
		Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{
			Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "remote_address", Value: "192.0.2.1"}},
		}},
	})
}

func TestItIsReadyOnceAPolicySetIsLoaded(t *testing.T) {
	r := start(t, Config{WhyNotReady: func() string { return "dial tcp: connection refused" }}, allowAll)
	for _, address := range []string{r.Addresses().HTTP, r.Addresses().Metrics} {
		if code, body := get(t, address, "/healthz"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("/healthz before: %d %q", code, body)
		}
		want := "not ready: no policy set is loaded yet: dial tcp: connection refused\n"
		if code, body := get(t, address, "/readyz"); code != http.StatusServiceUnavailable || body != want {
			t.Errorf("/readyz before: %d %q, want 503 %q", code, body, want)
		}
	}
	if code, _ := get(t, r.Addresses().HTTP, "/auth/shop/api"); code != http.StatusServiceUnavailable {
		t.Errorf("/auth before: %d, want 503", code)
	}
	if _, err := r.shouldRateLimit(t.Context()); status.Code(err) != codes.Unavailable {
		t.Errorf("RLS before: %v, want Unavailable", err)
	}
	for _, name := range []string{"", rlsName} {
		if got := r.health(t, name); got != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("health of %q before: %v", name, got)
		}
	}

	r.use(t)
	for _, address := range []string{r.Addresses().HTTP, r.Addresses().Metrics} {
		if code, body := get(t, address, "/readyz"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("/readyz after: %d %q", code, body)
		}
	}
	if code, _ := get(t, r.Addresses().HTTP, "/auth/shop/api"); code != http.StatusOK {
		t.Errorf("/auth after: %d, want 200", code)
	}
	if got, err := r.shouldRateLimit(t.Context()); err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("RLS after: %v, %v", got, err)
	}
	if got := r.health(t, rlsName); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health after: %v", got)
	}
}

func TestReflectionNamesTheServices(t *testing.T) {
	r := start(t, Config{}, allowAll)
	stream, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil || !strings.Contains(got.String(), rlsName) || !strings.Contains(got.String(), "grpc.health.v1.Health") {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMetricsAreOnTheirOwnPortOnly(t *testing.T) {
	r := start(t, Config{}, allowAll)
	r.use(t)
	if _, err := r.shouldRateLimit(t.Context()); err != nil {
		t.Fatal(err)
	}
	get(t, r.Addresses().HTTP, "/auth/shop/api")
	code, body := get(t, r.Addresses().Metrics, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d", code)
	}
	for _, want := range []string{
		`penstock_decisions_total{door="rls",namespace="shop",outcome="allowed",policy="api"} 1`,
		`penstock_decisions_total{door="forwardauth",namespace="shop",outcome="allowed",policy="api"} 1`,
		`penstock_decision_duration_seconds_count{door="rls"} 1`,
		`penstock_redis_duration_seconds_count 2`,
		`penstock_policy_set_info{hash="` + testSet().Hash + `"} 1`,
		`penstock_policies 1`, `penstock_unknown_domain_total 0`, `penstock_panics_total 0`, `penstock_degraded 0`,
		`penstock_build_info{`, `go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if code, _ := get(t, r.Addresses().HTTP, "/metrics"); code != http.StatusNotFound {
		t.Errorf("/metrics where callers are: %d, want 404", code)
	}
}

func TestItEndsWithoutRefusingWhatIsUnderWay(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	lameDuck := make(chan time.Duration)
	r := startWith(t, Config{LameDuck: time.Hour}, func(d time.Duration) { lameDuck <- d; <-lameDuck }, func(charges []limit.Charge) ([]limit.Row, error) {
		if charges[0].Values[0] == "192.0.2.1" {
			close(asked)
			<-answer
		}
		return allowAll(charges)
	})
	r.use(t)
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{Service: rlsName})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", got, err)
	}
	underWay := make(chan error, 1)
	go func() { _, err := r.shouldRateLimit(context.Background()); underWay <- err }()
	<-asked

	r.stop()
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health at the end: %v, %v; want NOT_SERVING", got, err)
	}
	if err := watch.CloseSend(); err != nil {
		t.Error(err)
	}
	if got := <-lameDuck; got != time.Hour {
		t.Errorf("lame duck of %v, want what is configured", got)
	}
	// Not ready, and yet it decides.
	if code, body := get(t, r.Addresses().HTTP, "/readyz"); code != http.StatusServiceUnavailable || body != "not ready: shutting down\n" {
		t.Errorf("/readyz at the end: %d %q", code, body)
	}
	if code, _ := get(t, r.Addresses().HTTP, "/auth/shop/api"); code != http.StatusOK {
		t.Errorf("/auth at the end: %d, want 200", code)
	}
	close(lameDuck)
	close(answer)
	if err := <-underWay; err != nil {
		t.Errorf("the call under way: %v, want an answer", err)
	}
	_ = r.conn.Close() // ends the Watch
	if err := <-r.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if connection, err := net.DialTimeout("tcp", r.Addresses().HTTP, time.Second); err == nil {
		_ = connection.Close()
		t.Error("the port is still open")
	}
}

func TestWhatDoesNotEndIsCutOff(t *testing.T) {
	asked, never := make(chan struct{}), make(chan struct{})
	r := start(t, Config{Drain: 50 * time.Millisecond}, func([]limit.Charge) ([]limit.Row, error) {
		close(asked)
		<-never
		return nil, context.Canceled
	})
	r.use(t)
	underWay := make(chan error, 1)
	go func() { _, err := r.shouldRateLimit(context.Background()); underWay <- err }()
	<-asked
	r.stop()
	if err := <-underWay; err == nil {
		t.Error("the call under way got an answer, want it cut off")
	}
	close(never)
	if err := <-r.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if !strings.Contains(r.log.String(), "cut off") {
		t.Errorf("nothing says so:\n%s", r.log)
	}
}

func TestAPanicHarmsOnlyItsRequest(t *testing.T) {
	r := start(t, Config{}, func(charges []limit.Charge) ([]limit.Row, error) {
		if charges[0].Values[0] == "192.0.2.1" {
			panic("a mistake of ours")
		}
		return allowAll(charges)
	})
	r.use(t)
	for range 3 {
		_, err := r.shouldRateLimit(t.Context())
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "mistake") {
			t.Errorf("the request: %v, want Internal and no details", err)
		}
	}
	if code, _ := get(t, r.Addresses().HTTP, "/auth/shop/api"); code != http.StatusOK {
		t.Errorf("another request: %d, want 200", code)
	}
	if _, body := get(t, r.Addresses().Metrics, "/metrics"); !strings.Contains(body, "penstock_panics_total 3\n") {
		t.Error("not counted")
	}
	if n := strings.Count(r.log.String(), "a mistake of ours"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, r.log)
	}
	if !strings.Contains(r.log.String(), "service_test.go") {
		t.Error("the log has no stack")
	}
}

func TestAPanicOverHTTPIsAnInternalError(t *testing.T) {
	r := start(t, Config{}, func([]limit.Charge) ([]limit.Row, error) { panic("a mistake of ours") })
	r.use(t)
	if code, body := get(t, r.Addresses().HTTP, "/auth/shop/api"); code != http.StatusInternalServerError || body != "internal error\n" {
		t.Errorf("%d %q, want 500 without details", code, body)
	}
}

func TestLargeRequestsAreRefused(t *testing.T) {
	r := start(t, Config{}, allowAll)
	r.use(t)
	post := func(body io.Reader) int {
		response, err := http.Post("http://"+r.Addresses().HTTP+"/auth/shop/api", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	chunked := func(n int) io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("x", n))) }
	for name, test := range map[string]struct {
		body io.Reader
		want int
	}{
		"64 KiB":                      {strings.NewReader(strings.Repeat("x", 64<<10)), http.StatusOK},
		"a byte more":                 {strings.NewReader(strings.Repeat("x", 64<<10+1)), http.StatusRequestEntityTooLarge},
		"64 KiB of unknown length":    {chunked(64 << 10), http.StatusOK},
		"a byte more, length unknown": {chunked(64<<10 + 1), http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if got := post(test.body); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
	t.Run("a header of 1 MB", func(t *testing.T) {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Addresses().HTTP+"/auth/shop/api", nil)
		request.Header.Set("X-Team", strings.Repeat("x", 1_000_000))
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%d, want 431", response.StatusCode)
			}
		} // or the server closes the connection while it is still being sent
	})
	t.Run("a descriptor value of 1 MB", func(t *testing.T) {
		got, err := ratelimitv3.NewRateLimitServiceClient(r.conn).ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{
			Domain: "shop",
			Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{
				Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "remote_address", Value: strings.Repeat("x", 1_000_000)}},
			}},
		})
		// An error would let it pass at an Envoy that fails open.
		want := "remote_address: 1000000 bytes, want at most 256"
		if err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || !strings.Contains(string(got.GetRawBody()), want) {
			t.Errorf("%v, %v, want it denied, with a body that names the value and its bound", got, err)
		}
	})
}

func TestAPathThatIsNotCleanIsNotRedirected(t *testing.T) {
	r := start(t, Config{}, allowAll)
	r.use(t)
	if code, _ := get(t, r.Addresses().HTTP, "/auth/shop/api//a/../b"); code != http.StatusOK {
		t.Errorf("%d, want 200", code)
	}
	if code, _ := get(t, r.Addresses().HTTP, "/elsewhere"); code != http.StatusNotFound {
		t.Errorf("%d, want 404", code)
	}
}

func TestATakenPortIsAnErrorThatNamesItAndLeavesNoneOpen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, err = New(Config{HTTP: address, GRPC: taken.Addr().String()}, engine.New(engine.Options{}), NewRegistry(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "grpc port") || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("%v, want an error that names the grpc port", err)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the http port was left open: %v", err)
	}
	_ = again.Close()
}
