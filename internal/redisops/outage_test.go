package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// logged counts the records of a Caller by their message.
type logged struct {
	slog.Handler
	mu    sync.Mutex
	times map[string]int
}

func newLogged() *logged { return &logged{Handler: slog.DiscardHandler, times: map[string]int{}} }

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(_ context.Context, record slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times[record.Message]++
	return nil
}

func (l *logged) counts() (opened, closed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times["Redis does not serve decisions: they are answered without it"], l.times["Redis serves decisions again"]
}

// load calls with 64 goroutines until stop, with the default timeouts.
type load struct {
	caller                  *Caller
	stopped                 atomic.Bool
	callers                 sync.WaitGroup
	served, refused, failed atomic.Int64
	longest                 atomic.Int64
	unexpected              sync.Once
	args                    func(n int) []any
}

func startLoad(t *testing.T, caller *Caller, args func(n int) []any) *load {
	l := &load{caller: caller, args: args}
	for i := range 64 {
		l.callers.Go(func() {
			for n := i; !l.stopped.Load(); n++ {
				start := time.Now()
				_, err := caller.Do(context.Background(), args(n))
				took := int64(time.Since(start))
				for longest := l.longest.Load(); took > longest && !l.longest.CompareAndSwap(longest, took); longest = l.longest.Load() {
					continue
				}
				switch {
				case err == nil:
					l.served.Add(1)
				case errors.Is(err, ErrBreakerOpen):
					l.refused.Add(1)
					time.Sleep(100 * time.Microsecond) // as a service would have something else to do
				case errors.Is(err, ErrNotExecuted), errors.Is(err, ErrUnknownOutcome), Classify(err) == NotExecuted, Classify(err) == Unavailable:
					l.failed.Add(1)
				default:
					l.unexpected.Do(func() { t.Errorf("a call under load: %v", err) })
				}
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.stopped.Store(true)
	l.callers.Wait()
}

func increment(n int) []any { return []any{"INCR", fmt.Sprint("n", n%100)} }

func state(caller *Caller) BreakerState { return caller.Shards()[0].Breaker }

// Faults 2, 3, 4, 6, 8, 9, 12: whatever keeps Redis from serving, callers get their answers at once after the first few, nothing
// grows, one line is logged, and all is well as soon as Redis is.
func TestOutageUnderLoadIsAnsweredAtOnceAndEndsWithIt(t *testing.T) {
	type outage struct {
		server *redistest.Server
		proxy  *redistest.Proxy
	}
	for name, tc := range map[string]struct {
		options    []string
		begin, end func(t *testing.T, o outage)
		wantCause  string // in the error of the shard; empty for any
	}{
		"killed": {
			begin: func(_ *testing.T, o outage) { o.server.Kill() },
			end:   func(_ *testing.T, o outage) { o.server.Run() },
		},
		"stopped": {
			begin: func(_ *testing.T, o outage) { o.server.Pause() },
			end:   func(_ *testing.T, o outage) { o.server.Resume() },
		},
		"replies 200 ms late": {
			begin: func(_ *testing.T, o outage) { o.proxy.Delay(200 * time.Millisecond) },
			end:   func(_ *testing.T, o outage) { o.proxy.Delay(0) },
		},
		"replies lost for ever": {
			begin: func(_ *testing.T, o outage) { o.proxy.SwallowReplies() },
			end:   func(_ *testing.T, o outage) { o.proxy.Cut() },
		},
		"loading": {
			options: []string{"--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"},
			begin: func(_ *testing.T, o outage) {
				o.server.Do("EVAL", "for i = 1, 10000 do redis.call('SET', 'k' .. i, 'v') end return 1", 0)
				o.server.Do("SAVE")
				o.server.Kill()
				o.server.Run()
			},
			end: func(*testing.T, outage) {}, // by itself
		},
		"busy with a script of somebody else": {
			options: []string{"--busy-reply-threshold", "5"},
			begin:   func(_ *testing.T, o outage) { keepBusy(o.server) },
			end: func(t *testing.T, o outage) {
				client := o.server.Client()
				if err := client.Ping(t.Context()).Err(); Classify(err) != Unavailable {
					t.Errorf("the script of somebody else was ended: %v", err)
				}
				if err := client.ScriptKill(t.Context()).Err(); err != nil {
					t.Error(err)
				}
			},
			wantCause: "BUSY",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, tc.options...)
			proxy := redistest.StartProxy(t, server.Addr)
			servers := openServers(t, Config{Addresses: []string{proxy.Addr}})
			log := newLogged()
			caller := NewCaller(servers, CallerOptions{Logger: slog.New(log)})
			defer caller.Close()
			warm(t, caller)
			load := startLoad(t, caller, increment)
			waitFor(t, "calls", func() bool { return load.served.Load() > 1000 })
			goroutines := runtime.NumGoroutine()

			tc.begin(t, outage{server, proxy})
			waitFor(t, "the breaker to open", func() bool { return caller.Shards()[0].Opened > 0 && load.refused.Load() > 1000 })
			if tc.wantCause != "" {
				waitFor(t, "the cause to be told", func() bool { return strings.Contains(fmt.Sprint(caller.Shards()[0].Err), tc.wantCause) })
			}
			// Beside callers and workers: dials, and the copies of the proxy.
			if got, most := runtime.NumGoroutine(), goroutines+5*DefaultMaxConnections; got > most {
				t.Errorf("%d goroutines, %d before: they grow", got, goroutines)
			}
			if got := proxy.Open(); got > DefaultMaxConnections {
				t.Errorf("%d connections, want at most %d", got, DefaultMaxConnections)
			}
			inIt, refused := runtime.NumGoroutine(), load.refused.Load()
			waitFor(t, "more calls", func() bool { return load.refused.Load() > refused+10_000 || state(caller) == BreakerClosed })
			if got := runtime.NumGoroutine(); got > inIt+DefaultMaxConnections {
				t.Errorf("%d goroutines, %d a while before: they grow", got, inIt)
			}
			tc.end(t, outage{server, proxy})
			served := load.served.Load()
			ended := time.Now()
			waitFor(t, "calls to be served again", func() bool { return load.served.Load() > served+1000 && state(caller) == BreakerClosed })
			t.Logf("normal %v after the end; %d served, %d refused at once, %d failed; the longest answer took %v",
				time.Since(ended), load.served.Load(), load.refused.Load(), load.failed.Load(), time.Duration(load.longest.Load()))
			load.stop()
			if opened, closed := log.counts(); opened != int(caller.Shards()[0].Opened) || opened-closed > 1 || opened < closed {
				t.Errorf("logged %d openings and %d closings of %d", opened, closed, caller.Shards()[0].Opened)
			}
		})
	}
}

// Fault 5: neither calls nor connections for later ones make a storm.
func TestServerThatIsAwayIsAskedSeldom(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	caller := NewCaller(openServers(t, Config{Addresses: []string{proxy.Addr}}), CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	defer caller.Close()
	warm(t, caller)
	load := startLoad(t, caller, increment)
	waitFor(t, "calls", func() bool { return load.served.Load() > 100 })
	proxy.Retarget("127.0.0.1:1")
	proxy.Cut()
	waitFor(t, "the breaker to open", func() bool { return load.refused.Load() > 100 })
	before := proxy.Accepted()
	const seconds = 3
	time.Sleep(seconds * time.Second)
	// Each probe opens a connection, and may find that one was left to break.
	if got, most := proxy.Accepted()-before, 2*(5+2*seconds)+mostBatches; got > most {
		t.Errorf("%d connections were tried in %d s, want at most %d", got, seconds, most)
	}
	proxy.Retarget(server.Addr)
	served := load.served.Load()
	waitFor(t, "calls to be served again", func() bool { return load.served.Load() > served+1000 })
	if got := proxy.Open(); got > DefaultMaxConnections {
		t.Errorf("%d connections, want at most %d", got, DefaultMaxConnections)
	}
}

// Fault 99. The machine may be busy, so the best of some spikes has to be over at once.
func TestSpikeIsOverWithTheNextCalls(t *testing.T) {
	server := redistest.Start(t)
	best := time.Hour
	for range 5 {
		servers := openServers(t, Config{Addresses: []string{server.Addr}})
		caller := NewCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)})
		warm(t, caller)
		load := startLoad(t, caller, increment)
		waitFor(t, "calls", func() bool { return load.served.Load() > 1000 })
		server.Pause()
		time.Sleep(30 * time.Millisecond)
		server.Resume()
		served, ended := load.served.Load(), time.Now()
		for load.served.Load() <= served+100 {
			if time.Since(ended) > patience {
				t.Fatal("no calls are served after a spike")
			}
			time.Sleep(100 * time.Microsecond)
		}
		best = min(best, time.Since(ended))
		load.stop()
		caller.Close()
	}
	t.Logf("normal %v after the spike", best)
	if best > 40*time.Millisecond {
		t.Errorf("after the best spike it took %v until calls were served, want milliseconds", best)
	}
}

