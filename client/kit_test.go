package client

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/api"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/store"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// patient is longer than any decision takes on a busy machine.
const patient = 10 * time.Second

// policies of the tests, by what they do.
func policies() []policy.RateLimit {
	ip := []policy.Descriptor{{Key: "remote_address"}}
	perMinute := func(n int64) []policy.Limit {
		return []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: n, WindowMs: 60_000}}
	}
	all := []policy.RateLimit{
		{Name: "shop/two", Descriptors: ip, Limits: perMinute(2), OnStoreFailure: policy.FailureDeny, Response: &policy.Response{
			Headers: []string{policy.HeaderDraft, policy.HeaderLegacy, policy.HeaderRetryAfter},
		}},
		{Name: "shop/many", Descriptors: ip, Limits: perMinute(1000), OnStoreFailure: policy.FailureAllow},
		{Name: "shop/own-words", Descriptors: ip, Limits: perMinute(1), OnStoreFailure: policy.FailureDeny, Response: &policy.Response{
			Status: http.StatusServiceUnavailable, Title: "Slow down", Headers: []string{policy.HeaderLegacy},
		}},
		{Name: "shop/by-path", Descriptors: []policy.Descriptor{{Key: "path"}}, Limits: perMinute(1), OnStoreFailure: policy.FailureDeny},
		{Name: "shop/by-key", Descriptors: []policy.Descriptor{{Key: "header.x-api-key"}}, Limits: perMinute(1), OnStoreFailure: policy.FailureDeny},
		{Name: "shop/by-user", Descriptors: []policy.Descriptor{{Key: "user"}}, Limits: perMinute(5), OnStoreFailure: policy.FailureDeny},
		{Name: "shop/posts", Descriptors: ip, Limits: perMinute(1), When: []string{`request.method == "POST"`}, OnStoreFailure: policy.FailureDeny},
		{Name: "shop/balance", Descriptors: ip, OnStoreFailure: policy.FailureDeny, Limits: []policy.Limit{
			{Name: "default", Algorithm: policy.Balance, Requests: 1},
		}},
		{Name: "shop/slots", Descriptors: ip, OnStoreFailure: policy.FailureDeny, Limits: []policy.Limit{
			{Name: "default", Algorithm: policy.Concurrency, Requests: 1, SlotTTLMs: 60_000},
		}},
		{Name: "shop/short-slots", Descriptors: ip, OnStoreFailure: policy.FailureDeny, Limits: []policy.Limit{
			{Name: "default", Algorithm: policy.Concurrency, Requests: 1, SlotTTLMs: 300},
		}},
	}
	for i := range all {
		all[i].Domain = "shop"
		all[i] = all[i].Sealed()
	}
	return all
}

// startRedis gives a Redis in which the policies are published.
func startRedis(t testing.TB) *redistest.Server {
	t.Helper()
	server := redistest.Start(t)
	publishBy(t, redisops.Config{Addresses: []string{server.Addr}})
	return server
}

// publishBy publishes the policies wherever that configuration leads.
func publishBy(t testing.TB, cfg redisops.Config) {
	t.Helper()
	set := policy.NewSet(policies())
	if err := set.Validate(); err != nil {
		t.Fatal(err)
	}
	_, err := policystore.Publish(t.Context(), redisopstest.Open(t, cfg), policystore.Publication{
		Owner: "test/shop/store", Set: set, ConfirmShrink: set.Hash, Mode: library.ModeFunctions,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// startEngine gives the engine of a penstockd on that Redis.
func startEngine(t testing.TB, addr string) *engine.Engine {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Options{Load: store.Always(redisops.Config{Addresses: []string{addr}, CommandTimeout: patient}), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	eng := engine.New(engine.Options{Limiter: st, Reread: st.Reread, Logger: log})
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { st.Follow(ctx, eng.Use) })
	t.Cleanup(func() { cancel(); st.Close(); following.Wait() })
	select {
	case <-eng.Ready():
	case <-time.After(patient):
		t.Fatal("no policies")
	}
	return eng
}

// doorOf is the door of a penstockd that everybody may use.
func doorOf(eng api.Engine) http.Handler {
	everybody := callers.Everybody()
	return everybody.DirectHandler(api.New(eng, everybody))
}

func newRemote(t testing.TB, url string, opts Options) *Remote {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = patient
	}
	r, err := New(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func newDirect(t testing.TB, addr string) *Direct {
	t.Helper()
	d, err := NewDirect(t.Context(), DirectOptions{Redis: "redis://" + addr, CommandTimeout: patient, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// both gives a limiter of each form, on one Redis.
func both(t testing.TB) map[string]Limiter {
	t.Helper()
	server := startRedis(t)
	penstockd := httptest.NewServer(doorOf(startEngine(t, server.Addr)))
	t.Cleanup(penstockd.Close)
	return map[string]Limiter{"remote": newRemote(t, penstockd.URL, Options{}), "direct": newDirect(t, server.Addr)}
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

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// fake is a limiter that answers as it is told, and keeps what it was asked.
type fake struct {
	Limiter // the rest is not asked for

	mu       sync.Mutex
	verdict  Verdict
	ttl      time.Duration
	err      error
	requests []Request
	refunds  []Request
	slots    []SlotRequest
	released []SlotRequest
	// done has the errors of the contexts of what is given back.
	done []error
}

func (f *fake) Check(_ context.Context, r Request) (Verdict, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	return f.verdict, f.err
}

func (f *fake) Refund(ctx context.Context, r Request) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refunds, f.done = append(f.refunds, r), append(f.done, ctx.Err())
	return true, f.err
}

func (f *fake) AcquireSlot(_ context.Context, r SlotRequest) (Slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots = append(f.slots, r)
	return Slot{Verdict: f.verdict, SlotID: r.ID, TTL: f.ttl}, f.err
}

func (f *fake) ReleaseSlot(ctx context.Context, r SlotRequest) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released, f.done = append(f.released, r), append(f.done, ctx.Err())
	return true, f.err
}

func (f *fake) answer(v Verdict, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verdict, f.err = v, err
}

var (
	admitted = Verdict{Allowed: true, Mode: Enforced, Known: true, Limit: 2, Remaining: 1, Policy: "shop/two"}
	refused  = Verdict{Mode: Enforced, Known: true, Limit: 2, RetryAfter: 1500 * time.Millisecond, Policy: "shop/two"}
)

// ok is a handler that counts.
type ok struct{ served int }

func (o *ok) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	o.served++
	w.WriteHeader(http.StatusOK)
}

// get sends a request through a middleware.
func get(handler http.Handler, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://shop.example/", nil)
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func from(address string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = address + ":4711" }
}

// toldBy is what a penstockd tells that has one header.
func toldBy(status int32, name, value string) *penstockv1.HTTPAnswer {
	return &penstockv1.HTTPAnswer{Status: status, Headers: []*penstockv1.HTTPHeader{{Name: name, Value: value}}}
}
