package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// stands are a store of each topology with a proxy before the server that serves the keys with that tag.
var stands = map[policy.Topology]func(t *testing.T) stand{
	policy.TopologyStandalone: func(t *testing.T) stand {
		server := redistest.Start(t)
		return stand{server: server, cfg: Config{Addresses: []string{server.Addr}}, endpoint: server.Addr, tag: "{x}"}
	},
	policy.TopologySentinel: func(t *testing.T) stand {
		sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
		cfg := Config{Addresses: sentinel.Addresses(), MasterName: sentinel.MasterName}
		return stand{server: sentinel.Primary(), cfg: cfg, endpoint: primaryAddress, tag: "{x}"}
	},
	policy.TopologyCluster: func(t *testing.T) stand {
		cluster := redistest.StartCluster(t, 2, 0)
		server := cluster.Nodes[1]
		return stand{server: server, cfg: Config{Addresses: cluster.Addresses()}, endpoint: server.Addr, tag: keyOf(cluster, server, 1)}
	},
	policy.TopologyIndependent: func(t *testing.T) stand {
		first, second := redistest.Start(t), redistest.Start(t)
		return stand{server: first, cfg: Config{Addresses: []string{first.Addr, second.Addr}}, endpoint: first.Addr, tag: "{x}"}
	},
}

type stand struct {
	server *redistest.Server
	cfg    Config
	// endpoint is the one to go through a proxy.
	endpoint string
	tag      string
}

// through lets new connections to that endpoint go to another address.
func through(servers *Servers, name, address string) {
	e := servers.endpoints[name]
	if e == nil {
		e = servers.newEndpoint(servers.cfg, name)
		servers.endpoints[name] = e
	}
	e.locate = func(context.Context) (string, error) { return address, nil }
}

// Fault 16: what ran and whose reply was lost is counted once. The settings are such that a repeat would succeed: new
// connections work, and callers wait for long.
func TestLostReplyIsCountedOnceAndItsOutcomeUnknown(t *testing.T) {
	losses := map[string]func(*redistest.Proxy){
		"no reply comes":      func(*redistest.Proxy) {},
		"the connection ends": func(p *redistest.Proxy) { p.Cut() },
	}
	for topology, open := range stands {
		for name, lose := range losses {
			t.Run(fmt.Sprintf("%s, %s", topology, name), func(t *testing.T) {
				stand := open(t)
				proxy := redistest.StartProxy(t, stand.server.Addr)
				cfg := stand.cfg
				cfg.Topology, cfg.CommandTimeout, cfg.DialTimeout = topology, patience, 3*time.Second
				servers := openServers(t, cfg)
				through(servers, stand.endpoint, proxy.Addr)
				caller := newCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)}, bounds{base: 1, most: 1, queued: 100})
				defer caller.Close()
				warm(t, caller)
				if _, err := caller.Do(t.Context(), count(stand.tag)); err != nil {
					t.Fatal(err)
				}
				// While this reply is on its way, the commands gather for one pipeline, whose replies are lost.
				before := proxy.Replies()
				proxy.Delay(time.Second)
				const commands = 40
				errs := make([]error, commands)
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := caller.Do(t.Context(), count(stand.tag)); err != nil {
						t.Errorf("the call before: %v", err)
					}
				})
				waitFor(t, "a reply on its way", func() bool { return proxy.Replies() > before })
				proxy.SwallowReplies()
				proxy.Delay(0)
				for i := range commands {
					wg.Go(func() { _, errs[i] = caller.Do(t.Context(), count(fmt.Sprint(stand.tag, i))) })
				}
				client := stand.server.Client()
				waitFor(t, "commands to run", func() bool { return client.DBSize(t.Context()).Val() > 1 })
				lose(proxy)
				wg.Wait()

				unknown := 0
				for i, err := range errs {
					if err != nil && !errors.Is(err, ErrUnknownOutcome) {
						t.Errorf("command %d: %v, want success or an unknown outcome", i, err)
					}
					if err != nil {
						unknown++
					}
					if n := client.Get(t.Context(), fmt.Sprint(stand.tag, i)).Val(); n != "1" {
						t.Errorf("command %d (%v) was counted %s times", i, err, n)
					}
				}
				if unknown < 2 {
					t.Errorf("%d outcomes are unknown, want those of a whole pipeline", unknown)
				}
				waitFor(t, "a call to succeed", func() bool {
					_, err := caller.Do(t.Context(), count(stand.tag))
					return err == nil
				})
			})
		}
	}
}