func TestShortDeadlinesOfCallersSayNothingAboutRedis(t *testing.T) {
	server := redistest.Start(t)
	servers := openServers(t, Config{Addresses: []string{server.Addr}})
	caller := newCaller(servers, CallerOptions{}, bounds{base: 1, most: 1, queued: 1000})
	defer caller.Close()
	waitForSuccess(t, caller)
	server.Pause()
	defer server.Resume()
	for range 4 * failuresInARow {
		ctx, cancel := context.WithTimeout(t.Context(), AnswerMargin+time.Millisecond)
		_, err := caller.Do(ctx, []any{"PING"})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v, want a timeout", err)
		}
	}
	if got := state(caller); got != BreakerClosed {
		t.Errorf("the breaker is %v, want closed", got)
	}
}

// Fault 25.
func TestConfigurationErrorsReachEveryCaller(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	servers := openServers(t, Config{Addresses: []string{server.Addr}, Password: "guess", CommandTimeout: patience})
	caller := NewCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	defer caller.Close()
	for range 4 * failuresInARow {
		if _, err := caller.Do(t.Context(), []any{"PING"}); Classify(err) != Configuration {
			t.Fatalf("%v of class %q, want %q", err, Classify(err), Configuration)
		}
	}
	if got := state(caller); got != BreakerClosed {
		t.Errorf("the breaker is %v, want closed", got)
	}
}

