package faults

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
	"github.com/penstock-dev/penstock/test/daemon"
)

// What penstockd logs when it is refused, and when that is over.
const (
	refused       = "redis refuses penstockd; decisions fail until its user, password or ACL is mended"
	accepted      = "redis accepts penstockd again"
	misconfigured = "redis cannot be used as it is configured until that is mended; trying on"
)

// Fault 24.
func TestARedisOfSomebodyElseIsNotServedAndKeepsItsData(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Do("SET", "session:1", "theirs")
	r := launch(t, "--redis", "redis://"+server.Addr)
	r.AwaitLog(t, "reached redis")
	eventually(t, "it tells why it is not ready", func() bool {
		code, body := r.get("/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "no policies are published")
	})
	if _, err := r.try(entry{"open", "bob"}); err == nil {
		t.Error("it decides without policies")
	}
	if found, err := server.Client().Keys(t.Context(), "*").Result(); err != nil || slices.ContainsFunc(found, func(key string) bool {
		return key != "session:1" && key != policystore.ReplicasKey
	}) {
		t.Errorf("it wrote %q, %v; want nothing but that it is there", found, err)
	}
}

// Fault 25.
func TestARedisThatRefusesUsIsAnErrorAndNeverLetsPass(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ begin, end [][]any }{
		"the user lost a right": {
			[][]any{{"ACL", "SETUSER", "default", "-fcall"}},
			[][]any{{"ACL", "SETUSER", "default", "+fcall"}},
		},
		"another password is wanted": {
			[][]any{{"CONFIG", "SET", "requirepass", "another"}, {"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"}},
			[][]any{{"CONFIG", "SET", "requirepass", ""}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := publish(t)
			r := start(t, server.Addr)
			admin := server.Client()
			do := func(commands [][]any) {
				for _, command := range commands {
					if err := admin.Do(t.Context(), command...).Err(); err != nil {
						t.Fatalf("%v: %v", command, err)
					}
				}
			}
			do(test.begin)
			eventually(t, "decisions fail", func() bool { _, err := r.try(entry{"open", "bob"}); return status.Code(err) == codes.Internal })
			for range 30 { // more than would open a breaker
				a, err := r.try(entry{"open", "bob"})
				if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "NOAUTH") {
					t.Fatalf("%+v, %v; want INTERNAL that repeats nothing of Redis", a, err)
				}
			}
			bob := map[string]any{"subject": map[string]string{"open": "bob"}}
			if code, body := r.call("Check", "open", bob); code != http.StatusInternalServerError {
				t.Errorf("LimiterService: %d %v, want 500", code, body)
			}
			if r.opened() != 0 || r.metric(`penstock_store_errors_total{class="configuration"}`) < 30 {
				t.Error("it counts as an outage, which hides the cause")
			}
			if n := r.Logged(refused); n != 1 {
				t.Errorf("it is logged %d times, want once", n)
			}
			do(test.end)
			r.decides("afterwards")
			eventually(t, "the log tells that it is over", func() bool { r.decides("afterwards"); return r.Logged(accepted) == 1 })
			r.healthy()
		})
	}
}

// Fault 26.
func TestACertificateThatIsNotInOrderIsRefusedByNameUntilItIsReplaced(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.NewCA(t), tlstest.NewCA(t)
	valid := ca.Issue(t, "127.0.0.1")
	for name, test := range map[string]struct {
		pair tlstest.Pair
		want string
	}{
		"it has expired":          {ca.IssueUntil(t, time.Now().Add(-time.Hour), "127.0.0.1"), "expired"},
		"it is for another name":  {ca.Issue(t, "elsewhere.example"), "127.0.0.1"},
		"it is of another issuer": {other.Issue(t, "127.0.0.1"), "authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.StartTLS(t, redistest.TLS{Cert: valid.Cert, Key: valid.Key})
			cfg := redisops.Config{Addresses: []string{server.Addr}, TLS: &redisops.TLS{CA: ca.PEM}}
			daemon.PublishTo(t, redisopstest.Open(t, cfg), policies()...)
			server.UseTLS(redistest.TLS{Cert: test.pair.Cert, Key: test.pair.Key})
			files := tlstest.NewMount(t, map[string][]byte{"ca.crt": ca.PEM})
			r := launch(t, "--redis", "rediss://"+server.Addr, "--redis-tls-ca", files.Path("ca.crt"))
			r.AwaitLog(t, misconfigured)
			if log := r.Log(); !strings.Contains(log, test.want) {
				t.Errorf("the log does not say %q", test.want)
			}
			if code, body := r.get("/readyz"); code != http.StatusServiceUnavailable || strings.Contains(body, "127.0.0.1") {
				t.Errorf("readiness: %d %q, want 503 without an address", code, body)
			}
			server.UseTLS(redistest.TLS{Cert: valid.Cert, Key: valid.Key})
			r.AwaitLog(t, "ready")
			r.decides("afterwards")

			// The issuer of the server's certificate is replaced under way.
			renewed := other.Issue(t, "127.0.0.1")
			server.UseTLS(redistest.TLS{Cert: renewed.Cert, Key: renewed.Key})
			server.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			files.Swap(t, map[string][]byte{"ca.crt": append(slices.Clone(ca.PEM), other.PEM...)})
			r.AwaitLog(t, "other settings of redis are in force")
			r.decides("afterwards")
			r.healthy()
		})
	}
}

