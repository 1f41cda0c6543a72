package faults

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/test/daemon"
)

// Fault 1.
func TestItStartsWithoutRedisIsReadyIfThePoliciesAllowAndTriesOnWithPauses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		onStoreFailure string
		want           int
	}{
		"they all let pass":       {policy.FailureAllow, http.StatusOK},
		"they all have shares":    {policy.FailureLocalShare, http.StatusOK},
		"one of them lets nobody": {policy.FailureDeny, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := publish(t, "--appendonly", "yes", "--appendfsync", "always")
			server.Kill()
			proxy := redistest.StartProxy(t, server.Addr)
			set := policies()[:1]
			set[0].OnStoreFailure = test.onStoreFailure
			file := filepath.Join(t.TempDir(), "snapshot.json")
			if err := os.WriteFile(file, daemon.Set(t, set...).Marshal(), 0o600); err != nil {
				t.Fatal(err)
			}
			r := launch(t, "--redis", "redis://"+proxy.Addr, "--snapshot", file, "--dial-timeout", "100ms")
			if status, _ := r.get("/healthz"); status != http.StatusOK {
				t.Errorf("liveness: %d, want 200", status)
			}
			if test.want == http.StatusOK {
				r.AwaitLog(t, "ready")
				if a := r.ask("open", "start"); !a.allowed || !a.degraded {
					t.Errorf("without Redis: %+v, want allowed and degraded", a)
				}
			} else {
				r.AwaitLog(t, "cannot reach redis; trying on")
			}
			if status, body := r.get("/readyz"); status != test.want {
				t.Errorf("readiness: %d %q, want %d", status, body, test.want)
			}

			// The pauses have grown to 0.5 s for a probe and 2 s for the rest: a second of them.
			eventually(t, "attempts", func() bool { return proxy.Accepted() > 5 })
			before := proxy.Accepted()
			time.Sleep(time.Second)
			if attempts := proxy.Accepted() - before; attempts > 60 {
				t.Errorf("%d connections are tried in a second", attempts)
			}

			server.Run()
			r.AwaitLog(t, "ready")
			r.decides("start")
			r.healthy()
		})
	}
}

// Faults 2 and 6.
func TestARedisThatDiesUnderLoadIsAnsweredForAndUsedAgainOnceItIsBack(t *testing.T) {
	t.Parallel()
	server := publish(t, "--appendonly", "yes", "--appendfsync", "always")
	r := start(t, server.Addr)
	stop := r.load(8)
	r.decides("load")

	server.Kill()
	eventually(t, "the server is given up", func() bool { return r.breakers() == 2 })
	r.byMode()
	if status, body := r.get("/readyz"); status != http.StatusOK || !strings.Contains(body, "degraded: 1 of 1 servers") {
		t.Errorf("readiness meanwhile: %d %q, want ready and degraded", status, body)
	}
	if r.metric("penstock_degraded") != 1 || r.metric(`penstock_decisions_total{door="rls",namespace="shop",outcome="degraded_denied"`) == 0 ||
		r.metric(`penstock_store_errors_total{class="breaker_open"}`) == 0 {
		t.Error("the metrics do not tell")
	}

	server.Run()
	back := time.Now()
	r.decides("load")
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("normal again after %v, want at most 5s", took)
	}
	stop()
	r.healthy()
	eventually(t, "metric and log tell that it is over", func() bool {
		return r.metric("penstock_degraded") == 0 && r.Logged(answersAgain) == 1
	})
	for _, message := range []string{givenUp, servesAgain, noAnswer, answersAgain} {
		if n := r.Logged(message); n != 1 {
			t.Errorf("%q is logged %d times, want once for the transition", message, n)
		}
	}
	if n := r.opened(); n != 1 {
		t.Errorf("the server was given up %v times, want once", n)
	}
}