// Fault 99: a caller that gives up does not break the connection for those after it, as its own deadline on the
// connection would: with it no later call gets through a handshake, for ever.
func TestSlowSpellDoesNotCostTheConnection(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	caller := open(t, Config{CommandTimeout: 300 * time.Millisecond}, proxy.Addr, defaultBounds)
	warm(t, caller)
	opened := proxy.Accepted()

	proxy.Delay(2 * time.Second)
	_, err := caller.Do(t.Context(), []any{"INCR", "n"})
	if !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("during the spell: %v, want an unknown outcome by a timeout", err)
	}
	proxy.Delay(0)
	if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
		t.Errorf("the call after the spell: %v", err)
	}
	waitFor(t, "the batch of the spell to end", func() bool { return caller.only.gate.away() == 0 })
	if got := server.Do("GET", "n"); got != "1" {
		t.Errorf("the call of the slow spell ran %v times", got)
	}
	if accepted, open := proxy.Accepted(), proxy.Open(); accepted != opened || open != opened {
		t.Errorf("%d connections were opened and %d are open, want the %d of before the spell", accepted, open, opened)
	}
}

// Fault 99: a round trip of 6 ms works with the defaults, although the opening of a connection takes several. The machine
// may be busy, so one burst of ten has to be in time; but in none may a call have to wait for a connection.
func TestFarServerWorksWithTheDefaultsWhenTheLoadGrowsAtOnce(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	proxy.Delay(6 * time.Millisecond)
	caller := open(t, Config{CommandTimeout: DefaultCommandTimeout, DialTimeout: DefaultDialTimeout}, proxy.Addr, defaultBounds)
	warm(t, caller)
	opened := proxy.Accepted()

	const callers, bursts = 64, 10
	fewest := callers
	for range bursts {
		waitForSuccess(t, caller) // where the one before was late, the breaker opened
		var wg sync.WaitGroup
		var late atomic.Int64
		for range callers {
			wg.Go(func() {
				if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
					late.Add(1)
				}
			})
		}
		wg.Wait()
		fewest = min(fewest, int(late.Load()))
		waitFor(t, "the burst to be over", func() bool { return caller.only.gate.away() == 0 })
	}
	if fewest > 0 {
		t.Errorf("in the best of %d bursts %d of %d calls got no answer in time", bursts, fewest, callers)
	}
	if got := proxy.Accepted(); got != opened {
		t.Errorf("%d connections were opened during the bursts, want none", got-opened)
	}
}

func TestConnectionsStandBeforeTheyAreNeededAndAgainAfterAnOutage(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	cfg := Config{MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond}
	caller := open(t, cfg, proxy.Addr, defaultBounds)
	waitFor(t, "the connections", func() bool { return proxy.Open() == mostBatches })
	for name, outage := range map[string]func(){
		"cut":     func() { proxy.Cut() },
		"restart": func() { server.Kill(); server.Run() },
	} {
		outage()
		waitForSuccess(t, caller)
		waitFor(t, name+": the connections", func() bool { return proxy.Open() >= mostBatches })
	}
}

func TestWarmTellsWhatKeepsTheConnectionsFromStanding(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	for name, tc := range map[string]struct {
		password string
		want     Class
	}{"accepted": {"secret", None}, "refused": {"wrong", Configuration}} {
		caller := open(t, Config{Password: tc.password}, server.Addr, defaultBounds)
		if err := caller.Warm(t.Context()); Classify(err) != tc.want {
			t.Errorf("%s: %v of class %q, want %q", name, err, Classify(err), tc.want)
		}
	}
}

// waitForSuccess waits until Redis serves calls.
func waitForSuccess(t *testing.T, caller *Caller) {
	t.Helper()
	waitFor(t, "a call to succeed", func() bool {
		_, err := caller.Do(t.Context(), []any{"PING"})
		return err == nil
	})
}

func warm(t *testing.T, caller *Caller) {
	t.Helper()
	if err := caller.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCallsDoNotQueueForARoundTripOfOthers(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	caller := open(t, Config{}, proxy.Addr, defaultBounds)
	const callers = 8
	// Each call finds the batches of those before it on the wire; with one connection the last would take 8 round trips.
	proxy.Delay(500 * time.Millisecond)
	warm := time.Now()
	if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
		t.Fatal(err)
	}
	opening := time.Since(warm)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range callers {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 5 * time.Millisecond) // arrivals, one by one
			if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > opening+1500*time.Millisecond {
		t.Errorf("%d calls took %v where opening a connection takes %v: they waited for each other", callers, took, opening)
	}
}

