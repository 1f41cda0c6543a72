package store_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

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

// A caller that waits with the defaults is answered by them: 10 ms, whether Redis refuses or keeps silent (faults 1 to 3);
// and at once, when it is known that Redis does.
func TestByDefaultACallerWaitsTenMillisecondsForARedisThatIsGone(t *testing.T) {
	const wait = 10 * time.Millisecond
	for name, lose := range map[string]func(*redistest.Server){
		"refuses": (*redistest.Server).Kill,
		"silent":  (*redistest.Server).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			publish(t, server,
				rateLimit("lenient", "user", policy.FailureAllow, policy.FixedWindow),
				rateLimit("strict", "remote_address", policy.FailureDeny, policy.FixedWindow))
			p := startWith(t, redisops.Config{Addresses: []string{server.Addr}}, nil)
			p.ready(t)
			eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
			lose(server)
			// What is measured is the quickest of many: all that a busy machine can do is to make some of them slower.
			quickest := map[string]time.Duration{"RLS": time.Hour, "forward-auth": time.Hour}
			var first time.Duration
			for i := range 20 {
				begin := time.Now()
				if got := p.mustAsk(t, "user", "bob"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || !degraded(got) {
					t.Fatalf("Allow: %v, want OK and degraded", got)
				}
				quickest["RLS"] = min(quickest["RLS"], time.Since(begin))
				if i == 0 {
					first = time.Since(begin)
				}
				begin = time.Now()
				if got := p.get(t, "/auth/shop/strict"); got.status != http.StatusTooManyRequests || got.header.Get("X-Penstock-Degraded") != "store" {
					t.Fatalf("Deny: %d %v, want 429 and degraded", got.status, got.header)
				}
				quickest["forward-auth"] = min(quickest["forward-auth"], time.Since(begin))
			}
			for door, took := range quickest {
				if took > 3*wait {
					t.Errorf("%s: the quickest answer took %v, want little more than %v", door, took, wait)
				}
			}
			if name == "silent" && first < wait {
				t.Errorf("the first was answered after %v, want Redis given %v", first, wait)
			}
		})
	}
}

// remaining is what Redis has left of the policy for the subject, asked without penstockd.
func remaining(server *redistest.Server, name, key, value string) int64 {
	row := server.Do("FCALL", "penstock_limit_peek", "1", redisops.CounterKey(name, []redisops.Entry{{Key: key, Value: value}}), name, "0", "", value).([]any)
	return row[2].(int64)
}

