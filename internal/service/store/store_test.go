package store_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// peer is the subject of every request over HTTP from here.
const peer = "127.0.0.1"

// penstockd is the whole of it in this process: store, engine, doors.
type penstockd struct {
	log    *lines
	engine *engine.Engine
	store  *store.Store
	http   string
	// registry holds what /metrics shows.
	registry *prometheus.Registry
	rls      ratelimitv3.RateLimitServiceClient
	grpc     string
	// stop ends all of it; the end of the test does so, too.
	stop func()
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

// start starts a penstockd on the server at that address. Without a set it follows what is published.
func start(t *testing.T, address string, set *policy.Set) *penstockd {
	t.Helper()
	return startWith(t, redisops.Config{Addresses: []string{address}, CommandTimeout: commandTimeout}, set)
}

func startWith(t *testing.T, cfg redisops.Config, set *policy.Set) *penstockd {
	t.Helper()
	return startAs(t, store.Options{Load: store.Always(cfg)}, set)
}

// startAs starts a penstockd with these options. Without a set it follows what is published.
func startAs(t *testing.T, options store.Options, set *policy.Set) *penstockd {
	t.Helper()
	p := &penstockd{log: &lines{}}
	log := slog.New(slog.NewTextHandler(p.log, nil))
	registry := service.NewRegistry()
	options.Logger, options.Registerer, options.Answers = log, registry, func() { p.engine.Answers() }
	opened, err := store.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	p.store = opened
	p.registry = registry
	p.engine = engine.New(engine.Options{
		Limiter: p.store, Reread: p.store.Reread, ExpressionFailed: p.store.ExpressionFailed, Replicas: p.store.Replicas,
		Logger: log, Registerer: registry,
	})
	svc, err := service.New(service.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", WhyNotReady: p.store.Why, Trouble: p.store.Trouble}, p.engine, registry, log)
	if err != nil {
		t.Fatal(err)
	}
	p.http, p.grpc = "http://"+svc.Addresses().HTTP, svc.Addresses().GRPC
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	p.rls = ratelimitv3.NewRateLimitServiceClient(conn)

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := svc.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if set == nil {
		running.Go(func() { p.store.Follow(ctx, p.engine.Use) })
	} else {
		running.Go(func() { p.store.Enforce(ctx, set, p.engine.Use) })
	}
	p.stop = sync.OnceFunc(func() {
		_ = conn.Close()
		cancel()
		running.Wait()
		p.store.Close()
	})
	t.Cleanup(p.stop)
	return p
}

// commandTimeout is generous, since the machine that runs the tests may be busy with others; those about time say so.
const commandTimeout = time.Second

func (p *penstockd) ready(t *testing.T) {
	t.Helper()
	select {
	case <-p.engine.Ready():
	case <-time.After(10 * time.Second):
		t.Fatalf("no policy set after 10 s: %s", p.store.Why())
	}
}

// answer is what came back over HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

// get asks over HTTP.
func (p *penstockd) get(t *testing.T, path string) answer {
	t.Helper()
	response, err := http.Get(p.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

// ask asks the RLS door by descriptors of one entry each, given as key, value, key, value…
func (p *penstockd) ask(t *testing.T, pairs ...string) (*ratelimitv3.RateLimitResponse, error) {
	t.Helper()
	request := &ratelimitv3.RateLimitRequest{Domain: "shop"}
	for i := 0; i < len(pairs); i += 2 {
		request.Descriptors = append(request.Descriptors, &ratelimitcommonv3.RateLimitDescriptor{
			Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: pairs[i], Value: pairs[i+1]}},
		})
	}
	return p.rls.ShouldRateLimit(t.Context(), request)
}

func (p *penstockd) mustAsk(t *testing.T, pairs ...string) *ratelimitv3.RateLimitResponse {
	t.Helper()
	response, err := p.ask(t, pairs...)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func degraded(r *ratelimitv3.RateLimitResponse) bool {
	return slices.ContainsFunc(r.GetResponseHeadersToAdd(), func(h *corev3.HeaderValue) bool { return h.GetKey() == "x-penstock-degraded" })
}

func rateLimit(name, key, onStoreFailure string, algorithm string) policy.RateLimit {
	return policy.RateLimit{
		Name: "shop/" + name, Domain: "shop", OnStoreFailure: onStoreFailure,
		Descriptors: []policy.Descriptor{{Key: key}},
		Limits:      []policy.Limit{{Name: "default", Algorithm: algorithm, Requests: 100, WindowMs: 3_600_000}},
	}.Sealed()
}

func publish(t *testing.T, server *redistest.Server, policies ...policy.RateLimit) *policy.Set {
	t.Helper()
	return publishBy(t, redisops.Config{Addresses: []string{server.Addr}}, policies...)
}

// publishBy publishes as the operator does, wherever that configuration leads.
func publishBy(t *testing.T, cfg redisops.Config, policies ...policy.RateLimit) *policy.Set {
	t.Helper()
	set := policy.NewSet(policies)
	_, err := policystore.Publish(t.Context(), redisopstest.Open(t, cfg), policystore.Publication{
		Owner: "test/shop/store", Set: set, ConfirmShrink: set.Hash, Mode: library.ModeFunctions,
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// eventually waits until it is so, for what another process brings about.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("after 30 s still not: %s", what)
}

func TestAHundredPassAndTheNextIsRefusedAtBothDoors(t *testing.T) {
	server := redistest.Start(t)
	policies := []policy.RateLimit{rateLimit("per-ip", "remote_address", policy.FailureAllow, policy.SlidingLog)}
	for name, set := range map[string]*policy.Set{"functions": nil, "scripts": policy.NewSet(policies)} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			publish(t, server, policies...)
			p := start(t, server.Addr, set)
			p.ready(t)
			for i := range 100 {
				if i%2 == 0 {
					if got := p.get(t, "/auth/shop/per-ip"); got.status != http.StatusOK {
						t.Fatalf("request %d: %d", i+1, got.status)
					}
				} else if got := p.mustAsk(t, "remote_address", peer); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || got.GetStatuses()[0].GetLimitRemaining() != uint32(99-i) {
					t.Fatalf("request %d: %v", i+1, got)
				}
			}
			got := p.get(t, "/auth/shop/per-ip")
			if got.status != http.StatusTooManyRequests || got.header.Get("RateLimit-Policy") != `"per-ip";q=100;w=3600` || !strings.HasPrefix(got.header.Get("RateLimit"), `"per-ip";r=0;t=`) {
				t.Errorf("request 101 over HTTP: %d %v, want 429", got.status, got.header)
			}
			if after := got.header.Get("Retry-After"); after == "" || after == "0" {
				t.Errorf("Retry-After %q, want at least 1", after)
			}
			if got := p.mustAsk(t, "remote_address", peer); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT {
				t.Errorf("request 101 by RLS: %v, want OVER_LIMIT", got)
			}
			if got := p.mustAsk(t, "remote_address", "192.0.2.1"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
				t.Errorf("another subject: %v, want OK", got)
			}
		})
	}
}

func TestADirectCallOfTheFunctionSpendsTheSameBudget(t *testing.T) {
	server := redistest.Start(t)
	publish(t, server, rateLimit("per-user", "user", policy.FailureAllow, policy.FixedWindow))
	p := start(t, server.Addr, nil)
	p.ready(t)
	p.mustAsk(t, "user", "bob")
	key := redisops.CounterKey("shop/per-user", []redisops.Entry{{Key: "user", Value: "bob"}})
	row := server.Do("FCALL", "penstock_limit", "1", key, "shop/per-user", "98", "", "bob").([]any)
	if row[0] != int64(1) || row[2] != int64(1) {
		t.Errorf("row %v, want allowed with 1 remaining", row)
	}
	if got := p.mustAsk(t, "user", "bob").GetStatuses()[0]; got.GetCode() != ratelimitv3.RateLimitResponse_OK || got.GetLimitRemaining() != 0 {
		t.Errorf("%v, want the last one", got)
	}
	if got := p.mustAsk(t, "user", "bob"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT {
		t.Errorf("%v, want OVER_LIMIT", got)
	}
}

func TestARefusedRequestChargesNone(t *testing.T) {
	server := redistest.Start(t)
	publish(t, server, rateLimit("a", "a", policy.FailureAllow, policy.FixedWindow), rateLimit("b", "b", policy.FailureAllow, policy.FixedWindow))
	p := start(t, server.Addr, nil)
	p.ready(t)
	for range 100 {
		p.mustAsk(t, "b", "x")
	}
	for range 3 {
		got := p.mustAsk(t, "a", "x", "b", "x")
		if got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || got.GetStatuses()[0].GetCode() != ratelimitv3.RateLimitResponse_OK || got.GetStatuses()[1].GetCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT {
			t.Fatalf("%v, want only the second refused", got)
		}
	}
	if got := p.mustAsk(t, "a", "x").GetStatuses()[0]; got.GetLimitRemaining() != 99 {
		t.Errorf("%v, want 99 left: nothing was charged before", got)
	}
}

func TestTheOperatorCanReadThatAnExpressionFails(t *testing.T) {
	server := redistest.Start(t)
	conditional := rateLimit("conditional", "a", policy.FailureAllow, policy.FixedWindow)
	conditional.When = []string{`request.descriptors["b"] == "x"`}
	conditional = conditional.Sealed()
	publish(t, server, conditional)
	p := start(t, server.Addr, nil)
	p.ready(t)
	p.mustAsk(t, "a", "secret")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		failures, err := policystore.ReadFailures(t.Context(), server.Client(), []string{conditional.Name})
		if err != nil {
			t.Fatal(err)
		}
		if got, found := failures[conditional.Name]; found {
			want := policystore.Failure{ContentHash: conditional.ContentHash, Message: "when[0]: 1:20: no such attribute"}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was reported within 10 s")
		}
	}
}

func TestAValueBeyondTheBoundDoesNotSwitchALimitOff(t *testing.T) {
	server := redistest.Start(t)
	blocked := rateLimit("blocked", "path", policy.FailureAllow, policy.FixedWindow)
	blocked.Limits = []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 0, WindowMs: 3_600_000}}
	perKey := rateLimit("per-key", "header.x-api-key", policy.FailureAllow, policy.FixedWindow)
	perKey.Limits = []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 2, WindowMs: 3_600_000}}
	publish(t, server, blocked.Sealed(), perKey.Sealed())
	p := start(t, server.Addr, nil)
	p.ready(t)
	ask := func(path, key string) answer {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			request.Header.Set("X-Api-Key", key)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{response.StatusCode, response.Header, string(body)}
	}
	long := strings.Repeat("k", 257)
	for range 5 {
		for what, got := range map[string]answer{
			"attribute header.x-api-key: 257 bytes, want at most 256": ask("/auth/shop/per-key", long),
			"attribute path: 300 bytes, want at most 256":             ask("/auth/shop/blocked/"+strings.Repeat("p", 299), ""),
		} {
			if got.status != http.StatusBadRequest || !strings.Contains(got.body, `"detail":"`+what+`"`) || got.header.Get("Content-Type") != "application/problem+json" || got.header.Get("X-Penstock-Degraded") != "" {
				t.Errorf("%d %v %s; want 400: %s", got.status, got.header, got.body, what)
			}
		}
	}
	if got := ask("/auth/shop/blocked/"+strings.Repeat("p", 255), ""); got.status != http.StatusTooManyRequests {
		t.Errorf("a path at the bound: %d, want 429", got.status)
	}
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if got := ask("/auth/shop/per-key", long[:256]); got.status != want || got.header.Get("X-Penstock-Degraded") != "" {
			t.Errorf("request %d with a key at the bound: %d, want %d", i+1, got.status, want)
		}
	}
	if text := p.log.String(); strings.Contains(text, "does not answer") || strings.Contains(text, long[:200]) {
		t.Errorf("the log suspects Redis, or has the value:\n%s", text)
	}
}

