package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// count is a command as decisions are, of keys in one slot: it adds 1 to each, and gives the first.
func count(keys ...string) []any {
	const script = `for _, key in ipairs(KEYS) do redis.call('EXISTS', key) end
for _, key in ipairs(KEYS) do redis.call('INCR', key) end
return redis.call('GET', KEYS[1])`
	args := []any{"EVAL", script, len(keys)}
	for _, key := range keys {
		args = append(args, key)
	}
	return args
}

// openCluster gives a Caller for a cluster, closed with the test. Zero timeouts are patient ones.
func openCluster(t *testing.T, cluster *redistest.Cluster, cfg Config) *Caller {
	t.Helper()
	cfg.Topology, cfg.Addresses = policy.TopologyCluster, cluster.Addresses()
	setDefault(&cfg.DialTimeout, patience)
	setDefault(&cfg.CommandTimeout, patience)
	servers := openServers(t, cfg)
	caller := NewCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		_ = servers.Close() // breaks what is still on the wire
		caller.Close()
	})
	return caller
}

// keyOf gives a key that this node serves.
func keyOf(cluster *redistest.Cluster, node *redistest.Server, n int) string {
	for i := n * 1000; ; i++ {
		if key := fmt.Sprintf("{%d}", i); cluster.Primary(key) == node {
			return key
		}
	}
}

func TestCallsOfAClusterGoToTheServersOfTheirKeys(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	caller := openCluster(t, cluster, Config{})
	warm(t, caller)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			if value, err := caller.Do(t.Context(), count(fmt.Sprint("k", i))); err != nil || value != "1" {
				t.Errorf("key %d: %v, %v", i, value, err)
			}
		})
	}
	wg.Wait()
	total := 0
	for _, node := range cluster.Nodes {
		total += int(node.Do("DBSIZE").(int64))
	}
	if total != 300 {
		t.Errorf("%d keys in all, want 300", total)
	}
	var addresses []string
	for _, shard := range caller.Shards() {
		addresses = append(addresses, shard.Address)
		if shard.Breaker != BreakerClosed || shard.Opened != 0 {
			t.Errorf("shard %+v, want it closed", shard)
		}
	}
	want := slices.Sorted(slices.Values(cluster.Addresses()))
	if !slices.Equal(addresses, want) || !caller.Slotted() {
		t.Errorf("shards %q (slotted: %v), want %q", addresses, caller.Slotted(), want)
	}
	client, err := caller.Primary(t.Context(), "k7")
	if err != nil || client.Options().Addr != cluster.Primary("k7").Addr {
		t.Errorf("primary of k7: %v, %v; want %s", client, err, cluster.Primary("k7").Addr)
	}
}

func TestCommandWithoutAKeyIsRefusedInACluster(t *testing.T) {
	caller := openCluster(t, redistest.StartCluster(t, 1, 0), Config{})
	for _, args := range [][]any{
		{"PING"}, {"INCR", "n"}, {"EVAL", "return 1", 0}, {"EVAL", "return 1", "0", "x"}, {"EVAL", "return 1", []byte("1"), "x"},
	} {
		if _, err := caller.Do(t.Context(), args); Classify(err) != NotExecuted {
			t.Errorf("%v: %v, want it refused", args, err)
		}
	}
	for _, n := range []any{1, int64(1), "1"} {
		if _, err := caller.Do(t.Context(), []any{"EVAL", "return 1", n, []byte("x")}); err != nil && !errors.Is(err, ErrNotExecuted) {
			t.Errorf("%T keys: %v", n, err)
		}
	}
}

func TestUnknownClusterIsAnsweredAtOnceWithTheReason(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  func(t *testing.T) Config
		want Class
	}{
		"nobody listens": {func(*testing.T) Config { return Config{Addresses: []string{"127.0.0.1:1"}} }, NotExecuted},
		"wrong password": {func(t *testing.T) Config {
			return Config{Addresses: []string{redistest.Start(t, "--requirepass", "secret").Addr}, Password: "guess"}
		}, Configuration},
		"no cluster": {func(t *testing.T) Config { return Config{Addresses: []string{redistest.Start(t).Addr}} }, Configuration},
		"silent":     {func(t *testing.T) Config { return Config{Addresses: []string{unaccepting(t)}} }, NotExecuted},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := tc.cfg(t)
			cfg.Topology = policy.TopologyCluster
			cfg.DialTimeout = 500 * time.Millisecond
			caller := NewCaller(openServers(t, cfg), CallerOptions{Logger: slog.New(slog.DiscardHandler)})
			defer caller.Close()
			if _, err := caller.Do(t.Context(), count("k")); !errors.Is(err, ErrNotExecuted) {
				t.Errorf("before anything is known: %v, want %v", err, ErrNotExecuted)
			}
			waitFor(t, "the reason", func() bool {
				start := time.Now()
				_, err := caller.Do(t.Context(), count("k"))
				if took := time.Since(start); took > cfg.DialTimeout/2 {
					t.Errorf("a call took %v", took)
				}
				return err != nil && Classify(err) == tc.want
			})
			if _, err := caller.Primary(t.Context(), "k"); !errors.Is(err, ErrNotExecuted) {
				t.Errorf("primary: %v, want %v", err, ErrNotExecuted)
			}
			if got := caller.Shards(); len(got) != 0 {
				t.Errorf("shards %v of a cluster that is not known", got)
			}
		})
	}
}