// Fault 3, of a server that accepts connections and is silent.
func TestABlackHoleHoldsNeitherGoroutinesNorConnections(t *testing.T) {
	t.Parallel()
	server := publish(t)
	proxy := redistest.StartProxy(t, server.Addr)
	const connections, watching = 8, 4
	r := start(t, proxy.Addr, "--command-timeout", "100ms", "--max-connections", "8")
	before := r.metric("go_goroutines")

	server.Pause()
	const askers = 100
	stop := r.load(askers)
	eventually(t, "it is given up", func() bool { return r.breakers() == 2 })
	eventually(t, "many are answered meanwhile", func() bool { return r.metric(`penstock_store_errors_total{class="breaker_open"}`) > 2000 })
	if open := proxy.Open(); open > connections+watching {
		t.Errorf("%d connections are open, want at most %d and %d that watch", open, connections, watching)
	}
	if n := r.metric("go_goroutines"); n > before+2*askers+50 {
		t.Errorf("%v goroutines for %d callers, from %v", n, askers, before)
	}
	r.byMode()
	stop()
	eventually(t, "nothing of it stays", func() bool { return r.metric("go_goroutines") < before+50 })

	server.Resume()
	r.decides("afterwards")
	r.healthy()
}

// Fault 4.
func TestASlowRedisIsNotWaitedForAndNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	server := publish(t)
	proxy := redistest.StartProxy(t, server.Addr)
	r := start(t, proxy.Addr, "--command-timeout", "50ms")
	for _, slow := range []time.Duration{150 * time.Millisecond, 2 * time.Second} {
		spent, sent := r.spent("open", "slow"), decisions(t, server)
		proxy.Delay(slow)
		r.degrades()
		const questions = 200
		begin := time.Now()
		for range questions {
			if a := r.ask("open", "slow"); !a.allowed {
				t.Errorf("%+v, want the policy to let it pass", a)
			}
		}
		if each := time.Since(begin) / questions; each > slow/2 {
			t.Errorf("an answer takes %v, want well under the %v of Redis", each, slow)
		}
		proxy.Delay(0)
		r.decides("afterwards")
		if used := r.spent("open", "slow") - spent; used > questions {
			t.Errorf("%d of %d questions are counted: one was sent twice", used, questions)
		}
		if n := decisions(t, server) - sent; n > 2*questions {
			t.Errorf("%d decisions are sent for %d questions", n, questions)
		}
	}
	r.healthy()
}

// Fault 5.
func TestARedisThatFlapsIsNotRushed(t *testing.T) {
	t.Parallel()
	server := publish(t)
	gone := redistest.Start(t)
	gone.Kill()
	proxy := redistest.StartProxy(t, server.Addr)
	const connections = 8
	r := start(t, proxy.Addr, "--max-connections", "8")
	stop := r.load(4)
	const flaps = 5
	for range flaps {
		proxy.Retarget(gone.Addr)
		proxy.Cut()
		eventually(t, "it is given up", func() bool { return r.breakers() == 2 })
		before := proxy.Accepted()
		proxy.Retarget(server.Addr)
		eventually(t, "it is used again", func() bool { return r.breakers() == 0 })
		r.decides("load")
		// The connections anew, those that watch, and some probes.
		if accepted := proxy.Accepted() - before; accepted > 3*connections {
			t.Errorf("%d connections are opened to come back, want at most %d and a few", accepted, connections)
		}
	}
	stop()
	r.healthy()
	if n := r.Logged(givenUp); n != flaps || int(r.opened()) != flaps {
		t.Errorf("given up %d times by the log and %v by the metric, want %d", n, r.opened(), flaps)
	}
	if n := r.Logged(servesAgain); n != flaps {
		t.Errorf("used again %d times, want %d", n, flaps)
	}
}

