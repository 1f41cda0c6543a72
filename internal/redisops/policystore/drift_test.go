package policystore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// drifting is a WatchDrift that runs until the test ends.
type drifting struct {
	t     *testing.T
	told  chan struct{}
	ended chan error
	stop  func()
}

func watchDrift(t *testing.T, servers *redisops.Servers) *drifting {
	t.Helper()
	d := &drifting{t: t, told: make(chan struct{}, 10_000), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { d.ended <- policystore.WatchDrift(ctx, servers, func() { d.told <- struct{}{} }) }()
	d.stop = func() {
		cancel()
		select {
		case err := <-d.ended:
			if err != nil {
				t.Errorf("WatchDrift = %v, want nil when its context ends", err)
			}
		case <-time.After(patience):
			t.Error("WatchDrift did not end with its context")
		}
	}
	return d
}

// wantTold waits until it is told, and gives how long that took.
func (d *drifting) wantTold(what string) time.Duration {
	d.t.Helper()
	start := time.Now()
	select {
	case <-d.told:
		return time.Since(start)
	case err := <-d.ended:
		d.t.Fatalf("WatchDrift ended: %v", err)
	case <-time.After(patience):
		d.t.Fatalf("not told within %v of %s", patience, what)
	}
	return 0
}

// settle waits until each of the servers tells, and takes out what was told so far.
func (d *drifting) settle(nodes ...*redistest.Server) {
	d.t.Helper()
	for _, node := range nodes {
		eventually(d.t, node.Addr+" tracks", func() error {
			info, err := node.Client().InfoMap(context.Background(), "clients").Result()
			if err == nil && info["Clients"]["tracking_clients"] != "1" {
				err = errors.New(info["Clients"]["tracking_clients"] + " clients track")
			}
			return err
		})
	}
	d.wantTold("the beginning")
	for {
		select {
		case <-d.told:
		default:
			return
		}
	}
}

// repair publishes whenever it is told, until the servers hold what they did before, and gives how often that wrote.
func (d *drifting) repair(servers *redisops.Servers, p policystore.Publication, nodes []*redistest.Server, want string) int {
	d.t.Helper()
	repairs := 0
	p.Owner = owner
	for start := time.Now(); ; {
		d.wantTold("damage")
		result, err := policystore.Publish(d.t.Context(), servers, p)
		if result.Changed {
			repairs++
		}
		if err == nil && holdings(d.t, nodes) == want {
			d.t.Logf("repaired after %v", time.Since(start))
			break
		}
	}
	wantNoFurtherWrite(d.t, servers, nodes, p)
	return repairs
}

func TestDriftIsToldAndRepairedOnce(t *testing.T) {
	standalone := redistest.Start(t)
	cluster := redistest.StartCluster(t, 3, 0)
	independent := startMany(t, 3)
	sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	at := func(node *redistest.Server) func(string) *redistest.Server {
		return func(string) *redistest.Server { return node }
	}
	for name, tc := range map[string]struct {
		servers *redisops.Servers
		nodes   []*redistest.Server
		holder  func(key string) *redistest.Server
	}{
		"Standalone":  {redisopstest.At(t, standalone.Addr), []*redistest.Server{standalone}, at(standalone)},
		"Cluster":     {openCluster(t, cluster), cluster.Nodes, cluster.Primary},
		"Independent": {openIndependent(t, independent), independent, at(independent[2])},
		"Sentinel":    {openSentinel(t, sentinel), []*redistest.Server{sentinel.Primary()}, at(sentinel.Primary())},
		"RESP3": {redisopstest.Open(t, redisops.Config{Addresses: []string{standalone.Addr}, Protocol: 3}),
			[]*redistest.Server{standalone}, at(standalone)},
	} {
		t.Run(name, func(t *testing.T) {
			p := policystore.Publication{Set: setOf(3, 100)}
			publish(t, tc.servers, p)
			want := holdings(t, tc.nodes)
			d := watchDrift(t, tc.servers)
			defer d.stop()
			d.settle(tc.nodes...)
			damages := map[string]func(){}
			for _, key := range []string{policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey} {
				damages["FLUSHALL where "+key+" is"] = func() { tc.holder(key).Do("FLUSHALL") }
				damages["DEL "+key] = func() { tc.holder(key).Do("DEL", key) }
				damages["EXPIRE "+key] = func() { tc.holder(key).Do("EXPIRE", key, 100) }
				damages["PEXPIRE until "+key+" is gone"] = func() { tc.holder(key).Do("PEXPIRE", key, 1) }
				if key != policystore.OwnerKey {
					damages["SET "+key] = func() { tc.holder(key).Do("SET", key, "x") }
				}
			}
			for what, damage := range damages {
				damage()
				// What expires is told twice: when it gets its TTL, and when it is gone.
				most := 1
				if what[0] == 'P' {
					most = 2
				}
				if repairs := d.repair(tc.servers, p, tc.nodes, want); repairs < 1 || repairs > most {
					t.Errorf("%s: repaired %d times, want once", what, repairs)
				}
			}
		})
	}
}

func TestForeignOwnerIsToldAndLeftAlone(t *testing.T) {
	server := redistest.Start(t)
	servers := redisopstest.At(t, server.Addr)
	publish(t, servers, policystore.Publication{Set: setOf(3, 100)})
	d := watchDrift(t, servers)
	defer d.stop()
	d.settle(server)
	server.Do("SET", policystore.OwnerKey, "b/b/b")
	d.wantTold("a foreign owner")
	before := holdings(t, []*redistest.Server{server})
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(3, 100)}); !errors.As(err, new(*policystore.OwnedError)) {
		t.Errorf("error %v, want an OwnedError", err)
	}
	if after := holdings(t, []*redistest.Server{server}); after != before {
		t.Errorf("wrote:\n%s\nbefore:\n%s", after, before)
	}
}

