package rls

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/callers"
	servicestore "github.com/penstock-dev/penstock/internal/service/store"
)

// perMonth is a limit whose window hardly ends while a test runs.
func perMonth(requests int64) policy.Limit {
	return policy.Limit{Algorithm: policy.FixedWindow, Requests: requests, WindowMs: (30 * 24 * time.Hour).Milliseconds()}
}

// real is the door on a real server, reached by gRPC over loopback, so that its limits are heeded.
type real struct {
	ratelimitv3.RateLimitServiceClient
	server *redistest.Server
}

// onRedis publishes the policies on a new server, whose functions decide unless all is done by scripts.
func onRedis(t *testing.T, mode library.Mode, policies ...policy.RateLimit) *real {
	t.Helper()
	server := redistest.Start(t)
	store, err := servicestore.Open(servicestore.Options{Load: servicestore.Always(redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: time.Second}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	eng := engine.New(engine.Options{Limiter: store, Reread: store.Reread})
	set := policy.NewSet(policies)
	if mode == library.ModeScripts {
		store.UseScripts()
		eng.Use(set)
	} else {
		_, err := policystore.Publish(t.Context(), redisopstest.At(t, server.Addr), policystore.Publication{Owner: "test/shop/store", Set: set, ConfirmShrink: set.Hash, Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var following sync.WaitGroup
		following.Go(func() { store.Follow(ctx, eng.Use) })
		t.Cleanup(func() { cancel(); following.Wait() })
		select {
		case <-eng.Ready():
		case <-time.After(10 * time.Second):
			t.Fatalf("no policy set after 10 s: %s", store.Why())
		}
	}
	return &real{dialLoopback(t, New(eng, Options{Callers: callers.Everybody()})), server}
}

func dialLoopback(t *testing.T, door *Server) ratelimitv3.RateLimitServiceClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	ratelimitv3.RegisterRateLimitServiceServer(server, door)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return ratelimitv3.NewRateLimitServiceClient(conn)
}

// ask gives the statuses, as <code> <left>, or <code> where there is no limit.
func (r *real) ask(t *testing.T, descriptors ...*ratelimitcommonv3.RateLimitDescriptor) string {
	t.Helper()
	response, err := r.ShouldRateLimit(t.Context(), request(descriptors...))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(golden(response), degradedHeader) {
		t.Fatalf("degraded: %v", response)
	}
	var out []string
	for _, s := range response.GetStatuses() {
		text := s.GetCode().String()
		if s.GetCurrentLimit() != nil {
			text += fmt.Sprintf(" %d/%d", s.GetLimitRemaining(), s.GetCurrentLimit().GetRequestsPerUnit())
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func hits(n uint64, d *ratelimitcommonv3.RateLimitDescriptor) *ratelimitcommonv3.RateLimitDescriptor {
	d.HitsAddend = wrapperspb.UInt64(n)
	return d
}

func inBothModes(t *testing.T, run func(t *testing.T, mode library.Mode)) {
	for _, mode := range []library.Mode{library.ModeFunctions, library.ModeScripts} {
		t.Run(mode.String(), func(t *testing.T) { run(t, mode) })
	}
}

const month = typev3.RateLimitUnit_MONTH

func TestALimitOfTheRequestCountsApartFromThePolicy(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		dear := policyOf("dear", "dear", perMonth(100))
		dear.Cost = 3
		r := onRedis(t, mode, policyOf("user", "user", perMonth(10)), dear.Sealed())
		for i, step := range []struct {
			descriptors []*ratelimitcommonv3.RateLimitDescriptor
			want        string
		}{
			{[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", "bob")}, "OK 9/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(2, month, "user", "bob")}, "OK 1/2"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(2, month, "user", "bob")}, "OK 0/2"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(2, month, "user", "bob")}, "OVER_LIMIT 0/2"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(3, month, "user", "bob")}, "OK 2/3"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(2, typev3.RateLimitUnit_DAY, "user", "bob")}, "OK 1/2"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(2, month, "user", "eve")}, "OK 1/2"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", "bob")}, "OK 8/10"},
			// What no policy is about has the limit all the same.
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(1, month, "tenant", "a")}, "OK 0/1"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(1, month, "tenant", "a")}, "OVER_LIMIT 0/1"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("tenant", "a")}, "OK"},
			// The cost stays the policy's, and 0 denies all but a look.
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(10, month, "dear", "a")}, "OK 7/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{limited(0, month, "user", "bob")}, "OVER_LIMIT 0/0"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{hits(0, limited(2, month, "user", "eve"))}, "OK 1/2"},
		} {
			if got := r.ask(t, step.descriptors...); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
	})
}

// Redis gets none of its values, so it counts by those of any length.
func TestALimitOfTheRequestCountsByLongValuesToo(t *testing.T) {
	r := onRedis(t, library.ModeFunctions, policyOf("user", "user", perMonth(10)))
	long := strings.Repeat("x", 60_000)
	for _, key := range []string{"user", "tenant"} {
		for i, want := range []string{"OK 0/1", "OVER_LIMIT 0/1"} {
			if got := r.ask(t, limited(1, month, key, long)); got != want {
				t.Errorf("%s, step %d: %s, want %s", key, i, got, want)
			}
		}
		if got := r.ask(t, limited(1, month, key, long+"y")); got != "OK 0/1" {
			t.Errorf("%s, another value: %s", key, got)
		}
	}
}

