package dev_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-dev/penstock/internal/cli/dev"
)

const samples = "../../../config/samples"

func TestTheLineOfCurlShowsA429(t *testing.T) {
	r := start(t, dev.Options{Files: []string{samples}}, nil)
	if got, want := shell(t, curlLine(t, r.String())), "100 200 1 429"; got != want {
		t.Errorf("the line prints %q, want %q", got, want)
	}
	for _, want := range []string{
		"penstock dev: 7 policies from " + samples + "\n",
		"  shop/api-per-ip  100/1m sliding log  by remote_address (domain shop)\n",
		"  shop/checkout-per-user  50/1h sliding log, 5/1m token bucket, 200/day Europe/Berlin fixed window, and 2 overrides" +
			"  by generic_key=checkout*, user (domain shop-web), denied while Redis is gone\n",
		"(embedded: gone when this ends)",
		"note: RateLimit: this Redis has no functions",
		"note: RedisStores in the files are checked and not used",
	} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("no %q in:\n%s", want, r)
		}
	}
	if err := r.stop(); err != nil {
		t.Errorf("ending it fails: %v", err)
	}
	if !strings.Contains(r.String(), "\npenstock dev: ended\nreturned\n") {
		t.Errorf("it does not say that it ended:\n%s", r)
	}
}

func TestEnvoysDoorDecidesByTheSamePolicies(t *testing.T) {
	r := start(t, dev.Options{Files: []string{samples}}, nil)
	connection, err := grpc.NewClient(r.address(t, "grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	request := &rlsv3.RateLimitRequest{Domain: "shop-web", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "generic_key", Value: "checkout"}, {Key: "user", Value: "ann"}},
	}}}
	var got []rlsv3.RateLimitResponse_Code
	for range 6 {
		response, err := rlsv3.NewRateLimitServiceClient(connection).ShouldRateLimit(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, response.GetOverallCode())
	}
	for i, code := range got {
		want := rlsv3.RateLimitResponse_OK
		if i == 5 { // burst: 5
			want = rlsv3.RateLimitResponse_OVER_LIMIT
		}
		if code != want {
			t.Errorf("call %d: %s, want %s", i+1, code, want)
		}
	}
}

