package faults

import (
	"strings"
	"sync"
	"testing"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/test/daemon"
)

// publishCluster publishes the policies on every primary.
func publishCluster(t *testing.T, cluster *redistest.Cluster) {
	t.Helper()
	daemon.PublishTo(t, redisopstest.Open(t, redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()}), policies()...)
}

func startCluster(t *testing.T, cluster *redistest.Cluster) *replica {
	t.Helper()
	return start(t, strings.Join(cluster.Addresses(), ","), "--redis-topology", "Cluster", "--command-timeout", "5s")
}

// keyOf is where the policy of that key counts the subject.
func keyOf(key, value string) string {
	return redisops.CounterKey("shop/"+key, []redisops.Entry{{Key: key, Value: value}})
}

// subjectAt gives a subject that the policy of that key counts on that node.
func subjectAt(cluster *redistest.Cluster, key string, node *redistest.Server) string {
	for i := 0; ; i++ {
		if cluster.Primary(keyOf(key, subject(i))) == node {
			return subject(i)
		}
	}
}

// Fault 15.
func TestALibraryThatIsFlushedIsLoadedByTheNextDecision(t *testing.T) {
	t.Parallel()
	server := publish(t)
	r := start(t, server.Addr)
	const flushes = 3
	for range flushes {
		server.Do("FUNCTION", "FLUSH")
		if a := r.ask("shut", "flushed"); a.degraded || !a.allowed {
			t.Errorf("%+v, want a decision of Redis", a)
		}
	}
	if n := r.spent("shut", "flushed"); n != flushes {
		t.Errorf("%d are counted, want each once, %d", n, flushes)
	}
}

// Fault 16.
func TestADecisionWhoseReplyIsLostIsCountedOnce(t *testing.T) {
	t.Parallel()
	server := publish(t)
	proxy := redistest.StartProxy(t, server.Addr)
	r := start(t, proxy.Addr, "--command-timeout", "300ms")
	proxy.SwallowReplies()
	if a := r.ask("open", "lost"); !a.degraded || !a.allowed {
		t.Errorf("%+v, want an answer by onStoreFailure", a)
	}
	proxy.Cut()
	r.decides("afterwards")
	if n := r.spent("open", "lost"); n != 1 {
		t.Errorf("%d are counted, want 1", n)
	}
	if r.metric(`penstock_store_errors_total{class="unknown_outcome"}`) == 0 {
		t.Error("the metric does not tell")
	}
}

// Faults 17, 22 and 23: the charges of one request are on the new primary together or not at all, and none is there twice. What
// the old one had not sent on is lost; the addresses are those of the sentinels all along.
func TestAFailoverLosesNoHalfOfADecisionAndDoublesNone(t *testing.T) {
	t.Parallel()
	servers := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	daemon.PublishTo(t, redisopstest.Open(t, redisops.Config{
		Topology: policy.TopologySentinel, Addresses: servers.Addresses(), MasterName: servers.MasterName,
	}), policies()...)
	r := start(t, strings.Join(servers.Addresses(), ","), "--redis-topology", "Sentinel", "--redis-master-name", servers.MasterName)

	primary := servers.Primary()
	primary.Do("WAIT", "1", "0") // without an operator nobody publishes to the promoted one what it had not been told
	stop := make(chan struct{})
	var all sync.WaitGroup
	asked := make([]int64, 4)
	for side := range asked {
		all.Go(func() {
			for ; ; asked[side]++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := r.try(entry{"open", "both"}, entry{"shut", "both"}); err != nil {
					t.Errorf("under load: %v", err)
					return
				}
			}
		})
	}
	eventually(t, "some are counted", func() bool { return r.spent("open", "both") > 20 })
	primary.Kill()
	promoted := servers.WaitFailover(primary)
	r.decides("afterwards")
	before := r.spent("open", "both")
	eventually(t, "more are counted", func() bool { return r.spent("open", "both") > before })
	close(stop)
	all.Wait()
	r.healthy()
	most := int64(0)
	for _, n := range asked {
		most += n
	}
	if open, shut := r.spent("open", "both"), r.spent("shut", "both"); open != shut || open > most {
		t.Errorf("%d and %d of %d are counted after the failover, want as many of both and none twice", open, shut, most)
	}
	if n := len(keys(t, promoted)); n == 0 {
		t.Error("the promoted server has no state")
	}
}