func TestALimitOfTheRequestIsChargedTogetherWithTheRestOrNotAtAll(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		r := onRedis(t, mode, policyOf("user", "user", perMonth(10)), policyOf("path", "path", perMonth(2)))
		for i, want := range []string{
			"OK 9/10, OK 0/1",
			"OK 8/10, OVER_LIMIT 0/1",
		} {
			if got := r.ask(t, descriptor("user", "bob"), limited(1, month, "path", "/")); got != want {
				t.Errorf("step %d: %s, want %s", i, got, want)
			}
		}
		if got := r.ask(t, descriptor("user", "bob")); got != "OK 8/10" {
			t.Errorf("%s, want 8 of 10 left: what was refused is not charged", got)
		}
		// And the other way round: the policy refuses.
		r.ask(t, hits(2, descriptor("path", "/")))
		if got := r.ask(t, descriptor("path", "/"), limited(5, month, "user", "bob")); got != "OVER_LIMIT 0/2, OK 4/5" {
			t.Errorf("got %s", got)
		}
		if got := r.ask(t, limited(5, month, "user", "bob")); got != "OK 4/5" {
			t.Errorf("%s, want 4 of 5 left", got)
		}
	})
}

func TestALimitOfTheRequestHasItsOwnWindow(t *testing.T) {
	r := onRedis(t, library.ModeFunctions, policyOf("user", "user", perMonth(1000)))
	answers := map[string]bool{}
	for deadline := time.Now().Add(10 * time.Second); !answers["OVER_LIMIT 0/1"] || !answers["OK 0/1 again"]; {
		if time.Now().After(deadline) {
			t.Fatalf("got %v, want a denial within a second, and another request in the next", answers)
		}
		got := r.ask(t, limited(1, typev3.RateLimitUnit_SECOND, "user", "bob"))
		if got == "OK 0/1" && answers["OVER_LIMIT 0/1"] {
			got = "OK 0/1 again"
		}
		answers[got] = true
	}
}

func TestHitsAreGivenBackInRedis(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		r := onRedis(t, mode, policyOf("user", "user", perMonth(10)), policyOf("path", "path", perMonth(10)))
		for i, step := range []struct {
			descriptors []*ratelimitcommonv3.RateLimitDescriptor
			want        string
		}{
			{[]*ratelimitcommonv3.RateLimitDescriptor{hits(10, descriptor("user", "bob"))}, "OK 0/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", "bob")}, "OVER_LIMIT 0/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{hits(4, returning("user", "bob"))}, "OK 4/10"},
			// The denial is not remembered any more.
			{[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", "bob")}, "OK 3/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{returning("user", "bob"), hits(2, descriptor("path", "/"))}, "OK 4/10, OK 8/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{hits(0, returning("user", "bob"))}, "OK 4/10"},
			// Never more than was used.
			{[]*ratelimitcommonv3.RateLimitDescriptor{hits(100, returning("user", "bob"))}, "OK 10/10"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{returning("nobody", "cares")}, "OK"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{hits(3, limited(5, month, "user", "bob"))}, "OK 2/5"},
			{[]*ratelimitcommonv3.RateLimitDescriptor{returningLimit(2, 5, "user", "bob")}, "OK 4/5"},
		} {
			if got := r.ask(t, step.descriptors...); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
	})
}

func returningLimit(n uint64, requests uint32, entries ...string) *ratelimitcommonv3.RateLimitDescriptor {
	d := hits(n, limited(requests, month, entries...))
	d.IsNegativeHits = true
	return d
}

// What is given back by many at once is all there in the end.
func TestConcurrentHitsAndReturnsAddUp(t *testing.T) {
	r := onRedis(t, library.ModeFunctions, policyOf("user", "user", perMonth(1_000_000)))
	r.ask(t, hits(1000, descriptor("user", "bob")))
	var asking sync.WaitGroup
	for range 10 {
		asking.Go(func() {
			for range 20 {
				response, err := r.ShouldRateLimit(context.Background(), request(
					hits(2, returning("user", "bob")), hits(1, returning("user", "eve")), hits(1, descriptor("user", "bob"))))
				if err != nil || response.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || strings.Contains(golden(response), degradedHeader) {
					t.Errorf("%v, %v", response, err)
				}
			}
		})
	}
	asking.Wait()
	if got := r.ask(t, hits(0, descriptor("user", "bob"))); got != "OK 999200/1000000" {
		t.Errorf("%s, want 1,000 - 200 charged", got)
	}
}

// Fault 42: nothing that a request holds gets into a key, and every key is one of the policy that it counts for.
func TestKeysOfLimitsOfRequestsHoldNothingOfTheRequest(t *testing.T) {
	r := onRedis(t, library.ModeFunctions, policyOf("user", "user", perMonth(10)))
	r.ask(t, limited(1, month, "user", "{secret}"), limited(1, month, "{secret}", "{secret}"))
	keys, err := r.server.Client().Keys(t.Context(), "rl:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	var policies []string
	for _, key := range keys {
		digest, name, _ := strings.Cut(strings.TrimPrefix(key, "rl:{"), "}:")
		if len(digest) != 22 || strings.Contains(key, "secret") {
			t.Errorf("key %s", key)
		}
		policies = append(policies, name)
	}
	slices.Sort(policies)
	if !slices.Equal(policies, []string{engine.LimitPolicy, "shop/user"}) {
		t.Errorf("keys of %v", policies)
	}
}