// Fault 6: what was decided without Redis stays without consequences there.
func TestWhatPassedBySharesIsNotCountedOnceRedisIsBack(t *testing.T) {
	t.Parallel()
	server := publish(t)
	toxic := redistest.StartToxiproxy(t, server.Addr)
	r := start(t, toxic.Addr)
	before := len(keys(t, server))
	toxic.Down()
	r.degrades()
	const subjects = 100
	for i := range subjects {
		passed := 0
		for range shared + 5 {
			if a := r.ask("share", subject(i)); a.allowed && a.degraded {
				passed++
			}
		}
		if passed != shared {
			t.Fatalf("%d pass without Redis, want the share of the only replica, %d", passed, shared)
		}
	}
	if n := len(keys(t, server)); n != before {
		t.Fatalf("Redis has %d keys, want %d: it was not gone", n, before)
	}

	toxic.Up()
	eventually(t, "the server is used again", func() bool { return r.breakers() == 0 })
	if n := len(keys(t, server)); n != before {
		t.Errorf("Redis has %d keys once it is back, want %d: what passed meanwhile is sent to it", n, before)
	}
	for i := range subjects {
		if a := r.ask("share", subject(i)); a.degraded || !a.allowed || a.remaining[0] != shared-1 {
			t.Fatalf("%+v, want a decision of Redis with a whole budget", a)
		}
	}
	r.healthy()
}

// Fault 7.
func TestARedisThatRestartsEmptyIsUsedAgainOncePoliciesAreThere(t *testing.T) {
	t.Parallel()
	server := publish(t)
	r := start(t, server.Addr)
	r.ask("shut", "counted")
	server.Kill()
	server.Run()
	r.degrades()
	r.byMode()
	republish(t, server) // as the operator does, which is told of it
	eventually(t, "Redis decides", func() bool { return !r.ask("open", "afterwards").degraded })
	if n := r.spent("shut", "counted"); n != 0 {
		t.Errorf("%d are counted, want none after the loss", n)
	}
	r.healthy()
}

// Fault 8.
func TestARedisThatLoadsItsDataIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := publish(t, "--enable-debug-command", "yes", "--rdbcompression", "no",
		"--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
	r := start(t, server.Addr)
	used := r.spent("shut", "start")
	server.Do("DEBUG", "POPULATE", "1000", "ballast", "1000")
	server.Do("SAVE")
	server.Kill()
	server.Run() // answers, if only that it loads
	eventually(t, "it is known that the server loads", func() bool {
		return r.breakers() == 2 && strings.Contains(r.Log(), "LOADING Redis is loading")
	})
	r.byMode()
	before := stat(t, server, "stats", "total_error_replies:")
	stop := r.load(4)
	time.Sleep(time.Second) // the time for which probes are counted
	asked := stop()
	if refused := stat(t, server, "stats", "total_error_replies:") - before; refused > 30 {
		t.Errorf("the server had to refuse %d commands in a second of %d questions, want probes only", refused, asked)
	}
	if stat(t, server, "persistence", "loading:") != 1 {
		t.Fatal("the server has loaded its data already: nothing was tried")
	}
	server.Do("CONFIG", "SET", "key-load-delay", "0")
	r.decides("afterwards")
	r.healthy()
	if n := r.spent("shut", "start"); n != used {
		t.Errorf("%d are counted, want %d as before", n, used)
	}
}

// Fault 9.
func TestARedisThatRunsALongScriptIsLeftToIt(t *testing.T) {
	t.Parallel()
	server := publish(t, "--busy-reply-threshold", "20")
	r := start(t, server.Addr, "--command-timeout", "200ms")
	client := server.ClientWith(&redis.Options{MaxRetries: -1, ReadTimeout: -1})
	ended := make(chan error, 1)
	go func() { ended <- client.Eval(context.Background(), "while true do end", nil).Err() }()
	eventually(t, "it is given up, and the metric names it", func() bool {
		r.degrades()
		return r.breakers() == 2 && r.metric(`penstock_store_errors_total{class="unavailable"}`) > 0
	})
	r.byMode()
	select {
	case err := <-ended:
		t.Fatalf("the script was ended: %v", err)
	default:
	}
	server.Do("SCRIPT", "KILL")
	<-ended
	r.decides("afterwards")
	r.healthy()
	if n := stat(t, server, "commandstats", "cmdstat_script|kill:calls="); n != 1 {
		t.Errorf("SCRIPT KILL was sent %d times, want only by this test", n)
	}
}

