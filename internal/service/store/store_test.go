package store_test

import (
	"context"
	"io"
	"log/slog"
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
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// peer is the subject of every request over HTTP from here.
const peer = "127.0.0.1"

// penstockd is the whole of it in this process: store, engine, doors.
type penstockd struct {
	engine *engine.Engine
	store  *store.Store
	http   string
	rls    ratelimitv3.RateLimitServiceClient
	grpc   string
}

// start starts a penstockd on the server at that address. Without a set it follows what is published.
func start(t *testing.T, address string, set *policy.Set) *penstockd {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	p := &penstockd{store: store.Open(redisops.Config{Addresses: []string{address}, CommandTimeout: commandTimeout}, log)}
	registry := service.NewRegistry()
	p.engine = engine.New(engine.Options{Limiter: p.store, Reread: p.store.Reread, Logger: log, Registerer: registry})
	svc, err := service.New(service.Config{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", WhyNotReady: p.store.Why}, p.engine, registry, log)
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
		p.store.UseScripts()
		p.engine.Use(set)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		running.Wait()
		p.store.Close()
	})
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

func degraded(r *ratelimitv3.RateLimitResponse) bool { return len(r.GetResponseHeadersToAdd()) > 0 }

func rateLimit(name, key, onStoreFailure string, algorithm string) policy.RateLimit {
	return policy.RateLimit{
		Name: "shop/" + name, Domain: "shop", OnStoreFailure: onStoreFailure,
		Descriptors: []policy.Descriptor{{Key: key}},
		Limits:      []policy.Limit{{Name: "default", Algorithm: algorithm, Requests: 100, WindowMs: 3_600_000}},
	}.Sealed()
}

func publish(t *testing.T, server *redistest.Server, policies ...policy.RateLimit) *policy.Set {
	t.Helper()
	set := policy.NewSet(policies)
	_, err := policystore.Publish(t.Context(), server.Client(), policystore.Publication{
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
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("after 10 s still not: %s", what)
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
			if got.status != http.StatusTooManyRequests || got.header.Get("X-Ratelimit-Limit") != "100" || got.header.Get("X-Ratelimit-Remaining") != "0" {
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

func TestWhileRedisIsGoneThePolicyAnswersInTime(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	publish(t, server,
		rateLimit("lenient", "user", policy.FailureAllow, policy.FixedWindow),
		rateLimit("strict", "remote_address", policy.FailureDeny, policy.FixedWindow))
	p := start(t, server.Addr, nil)
	p.ready(t)
	if got := p.mustAsk(t, "user", "bob"); degraded(got) {
		t.Fatalf("before: %v", got)
	}

	server.Kill()
	for range 3 {
		begin := time.Now()
		if got := p.mustAsk(t, "user", "bob"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || !degraded(got) {
			t.Errorf("Allow: %v, want OK and degraded", got)
		}
		got := p.get(t, "/auth/shop/strict")
		if got.status != http.StatusTooManyRequests || got.header.Get("X-Penstock-Degraded") != "store" || got.header.Get("Retry-After") != "1" {
			t.Errorf("Deny: %d %v, want 429 and degraded", got.status, got.header)
		}
		if took := time.Since(begin); took > 2*commandTimeout+time.Second {
			t.Errorf("two decisions took %v, want each within %v", took, commandTimeout)
		}
	}

	server.Run()
	eventually(t, "decided by Redis again", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
	if got := p.mustAsk(t, "user", "bob").GetStatuses()[0]; got.GetLimitRemaining() >= 99 {
		t.Errorf("%v, want what was counted before", got)
	}
}

func TestStartedWithoutRedisItWaitsAndSaysWhy(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	publish(t, server, rateLimit("per-user", "user", policy.FailureAllow, policy.FixedWindow))
	server.Kill()
	p := start(t, server.Addr, nil)
	eventually(t, "it says why it is not ready", func() bool {
		got := p.get(t, "/readyz")
		return got.status == http.StatusServiceUnavailable && strings.Contains(got.body, "connection refused")
	})
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

func TestLostRightsAreAnErrorAndNotAnOutage(t *testing.T) {
	server := redistest.Start(t)
	publish(t, server, rateLimit("per-user", "user", policy.FailureAllow, policy.FixedWindow), rateLimit("per-ip", "remote_address", policy.FailureAllow, policy.FixedWindow))
	p := start(t, server.Addr, nil)
	p.ready(t)
	p.mustAsk(t, "user", "bob")
	server.Do("ACL", "SETUSER", "default", "-fcall")
	if got, err := p.ask(t, "user", "bob"); status.Code(err) != codes.Internal {
		t.Errorf("RLS: %v, %v; want Internal", got, err)
	}
	if got := p.get(t, "/auth/shop/per-ip"); got.status != http.StatusInternalServerError {
		t.Errorf("HTTP: %d, want 500", got.status)
	}
	server.Do("ACL", "SETUSER", "default", "+fcall")
	if got := p.mustAsk(t, "user", "bob"); degraded(got) || got.GetStatuses()[0].GetLimitRemaining() != 98 {
		t.Errorf("afterwards: %v, want the second decision", got)
	}
}

func TestAForeignKeyHarmsOnlyItsPolicyAndSubject(t *testing.T) {
	server := redistest.Start(t)
	publish(t, server,
		rateLimit("lenient", "user", policy.FailureAllow, policy.FixedWindow),
		rateLimit("strict", "team", policy.FailureDeny, policy.FixedWindow),
		rateLimit("sound", "path", policy.FailureDeny, policy.SlidingLog))
	p := start(t, server.Addr, nil)
	p.ready(t)
	server.Do("SET", redisops.CounterKey("shop/lenient", []redisops.Entry{{Key: "user", Value: "bob"}}), "foreign")
	server.Do("SET", redisops.CounterKey("shop/strict", []redisops.Entry{{Key: "team", Value: "red"}}), "foreign")

	got := p.mustAsk(t, "user", "bob", "path", "/")
	if got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || !degraded(got) || got.GetStatuses()[1].GetLimitRemaining() != 99 {
		t.Errorf("Allow: %v, want OK, degraded, and the other policy charged", got)
	}
	got = p.mustAsk(t, "team", "red", "path", "/")
	if got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || got.GetStatuses()[1].GetCode() != ratelimitv3.RateLimitResponse_OK || got.GetStatuses()[1].GetLimitRemaining() != 99 {
		t.Errorf("Deny: %v, want OVER_LIMIT and the other policy not charged", got)
	}
	got = p.mustAsk(t, "user", "alice", "path", "/")
	if degraded(got) || got.GetStatuses()[1].GetLimitRemaining() != 98 {
		t.Errorf("another subject: %v, want a decision", got)
	}
}

func TestAPolicyDeletedBehindItsBackIsLeftOutAndTheSetReadAgain(t *testing.T) {
	server := redistest.Start(t)
	stays := rateLimit("stays", "path", policy.FailureDeny, policy.FixedWindow)
	publish(t, server, rateLimit("goes", "user", policy.FailureDeny, policy.FixedWindow), stays)
	p := start(t, server.Addr, nil)
	p.ready(t)

	// Published with nobody told.
	next := policy.NewSet([]policy.RateLimit{stays})
	text, err := library.Render(next)
	if err != nil {
		t.Fatal(err)
	}
	server.Do("SET", policystore.PoliciesKey, next.Marshal())
	server.Do("FUNCTION", "LOAD", "REPLACE", text)

	got := p.mustAsk(t, "user", "bob", "path", "/")
	if got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || degraded(got) || got.GetStatuses()[0].GetCurrentLimit() != nil || got.GetStatuses()[1].GetLimitRemaining() != 99 {
		t.Errorf("%v, want the policy that is left, and no failure", got)
	}
	eventually(t, "the set is read again", func() bool { return p.engine.Set().Hash == next.Hash })
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