// Fault 18: a Service keeps its address, and the server behind it is another one.
func TestAPrimaryThatIsDemotedBehindItsAddressIsLeft(t *testing.T) {
	t.Parallel()
	old, next := publish(t), redistest.Start(t)
	next.ReplicaOf(old)
	proxy := redistest.StartProxy(t, old.Addr)
	r := start(t, proxy.Addr)
	r.ask("shut", "counted")
	old.Do("WAIT", "1", "0")
	next.Do("REPLICAOF", "NO", "ONE")
	old.ReplicaOf(next)
	proxy.Retarget(next.Addr) // connections that are open stay with the old one
	r.decides("afterwards")
	r.ask("shut", "counted")
	if n := r.spent("shut", "counted"); n != 2 {
		t.Errorf("%d are counted, want 2: one before and one after", n)
	}
	r.healthy()
}

// Faults 19 and 20: keys move to servers that were there and to one that is new and empty, and requests are about keys of
// several slots.
func TestAReshardingCostsNoDecision(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	publishCluster(t, cluster)
	r := startCluster(t, cluster)

	first, second := subjectAt(cluster, "open", cluster.Nodes[0]), subjectAt(cluster, "shut", cluster.Nodes[1])
	a, err := r.try(entry{"open", first}, entry{"shut", second})
	if err != nil || a.degraded || len(a.remaining) != 2 || a.remaining[0] != budget-1 || a.remaining[1] != budget-1 {
		t.Errorf("keys of two servers: %+v, %v; want both counted", a, err)
	}

	stop := make(chan struct{})
	var all sync.WaitGroup
	asked := make([]int64, 4)
	for side := range asked {
		all.Go(func() {
			for ; ; asked[side]++ {
				select {
				case <-stop:
					return
				default:
				}
				if a, err := r.try(entry{"shut", "moving"}); err != nil || a.degraded || !a.allowed {
					t.Errorf("while its slot moves: %+v, %v; want a decision of Redis", a, err)
					return
				}
			}
		})
	}
	moves := func(to *redistest.Server) {
		slot := cluster.Slot(keyOf("shut", "moving"))
		from := cluster.Owner(slot)
		before := r.metric(`penstock_decisions_total{door="rls"`)
		cluster.StartMigration(slot, from, to)
		eventually(t, "decisions meanwhile", func() bool { return r.metric(`penstock_decisions_total{door="rls"`) > before+20 })
		cluster.MigrateKeys(slot, from, to, 1000)
		before = r.metric(`penstock_decisions_total{door="rls"`)
		eventually(t, "decisions meanwhile", func() bool { return r.metric(`penstock_decisions_total{door="rls"`) > before+20 })
		cluster.FinishMigration(slot, to)
	}
	for _, node := range cluster.Nodes {
		if node != cluster.Primary(keyOf("shut", "moving")) {
			moves(node)
			break
		}
	}
	moves(cluster.AddNode())
	close(stop)
	all.Wait()
	want := int64(0)
	for _, n := range asked {
		want += n
	}
	if n := r.spent("shut", "moving"); n != want {
		t.Errorf("%d are counted, want each of %d once", n, want)
	}
	r.healthy()
}

// Fault 21.
func TestAPrimaryOfAClusterThatIsGoneDegradesItsKeysOnly(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	publishCluster(t, cluster)
	r := startCluster(t, cluster)
	gone := cluster.Nodes[0]
	lost, kept := subjectAt(cluster, "shut", gone), subjectAt(cluster, "shut", cluster.Nodes[1])
	r.decides(lost)

	gone.Kill()
	eventually(t, "it is given up", func() bool {
		return r.ask("shut", lost).degraded && r.metric(`penstock_redis_breaker_state{shard="`+gone.Addr+`"}`) == 2
	})
	for range 50 {
		if a := r.ask("shut", lost); !a.degraded || a.allowed {
			t.Fatalf("a key of the server that is gone: %+v, want it denied by onStoreFailure", a)
		}
		if a := r.ask("shut", kept); a.degraded || !a.allowed {
			t.Fatalf("a key of another: %+v, want a decision of Redis", a)
		}
	}
	for _, node := range cluster.Nodes[1:] {
		if n := r.metric(`penstock_redis_breaker_opened_total{shard="` + node.Addr + `"}`); n != 0 {
			t.Errorf("%s was given up %v times, want never", node.Addr, n)
		}
	}
	if _, body := r.get("/readyz"); !strings.Contains(body, "degraded: 1 of 3 servers") {
		t.Errorf("readiness tells %q, want 1 of 3", body)
	}

	gone.Run()
	cluster.WaitReady()
	publishCluster(t, cluster) // it came back empty
	r.decides(lost)
	r.healthy()
}