// Faults 10, 13 and 14: a server that lives, and writes nothing.
func TestARedisThatRefusesToWriteIsAnsweredForAndNotGivenUp(t *testing.T) {
	t.Parallel()
	type fault struct {
		begin, end func(t *testing.T, server *redistest.Server)
		class      string
		// releases tells whether slots can be released meanwhile.
		releases bool
	}
	set := func(name, value string) func(*testing.T, *redistest.Server) {
		return func(_ *testing.T, server *redistest.Server) { server.Do("CONFIG", "SET", name, value) }
	}
	for name, test := range map[string]fault{
		"it is out of memory": {set("maxmemory", "1"), set("maxmemory", "0"), "out_of_memory", true},
		"it cannot save": {
			begin: func(t *testing.T, server *redistest.Server) {
				server.Do("CONFIG", "SET", "save", "3600 1")
				if err := os.RemoveAll(folder(t, server)); err != nil {
					t.Fatal(err)
				}
				server.Do("BGSAVE")
				eventually(t, "saving has failed", func() bool {
					return strings.Contains(server.Do("INFO", "persistence").(string), "rdb_last_bgsave_status:err")
				})
			},
			end: set("stop-writes-on-bgsave-error", "no"), class: "unavailable",
		},
		"it lacks replicas": {set("min-replicas-to-write", "1"), set("min-replicas-to-write", "0"), "unavailable", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := publish(t)
			r := start(t, server.Addr)
			slot := map[string]any{"subject": map[string]string{"slots": "bob"}, "slotId": "mine"}
			if status, body := r.call("AcquireSlot", "slots", slot); status != http.StatusOK || body["allowed"] != true {
				t.Fatalf("acquiring: %d %v", status, body)
			}
			test.begin(t, server)
			r.degrades()
			for range 30 { // more than would open a breaker
				r.byMode()
			}
			if r.opened() != 0 {
				t.Error("the server is given up, though it answers")
			}
			counted := r.metric(`penstock_store_errors_total{class="` + test.class + `"}`)
			if counted == 0 || r.metric("penstock_degraded") != 1 || r.Logged(noAnswer) != 1 {
				t.Errorf("metrics and log do not tell of %s", test.class)
			}
			if status, body := r.call("ReleaseSlot", "slots", slot); (status == http.StatusOK) != test.releases {
				t.Errorf("releasing a slot: %d %v, want success: %v", status, body, test.releases)
			}
			test.end(t, server)
			r.decides("afterwards")
			r.healthy()
		})
	}
}

// folder is where the server saves.
func folder(t *testing.T, server *redistest.Server) string {
	t.Helper()
	found, err := server.Client().ConfigGet(t.Context(), "dir").Result()
	if err != nil {
		t.Fatal(err)
	}
	return found["dir"]
}

// Fault 12.
func TestARedisWithoutRoomForConnectionsIsNotStormed(t *testing.T) {
	t.Parallel()
	server := publish(t)
	r := start(t, server.Addr)
	admin := server.Client()
	do := func(args ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	info := func(field string) int {
		t.Helper()
		all, err := admin.InfoMap(t.Context(), "stats").Result()
		if err != nil {
			t.Fatal(err)
		}
		return int(number(all["Stats"][field]))
	}
	do("PING")
	do("CONFIG", "SET", "maxclients", "1")
	do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	do("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
	eventually(t, "it is given up", func() bool { r.degrades(); return r.breakers() == 2 })
	r.byMode()
	before := info("rejected_connections")
	stop := r.load(4)
	time.Sleep(time.Second) // the time for which attempts are counted
	asked := stop()
	if rejected := info("rejected_connections") - before; rejected > 60 {
		t.Errorf("%d connections are tried in a second of %d questions", rejected, asked)
	}
	do("CONFIG", "SET", "maxclients", "1000")
	r.decides("afterwards")
	r.healthy()
}
