package redistest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

func TestAClusterServesAllSlots(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addresses()})
	t.Cleanup(func() { _ = client.Close() })
	for i := range 100 {
		key := fmt.Sprint("key", i)
		if err := client.Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if got := cluster.Primary(key).Do("EXISTS", key); got != int64(1) {
			t.Errorf("%s is not where Primary tells", key)
		}
	}
}

func TestASlotMovesWithItsKeysStepByStep(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]string{
		"open":            nil,
		"with a password": {"--requirepass", "secret"},
		"with a user":     adminOnly,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := redistest.StartCluster(t, 3, 0, options...)
			slot := cluster.Slot("{a}")
			from := cluster.Owner(slot)
			for i := range 5 {
				from.Do("SET", fmt.Sprintf("{a}%d", i), i)
			}
			to := cluster.AddNode()

			cluster.StartMigration(slot, from, to)
			if got := cluster.MigrateKeys(slot, from, to, 3); got != 3 {
				t.Errorf("MigrateKeys moved %d keys, want 3", got)
			}
			asked := 0
			client := from.Client()
			for i := range 5 {
				if err := client.Get(t.Context(), fmt.Sprintf("{a}%d", i)).Err(); err != nil && strings.HasPrefix(err.Error(), "ASK ") {
					asked++
				}
			}
			if asked != 3 {
				t.Errorf("the old primary answers ASK for %d of 5 keys, want 3", asked)
			}
			for cluster.MigrateKeys(slot, from, to, 1) > 0 {
				continue
			}
			cluster.FinishMigration(slot, to)
			cluster.WaitReady()

			if owner := cluster.Primary("{a}"); owner != to {
				t.Errorf("%s serves the slot, want %s", owner.Addr, to.Addr)
			}
			if got := to.Do("CLUSTER", "COUNTKEYSINSLOT", slot); got != int64(5) {
				t.Errorf("%v keys at the new primary, want 5", got)
			}
			if err := client.Get(t.Context(), "{a}0").Err(); err == nil || !strings.HasPrefix(err.Error(), "MOVED ") {
				t.Errorf("the old primary answers %v, want MOVED", err)
			}

			cluster.MoveSlot(slot, from)
			if got := from.Do("CLUSTER", "COUNTKEYSINSLOT", slot); got != int64(5) {
				t.Errorf("%v keys back at the old primary, want 5", got)
			}
			cluster.WaitReady()
			cluster.Remove(to)
			cluster.WaitReady()
		})
	}
}

func TestAReplicaTakesOver(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 1)
	slot := cluster.Slot("k")
	first := cluster.Owner(slot)
	first.Do("SET", "k", "v")
	first.Do("WAIT", 1, 5000)
	second := cluster.Replicas(first)[0]

	cluster.Failover(second)
	cluster.WaitReady()
	if owner := cluster.Owner(slot); owner != second {
		t.Fatalf("%s serves the slot after a failover by hand, want %s", owner.Addr, second.Addr)
	}
	if got := second.Do("GET", "k"); got != "v" {
		t.Errorf("it has %v", got)
	}

	second.Kill()
	if owner := cluster.WaitFailover(slot, second); owner != first {
		t.Errorf("%s serves the slot after the primary died, want %s", owner.Addr, first.Addr)
	}
	second.Run()
	cluster.WaitReady()
	if replicas := cluster.Replicas(first); len(replicas) != 1 || replicas[0] != second {
		t.Errorf("the primary that came back is not its replica: %v", replicas)
	}
	third := cluster.AddReplica(first)
	cluster.Takeover(third)
	if owner := cluster.Owner(slot); owner != third {
		t.Errorf("%s serves the slot after a takeover, want %s", owner.Addr, third.Addr)
	}
	cluster.WaitReady()
}

func TestSlotsOfOthersAreServedWhileAPrimaryIsGone(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	lost := cluster.Owner(0)
	lost.Pause()
	if got := cluster.Owner(redistest.Slots-1).Do("CLUSTER", "COUNTKEYSINSLOT", redistest.Slots-1); got != int64(0) {
		t.Errorf("a slot of another primary gives %v", got)
	}
	lost.Resume()
	cluster.WaitReady()
}

func TestAClusterSpeaksTLS(t *testing.T) {
	t.Parallel()
	ca := tlstest.NewCA(t)
	pair := ca.Issue(t, "127.0.0.1")
	tls := redistest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: ca.PEM}
	cluster := redistest.StartCluster(t, 3, 1, tls.Options(t)...)
	primary := cluster.Primary("k")
	primary.Do("SET", "k", "v")
	slot, to := cluster.Slot("k"), cluster.AddNode()
	cluster.MoveSlot(slot, to)
	if got := to.Do("GET", "k"); got != "v" {
		t.Errorf("the key is %v after it moved", got)
	}
	if err := plain(t, to.Addr).Ping(t.Context()).Err(); err == nil {
		t.Error("a node answers without TLS")
	}
}
