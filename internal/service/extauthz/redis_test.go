package extauthz

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// perHour allows so many requests to each subject of those attributes.
func perHour(name string, requests int64, keys ...string) policy.RateLimit {
	r := policyOf(name, keys...)
	r.Limits = []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: requests, WindowMs: 3_600_000}}
	return r
}

// dialRedis serves the door over a real Redis.
func dialRedis(t *testing.T, server *redistest.Server, policies ...policy.RateLimit) authv3.AuthorizationClient {
	t.Helper()
	// The machine that runs the tests may be busy with others.
	opened, err := store.Open(store.Options{Load: store.Always(redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: time.Second}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	opened.UseScripts()
	return dial(t, engineOf(t, opened, policies...), Options{})
}

// outcomes are what a request gets that is made so often: ok or the HTTP status of a denial.
func outcomes(t *testing.T, client authv3.AuthorizationClient, times int, r *authv3.CheckRequest) []string {
	t.Helper()
	var all []string
	for range times {
		got, err := client.Check(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		switch codes.Code(got.GetStatus().GetCode()) {
		case codes.OK:
			all = append(all, "ok")
		default:
			all = append(all, fmt.Sprint(int(got.GetDeniedResponse().GetStatus().GetCode())))
		}
	}
	return all
}

func TestBudgetsInRedisAreOfOneSubjectEach(t *testing.T) {
	client := dialRedis(t, redistest.Start(t), perHour("per-ip", 3, "remote_address"))
	bob, alice := request("penstock-policy", "shop/per-ip"), request("penstock-policy", "shop/per-ip")
	alice.Attributes.Source = peer("192.0.2.8")
	if got := outcomes(t, client, 5, bob); !slices.Equal(got, []string{"ok", "ok", "ok", "429", "429"}) {
		t.Errorf("%v, want 3 to pass", got)
	}
	if got := outcomes(t, client, 1, alice); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("another address: %v, want ok", got)
	}
	socket := request("penstock-policy", "shop/per-ip")
	socket.Attributes.Source = pipe("@")
	if got := outcomes(t, client, 4, socket); !slices.Equal(got, []string{"ok", "ok", "ok", "429"}) {
		t.Errorf("by a socket of the host: %v, want one budget for all", got)
	}
}

func TestARequestThatOneOfADomainDeniesChargesNone(t *testing.T) {
	client := dialRedis(t, redistest.Start(t), perHour("per-ip", 5, "remote_address"), perHour("per-key", 2, "header.x-api-key"))
	keyed := withHeader(request("penstock-domain", "shop"), "x-api-key", "k1")
	if got := outcomes(t, client, 6, keyed); !slices.Equal(got, []string{"ok", "ok", "429", "429", "429", "429"}) {
		t.Errorf("%v, want 2 to pass", got)
	}
	if got := outcomes(t, client, 4, request("penstock-domain", "shop")); !slices.Equal(got, []string{"ok", "ok", "ok", "429"}) {
		t.Errorf("without a key: %v, want the 3 that are left of the address", got)
	}
}

func TestARedisThatIsGoneIsNoErrorOfTheCall(t *testing.T) {
	server := redistest.Start(t)
	closed := perHour("closed", 3, "path")
	closed.OnStoreFailure = policy.FailureDeny
	client := dialRedis(t, server, perHour("open", 3, "path"), closed)
	if got := outcomes(t, client, 1, request("penstock-policy", "shop/open")); !slices.Equal(got, []string{"ok"}) {
		t.Fatalf("%v, want ok", got)
	}
	server.Kill()
	if got := outcomes(t, client, 5, request("penstock-policy", "shop/open")); !slices.Equal(got, []string{"ok", "ok", "ok", "ok", "ok"}) {
		t.Errorf("onStoreFailure Allow: %v, want all to pass", got)
	}
	if got := outcomes(t, client, 2, request("penstock-policy", "shop/closed")); !slices.Equal(got, []string{"429", "429"}) {
		t.Errorf("onStoreFailure Deny: %v, want none to pass", got)
	}
}
