package policystore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// primariesHere is how many primaries the clusters of these tests have: enough that one of them serves no document.
const primariesHere = 5

func TestClusterServesThePoliciesOnEveryPrimary(t *testing.T) {
	cluster := redistest.StartCluster(t, primariesHere, 0)
	servers := openCluster(t, cluster)
	pubsub := cluster.Nodes[3].Client().Subscribe(t.Context(), policystore.Channel)
	defer func() { _ = pubsub.Close() }()
	if _, err := pubsub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := policystore.Publication{Set: setOf(3, 100)}
	if result := publish(t, servers, first); !result.Changed || result.Previous != nil {
		t.Errorf("Result = %+v, want changed and no previous set", result)
	}
	for _, node := range cluster.Nodes {
		if got, err := node.Client().FCallRO(t.Context(), "penstock_policy", nil, "shop/p0001").Result(); err != nil || got == nil {
			t.Errorf("%s does not serve shop/p0001: %v", node.Addr, err)
		}
	}
	if message, err := pubsub.ReceiveMessage(t.Context()); err != nil || message.Payload != first.Set.Hash {
		t.Errorf("announced %v (%v), want %s", message, err, first.Set.Hash)
	}
	if set, err := policystore.Read(t.Context(), servers.Client()); err != nil || set.Hash != first.Set.Hash {
		t.Errorf("Read = %v, %v; want the set %s", set, err, first.Set.Hash)
	}
	wantNoFurtherWrite(t, servers, cluster.Nodes, first)

	result := publish(t, servers, policystore.Publication{Set: setOf(2, 100)})
	if !result.Changed || result.Previous == nil || result.Previous.Hash != first.Set.Hash || fmt.Sprint(result.Dropped) != "[shop/p0002]" {
		t.Errorf("Result = %+v, want the former set as the previous one and shop/p0002 dropped", result)
	}
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(0, 1), Dropped: names(30)})
	if !errors.As(err, new(*policystore.ShrinkHeldError)) {
		t.Errorf("a set that drops all: %v, want it held", err)
	}
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: "b/b/b", Set: setOf(9, 9)}); !errors.As(err, new(*policystore.OwnedError)) {
		t.Errorf("another publisher got %v, want an OwnedError", err)
	}
	wantNoFurtherWrite(t, servers, cluster.Nodes, policystore.Publication{Set: setOf(2, 100)})
}

func names(count int) []string {
	var all []string
	for i := range count {
		all = append(all, fmt.Sprintf("shop/p%04d", i))
	}
	return all
}

// What cannot be read must not let a publication drop everything: not even when only one library is left that tells.
func TestClusterHoldsAShrinkWhenItsDocumentsAreLost(t *testing.T) {
	cluster := redistest.StartCluster(t, primariesHere, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(40, 1)})
	for i, node := range cluster.Nodes {
		node.Do("FLUSHALL")
		if i != 1 {
			node.Do("FUNCTION", "FLUSH")
		}
	}
	before := holdings(t, cluster.Nodes)
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(0, 1)})
	var held *policystore.ShrinkHeldError
	if !errors.As(err, &held) || held.Removed != 40 || held.Of != 40 {
		t.Errorf("error %v, want 40 of 40 held", err)
	}
	if after := holdings(t, cluster.Nodes); after != before {
		t.Error("something was written")
	}
	publish(t, servers, policystore.Publication{Set: setOf(40, 1)})
}

func TestOfTwoPublishersOnAClusterOneWins(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	for _, tc := range []struct{ name, present string }{{"nobody's", ""}, {"taken over", "old/shop/default"}} {
		t.Run(tc.name, func(t *testing.T) {
			for _, node := range cluster.Nodes {
				node.Do("FLUSHALL")
				node.Do("FUNCTION", "FLUSH")
			}
			if tc.present != "" {
				publish(t, openCluster(t, cluster), policystore.Publication{Owner: tc.present, Set: setOf(1, 1)})
			}
			type outcome struct {
				owner string
				err   error
			}
			results := make(chan outcome, 4)
			for i := range cap(results) {
				servers := openCluster(t, cluster)
				p := policystore.Publication{Owner: fmt.Sprintf("cluster-%d/shop/default", i), TakeOver: tc.present, Set: setOf(i+2, 1)}
				go func() {
					_, err := policystore.Publish(context.Background(), servers, p)
					results <- outcome{p.Owner, err}
				}()
			}
			var winners []string
			for range cap(results) {
				r := <-results
				switch {
				case r.err == nil:
					winners = append(winners, r.owner)
				case errors.As(r.err, new(*policystore.OwnedError)):
				default:
					t.Errorf("%s got %v", r.owner, r.err)
				}
			}
			if got := openCluster(t, cluster).Client().Get(t.Context(), policystore.OwnerKey).Val(); len(winners) != 1 || winners[0] != got {
				t.Errorf("%v believe that they own it, and it says %q; want one", winners, got)
			}
		})
	}
}

