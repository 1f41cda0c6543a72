package policystore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// patience bounds the waiting for what must happen; it is long because the machine may be busy.
const patience = 20 * time.Second

// watching is a Watch that runs until the test ends, and what came out of it.
type watching struct {
	t    *testing.T
	sets chan *policy.Set
	errs chan error
	logs *logBuffer
	stop func()
}

func watch(t *testing.T, addr string, options policystore.WatchOptions) *watching {
	t.Helper()
	return watchServers(t, redisopstest.Open(t, redisops.Config{Addresses: []string{addr}, DialTimeout: time.Second}), options)
}

func watchServers(t *testing.T, servers *redisops.Servers, options policystore.WatchOptions) *watching {
	t.Helper()
	w := &watching{t: t, sets: make(chan *policy.Set, 100), errs: make(chan error, 10_000), logs: &logBuffer{}}
	options.MinBackoff, options.MaxBackoff = time.Millisecond, 20*time.Millisecond
	options.Logger = slog.New(slog.NewTextHandler(w.logs, nil))
	options.OnError = func(err error) { w.errs <- err }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- policystore.Watch(ctx, servers, options, func(set *policy.Set) { w.sets <- set })
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Watch = %v, want nil when its context ends", err)
			}
		case <-time.After(patience):
			t.Error("Watch did not end with its context")
		}
		_ = servers.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// wantSet waits for the next set.
func (w *watching) wantSet(want *policy.Set) time.Time {
	w.t.Helper()
	select {
	case got := <-w.sets:
		if got.Hash != want.Hash {
			w.t.Fatalf("got the set %s, want %s", got.Hash, want.Hash)
		}
		return time.Now()
	case <-time.After(patience):
		w.t.Fatalf("no set within %v, want %s; log: %s", patience, want.Hash, w.logs)
		return time.Time{}
	}
}

// wantError waits for a report that fulfils the condition.
func (w *watching) wantError(what string, is func(error) bool) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case err := <-w.errs:
			if is(err) {
				return
			}
		case <-deadline:
			w.t.Fatalf("no %s was reported within %v; log: %s", what, patience, w.logs)
		}
	}
}

// wantSubscribed waits until the server has the subscription.
func (w *watching) wantSubscribed(client redis.UniversalClient) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if client.PubSubNumSub(w.t.Context(), policystore.Channel).Val()[policystore.Channel] > 0 {
			return
		}
	}
	w.t.Fatalf("nobody subscribed within %v", patience)
}

func (w *watching) wantNoFurtherSet() {
	w.t.Helper()
	w.stop()
	select {
	case got := <-w.sets:
		w.t.Errorf("got a further set %s", got.Hash)
	default:
	}
}

func TestWatcherSeesEachPublication(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	w := watch(t, server.Addr, policystore.WatchOptions{Resync: time.Hour})
	w.wantSet(setOf(1, 1))

	var slowest time.Duration
	for n := int64(2); n <= 6; n++ {
		publish(t, servers, policystore.Publication{Set: setOf(1, n)})
		published := time.Now()
		slowest = max(slowest, w.wantSet(setOf(1, n)).Sub(published))
	}
	t.Logf("slowest change seen %v after Publish returned", slowest)
	w.wantNoFurtherSet()
}

func TestWatcherOfTheEmbeddedServerSeesEachPublication(t *testing.T) {
	server := miniredis.RunT(t)
	servers := newServers(t, server.Addr())
	w := watch(t, server.Addr(), policystore.WatchOptions{Resync: time.Hour})
	w.wantError("lack of policies", func(err error) bool { return errors.Is(err, policystore.ErrNoPolicies) })
	for n := int64(1); n <= 3; n++ {
		publish(t, servers, policystore.Publication{Set: setOf(1, n), Mode: library.ModeScripts})
		w.wantSet(setOf(1, n))
	}
}

func TestResyncFindsWhatWasNotAnnounced(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	w := watch(t, server.Addr, policystore.WatchOptions{Resync: 60 * time.Millisecond})
	w.wantSet(setOf(1, 1))
	if err := client.Set(t.Context(), policystore.PoliciesKey, setOf(1, 2).Marshal(), 0).Err(); err != nil {
		t.Fatal(err)
	}
	w.wantSet(setOf(1, 2))
	w.wantNoFurtherSet()
}

func TestLastGoodSetStaysWhileTheDocumentIsBad(t *testing.T) {
	good := setOf(1, 1)
	for name, tc := range map[string]struct {
		document  string
		wantError func(error) bool
	}{
		"garbage": {"}{", func(err error) bool { return strings.Contains(err.Error(), "policy set") }},
		"newer format": {fmt.Sprintf(`{"format":%d}`, policy.Format+1),
			func(err error) bool { return errors.Is(err, policy.ErrNewerFormat) }},
		"impossible window": {strings.Replace(string(good.Marshal()), `"windowMs":60000`, `"windowMs":1`, 1),
			func(err error) bool { return strings.Contains(err.Error(), "windowMs") }},
		"gone": {"", func(err error) bool { return errors.Is(err, policystore.ErrNoPolicies) }},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			servers := newServers(t, server.Addr)
			client := servers.Client()
			publish(t, servers, policystore.Publication{Set: good})
			w := watch(t, server.Addr, policystore.WatchOptions{Resync: 20 * time.Millisecond})
			w.wantSet(good)
			damage := client.Del(t.Context(), policystore.PoliciesKey).Err()
			if tc.document != "" {
				damage = client.Set(t.Context(), policystore.PoliciesKey, tc.document, 0).Err()
			}
			if damage != nil {
				t.Fatal(damage)
			}
			for range 3 {
				w.wantError("error", func(err error) bool { return err != nil && tc.wantError(err) })
			}
			if err := client.Set(t.Context(), policystore.PoliciesKey, setOf(1, 2).Marshal(), 0).Err(); err != nil {
				t.Fatal(err)
			}
			w.wantSet(setOf(1, 2))
			w.wantError("recovery", func(err error) bool { return err == nil })
			w.wantNoFurtherSet()
			if warnings, infos := w.logs.count("level=WARN"), w.logs.count("level=INFO"); warnings != 1 || infos != 1 {
				t.Errorf("%d warnings and %d recoveries were logged for several failures, want 1 and 1: %s", warnings, infos, w.logs)
			}
		})
	}
}