// Fault 25, of a server so far that nobody waits until it has refused a connection: what the probes are told reaches all.
func TestConfigurationErrorsOfAFarServerReachEveryCaller(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	proxy := redistest.StartProxy(t, server.Addr)
	// In time for a reply, and not for the opening of a connection and one.
	proxy.Delay(100 * time.Millisecond)
	servers := openServers(t, Config{Addresses: []string{proxy.Addr}, Password: "guess", CommandTimeout: 180 * time.Millisecond})
	caller := NewCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	defer caller.Close()
	refused := func() bool {
		_, err := caller.Do(t.Context(), []any{"PING"})
		return Classify(err) == Configuration
	}
	waitFor(t, "the refusal", refused)
	for range 100 {
		if !refused() {
			t.Fatal("a call got another error than the refusal")
		}
	}
	server.Do("CONFIG", "SET", "requirepass", "guess")
	waitForSuccess(t, caller)
}

func TestOutageIsFoundOutWhileNobodyCalls(t *testing.T) {
	server := redistest.Start(t)
	cfg := Config{MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond, DialTimeout: time.Second}
	caller := open(t, cfg, server.Addr, defaultBounds)
	warm(t, caller)
	server.Kill()
	waitFor(t, "the breaker to open", func() bool { return state(caller) == BreakerOpen })
	if _, err := caller.Do(t.Context(), []any{"PING"}); !errors.Is(err, ErrBreakerOpen) {
		t.Errorf("error %v, want %v", err, ErrBreakerOpen)
	}
	server.Run()
	waitFor(t, "the breaker to close", func() bool { return state(caller) == BreakerClosed })
}