// Fault 19: a call in each state of a slot that moves, to a node that is known from its other slots and to an empty one.
func TestCallsFollowASlotThatMoves(t *testing.T) {
	for name, added := range map[string]bool{"to a primary": false, "to an empty node": true} {
		t.Run(name, func(t *testing.T) {
			cluster := redistest.StartCluster(t, 2, 0)
			from, to := cluster.Nodes[0], cluster.Nodes[1]
			caller := openCluster(t, cluster, Config{})
			warm(t, caller)
			if added {
				to = cluster.AddNode()
			}
			tag := keyOf(cluster, from, 1)
			slot := cluster.Slot(tag)
			counted := map[string]int{}
			call := func(when string, want Class, keys ...string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				value, err := caller.Do(ctx, count(keys...))
				if Classify(err) != want {
					t.Errorf("%s: %v, %v of class %q; want %q", when, value, err, Classify(err), want)
				}
				for _, key := range keys {
					if want == None {
						counted[key]++
					}
				}
			}
			stays, moves, fresh := tag+"stays", tag+"moves", tag+"new"
			call("before", None, stays, moves)
			cluster.StartMigration(slot, from, to)
			call("a key that has not moved", None, stays)
			call("a key that is not there", None, fresh)
			for range 3 {
				call("the key that came about at the other end", None, fresh)
			}
			// One of two has moved: neither end has both.
			host, port, _ := strings.Cut(to.Addr, ":")
			from.Do("MIGRATE", host, port, moves, 0, patience.Milliseconds())
			call("two keys apart", NotExecuted, stays, moves)
			call("the key that has moved", None, moves)
			for cluster.MigrateKeys(slot, from, to, 100) > 0 {
				call("while keys move", None, stays)
			}
			call("all have moved", None, stays, moves)
			cluster.FinishMigration(slot, to)
			call("the slot has moved", None, stays, moves, fresh)
			call("once more", None, stays, moves, fresh)
			for key, want := range counted {
				got, err := caller.Do(t.Context(), []any{"EVAL", "return redis.call('GET', KEYS[1])", 1, key})
				if err != nil || got != strconv.Itoa(want) {
					t.Errorf("%s was counted %v times (%v), want %d", key, got, err, want)
				}
			}
		})
	}
}

// A node that takes its first slot over has no library yet, and the primary of the slot does have it.
func TestPrimaryIsTheNodeThatLacksTheLibraryWhileASlotMoves(t *testing.T) {
	for name, added := range map[string]bool{"a primary": false, "an empty node": true} {
		t.Run(name, func(t *testing.T) {
			cluster := redistest.StartCluster(t, 2, 0)
			from, to := cluster.Nodes[0], cluster.Nodes[1]
			caller := openCluster(t, cluster, Config{})
			warm(t, caller)
			if added {
				to = cluster.AddNode()
			}
			const function = "#!lua name=tried\nredis.register_function('tried', function(keys) return redis.call('INCR', keys[1]) end)"
			from.Do("FUNCTION", "LOAD", function)
			key := keyOf(cluster, from, 1)
			cluster.StartMigration(cluster.Slot(key), from, to)
			if _, err := caller.Do(t.Context(), []any{"FCALL", "tried", 1, key}); Classify(err) != NoFunction {
				t.Fatalf("%v of class %q, want %q", err, Classify(err), NoFunction)
			}
			client, err := caller.Primary(t.Context(), key)
			if err != nil || client.Options().Addr != to.Addr {
				t.Fatalf("primary %v, %v; want %s", client, err, to.Addr)
			}
			if err := client.FunctionLoad(t.Context(), function).Err(); err != nil {
				t.Fatal(err)
			}
			if value, err := caller.Do(t.Context(), []any{"FCALL", "tried", 1, key}); err != nil || value != int64(1) {
				t.Errorf("after the loading: %v, %v", value, err)
			}
		})
	}
}