func TestAWrongPasswordAtStartIsLoudAndKeptFromCallers(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	p := startWith(t, redisops.Config{Addresses: []string{server.Addr}, Password: "wrong", CommandTimeout: commandTimeout}, nil)
	want := "not ready: no policy set is loaded yet: redis refuses the credentials or rights of penstockd\n"
	eventually(t, "it says why it is not ready", func() bool { return p.get(t, "/readyz").body == want })
	// By then it has tried several times.
	admin := server.ClientWith(&redis.Options{Password: "secret"})
	eventually(t, "it tries on", func() bool {
		info, err := admin.Info(t.Context(), "errorstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(info, "errorstat_WRONGPASS:count=")
		n, _ := strconv.Atoi(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]))
		return n >= 3
	})
	if text := p.log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "WRONGPASS") || strings.Contains(text, "cannot reach redis") {
		t.Errorf("want one error, and no outage:\n%s", text)
	}
}

func TestStartedWithoutRedisItWaitsAndSaysWhy(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	publish(t, server, rateLimit("per-user", "user", policy.FailureAllow, policy.FixedWindow))
	server.Kill()
	p := start(t, server.Addr, nil)
	eventually(t, "it says why it is not ready", func() bool {
		got := p.get(t, "/readyz")
		return got.status == http.StatusServiceUnavailable && got.body == "not ready: no policy set is loaded yet: redis cannot be reached\n"
	})
	if !strings.Contains(p.log.String(), "connection refused") {
		t.Errorf("the log does not say why:\n%s", p.log)
	}
	if got := p.get(t, "/healthz"); got.status != http.StatusOK {
		t.Errorf("liveness: %d, want 200", got.status)
	}
	if _, err := p.ask(t, "user", "bob"); status.Code(err) != codes.Unavailable {
		t.Errorf("RLS: %v, want Unavailable", err)
	}
	server.Run()
	p.ready(t)
	if got := p.mustAsk(t, "user", "bob"); degraded(got) || got.GetStatuses()[0].GetCurrentLimit() == nil {
		t.Errorf("%v, want a decision", got)
	}
}

func TestAPublishedChangeAppliesAndKeepsWhatWasUsed(t *testing.T) {
	server := redistest.Start(t)
	r := rateLimit("per-user", "user", policy.FailureAllow, policy.FixedWindow)
	publish(t, server, r)
	p := start(t, server.Addr, nil)
	p.ready(t)
	p.mustAsk(t, "user", "bob")
	r.Limits = []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 200, WindowMs: 3_600_000}}
	next := publish(t, server, r.Sealed())
	// The library decides, so the very next request knows.
	if got := p.mustAsk(t, "user", "bob").GetStatuses()[0]; got.GetLimitRemaining() != 198 || got.GetCurrentLimit().GetRequestsPerUnit() != 200 {
		t.Errorf("%v, want 198 of 200", got)
	}
	eventually(t, "the new set is in force", func() bool { return p.engine.Set().Hash == next.Hash })
}