func TestAnEditAppliesToTheNextRequestAndKeepsWhatWasUsed(t *testing.T) {
	r := start(t, dev.Options{}, map[string]string{"a.yaml": rateLimit("a", "requests: 2, window: 1h")})
	r.wantStatus(t, "default/a", 200, 200, 429)

	said := r.edit(t, "reloaded", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 4, window: 1h")) })
	if want := "reloaded: 1 policy\n  ~ default/a  4/1h sliding log  by remote_address (domain default)\n"; !strings.Contains(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
	r.wantStatus(t, "default/a", 200, 200, 429)

	// An editor that writes in place.
	r.edit(t, "5/1h", func() {
		if err := os.WriteFile(filepath.Join(r.folder, "a.yaml"), []byte(rateLimit("a", "requests: 5, window: 1h")), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	r.wantStatus(t, "default/a", 200, 429)

	said = r.edit(t, "counts anew", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 5, window: 2h")) })
	if want := "note: default/a: limit default counts anew"; !strings.Contains(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
	r.wantStatus(t, "default/a", 200, 200, 200, 200, 200, 429)
}

func TestPoliciesComeAndGoWithTheirFiles(t *testing.T) {
	r := start(t, dev.Options{Recursive: true}, map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h")})
	r.wantStatus(t, "default/b", 404)

	// In a folder that was not there when it began.
	r.edit(t, "+ default/b", func() { r.write(t, "new/folder/b.yaml", rateLimit("b", "requests: 1, window: 1h")) })
	r.wantStatus(t, "default/b", 200, 429)
	r.edit(t, "- default/a", func() { remove(t, filepath.Join(r.folder, "a.yaml")) })
	r.wantStatus(t, "default/a", 404)
	// And in that folder.
	r.edit(t, "+ default/c", func() { r.write(t, "new/folder/c.yaml", rateLimit("c", "requests: 1, window: 1h")) })
	r.wantStatus(t, "default/c", 200, 429)
}

func TestAMistakeLeavesTheLastGoodPolicies(t *testing.T) {
	good := map[string]string{
		"a.yaml": rateLimit("a", "requests: 1, window: 1h"),
		"b.yaml": rateLimit("b", "requests: 1, window: 1h"),
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, r *running)
		want   string
	}{
		"a field that is not there": {
			func(t *testing.T, r *running) { r.write(t, "a.yaml", rateLimit("a", "request: 9, window: 1h")) },
			`a.yaml:9: RateLimit default/a: spec.limits[0].request: Forbidden: unknown field "spec.limits[0].request"; known here: algorithm, burst, calendar, name, requests, slotTTL, timeZone, window`,
		},
		"a value that breaks a rule": {
			func(t *testing.T, r *running) { r.write(t, "a.yaml", rateLimit("a", "requests: 9, window: 99ms")) },
			"a.yaml:9: RateLimit default/a: spec.limits[0].window: Invalid value: \"99ms\": window must be from 100ms to 744h (31 days)",
		},
		"a file that is not YAML": {
			func(t *testing.T, r *running) { r.write(t, "a.yaml", "kind: [") },
			"a.yaml:1: not valid YAML: ",
		},
		"a name that is there already": {
			func(t *testing.T, r *running) { r.write(t, "c.yaml", rateLimit("a", "requests: 9, window: 1h")) },
			"c.yaml:4: RateLimit default/a: metadata.name: is declared at ",
		},
		"a link to nothing": {
			func(t *testing.T, r *running) {
				if err := os.Symlink("gone.yaml", filepath.Join(r.folder, "c.yaml")); err != nil {
					t.Fatal(err)
				}
			},
			"c.yaml:1: is a link to gone.yaml, which is not there; mend the link, or remove it",
		},
		"all files gone": {
			func(t *testing.T, r *running) {
				remove(t, filepath.Join(r.folder, "a.yaml"))
				remove(t, filepath.Join(r.folder, "b.yaml"))
			},
			"no .yaml, .yml or .json file in this folder",
		},
		"the folder gone": {
			func(t *testing.T, r *running) { remove(t, r.folder) },
			"no such file or folder",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, dev.Options{Settle: 20 * time.Millisecond}, good)
			r.wantStatus(t, "default/a", 200)
			said := r.edit(t, test.want, func() { test.change(t, r) })
			if !strings.Contains(said, "not reloaded, the policies in force stay as they were:") {
				t.Errorf("said %q", said)
			}
			r.wantStatus(t, "default/a", 429)
			r.wantStatus(t, "default/b", 200, 429)

			r.edit(t, "reloaded: 2 policies", func() {
				_ = os.Remove(filepath.Join(r.folder, "c.yaml"))
				r.write(t, "b.yaml", rateLimit("b", "requests: 2, window: 1h"))
				r.write(t, "a.yaml", rateLimit("a", "requests: 2, window: 1h"))
			})
			r.edit(t, "3/1h", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 3, window: 1h")) })
			r.wantStatus(t, "default/a", 200, 200, 429)
			r.wantStatus(t, "default/b", 200, 429)
		})
	}
}

func TestAPausedPolicyStaysAsItWas(t *testing.T) {
	paused := func(limit string) string {
		return strings.Replace(rateLimit("a", limit), "metadata:\n", "metadata:\n  annotations: {penstock.dev/paused: \"true\"}\n", 1)
	}
	r := start(t, dev.Options{}, map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h")})
	r.edit(t, "note: default/a stays as it was: annotation penstock.dev/paused holds the object still", func() { r.write(t, "a.yaml", paused("requests: 9, window: 1h")) })
	r.wantStatus(t, "default/a", 200, 429)
	r.edit(t, "~ default/a  9/1h", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 9, window: 1h")) })
	r.wantStatus(t, "default/a", 200)
}

// The embedded server's keys age only when they are told to.
func TestTimePassesInTheEmbeddedRedis(t *testing.T) {
	r := start(t, dev.Options{}, map[string]string{
		"a.yaml": rateLimit("log", "requests: 1, window: 1s"),
		"b.yaml": rateLimit("fixed", "requests: 1, window: 1s, algorithm: FixedWindow"),
		"c.yaml": rateLimit("bucket", "requests: 1, window: 1s, algorithm: TokenBucket"),
	})
	policies := []string{"default/log", "default/fixed", "default/bucket"}
	for _, policy := range policies {
		// A window may end between two requests, but it cannot between many.
		awaitStatus(t, r, policy, http.StatusTooManyRequests)
	}
	for _, policy := range policies {
		awaitStatus(t, r, policy, http.StatusOK)
	}
	client := redis.NewClient(&redis.Options{Addr: r.address(t, "redis"), Protocol: 2})
	defer func() { _ = client.Close() }()
	await(t, "the counters expire", func() bool {
		keys, err := client.Keys(t.Context(), "rl:*").Result()
		if err != nil {
			t.Fatal(err)
		}
		return len(keys) == 0
	})
}

func awaitStatus(t *testing.T, r *running, policy string, want int) {
	t.Helper()
	await(t, policy+" gives "+http.StatusText(want), func() bool { return r.status(t, policy) == want })
}

// await polls: here the clock itself is waited for, which nothing announces.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestItSaysWhichPortIsInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	address := taken.Addr().String()
	for name, test := range map[string]struct {
		http, grpc string
		want       string
	}{
		"of HTTP": {address, "127.0.0.1:0", address + " is in use by another program: end that one, or choose another address with --http (port 0 takes a free one)"},
		"of gRPC": {"127.0.0.1:0", address, address + " is in use by another program: end that one, or choose another address with --grpc (port 0 takes a free one)"},
	} {
		t.Run(name, func(t *testing.T) {
			err := dev.Run(t.Context(), dev.Options{Files: []string{samples}, HTTP: test.http, GRPC: test.grpc, Out: newTerminal(), Log: slog.New(slog.DiscardHandler)})
			if err == nil || err.Error() != test.want {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestItDoesNotBeginWithAMistake(t *testing.T) {
	out := newTerminal()
	err := dev.Run(t.Context(), dev.Options{
		Files: []string{samples + "/ratelimit.yaml", samples + "/invalid/ratelimit_window_days.yaml"},
		HTTP:  "127.0.0.1:0", GRPC: "127.0.0.1:0", Out: out, Log: slog.New(slog.DiscardHandler),
	})
	if !errors.Is(err, dev.ErrRefused) || !strings.Contains(out.String(), "ratelimit_window_days.yaml:11: RateLimit shop/window-days: spec.limits[0].window:") {
		t.Errorf("error %v, output %q", err, out)
	}
}

func TestEndingWhileItBeginsIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := dev.Run(ctx, dev.Options{Files: []string{samples}, HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Out: newTerminal(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Errorf("error %v", err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestTheLineOfCurlFitsThePolicy(t *testing.T) {
	for name, test := range map[string]struct {
		descriptors, limit string
		want               string // what the line prints; empty: both codes, whatever their numbers
	}{
		"by method":            {"{key: method, value: POST}", "requests: 3, window: 1h", "3 200 1 429"},
		"by method HEAD":       {"{key: method, value: HEAD}", "requests: 3, window: 1h", "3 200 1 429"},
		"by path":              {`{key: path, value: "/api/*"}`, "requests: 3, window: 1h", "3 200 1 429"},
		"by host":              {`{key: host, value: "*.example.com"}`, "requests: 3, window: 1h", "3 200 1 429"},
		"by header":            {"{key: header.x-user}", "requests: 3, window: 1h", "3 200 1 429"},
		"by several":           {"{key: method, value: PUT}, {key: header.x-plan, value: gold}, {key: remote_address}", "requests: 3, window: 1h", "3 200 1 429"},
		"without descriptors":  {"", "requests: 0, window: 1h", "1 429"},
		"of a fixed window":    {"{key: remote_address}", "requests: 50, window: 1m, algorithm: FixedWindow", ""},
		"of a bucket":          {"{key: remote_address}", "requests: 10, window: 10s, burst: 40, algorithm: TokenBucket", ""},
		"of the largest log":   {"{key: remote_address}", "requests: 1000, window: 1h", "1000 200 1 429"},
		"of a bucket that has": {"{key: remote_address}", "requests: 1, window: 1h, burst: 5, algorithm: TokenBucket", "5 200 2 429"},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, dev.Options{}, map[string]string{
				"a.yaml": "apiVersion: penstock.dev/v1\nkind: RateLimit\nmetadata: {name: a}\nspec:\n  descriptors: [" + test.descriptors + "]\n  limits: [{" + test.limit + "}]\n",
			})
			got := shell(t, curlLine(t, r.String()))
			if test.want == "" {
				if !strings.Contains(got, " 200 ") || !strings.HasSuffix(got, " 429") {
					t.Errorf("the line prints %q, want some 200 and some 429", got)
				}
			} else if got != test.want {
				t.Errorf("the line prints %q, want %q", got, test.want)
			}
		})
	}
}
