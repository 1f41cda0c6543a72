package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// recorder counts what goes through a Caller.
type recorder struct {
	limit.Caller
	mu       sync.Mutex
	commands []string
}

func (r *recorder) Do(ctx context.Context, args []any) (any, error) {
	r.mu.Lock()
	r.commands = append(r.commands, fmt.Sprint(args[0]))
	r.mu.Unlock()
	return r.Caller.Do(ctx, args)
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	commands := strings.Join(r.commands, " ")
	r.commands = nil
	return commands
}

// Fault 15.
func TestLostLuaIsLoadedInTheSameCallAndCountsOnce(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, false, one("shop/api", fixedWindow(100, 744*time.Hour)), one("shop/log", slidingLog(100, time.Hour)))
		calls := &recorder{Caller: direct{client: w.client}}
		w.limiter = limit.New(calls, w.client, mode)
		normal, twice := "fcall", "fcall fcall"
		if mode == library.ModeScripts {
			normal, twice = "evalsha", "evalsha eval"
		}
		api, log := w.charge("shop/api", 1), w.charge("shop/log", 1)
		lose := map[string]func(){
			"flush":   func() { w.do("FUNCTION", "FLUSH"); w.do("SCRIPT", "FLUSH") },
			"restart": func() { w.do("FUNCTION", "FLUSH"); w.do("SCRIPT", "FLUSH"); w.do("CLIENT", "KILL", "TYPE", "normal") },
		}
		left := int64(100)
		for name, lose := range lose {
			for _, charges := range [][]limit.Charge{{api}, {api, log}} {
				lose()
				// A connection that was killed is found broken by the first command on it.
				_ = w.client.Ping(context.Background()).Err()
				calls.take()
				left--
				if rows := w.decide(charges...); rows[0].Remaining != left {
					t.Errorf("%s: %d left, want %d", name, rows[0].Remaining, left)
				}
				if got := calls.take(); got != twice {
					t.Errorf("%s: sent %s, want %s", name, got, twice)
				}
				left--
				if rows := w.decide(charges...); rows[0].Remaining != left {
					t.Errorf("%s, then: %d left, want %d", name, rows[0].Remaining, left)
				}
				if got := calls.take(); got != normal {
					t.Errorf("%s, then: sent %s, want %s", name, got, normal)
				}
			}
			lose()
			_ = w.client.Ping(context.Background()).Err()
			if row := w.peek(api); row.Remaining != left-1 {
				t.Errorf("%s: a peek has %d left, want %d", name, row.Remaining, left-1)
			}
		}
	})
}

// Fault 15, for what is not a decision.
func TestLostLuaCostsNoOperationItsAnswer(t *testing.T) {
	server := redistest.Start(t)
	for do, want := range map[string]string{
		"charge 1 #b": "allow 2/9 reset 0s", "peek 1": "allow 2/9 reset 0s", "refund 2": "allow 5/9 reset 0s", "refund 6 #a": "allow 9/9 reset 0s",
		"credit 5": "allow 8/9 reset 0s", "credit 5 #a": "allow 8/9 reset 0s", "reset": "allow 9/9 reset 0s",
		"acquire #b": "allow 0/2 reset 1h0m0s", "release #a": "allow 2/2 reset 0s",
	} {
		t.Run(do, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, false)
				p, before := one("shop/api", balance(9)), "charge 6 #a"
				if strings.Contains(want, "/2") && !strings.Contains(want, "/9") {
					p, before = one("shop/api", concurrency(2, time.Hour)), "acquire #a"
				}
				w.publish(p)
				w.act(before)
				calls := &recorder{Caller: direct{client: w.client}}
				w.limiter = limit.New(calls, w.client, mode)
				w.do("FUNCTION", "FLUSH")
				w.do("SCRIPT", "FLUSH")
				if got := w.act(do); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				wantSent := "fcall fcall"
				if mode == library.ModeScripts {
					wantSent = "evalsha eval"
				} else if do == "peek 1" {
					wantSent = "fcall_ro fcall_ro"
				}
				if got := calls.take(); got != wantSent {
					t.Errorf("sent %s, want %s", got, wantSent)
				}
			})
		})
	}
}