// Fault 27.
func TestWhatIsNoRedisIsToldWithoutWhatItSaid(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, secret) }))
	t.Cleanup(web.Close)
	const outage = "cannot reach redis; trying on"
	for name, test := range map[string]struct{ target, logged string }{
		"an HTTP server": {web.Listener.Addr().String(), misconfigured},
		"garbage":        {says(t, strings.Repeat("\x00\xff"+secret, 100)), misconfigured},
		"a huge reply":   {says(t, "$2147483647\r\n"+secret), outage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := publish(t)
			proxy := redistest.StartProxy(t, test.target)
			r := launch(t, "--redis", "redis://"+proxy.Addr)
			r.AwaitLog(t, test.logged)
			proxy.Retarget(server.Addr)
			proxy.Cut()
			r.AwaitLog(t, "ready")
			r.decides("afterwards")

			// Once more, while it serves.
			proxy.Retarget(test.target)
			proxy.Cut()
			eventually(t, "Redis does not decide", func() bool { a, err := r.try(entry{"shut", "bob"}); return err != nil || a.degraded })
			proxy.Retarget(server.Addr)
			proxy.Cut()
			r.decides("afterwards")
			r.healthy()
			if strings.Contains(r.Log(), secret) || strings.Contains(r.Log(), "goroutine ") {
				t.Error("the log repeats what it said, or tells of a panic")
			}
		})
	}
}

// says gives an address where everybody is told that.
func says(t *testing.T, text string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = connection.Close() }()
				buffer := make([]byte, 4096)
				for {
					if _, err := connection.Read(buffer); err != nil {
						return
					}
					if _, err := connection.Write([]byte(text)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// Fault 28.
func TestARedisThatDoesNotKnowHelloIsUsedAllTheSame(t *testing.T) {
	t.Parallel()
	server := publish(t, "--rename-command", "HELLO", "")
	for _, protocol := range []string{"2", "3"} {
		r := start(t, server.Addr, "--redis-protocol", protocol)
		if n := r.spent("shut", "start"); n == 0 {
			t.Errorf("RESP%s: nothing is counted", protocol)
		}
	}
}

// Faults 29 and 30.
func TestStateThatSomebodyBrokeHarmsItsSubjectOnly(t *testing.T) {
	t.Parallel()
	server := publish(t)
	r := start(t, server.Addr)
	key := keyOf("shut", "broken")
	server.Do("RPUSH", key, "theirs")
	for range 20 {
		if a := r.ask("shut", "broken"); !a.degraded || a.allowed {
			t.Errorf("a key of another type: %+v, want it denied by onStoreFailure", a)
		}
	}
	if a := r.ask("shut", "bob"); a.degraded || !a.allowed {
		t.Errorf("another subject: %+v, want a decision of Redis", a)
	}
	if a := r.ask("open", "broken"); a.degraded || !a.allowed {
		t.Errorf("another policy: %+v, want a decision of Redis", a)
	}
	if r.opened() != 0 || r.metric(`penstock_store_errors_total{class="wrong_type"}`) != 20 ||
		r.Logged("a key of the policy holds something else; its onStoreFailure decides for that subject. Remove the key") != 1 {
		t.Error("it is not told by metric and log as a fault of this policy alone")
	}
	server.Do("DEL", key)
	r.decides("broken")

	server.Do("PERSIST", key)
	if left := server.Do("PTTL", key); left != int64(-1) {
		t.Fatalf("the key expires in %v ms", left)
	}
	r.decides("broken")
	if left := server.Do("PTTL", key).(int64); left <= 0 {
		t.Errorf("the key still never expires: %d", left)
	}
}

// Fault 98.
func TestASetOfANewerFormatLeavesTheLastGoodOneInForceAndTheBeatTells(t *testing.T) {
	t.Parallel()
	server := publish(t)
	r := start(t, server.Addr)
	server.Do("SET", policystore.PoliciesKey, fmt.Sprintf(`{"format":%d,"new":"things"}`, policy.Format+1))
	server.Do("PUBLISH", policystore.Channel, "new")
	eventually(t, "readiness tells it", func() bool {
		code, body := r.get("/readyz")
		return code == http.StatusOK && strings.Contains(body, "update penstockd")
	})
	if a := r.ask("shut", "bob"); a.degraded || !a.allowed {
		t.Errorf("%+v, want the last good set in force", a)
	}
	eventually(t, "the beat tells which format it reads, and which set it has", func() bool {
		beats, _, err := policystore.Beats(t.Context(), server.Client())
		return err == nil && len(beats) == 1 && beats[0].Replica == "one" && beats[0].Format == policy.Format &&
			beats[0].Set == daemon.Set(t, policies()...).Hash
	})
	server.Do("DEL", policystore.PoliciesKey)
	republish(t, server)
	eventually(t, "all is well", func() bool { _, body := r.get("/readyz"); return body == "ok\n" })
}

// Fault 99, with the settings that there are when none is given but where the servers are.
func TestAFarRedisIsUsedByDefaultAndASpikeIsOverWithIt(t *testing.T) {
	t.Parallel()
	server := publish(t)
	proxy := redistest.StartProxy(t, server.Addr)
	r := start(t, proxy.Addr, "--command-timeout", redisops.DefaultCommandTimeout.String())
	inARow := func() {
		t.Helper()
		n := 0
		eventually(t, "Redis decides time after time", func() bool {
			for n = 0; n < 20 && !r.ask("open", "far").degraded; n++ {
				continue
			}
			return n == 20
		})
	}
	proxy.Delay(6 * time.Millisecond)
	inARow()
	proxy.Delay(30 * time.Millisecond)
	r.degrades()
	proxy.Delay(6 * time.Millisecond)
	inARow()
	r.healthy()
}
