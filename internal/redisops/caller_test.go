package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// patience bounds the waiting for what must happen; it is long because the machine may be busy.
const patience = 30 * time.Second

// open gives a Caller and its client for that address, closed with the test. Zero timeouts are patient ones.
func open(t *testing.T, cfg Config, addr string, b bounds) *Caller {
	t.Helper()
	cfg.Addresses = []string{addr}
	setDefault(&cfg.DialTimeout, patience)
	setDefault(&cfg.CommandTimeout, patience)
	servers := openServers(t, cfg)
	caller := newCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)}, b)
	t.Cleanup(func() {
		_ = servers.Close() // breaks what is still on the wire
		caller.Close()
	})
	return caller
}

// openServers opens the servers of that configuration; they are closed with the test.
func openServers(tb testing.TB, cfg Config) *Servers {
	tb.Helper()
	servers, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = servers.Close() })
	return servers
}

func TestConcurrentCallersEachGetTheirOwnReply(t *testing.T) {
	server := redistest.Start(t)
	server.Do("RPUSH", "list", "x")
	caller := open(t, Config{}, server.Addr, defaultBounds)
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			switch i % 5 {
			case 0: // an error in the middle of a pipeline is only its caller's
				if _, err := caller.Do(t.Context(), []any{"INCR", "list"}); Classify(err) != WrongType {
					t.Errorf("INCR of a list: %v", err)
				}
			case 1:
				if value, err := caller.Do(t.Context(), []any{"GET", "nothing"}); value != nil || err != nil {
					t.Errorf("GET of nothing = %v, %v; want nil, nil", value, err)
				}
			default:
				want := fmt.Sprint(i)
				if value, err := caller.Do(t.Context(), []any{"ECHO", []byte(want)}); err != nil || value != want {
					t.Errorf("ECHO %s = %v, %v", want, value, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCallersShareConnectionsAndBatches(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	proxy.Delay(20 * time.Millisecond)
	caller := open(t, Config{}, proxy.Addr, defaultBounds)
	warm(t, caller)
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if _, err := caller.Do(t.Context(), []any{"INCR", "n"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := server.Do("GET", "n"); got != "1000" {
		t.Errorf("counted %v, want 1000", got)
	}
	if got := proxy.Accepted(); got > mostBatches {
		t.Errorf("1000 callers opened %d connections, want at most %d", got, mostBatches)
	}
}

func TestAbandonedCallIsNotSent(t *testing.T) {
	server := redistest.Start(t)
	caller := open(t, Config{}, server.Addr, bounds{base: 1, most: 1, queued: 10})
	if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
		t.Fatal(err)
	}
	server.Pause()
	first := make(chan error, 1)
	go func() {
		_, err := caller.Do(context.Background(), []any{"INCR", "first"})
		first <- err
	}()
	waitFor(t, "the first call to be on the wire", func() bool { return caller.only.gate.away() == 1 })
	for name, tc := range map[string]struct {
		ctx       func() (context.Context, context.CancelFunc)
		wantCause error
	}{
		"deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 20*time.Millisecond)
		}, context.DeadlineExceeded},
		"cancelled while waiting": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled},
		"cancelled before": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		}, context.Canceled},
		"no time left": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), AnswerMargin/2)
		}, context.DeadlineExceeded},
	} {
		ctx, cancel := tc.ctx()
		_, err := caller.Do(ctx, []any{"INCR", "second"})
		cancel()
		if !errors.Is(err, ErrNotExecuted) || !errors.Is(err, tc.wantCause) {
			t.Errorf("%s: %v, want an ErrNotExecuted by %v", name, err, tc.wantCause)
		}
	}
	server.Resume()
	if err := <-first; err != nil {
		t.Errorf("the first call: %v", err)
	}
	if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
		t.Fatal(err)
	}
	if got := server.Do("EXISTS", "first", "second"); got != int64(1) {
		t.Errorf("%v of the two keys exist, want the first only", got)
	}
}

func TestTooManyWaitingCallsAreRefusedAtOnce(t *testing.T) {
	server := redistest.Start(t)
	caller := open(t, Config{}, server.Addr, bounds{base: 1, most: 1, queued: 3})
	if _, err := caller.Do(t.Context(), []any{"PING"}); err != nil {
		t.Fatal(err)
	}
	server.Pause()
	results := make(chan error, 4)
	send := func() {
		_, err := caller.Do(context.Background(), []any{"INCR", "n"})
		results <- err
	}
	go send()
	waitFor(t, "the first call to be on the wire", func() bool { return caller.only.gate.away() == 1 })
	for range 3 {
		go send()
	}
	waitFor(t, "the queue to be full", func() bool { return len(caller.only.queue) == 3 })
	if _, err := caller.Do(t.Context(), []any{"INCR", "n"}); !errors.Is(err, ErrOverloaded) || Classify(err) != NotExecuted {
		t.Errorf("error %v, want ErrOverloaded", err)
	}
	server.Resume()
	for range 4 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if got := server.Do("GET", "n"); got != "4" {
		t.Errorf("counted %v, want 4", got)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	server := redistest.Start(t)
	servers := openServers(t, Config{Addresses: []string{server.Addr}, CommandTimeout: patience})
	before := runtime.NumGoroutine()
	caller := NewCaller(servers, CallerOptions{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for {
				_, err := caller.Do(context.Background(), []any{"INCR", "n"})
				if errors.Is(err, ErrCallerClosed) {
					return
				}
				if err != nil {
					t.Errorf("error %v", err)
					return
				}
			}
		})
	}
	waitFor(t, "calls", func() bool { return server.Client().Exists(t.Context(), "n").Val() == 1 })
	caller.Close()
	caller.Close() // twice is no mistake
	wg.Wait()
	if _, err := caller.Do(t.Context(), []any{"PING"}); !errors.Is(err, ErrCallerClosed) || Classify(err) != NotExecuted {
		t.Errorf("after Close: %v, want ErrCallerClosed", err)
	}
	waitFor(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

func TestArgumentsThatCannotBeSentAreRefused(t *testing.T) {
	caller := open(t, Config{}, redistest.Start(t).Addr, defaultBounds)
	for name, args := range map[string][]any{
		"none": {}, "float": {"INCRBYFLOAT", "n", 0.5}, "nil": {"SET", "n", nil}, "struct": {"SET", "n", struct{}{}},
	} {
		if _, err := caller.Do(t.Context(), args); Classify(err) != NotExecuted {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func TestClientHonoursItsSettings(t *testing.T) {
	server := redistest.Start(t, "--user", "app", "on", ">pw", "~*", "+incr", "+select")
	client := openServers(t, Config{Addresses: []string{server.Addr}, Username: "app", Password: "pw", DB: 3}).Client()
	// Nothing but these two commands is permitted: the handshake needs no more.
	if err := client.Incr(t.Context(), "n").Err(); err != nil {
		t.Fatal(err)
	}
	if got := server.ClientWith(&redis.Options{DB: 3}).Get(t.Context(), "n").Val(); got != "1" {
		t.Errorf("database 3 holds %q, want 1", got)
	}
}

// waitFor fails the test when the condition does not come true.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("waited %v for %s", patience, what)
}

// away is how many batches are on the wire.
func (g *gate) away() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.onWire
}
