package redisops

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestClusterDocumentsGoToTheNodeOfTheirKey(t *testing.T) {
	// A user without COMMAND: nothing may depend on asking the server where the keys stand.
	cluster := redistest.StartCluster(t, 3, 0, "--user", "app", "on", ">pw", "~*", "&*", "-@all", "+get", "+set", "+eval", "+fcall",
		"+publish", "+subscribe", "+ping", "+time", "+cluster|slots", "+multi", "+exec", "+watch", "+unwatch", "+incr")
	servers := openServers(t, Config{
		Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), Username: "app", Password: "pw", DialTimeout: patience,
	})
	client := servers.Client()
	for i := range 50 {
		key := fmt.Sprint("{", i, "}k")
		if err := client.Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatalf("SET %s: %v", key, err)
		}
		if got, err := client.Do(t.Context(), "get", key).Text(); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("raw GET %s = %q, %v", key, got, err)
		}
		if got, err := client.Do(t.Context(), "EVAL", "return redis.call('GET', KEYS[1])", 1, key).Text(); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("raw EVAL on %s = %q, %v", key, got, err)
		}
		if err := client.Do(t.Context(), "EVAL", "return 1", 0).Err(); err != nil {
			t.Fatalf("EVAL without keys: %v", err)
		}
		if err := client.Publish(t.Context(), "channel", "x").Err(); err != nil {
			t.Fatalf("PUBLISH: %v", err)
		}
		if err := client.Time(t.Context()).Err(); err != nil {
			t.Fatalf("TIME: %v", err)
		}
		err := client.Watch(t.Context(), func(tx *redis.Tx) error {
			_, err := tx.TxPipelined(t.Context(), func(pipe redis.Pipeliner) error {
				return pipe.Incr(t.Context(), key).Err()
			})
			return err
		}, key)
		if err != nil {
			t.Fatalf("WATCH %s: %v", key, err)
		}
	}
	pipe := client.Pipeline()
	for i := range 50 {
		pipe.Get(t.Context(), fmt.Sprint("{", i, "}k"))
	}
	commands, err := pipe.Exec(t.Context())
	for i, command := range commands {
		if got := command.(*redis.StringCmd).Val(); err != nil || got != fmt.Sprint(i+1) {
			t.Fatalf("GET %d in a pipeline over all nodes = %q, %v", i, got, err)
		}
	}
}

func TestClusterTellsItsNodesAndFollowsChanges(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	servers := openServers(t, Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()[:1], DialTimeout: patience})
	wantPrimaries := func(want ...*redistest.Server) {
		t.Helper()
		list := make([]string, len(want))
		for i, server := range want {
			list[i] = server.Addr
		}
		slices.Sort(list)
		var got []Node
		waitFor(t, "the primaries", func() bool {
			var err error
			got, err = servers.Primaries(t.Context())
			return err == nil && slices.Equal(addresses(got), list)
		})
		for _, node := range got {
			if !node.Primary || node.Client.Ping(t.Context()).Err() != nil {
				t.Errorf("node %s: primary %v", node.Address, node.Primary)
			}
		}
	}
	primaries := slices.Clone(cluster.Nodes[:3])
	wantPrimaries(primaries...)
	waitFor(t, "3 primaries and 3 replicas", func() bool {
		nodes, err := servers.Nodes(t.Context())
		return err == nil && len(nodes) == 6 && nodes[2].Primary && !nodes[3].Primary
	})
	// A new primary with a slot of its own.
	added := cluster.AddNode()
	wantPrimaries(primaries...)
	cluster.MoveSlot(0, added)
	wantPrimaries(append(primaries, added)...)
	// A failover.
	replica := cluster.Replicas(primaries[1])[0]
	cluster.Failover(replica)
	wantPrimaries(primaries[0], replica, primaries[2], added)
}