// Fault 16, behind a redirection.
func TestRedirectedCallWhoseReplyIsLostIsCountedOnce(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	from, to := cluster.Nodes[0], cluster.Nodes[1]
	proxy := redistest.StartProxy(t, to.Addr)
	servers := openServers(t, Config{
		Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), CommandTimeout: patience, DialTimeout: 2 * time.Second,
	})
	through(servers, to.Addr, proxy.Addr)
	// One connection may be taken by the question where the slots are now.
	caller := newCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)}, bounds{base: 1, most: 4, queued: 100, warm: 4})
	defer caller.Close()
	warm(t, caller)
	key := keyOf(cluster, from, 1)
	for _, key := range []string{key, keyOf(cluster, to, 2)} {
		if _, err := caller.Do(t.Context(), count(key)); err != nil {
			t.Fatal(err)
		}
	}
	cluster.MoveSlot(cluster.Slot(key), to)
	proxy.SwallowReplies()
	if _, err := caller.Do(t.Context(), count(key)); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("error %v, want %v", err, ErrUnknownOutcome)
	}
	if got := to.Do("GET", key); got != "2" {
		t.Errorf("counted %v times, want twice: once before and once now", got)
	}
}

func TestReshardingUnderLoadLosesAndDoublesNothing(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	caller := openCluster(t, cluster, Config{})
	warm(t, caller)
	from, to := cluster.Nodes[0], cluster.Nodes[1]
	tag := keyOf(cluster, from, 1)
	slot := cluster.Slot(tag)
	load := startLoad(t, caller, func(n int) []any { return count(fmt.Sprint(tag, n%50)) })
	waitFor(t, "calls", func() bool { return load.served.Load() > 1000 })
	for range 4 {
		cluster.MoveSlot(slot, to)
		from, to = to, from
		served := load.served.Load()
		waitFor(t, "more calls", func() bool { return load.served.Load() > served+500 })
	}
	load.stop()
	total := 0
	for n := range 50 {
		value, err := caller.Do(t.Context(), []any{"EVAL", "return tonumber(redis.call('GET', KEYS[1]) or 0)", 1, fmt.Sprint(tag, n)})
		if err != nil {
			t.Fatal(err)
		}
		total += int(value.(int64))
	}
	if total != int(load.served.Load()) {
		t.Errorf("%d counted of %d that were served (%d failed)", total, load.served.Load(), load.failed.Load())
	}
}

// Fault 21.
func TestOnlyTheKeysOfADeadPrimaryFailAndItsReplicaTakesOver(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	caller := openCluster(t, cluster, Config{CommandTimeout: 200 * time.Millisecond, DialTimeout: time.Second})
	warm(t, caller)
	dead := cluster.Nodes[0]
	ofDead := keyOf(cluster, dead, 1)
	var others []string
	for _, node := range cluster.Nodes[1:3] {
		others = append(others, keyOf(cluster, node, 2))
	}
	slot := cluster.Slot(ofDead)
	for _, key := range append(others, ofDead) {
		if _, err := caller.Do(t.Context(), count(key)); err != nil {
			t.Fatal(err)
		}
	}
	onDead := startLoad(t, caller, func(int) []any { return count(ofDead) })
	dead.Kill()
	waitFor(t, "its breaker to open", func() bool { return onDead.refused.Load() > 100 })
	for range 200 {
		for _, key := range others {
			if _, err := caller.Do(t.Context(), count(key)); err != nil {
				t.Errorf("a key of another primary while one is dead: %v", err)
			}
		}
	}
	for _, shard := range caller.Shards() {
		if wantOpened := shard.Address == dead.Addr; (shard.Opened > 0) != wantOpened {
			t.Errorf("shard %+v, want the breaker of the dead one alone to open", shard)
		}
	}
	promoted := cluster.WaitFailover(slot, dead)
	start, served := time.Now(), onDead.served.Load()
	waitFor(t, "the replica to be used", func() bool { return onDead.served.Load() > served+100 })
	t.Logf("normal %v after the promotion", time.Since(start))
	onDead.stop()
	waitFor(t, "the shard of the dead primary to be gone", func() bool {
		var addresses []string
		for _, shard := range caller.Shards() {
			addresses = append(addresses, shard.Address)
		}
		return slices.Contains(addresses, promoted.Addr) && !slices.Contains(addresses, dead.Addr)
	})
}