func TestClusterDriftIsRepairedOnce(t *testing.T) {
	cluster := redistest.StartCluster(t, primariesHere, 1)
	servers := openCluster(t, cluster)
	p := policystore.Publication{Set: setOf(3, 100)}
	publish(t, servers, p)
	damages := map[string]func(*testing.T){
		"function flush on one": func(*testing.T) { cluster.Nodes[1].Do("FUNCTION", "FLUSH") },
		"function flush on all": func(*testing.T) {
			for _, node := range cluster.Nodes[:primariesHere] {
				node.Do("FUNCTION", "FLUSH")
			}
		},
		"another library on one": func(*testing.T) {
			cluster.Nodes[2].Do("FUNCTION", "LOAD", "REPLACE", "#!lua name=penstock\nredis.register_function('penstock_limit', function() return 1 end)")
		},
		"everything flushed everywhere": func(*testing.T) {
			for _, node := range cluster.Nodes[:primariesHere] {
				node.Do("FLUSHALL")
				node.Do("FUNCTION", "FLUSH")
			}
		},
	}
	for _, key := range []string{policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey} {
		damages["flushall where "+key+" is"] = func(*testing.T) { cluster.Primary(key).Do("FLUSHALL") }
		damages["del "+key] = func(*testing.T) { cluster.Primary(key).Do("DEL", key) }
		damages["expire "+key] = func(*testing.T) { cluster.Primary(key).Do("EXPIRE", key, 100) }
		damages["list at "+key] = func(*testing.T) {
			cluster.Primary(key).Do("DEL", key)
			cluster.Primary(key).Do("RPUSH", key, "x")
		}
		if key != policystore.OwnerKey {
			damages["set "+key] = func(*testing.T) { cluster.Primary(key).Do("SET", key, "{") }
		}
	}
	want := holdings(t, cluster.Nodes[:primariesHere])
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			damage(t)
			if result := publish(t, servers, p); !result.Changed {
				t.Error("nothing was repaired")
			}
			if got := holdings(t, cluster.Nodes[:primariesHere]); got != want {
				t.Errorf("after the repair: %s\nwant: %s", got, want)
			}
			wantNoFurtherWrite(t, servers, cluster.Nodes, p)
		})
	}
}

// A primary that came back empty, one that was promoted, and one that is new get the library, and nothing else is written.
func TestNewPrimaryGetsTheLibrary(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	servers := openCluster(t, cluster)
	p := policystore.Publication{Set: setOf(3, 100)}
	publish(t, servers, p)
	serves := func(node *redistest.Server) bool {
		return node.Client().FCallRO(t.Context(), "penstock_policy", nil, "shop/p0001").Err() == nil
	}
	for name, tc := range map[string]struct {
		appears    func(*testing.T) *redistest.Server
		wantChange bool
	}{
		"promoted, with a library as replicas have it": {func(*testing.T) *redistest.Server {
			replica := cluster.Replicas(cluster.Nodes[0])[0]
			cluster.Failover(replica)
			cluster.WaitReady()
			return replica
		}, false},
		"new": {func(*testing.T) *redistest.Server {
			node := cluster.AddNode()
			cluster.MoveSlot(0, node)
			cluster.WaitReady()
			return node
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			node := tc.appears(t)
			eventually(t, "it is published on the primary", func() error {
				result, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: p.Set})
				if err != nil {
					return err
				}
				if !serves(node) {
					return fmt.Errorf("no library; %+v", result)
				}
				if result.Changed != tc.wantChange {
					t.Errorf("changed %v, want %v", result.Changed, tc.wantChange)
				}
				return nil
			})
			wantNoFurtherWrite(t, servers, cluster.Nodes, p)
		})
	}
}

func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = is(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %s: %v", patience, what, err)
}