func TestOpenBreakerCostsNothing(t *testing.T) {
	caller := open(t, Config{}, "127.0.0.1:1", bounds{base: 1, most: 1, queued: 10})
	waitFor(t, "the breaker to open", func() bool {
		_, err := caller.Do(t.Context(), []any{"PING"})
		return errors.Is(err, ErrBreakerOpen)
	})
	args := []any{"EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "1", "rl:{aaaaaaaaaaaaaaaaaaaaaa}:shop/x", "1"}
	ctx := t.Context()
	if got := testing.AllocsPerRun(1000, func() { _, _ = caller.Do(ctx, args) }); got != 0 {
		t.Errorf("%v allocations of a call while the breaker is open, want none", got)
	}
}

func BenchmarkCallWhileTheBreakerIsOpen(b *testing.B) {
	caller := NewCaller(openServers(b, Config{Addresses: []string{"127.0.0.1:1"}}), CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	defer caller.Close()
	args := []any{"EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "1", "rl:{aaaaaaaaaaaaaaaaaaaaaa}:shop/x", "1"}
	for state(caller) != BreakerOpen {
		_, _ = caller.Do(b.Context(), args)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = caller.Do(b.Context(), args)
	}
}

// Fault 3: SYN dropped.
func TestServerThatDoesNotEvenAcceptIsBounded(t *testing.T) {
	const connections = 8
	cfg := Config{Addresses: []string{unaccepting(t)}, MaxConnections: connections, DialTimeout: 200 * time.Millisecond}
	servers := openServers(t, cfg)
	caller := NewCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	defer caller.Close()
	load := startLoad(t, caller, increment)
	waitFor(t, "the breaker to open", func() bool { return load.refused.Load() > 1000 })
	goroutines := runtime.NumGoroutine()
	before := load.refused.Load()
	waitFor(t, "many more calls", func() bool { return load.refused.Load() > before+100_000 })
	if got := runtime.NumGoroutine(); got > goroutines+2*connections {
		t.Errorf("%d goroutines, %d before: they grow", got, goroutines)
	}
	if got := int(servers.Client().PoolStats().TotalConns); got > connections {
		t.Errorf("%d connections, want at most %d", got, connections)
	}
}

// unaccepting gives an address where connections are neither accepted nor refused.
func unaccepting(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for { // until there is no room
		connection, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = connection.Close() })
	}
}

// Fault 12.
func TestTooManyClientsIsAnOutageUntilThereIsRoom(t *testing.T) {
	server := redistest.Start(t, "--maxclients", "1")
	client := server.Client()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	caller := open(t, Config{MinBackoff: time.Millisecond}, server.Addr, bounds{base: 1, most: 1, queued: 10})
	for deadline := time.Now().Add(10 * time.Second); caller.Shards()[0].Opened == 0; {
		if _, err := caller.Do(t.Context(), []any{"INCR", "n"}); Classify(err) != NotExecuted {
			t.Errorf("%v of class %q, want %q", err, Classify(err), NotExecuted)
		}
		if time.Now().After(deadline) {
			t.Fatal("the breaker did not open")
		}
	}
	_ = client.Close()
	waitForSuccess(t, caller)
}

// Fault 18, with all connections of a growing load standing.
func TestCallsGoOnWhenTheirPrimaryIsDemotedBehindItsAddress(t *testing.T) {
	old, primary := redistest.Start(t), redistest.Start(t)
	proxy := redistest.StartProxy(t, old.Addr)
	caller := open(t, Config{}, proxy.Addr, defaultBounds)
	warm(t, caller)
	old.ReplicaOf(primary)
	proxy.Retarget(primary.Addr)
	for range 50 {
		if _, err := caller.Do(t.Context(), []any{"INCR", "n"}); err != nil {
			t.Error(err)
		}
	}
	if got := primary.Do("GET", "n"); got != "50" {
		t.Errorf("the new primary counted %v, want 50", got)
	}
}