// A primary that answers nobody, and says so to nobody, must not take the places of calls for others.
func TestSilentPrimaryDoesNotDelayCallsForOthers(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	caller := openCluster(t, cluster, Config{CommandTimeout: 500 * time.Millisecond, DialTimeout: patience})
	warm(t, caller)
	silent := cluster.Nodes[0]
	key, other := keyOf(cluster, silent, 1), keyOf(cluster, cluster.Nodes[1], 2)
	onSilent := startLoad(t, caller, func(int) []any { return count(key) })
	waitFor(t, "calls", func() bool { return onSilent.served.Load() > 100 })
	silent.Pause()
	waitFor(t, "its breaker to open", func() bool { return onSilent.refused.Load() > 100 })
	for range 300 {
		if _, err := caller.Do(t.Context(), count(other)); err != nil {
			t.Errorf("a key of another primary while one is silent: %v", err)
		}
	}
	silent.Resume()
	served := onSilent.served.Load()
	waitFor(t, "its calls to be served again", func() bool { return onSilent.served.Load() > served+100 })
}

func TestPlannedFailoverOfAClusterIsFollowed(t *testing.T) {
	cluster := redistest.StartCluster(t, 1, 1)
	caller := openCluster(t, cluster, Config{})
	warm(t, caller)
	if _, err := caller.Do(t.Context(), count("k")); err != nil {
		t.Fatal(err)
	}
	cluster.Failover(cluster.Nodes[1])
	for range 20 {
		if _, err := caller.Do(t.Context(), count("k")); err != nil {
			t.Errorf("after the failover: %v", err)
		}
	}
	if got := cluster.Nodes[1].Do("GET", "k"); got != "21" {
		t.Errorf("the new primary counted %v, want 21", got)
	}
}

func TestFailoverBySentinelsIsFollowed(t *testing.T) {
	sentinel := redistest.StartSentinel(t, 2, redistest.SentinelOptions{})
	servers := openServers(t, Config{
		Topology: policy.TopologySentinel, Addresses: sentinel.Addresses(), MasterName: sentinel.MasterName,
	})
	caller := NewCaller(servers, CallerOptions{Logger: slog.New(slog.DiscardHandler)})
	defer caller.Close()
	warm(t, caller)
	load := startLoad(t, caller, increment)
	waitFor(t, "calls", func() bool { return load.served.Load() > 100 })
	old := sentinel.Primary()
	old.Kill()
	sentinel.WaitFailover(old)
	start, served := time.Now(), load.served.Load()
	waitFor(t, "calls to be served again", func() bool { return load.served.Load() > served+1000 })
	t.Logf("normal %v after the promotion; the longest answer took %v", time.Since(start), time.Duration(load.longest.Load()))
}

func TestCloseEndsEverythingOfACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	caller := openCluster(t, cluster, Config{})
	warm(t, caller)
	load := startLoad(t, caller, func(n int) []any { return count(fmt.Sprint("k", n)) })
	waitFor(t, "calls", func() bool { return load.served.Load() > 100 })
	caller.Close()
	caller.Close() // twice is no mistake
	load.stop()
	if _, err := caller.Do(t.Context(), count("k")); !errors.Is(err, ErrCallerClosed) {
		t.Errorf("after Close: %v, want %v", err, ErrCallerClosed)
	}
}

func TestAddressesOfRedirectionsAreWrittenAsThoseOfNodes(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:6379": "10.0.0.1:6379", "redis-1.example:6379": "redis-1.example:6379", ":6380": "10.9.9.9:6380",
		"fd00::1:6379": "[fd00::1]:6379", "[fd00::1]:6379": "[fd00::1]:6379", "nonsense": "nonsense",
	} {
		if got := nodeAddress(address, "10.9.9.9:6379"); got != want {
			t.Errorf("%q became %q, want %q", address, got, want)
		}
	}
}

func TestRoutingAllocatesNothing(t *testing.T) {
	caller := openCluster(t, redistest.StartCluster(t, 2, 0), Config{})
	warm(t, caller)
	args := count("rl:{aaaaaaaaaaaaaaaaaaaaaa}:shop/x")
	got := testing.AllocsPerRun(1000, func() {
		key, _ := firstKey(args)
		if _, err := caller.router.route(key); err != nil {
			t.Error(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func BenchmarkRoute(b *testing.B) {
	cluster := redistest.StartCluster(b, 3, 0)
	servers := openServers(b, Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()})
	caller := NewCaller(servers, CallerOptions{})
	defer caller.Close()
	if err := caller.Warm(b.Context()); err != nil {
		b.Fatal(err)
	}
	args := count("rl:{aaaaaaaaaaaaaaaaaaaaaa}:shop/x")
	b.ReportAllocs()
	for b.Loop() {
		key, _ := firstKey(args)
		if _, err := caller.router.route(key); err != nil {
			b.Fatal(err)
		}
	}
}