// Fault 16.
func TestALostReplyIsAnsweredByThePolicyAndCountedOnce(t *testing.T) {
	server := redistest.Start(t)
	policies := []policy.RateLimit{
		rateLimit("lenient", "user", policy.FailureAllow, policy.FixedWindow),
		rateLimit("strict", "remote_address", policy.FailureDeny, policy.FixedWindow),
	}
	for mode, set := range map[string]*policy.Set{"functions": nil, "scripts": policy.NewSet(policies)} {
		for how, cut := range map[string]bool{"silence": false, "connection lost": true} {
			t.Run(mode+", "+how, func(t *testing.T) {
				server.Do("FLUSHALL")
				publish(t, server, policies...)
				proxy := redistest.StartProxy(t, server.Addr)
				// One connection, so that it is known which one has to lose the reply.
				p := startWith(t, redisops.Config{Addresses: []string{proxy.Addr}, CommandTimeout: commandTimeout, MaxConnections: 1}, set)
				p.ready(t)
				for door, test := range map[string]struct {
					name, key, value string
					// ask gives whether the answer was one of onStoreFailure, or what was wrong with it.
					ask func() (degraded bool, wrong string)
				}{
					"RLS, Allow": {"shop/lenient", "user", "bob", func() (bool, string) {
						got, err := p.ask(t, "user", "bob")
						if err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
							return false, fmt.Sprintf("%v, %v; want OK", got, err)
						}
						return degraded(got), ""
					}},
					"forward-auth, Deny": {"shop/strict", "remote_address", peer, func() (bool, string) {
						response, err := http.Get(p.http + "/auth/shop/strict")
						if err != nil {
							return false, err.Error()
						}
						_ = response.Body.Close()
						lost := response.Header.Get("X-Penstock-Degraded") == "store"
						if want := map[bool]int{true: http.StatusTooManyRequests, false: http.StatusOK}[lost]; response.StatusCode != want {
							return lost, fmt.Sprintf("%d, degraded %v; want %d", response.StatusCode, lost, want)
						}
						return lost, ""
					}},
				} {
					type outcome struct {
						degraded bool
						wrong    string
					}
					var answered chan outcome
					var before int64
					// A PING by which the server is looked after may have the one connection; then the call is not sent in time.
					for sent := false; !sent; {
						proxy.Cut()
						// A connection that was lost before is replaced by now.
						eventually(t, door+": decided by Redis", func() bool {
							lost, wrong := test.ask()
							return !lost && wrong == ""
						})
						before = remaining(server, test.name, test.key, test.value)
						proxy.SwallowReplies()
						answered = make(chan outcome, 1)
						go func() {
							lost, wrong := test.ask()
							answered <- outcome{lost, wrong}
						}()
						eventually(t, door+": it is charged or answered", func() bool {
							sent = remaining(server, test.name, test.key, test.value) == before-1
							return sent || len(answered) == 1
						})
					}
					if cut {
						proxy.Cut()
					}
					if got := <-answered; !got.degraded || got.wrong != "" {
						t.Errorf("%s: degraded %v %s; want an answer by onStoreFailure", door, got.degraded, got.wrong)
					}
					if !cut {
						proxy.Cut() // the connection ends by itself, too, but later
					}
					if got := remaining(server, test.name, test.key, test.value); got != before-1 {
						t.Errorf("%s: %d left, want %d: counted once", door, got, before-1)
					}
				}
			})
		}
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

// commands is how often the server has executed that command since CONFIG RESETSTAT.
func commands(t *testing.T, server *redistest.Server, command string) int {
	t.Helper()
	_, after, found := strings.Cut(server.Do("INFO", "commandstats").(string), "cmdstat_"+command+":calls=")
	if !found {
		return 0
	}
	calls, _, _ := strings.Cut(after, ",")
	n, err := strconv.Atoi(calls)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAPolicyThatIsPublishedButNotServedIsAFailureOfTheStore(t *testing.T) {
	server := redistest.Start(t)
	stays := rateLimit("stays", "path", policy.FailureDeny, policy.FixedWindow)
	publish(t, server, rateLimit("absent", "user", policy.FailureDeny, policy.FixedWindow), stays)
	p := start(t, server.Addr, nil)
	p.ready(t)
	// The library of another set, as after a backup of half a database.
	text, err := library.Render(policy.NewSet([]policy.RateLimit{stays}))
	if err != nil {
		t.Fatal(err)
	}
	server.Do("FUNCTION", "LOAD", "REPLACE", text)
	eventually(t, "the subscription stands", func() bool { return commands(t, server, "subscribe") == 1 })
	server.Do("CONFIG", "RESETSTAT")

	begin := time.Now()
	if got := p.mustAsk(t, "user", "bob", "path", "/"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || degraded(got) {
		t.Errorf("at first: %v, want it left out", got)
	}
	eventually(t, "its onStoreFailure decides", func() bool {
		got := p.mustAsk(t, "user", "bob")
		return got.GetOverallCode() == ratelimitv3.RateLimitResponse_OVER_LIMIT && degraded(got)
	})
	if got := p.mustAsk(t, "path", "/"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || degraded(got) {
		t.Errorf("another policy: %v, want it enforced", got)
	}
	// All that asking has the set read again once a second, by the reader that is there.
	most := int(time.Since(begin)/time.Second) + 2
	if n := commands(t, server, "get"); n < 1 || n > most {
		t.Errorf("the set was read %d times, want 1 to %d", n, most)
	}
	if n := commands(t, server, "subscribe"); n != 0 {
		t.Errorf("subscribed again %d times, want 0", n)
	}
}