func TestClusterIsReachedThroughWhicheverSeedIsThere(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	dead := redistest.Start(t)
	dead.Kill()
	servers := openServers(t, Config{
		Topology: policy.TopologyCluster, Addresses: []string{dead.Addr, cluster.Nodes[0].Addr}, DialTimeout: patience,
	})
	for range 10 {
		if nodes, err := servers.Primaries(t.Context()); err != nil || len(nodes) != 3 {
			t.Fatalf("Primaries = %v, %v", nodes, err)
		}
		if err := servers.Client().Set(t.Context(), "k", 1, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClusterDocumentsFollowAResharding(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := openServers(t, Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), DialTimeout: patience})
	client := servers.Client()
	const key = "{moving}"
	slot := Slot(key)
	if slot != cluster.Slot(key) {
		t.Fatalf("Slot = %d, want %d", slot, cluster.Slot(key))
	}
	if err := client.Set(t.Context(), key, 0, 0).Err(); err != nil {
		t.Fatal(err)
	}
	from := cluster.Owner(slot)
	to := cluster.Nodes[(slices.Index(cluster.Nodes, from)+1)%3]
	count := func(want int64) {
		t.Helper()
		if got, err := client.Incr(t.Context(), key).Result(); err != nil || got != want {
			t.Fatalf("INCR = %d, %v; want %d", got, err, want)
		}
	}
	count(1)
	cluster.StartMigration(slot, from, to)
	count(2)
	cluster.MigrateKeys(slot, from, to, 10)
	count(3) // by ASK
	pipe := client.Pipeline()
	piped := pipe.Incr(t.Context(), key)
	if _, err := pipe.Exec(t.Context()); err != nil || piped.Val() != 4 {
		t.Fatalf("INCR in a pipeline = %d, %v; want 4", piped.Val(), err)
	}
	cluster.FinishMigration(slot, to)
	count(5) // by MOVED
	count(6)
}

func TestClusterSendsNothingAgainWhoseReplyWasLost(t *testing.T) {
	server := redistest.StartCluster(t, 3, 0).Nodes[0]
	proxy := redistest.StartProxy(t, server.Addr)
	// The nodes know themselves by their own addresses; the announced one leads through the proxy.
	host, port := splitAddress(t, proxy.Addr)
	server.Do("CONFIG", "SET", "cluster-announce-ip", host)
	server.Do("CONFIG", "SET", "cluster-announce-port", port)
	servers := openServers(t, Config{Topology: policy.TopologyCluster, Addresses: []string{proxy.Addr}, DialTimeout: 200 * time.Millisecond})
	client := servers.Client()
	key := ""
	for i := 0; key == ""; i++ {
		if candidate := fmt.Sprint("n", i); Slot(candidate) < 5000 {
			key = candidate
		}
	}
	waitFor(t, "the way through the proxy", func() bool {
		nodes, err := servers.Primaries(t.Context())
		return err == nil && slices.Contains(addresses(nodes), proxy.Addr) && client.Set(t.Context(), key, 0, 0).Err() == nil
	})
	for name, incr := range map[string]func() error{
		"alone": func() error { return client.Incr(t.Context(), key).Err() },
		"in a pipeline": func() error {
			_, err := client.Pipelined(t.Context(), func(pipe redis.Pipeliner) error { return pipe.Incr(t.Context(), key).Err() })
			return err
		},
		"in a transaction": func() error {
			_, err := client.TxPipelined(t.Context(), func(pipe redis.Pipeliner) error { return pipe.Incr(t.Context(), key).Err() })
			return err
		},
	} {
		server.Do("SET", key, 0)
		waitFor(t, "a connection", func() bool { return client.Get(t.Context(), key).Err() == nil })
		proxy.SwallowReplies()
		if err := incr(); Classify(err) != UnknownOutcome {
			t.Errorf("%s: %v of class %v, want %v", name, err, Classify(err), UnknownOutcome)
		}
		if got := server.Do("GET", key); got != "1" {
			t.Errorf("%s: counted %v, want 1", name, got)
		}
		proxy.Cut()
	}
}

func splitAddress(t *testing.T, address string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}