func TestWatcherSurvivesADeadServerAndPicksUpAfterItsRestart(t *testing.T) {
	server := redistest.Start(t)
	publish(t, newServers(t, server.Addr), policystore.Publication{Set: setOf(1, 1)})
	w := watch(t, server.Addr, policystore.WatchOptions{Resync: time.Hour})
	w.wantSet(setOf(1, 1))

	server.Kill()
	w.wantError("outage", func(err error) bool { return err != nil && redisops.Classify(err) == redisops.NotExecuted })
	server.Run()
	// It came back empty: the last good set stays until somebody publishes.
	w.wantError("lack of policies", func(err error) bool { return errors.Is(err, policystore.ErrNoPolicies) })
	publish(t, newServers(t, server.Addr), policystore.Publication{Set: setOf(1, 2)})
	w.wantSet(setOf(1, 2))
	w.wantNoFurtherSet()
}

func TestWatcherStartsBeforeItsServer(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	w := watch(t, server.Addr, policystore.WatchOptions{})
	w.wantError("outage", func(err error) bool { return redisops.Classify(err) == redisops.NotExecuted })
	server.Run()
	publish(t, newServers(t, server.Addr), policystore.Publication{Set: setOf(1, 1)})
	w.wantSet(setOf(1, 1))
}

// A connection that is cut may have missed an announcement.
func TestWatcherReadsAgainAfterAReconnect(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	proxy := redistest.StartProxy(t, server.Addr)
	w := watch(t, proxy.Addr, policystore.WatchOptions{Resync: time.Hour})
	w.wantSet(setOf(1, 1))
	for n := int64(2); n <= 4; n++ {
		if err := client.Set(t.Context(), policystore.PoliciesKey, setOf(1, n).Marshal(), 0).Err(); err != nil {
			t.Fatal(err)
		}
		proxy.Cut()
		w.wantSet(setOf(1, n))
	}
}

func TestWatcherNoticesAConnectionThatWentSilent(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	proxy := redistest.StartProxy(t, server.Addr)
	w := watch(t, proxy.Addr, policystore.WatchOptions{Resync: 50 * time.Millisecond})
	w.wantSet(setOf(1, 1))
	w.wantSubscribed(client)
	before := proxy.Accepted()
	proxy.SwallowReplies()
	w.wantError("silence", func(err error) bool { return err != nil && strings.Contains(err.Error(), "ping") })
	publish(t, servers, policystore.Publication{Set: setOf(1, 2)})
	w.wantSet(setOf(1, 2))
	if proxy.Accepted() <= before {
		t.Error("it did not connect again")
	}
}

func TestWatcherWithoutTheRightToSubscribeStillReads(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	admin := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "default", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	w := watch(t, server.Addr, policystore.WatchOptions{})
	w.wantSet(setOf(1, 1))
	w.wantError("refusal", func(err error) bool { return redisops.Classify(err) == redisops.Configuration })
	if err := admin.Set(t.Context(), policystore.PoliciesKey, setOf(1, 2).Marshal(), 0).Err(); err != nil {
		t.Fatal(err)
	}
	w.wantSet(setOf(1, 2))
}

func TestWatcherReadsAgainWhenAskedTo(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	refresh := make(chan struct{})
	w := watch(t, server.Addr, policystore.WatchOptions{Resync: time.Hour, Refresh: refresh})
	w.wantSet(setOf(1, 1))
	for n := int64(2); n <= 4; n++ {
		if err := client.Set(t.Context(), policystore.PoliciesKey, setOf(1, n).Marshal(), 0).Err(); err != nil {
			t.Fatal(err)
		}
		refresh <- struct{}{}
		w.wantSet(setOf(1, n))
	}
	refresh <- struct{}{}
	close(refresh)
	publish(t, servers, policystore.Publication{Set: setOf(1, 5)})
	w.wantSet(setOf(1, 5))
	w.wantNoFurtherSet()
}

func TestWatcherThatMayNotListenReadsWhenAskedTo(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	refresh := make(chan struct{})
	w := watch(t, server.Addr, policystore.WatchOptions{Refresh: refresh})
	w.wantSet(setOf(1, 1))
	server.Kill()
	w.wantError("outage", func(err error) bool { return err != nil })
	for range 3 {
		select {
		case refresh <- struct{}{}:
		case <-time.After(patience):
			t.Fatal("nobody receives from Refresh while the server is away")
		}
	}
}

// The same set is announced again when its document was repaired.
func TestRepairOfTheDocumentIsSeenAtOnce(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	refresh := make(chan struct{})
	w := watch(t, server.Addr, policystore.WatchOptions{Resync: time.Hour, Refresh: refresh})
	w.wantSet(setOf(1, 1))
	w.wantSubscribed(client)
	server.Do("SET", policystore.PoliciesKey, "{")
	refresh <- struct{}{}
	w.wantError("damage", func(err error) bool { return err != nil && strings.Contains(err.Error(), "policy set") })
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	w.wantError("recovery", func(err error) bool { return err == nil })
	w.wantNoFurtherSet()
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) count(s string) int { return strings.Count(b.String(), s) }