func TestManyWhoMeetAServerWithoutTheLibraryLoadItOnce(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(1000, 744*time.Hour)))
	w.do("FUNCTION", "FLUSH")
	w.do("CONFIG", "RESETSTAT")
	const callers = 50
	var running sync.WaitGroup
	var allowed atomic.Int64
	begin := make(chan struct{})
	for range callers {
		running.Go(func() {
			<-begin
			if rows, err := w.limiter.Decide(context.Background(), []limit.Charge{w.charge("shop/api", 1)}); err != nil {
				t.Error(err)
			} else if rows[0].Allowed {
				allowed.Add(1)
			}
		})
	}
	close(begin)
	running.Wait()
	if allowed.Load() != callers {
		t.Errorf("%d allowed, want %d", allowed.Load(), callers)
	}
	if row := w.peek(w.charge("shop/api", 0)); row.Remaining != 1000-callers {
		t.Errorf("%d left, want %d", row.Remaining, 1000-callers)
	}
}

func TestTheLibraryThatIsThereIsNeverReplaced(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(1000, 744*time.Hour)))
	// A document that is older than what the server runs.
	stale := library.NewDocument("#!lua name=penstock\nredis.register_function('stale', function() return 1 end)").Marshal()
	w.do("SET", library.DocumentKey, stale)
	if err := library.LoadPublished(context.Background(), w.client, w.client); err != nil {
		t.Fatal(err)
	}
	if rows := w.decide(w.charge("shop/api", 1)); !rows[0].Allowed {
		t.Errorf("got %+v", rows[0])
	}
}

func TestAServerWithoutLibraryAndDocumentIsAnError(t *testing.T) {
	tests := map[string]struct {
		document any
		want     string
		wantIs   error
	}{
		"nothing":                 {nil, "no function library is published", library.ErrNoDocument},
		"not JSON":                {"{", "library document", nil},
		"not its hash":            {`{"hash":"00","text":"#!lua name=penstock\n"}`, "does not fit", nil},
		"does not load":           {library.NewDocument("#!lua name=penstock\nx").Marshal(), "loading the function library", nil},
		"loads, but has not this": {library.NewDocument("#!lua name=penstock\nredis.register_function('other', function() return 1 end)").Marshal(), "Function not found", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(1000, time.Hour)))
			w.do("FUNCTION", "FLUSH")
			w.do("DEL", library.DocumentKey)
			if test.document != nil {
				w.do("SET", library.DocumentKey, test.document)
			}
			_, err := w.limiter.Decide(context.Background(), []limit.Charge{w.charge("shop/api", 1)})
			if err == nil || !strings.Contains(err.Error(), test.want) || test.wantIs != nil && !errors.Is(err, test.wantIs) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if errors.Is(err, redisops.ErrUnknownOutcome) {
				t.Errorf("%v counts as an unknown outcome; nothing ran", err)
			}
		})
	}
}

func TestWhoStopsWaitingForTheLibraryDoesNotStopItsLoading(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(1000, time.Hour)))
	w.do("FUNCTION", "FLUSH")
	ctx, cancel := context.WithCancel(context.Background())
	// The caller goes as soon as it was told that there is no function.
	limiter := limit.New(cancelling{direct{client: w.client}, cancel}, w.client, library.ModeFunctions)
	_, err := limiter.Decide(ctx, []limit.Charge{w.charge("shop/api", 1)})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, found, err := library.Loaded(context.Background(), w.client)
		if err != nil {
			t.Fatal(err)
		}
		if found {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the library was not loaded")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

type cancelling struct {
	direct
	cancel context.CancelFunc
}

func (c cancelling) Do(ctx context.Context, args []any) (any, error) {
	reply, err := c.direct.Do(context.WithoutCancel(ctx), args)
	c.cancel()
	return reply, err
}

func TestPermissionsThatKeepTheLibraryOutAreTold(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(1000, time.Hour)))
	w.do("FUNCTION", "FLUSH")
	w.do("ACL", "SETUSER", "default", "-function|load")
	_, err := w.limiter.Decide(context.Background(), []limit.Charge{w.charge("shop/api", 1)})
	if redisops.Classify(err) != redisops.Configuration {
		t.Errorf("got %v of class %v, want %v", err, redisops.Classify(err), redisops.Configuration)
	}
}

// The set that a Limiter decides by may change at any time, in script mode too.
func TestScriptsDecideByTheChargesPolicy(t *testing.T) {
	w := start(t, library.ModeScripts, false)
	for _, requests := range []int64{10, 20, 10} {
		p := one("shop/api", policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: requests, WindowMs: 60_000}).Sealed()
		rows := w.decide(limit.Charge{Policy: &p, Key: redisops.CounterKey("shop/api", nil), Cost: 0})
		if rows[0].Limit != requests {
			t.Errorf("limit %d, want %d", rows[0].Limit, requests)
		}
	}
}