func TestPrimaryThatIsAwayHoldsNobodyUp(t *testing.T) {
	cluster := redistest.StartCluster(t, primariesHere, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(3, 100)})
	gone := withoutDocuments(t, cluster, primariesHere)
	for name, tc := range map[string]struct {
		leave, comeBack func()
		requests        int64
	}{
		"silent": {gone.Pause, gone.Resume, 200},
		"killed": {gone.Kill, gone.Run, 300},
	} {
		t.Run(name, func(t *testing.T) {
			next := policystore.Publication{Owner: owner, Set: setOf(3, tc.requests)}
			tc.leave()
			result, err := policystore.Publish(t.Context(), servers, next)
			if class := redisops.Classify(err); class != redisops.NotExecuted && class != redisops.UnknownOutcome {
				t.Errorf("error %v of class %s, want one that says that the server is away", err, class)
			}
			if !result.Changed || len(result.Missing) != 1 || result.Missing[0] != gone.Addr {
				t.Errorf("Result = %+v, want changed, and %s missing", result, gone.Addr)
			}
			for _, node := range cluster.Nodes {
				if node == gone {
					continue
				}
				if text, _, err := library.Loaded(t.Context(), node.Client()); err != nil || library.Hash(text) != hashOf(t, next) {
					t.Errorf("%s does not have the new library: %v", node.Addr, err)
				}
			}
			tc.comeBack()
			cluster.WaitReady()
			eventually(t, "nobody is missing any more", func() error {
				_, err := policystore.Publish(t.Context(), servers, next)
				return err
			})
			if text, _, err := library.Loaded(t.Context(), gone.Client()); err != nil || library.Hash(text) != hashOf(t, next) {
				t.Errorf("the one that came back does not have the new library: %v", err)
			}
		})
	}
}

func hashOf(t *testing.T, p policystore.Publication) string {
	t.Helper()
	text, err := library.Render(p.Set)
	if err != nil {
		t.Fatal(err)
	}
	return library.Hash(text)
}

func TestNothingIsPublishedWithoutThePrimaryOfTheOwner(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(3, 100)})
	gone := cluster.Primary(policystore.OwnerKey)
	gone.Kill()
	var rest []*redistest.Server
	for _, node := range cluster.Nodes {
		if node != gone {
			rest = append(rest, node)
		}
	}
	before := writeCounts(t, rest)
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(3, 7)}); redisops.Classify(err) != redisops.NotExecuted {
		t.Errorf("error %v of class %s, want not executed", err, redisops.Classify(err))
	}
	if after := writeCounts(t, rest); after != before {
		t.Errorf("wrote: before\n%s\nafter\n%s", before, after)
	}
}

// One primary that refuses the library keeps the set that is in force on all of them.
func TestRefusalOfOnePrimaryKeepsTheSetInForceOnAll(t *testing.T) {
	cluster := redistest.StartCluster(t, primariesHere, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
	odd := withoutDocuments(t, cluster, primariesHere)
	for name, tc := range map[string]struct {
		refuse, relent func()
		wantClass      redisops.Class
	}{
		"out of memory": {
			func() { odd.Do("CONFIG", "SET", "maxmemory", "1") }, func() { odd.Do("CONFIG", "SET", "maxmemory", "0") },
			redisops.OutOfMemory,
		},
		"a user who may not call": {
			func() { odd.Do("ACL", "SETUSER", "default", "-fcall_ro") }, func() { odd.Do("ACL", "SETUSER", "default", "+fcall_ro") },
			redisops.Configuration,
		},
		// Seen only when the library is replaced: by then the others have the new one.
		"somebody else's library has a name of ours": {
			func() {
				odd.Do("FUNCTION", "DELETE", library.Name)
				odd.Do("FUNCTION", "LOAD", "#!lua name=foreign\nredis.register_function('penstock_limit', function() return 1 end)")
			},
			func() { odd.Do("FUNCTION", "DELETE", "foreign") },
			redisops.Failed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.refuse()
			before := holdings(t, cluster.Nodes)
			_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 2)})
			if class := redisops.Classify(err); class != tc.wantClass {
				t.Errorf("error %v is of class %q, want %q", err, class, tc.wantClass)
			}
			if after := holdings(t, cluster.Nodes); after != before {
				t.Errorf("the set in force changed:\n%s\nbefore:\n%s", after, before)
			}
			tc.relent()
			publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
		})
	}
	publish(t, servers, policystore.Publication{Set: setOf(2, 2)})
}

// Who remembers what was dropped has to learn of it also when the end of the publication fails.
func TestDroppedIsToldWhenTheAnnouncementFails(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(3, 1)})
	for _, node := range cluster.Nodes {
		node.Do("ACL", "SETUSER", "default", "-publish")
	}
	result, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 1)})
	if redisops.Classify(err) != redisops.Configuration || !result.Changed || fmt.Sprint(result.Dropped) != "[shop/p0002]" {
		t.Errorf("Result = %+v, %v; want changed, shop/p0002 dropped, and an error of class configuration", result, err)
	}
}

func TestScriptsAreOnEveryServerOfACluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 1)
	servers := openCluster(t, cluster)
	p := policystore.Publication{Set: setOf(40, 1), Mode: library.ModeScripts}
	wantScripts := func(what string) {
		t.Helper()
		// Each primary tells of its replicas, and later of those of others, once they have said how far they are.
		eventually(t, what, func() error {
			publish(t, servers, p)
			for _, node := range cluster.Nodes {
				if loaded, err := library.ScriptsLoaded(t.Context(), node.Client()); err != nil || !loaded {
					return fmt.Errorf("%s has the scripts: %v, %w", node.Addr, loaded, err)
				}
			}
			return nil
		})
		wantNoFurtherWrite(t, servers, cluster.Nodes, p)
	}
	wantScripts("all are loaded")
	for _, node := range cluster.Nodes[1:] {
		node.Do("SCRIPT", "FLUSH")
	}
	if result := publish(t, servers, p); !result.Changed {
		t.Error("nothing was repaired")
	}
	wantScripts("all are loaded again")

	cluster.Primary(policystore.PoliciesKey).Do("DEL", policystore.PoliciesKey)
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(0, 1), Mode: library.ModeScripts})
	var held *policystore.ShrinkHeldError
	if !errors.As(err, &held) || held.Removed != 40 {
		t.Errorf("error %v, want 40 of 40 held", err)
	}
	publish(t, servers, p)
	gone := cluster.Replicas(cluster.Nodes[0])[0]
	gone.Kill()
	if result := publish(t, servers, p); len(result.Missing) > 0 {
		t.Errorf("Result = %+v: a replica that is away is missed", result)
	}
}

func TestWatcherOfAClusterGoesOnWithoutOneOfItsNodes(t *testing.T) {
	cluster := redistest.StartCluster(t, primariesHere, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	w := watchServers(t, openCluster(t, cluster), policystore.WatchOptions{Resync: time.Hour})
	w.wantSet(setOf(1, 1))
	publish(t, servers, policystore.Publication{Set: setOf(1, 2)})
	w.wantSet(setOf(1, 2))
	// Whichever node it listens to, one after the other is away.
	gone := withoutDocuments(t, cluster, primariesHere)
	gone.Kill()
	for n := int64(3); n <= 4; n++ {
		if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(1, n)}); err == nil {
			t.Error("nobody is missed")
		}
		w.wantSet(setOf(1, n))
	}
}

// Whatever the moment at which somebody deletes the owner, the error says what to do about it.
func TestOwnerThatIsDeletedMeanwhileIsClaimedAgain(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := openCluster(t, cluster)
	deleter := cluster.Primary(policystore.OwnerKey).Client()
	ctx, stop := context.WithCancel(t.Context())
	var deleting sync.WaitGroup
	deleting.Go(func() {
		for ctx.Err() == nil {
			_ = deleter.Del(ctx, policystore.OwnerKey).Err()
		}
	})
	for n := range int64(30) {
		_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(3, n+1)})
		if err != nil && !errors.Is(err, policystore.ErrReadBack) && redisops.Classify(err) != redisops.NotExecuted {
			t.Errorf("publication %d: %v of class %s", n, err, redisops.Classify(err))
		}
	}
	stop()
	deleting.Wait()
	publish(t, servers, policystore.Publication{Set: setOf(3, 100)})
	if got := servers.Client().Get(t.Context(), policystore.OwnerKey).Val(); got != owner {
		t.Errorf("the owner is %q, want %q", got, owner)
	}
}

// Its subscription stands, so nothing but the failed read itself tells that there is something to read.
func TestWatcherReadsAgainSoonWhenItCouldNot(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := openCluster(t, cluster)
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	refresh := make(chan struct{})
	w := watchServers(t, openCluster(t, cluster), policystore.WatchOptions{Resync: time.Hour, Refresh: refresh})
	w.wantSet(setOf(1, 1))
	server := cluster.Primary(policystore.PoliciesKey)
	server.Do("SET", policystore.PoliciesKey, setOf(1, 2).Marshal())
	server.Pause()
	refresh <- struct{}{}
	w.wantError("failure to read", func(err error) bool { return err != nil })
	server.Resume()
	w.wantSet(setOf(1, 2))
}