func TestBeatsAndCountersAreNoDrift(t *testing.T) {
	server := redistest.Start(t)
	servers := redisopstest.At(t, server.Addr)
	d := watchDrift(t, servers)
	defer d.stop()
	d.settle(server)
	if _, err := policystore.Beat(t.Context(), servers.Client(), "a", "hash"); err != nil {
		t.Fatal(err)
	}
	server.Do("SET", "penstock:failure:shop/a", "x")
	server.Do("SET", "rl:{x}:shop/a", "x")
	// What comes first is of this one.
	server.Do("SET", policystore.NamesKey, "x")
	d.wantTold("a document")
	select {
	case <-d.told:
		t.Error("told twice, want once: of the document only")
	default:
	}
}

func TestRestartWithoutPersistenceIsToldAndRepaired(t *testing.T) {
	server := redistest.Start(t)
	servers := redisopstest.At(t, server.Addr)
	p := policystore.Publication{Set: setOf(3, 100)}
	publish(t, servers, p)
	nodes := []*redistest.Server{server}
	want := holdings(t, nodes)
	d := watchDrift(t, servers)
	defer d.stop()
	d.settle(server)
	server.Kill()
	server.Run()
	if repairs := d.repair(servers, p, nodes, want); repairs != 1 {
		t.Errorf("repaired %d times, want once", repairs)
	}
}

func TestFailoverOfASentinelIsToldAndTheNewPrimaryPublished(t *testing.T) {
	sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	servers := openSentinel(t, sentinel)
	p := policystore.Publication{Owner: owner, Set: setOf(3, 100)}
	publish(t, servers, p)
	former := sentinel.Primary()
	d := watchDrift(t, servers)
	defer d.stop()
	d.settle(former)
	former.Kill()
	primary := sentinel.WaitFailover(former)
	eventually(t, "the new primary is published after it was told of", func() error {
		d.wantTold("the failover")
		_, err := policystore.Publish(t.Context(), servers, p)
		return err
	})
	if err := primary.Client().FCallRO(t.Context(), "penstock_policy", nil, "shop/p0001").Err(); err != nil {
		t.Errorf("the new primary does not serve: %v", err)
	}
	next := policystore.Publication{Owner: owner, Set: setOf(3, 200)}
	publish(t, servers, next)
	if text, _, err := library.Loaded(t.Context(), primary.Client()); err != nil || library.Hash(text) != hashOf(t, next) {
		t.Errorf("the new primary does not have the next library: %v", err)
	}
}

func TestNewPrimaryOfAClusterIsToldAndPublished(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := openCluster(t, cluster)
	p := policystore.Publication{Owner: owner, Set: setOf(3, 100)}
	publish(t, servers, p)
	d := watchDrift(t, servers)
	defer d.stop()
	d.settle(cluster.Nodes...)
	node := cluster.AddNode()
	cluster.MoveSlot(0, node)
	eventually(t, "the new primary is published after it was told of", func() error {
		d.wantTold("the new primary")
		if _, err := policystore.Publish(t.Context(), servers, p); err != nil {
			return err
		}
		return node.Client().FCallRO(t.Context(), "penstock_policy", nil, "shop/p0001").Err()
	})
}

func TestSilentConnectionIsReplacedAndTold(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	d := watchDrift(t, redisopstest.At(t, proxy.Addr))
	defer d.stop()
	d.settle(server)
	before := proxy.Accepted()
	proxy.SwallowReplies()
	d.wantTold("the next connection")
	if proxy.Accepted() <= before {
		t.Error("it did not connect again")
	}
}

func TestServerThatDoesNotTellEndsIt(t *testing.T) {
	refusing := func(rule ...any) string {
		server := redistest.Start(t)
		server.Do(append([]any{"ACL", "SETUSER", "default"}, rule...)...)
		return server.Addr
	}
	for name, address := range map[string]string{
		"embedded":      miniredis.RunT(t).Addr(),
		"not permitted": refusing("-client|tracking"),
		"no channel":    refusing("resetchannels"),
		"no tracking":   redistest.Start(t, "--rename-command", "CLIENT", "").Addr,
	} {
		t.Run(name, func(t *testing.T) {
			servers := redisopstest.At(t, address)
			ended := make(chan error, 1)
			go func() { ended <- policystore.WatchDrift(t.Context(), servers, func() {}) }()
			select {
			case err := <-ended:
				if !errors.Is(err, policystore.ErrNoTracking) {
					t.Errorf("got %v, want %v", err, policystore.ErrNoTracking)
				}
			case <-time.After(patience):
				t.Fatal("it goes on")
			}
		})
	}
}

func TestServerThatIsAwayIsWaitedFor(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	d := watchDrift(t, redisopstest.At(t, server.Addr))
	server.Run()
	d.wantTold("the server that came")
	d.stop()
}