func TestBlackHoleIsBounded(t *testing.T) {
	server := redistest.Start(t)
	cfg := Config{CommandTimeout: 50 * time.Millisecond, DialTimeout: patience, MaxConnections: 4}
	caller := open(t, cfg, server.Addr, defaultBounds)
	waitForSuccess(t, caller)
	goroutines := runtime.NumGoroutine()
	server.Pause()
	start := time.Now()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := caller.Do(t.Context(), []any{"INCR", "n"}); Classify(err) != UnknownOutcome && Classify(err) != NotExecuted {
				t.Errorf("error %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > patience/2 {
		t.Errorf("callers waited %v for a server that does not answer", took)
	}
	// What remains are workers and dials, not callers.
	if got := runtime.NumGoroutine(); got > goroutines+3*cfg.MaxConnections {
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
	server.Resume()
	waitForSuccess(t, caller)
	if connected := strings.Count(fmt.Sprint(server.Do("CLIENT", "LIST")), " laddr="); connected > cfg.MaxConnections+1 {
		t.Errorf("%d connections, want at most %d and the asking one", connected, cfg.MaxConnections)
	}
}

func TestRestartedServerIsUsedAgain(t *testing.T) {
	server := redistest.Start(t)
	caller := open(t, Config{CommandTimeout: time.Second}, server.Addr, defaultBounds)
	if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	for range 20 {
		if _, err := caller.Do(t.Context(), []any{"PING"}); err == nil {
			t.Fatal("a dead server answered")
		}
	}
	server.Run()
	waitForSuccess(t, caller)
}

// Fault 18: the address leads to another server after a failover, but not the connections that are open.
// A server that is gone without a word, with another one in its place: as behind a Service whose node was lost.
func TestConnectionsToAServerThatIsGoneWithoutAWordAreNotTriedOneByOne(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	caller := open(t, Config{CommandTimeout: 100 * time.Millisecond, DialTimeout: DefaultDialTimeout}, proxy.Addr, defaultBounds)
	warm(t, caller)
	proxy.SwallowReplies()
	waitFor(t, "the breaker to open", func() bool {
		_, _ = caller.Do(t.Context(), []any{"PING"})
		return state(caller) == BreakerOpen
	})
	start := time.Now()
	waitForSuccess(t, caller)
	if took, bound := time.Since(start), mostBatches/2*DefaultDialTimeout; took > bound {
		t.Errorf("the new server was used after %v, want it within %v", took, bound)
	}
}

func TestDemotedPrimaryLosesItsConnections(t *testing.T) {
	for name, beside := range map[string][]any{
		"alone in its pipeline": nil,
		"behind a read":         {"GET", "x"}, // go-redis looks at the first error of a pipeline only
	} {
		t.Run(name, func(t *testing.T) {
			old, primary := redistest.Start(t), redistest.Start(t)
			proxy := redistest.StartProxy(t, old.Addr)
			caller := open(t, Config{}, proxy.Addr, bounds{base: 1, most: 1, queued: 10})
			if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
				t.Fatal(err)
			}
			old.ReplicaOf(primary)
			proxy.Retarget(primary.Addr)

			// A call that holds the only place on the wire, so that the next ones share a pipeline.
			old.Pause()
			results := make(chan error, 3)
			send := func(args []any) {
				_, err := caller.Do(context.Background(), args)
				results <- err
			}
			go send([]any{"ECHO", "x"})
			waitFor(t, "the first call to be on the wire", func() bool { return caller.only.gate.away() == 1 })
			sent := 2
			if beside != nil {
				go send(beside)
				waitFor(t, "the read to be queued", func() bool { return len(caller.only.queue) == 1 })
				sent++
			}
			queued := len(caller.only.queue)
			go send([]any{"INCR", "n"})
			waitFor(t, "the write to be queued", func() bool { return len(caller.only.queue) == queued+1 })
			old.Resume()
			for range sent {
				if err := <-results; err != nil {
					t.Errorf("error %v", err)
				}
			}
			if got := primary.Do("GET", "n"); got != "1" {
				t.Errorf("the new primary counted %v, want 1", got)
			}
		})
	}
}
