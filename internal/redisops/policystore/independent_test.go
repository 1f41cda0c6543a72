package policystore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestIndependentServersAreAllPublished(t *testing.T) {
	nodes := startMany(t, 3)
	servers := openIndependent(t, nodes)
	p := policystore.Publication{Set: setOf(3, 100)}
	if result := publish(t, servers, p); !result.Changed || result.Previous != nil {
		t.Errorf("Result = %+v, want changed and no previous set", result)
	}
	wantNoFurtherWrite(t, servers, nodes, p)
	nodes[1].Do("FUNCTION", "FLUSH")
	nodes[2].Do("DEL", policystore.PoliciesKey)
	if result := publish(t, servers, p); !result.Changed {
		t.Error("nothing was repaired")
	}
	for _, node := range nodes {
		if err := node.Client().FCallRO(t.Context(), "penstock_policy", nil, "shop/p0001").Err(); err != nil {
			t.Errorf("%s does not serve: %v", node.Addr, err)
		}
	}
	result := publish(t, servers, policystore.Publication{Set: setOf(2, 100)})
	if fmt.Sprint(result.Dropped) != "[shop/p0002]" {
		t.Errorf("dropped %v, want shop/p0002 once", result.Dropped)
	}
}

func TestOneForeignServerKeepsAllIndependentOnesFree(t *testing.T) {
	nodes := startMany(t, 3)
	nodes[1].Do("SET", policystore.OwnerKey, "b/b/b")
	before := holdings(t, nodes)
	p := policystore.Publication{Owner: owner, Set: setOf(3, 100)}
	_, err := policystore.Publish(t.Context(), openIndependent(t, nodes), p)
	var owned *policystore.OwnedError
	if !errors.As(err, &owned) || owned.Owner != "b/b/b" {
		t.Errorf("error %v, want an OwnedError that names b/b/b", err)
	}
	if after := holdings(t, nodes); after != before {
		t.Errorf("wrote:\n%s\nbefore:\n%s", after, before)
	}
	p.TakeOver = "b/b/b"
	publish(t, openIndependent(t, nodes), p)
}

func TestOfTwoPublishersOnIndependentServersOneGetsAll(t *testing.T) {
	nodes := startMany(t, 3)
	results := make(chan error, 4)
	for i := range cap(results) {
		servers := openIndependent(t, nodes)
		go func() {
			_, err := policystore.Publish(context.Background(), servers,
				policystore.Publication{Owner: fmt.Sprintf("cluster-%d/shop/default", i), Set: setOf(i+1, 1)})
			results <- err
		}()
	}
	winners := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			winners++
		case errors.As(err, new(*policystore.OwnedError)):
		default:
			t.Errorf("unexpected error: %v", err)
		}
	}
	owners := map[string]bool{}
	for _, node := range nodes {
		owners[node.Client().Get(t.Context(), policystore.OwnerKey).Val()] = true
	}
	if winners != 1 || len(owners) != 1 {
		t.Errorf("%d believe that they own all, and the servers say %v; want one", winners, owners)
	}
}

func TestIndependentServerThatIsAwayHoldsNobodyUp(t *testing.T) {
	nodes := startMany(t, 3)
	servers := openIndependent(t, nodes)
	nodes[0].Kill()
	p := policystore.Publication{Owner: owner, Set: setOf(3, 100)}
	result, err := policystore.Publish(t.Context(), servers, p)
	if redisops.Classify(err) != redisops.NotExecuted || !result.Changed || fmt.Sprint(result.Missing) != "["+nodes[0].Addr+"]" {
		t.Errorf("got %+v, %v; want changed and %s missing", result, err, nodes[0].Addr)
	}
	if err := nodes[2].Client().FCallRO(t.Context(), "penstock_policy", nil, "shop/p0001").Err(); err != nil {
		t.Errorf("the others do not serve: %v", err)
	}
	nodes[0].Run()
	eventually(t, "nobody is missing any more", func() error {
		_, err := policystore.Publish(t.Context(), servers, p)
		return err
	})
	wantNoFurtherWrite(t, servers, nodes, p)
}

func TestFullIndependentServerKeepsTheSetInForceOnAll(t *testing.T) {
	nodes := startMany(t, 3)
	servers := openIndependent(t, nodes)
	publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
	nodes[2].Do("CONFIG", "SET", "maxmemory", "1")
	before := holdings(t, nodes)
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 2)})
	if class := redisops.Classify(err); class != redisops.OutOfMemory {
		t.Errorf("error %v is of class %q, want out of memory", err, class)
	}
	if after := holdings(t, nodes); after != before {
		t.Errorf("the set in force changed:\n%s\nbefore:\n%s", after, before)
	}
}

func TestWatcherOfIndependentServersReadsFromThoseThatAnswer(t *testing.T) {
	nodes := startMany(t, 3)
	servers := openIndependent(t, nodes)
	publish(t, servers, policystore.Publication{Set: setOf(1, 1)})
	nodes[0].Kill()
	w := watchServers(t, openIndependent(t, nodes), policystore.WatchOptions{})
	w.wantSet(setOf(1, 1))
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(1, 2)}); err == nil {
		t.Error("nobody is missed")
	}
	w.wantSet(setOf(1, 2))
}

// A replica that takes writes does not refuse them: what was written there would be lost, or served beside the primary.
func TestOnAReplicaThatTakesWritesNothingIsPublished(t *testing.T) {
	primary, server := redistest.Start(t), redistest.Start(t, "--replica-read-only", "no")
	server.ReplicaOf(primary)
	before := holdings(t, []*redistest.Server{server})
	for name, mode := range map[string]library.Mode{"functions": library.ModeFunctions, "scripts": library.ModeScripts} {
		_, err := policystore.Publish(t.Context(), newServers(t, server.Addr), policystore.Publication{Owner: owner, Set: setOf(2, 1), Mode: mode})
		if !errors.As(err, new(*policystore.ReplicaError)) || redisops.Classify(err) != redisops.ReadOnly {
			t.Errorf("%s: error %v of class %s, want a ReplicaError of class read only", name, err, redisops.Classify(err))
		}
	}
	if after := holdings(t, []*redistest.Server{server}); after != before {
		t.Errorf("wrote:\n%s\nbefore:\n%s", after, before)
	}
}

// A RESP3 connection gets the reply to HELLO in another form.
func TestRolesAreKnownInBothProtocols(t *testing.T) {
	primary, server := redistest.Start(t), redistest.Start(t, "--replica-read-only", "no")
	server.ReplicaOf(primary)
	for _, protocol := range []int{2, 3} {
		servers := redisopstest.Open(t, redisops.Config{Addresses: []string{server.Addr}, Protocol: protocol})
		if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 1)}); !errors.As(err, new(*policystore.ReplicaError)) {
			t.Errorf("RESP%d: %v, want a ReplicaError", protocol, err)
		}
		p := policystore.Publication{Set: setOf(2, int64(protocol))}
		publish(t, redisopstest.Open(t, redisops.Config{Addresses: []string{primary.Addr}, Protocol: protocol}), p)
		wantNoFurtherWrite(t, redisopstest.Open(t, redisops.Config{Addresses: []string{primary.Addr}, Protocol: protocol}), []*redistest.Server{primary}, p)
	}
}

func TestScriptModeHoldsAShrinkWhenTheDocumentIsLost(t *testing.T) {
	for name, damage := range map[string][]any{
		"policies deleted": {"DEL", policystore.PoliciesKey},
		"policies garbage": {"SET", policystore.PoliciesKey, "{"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			servers := newServers(t, server.Addr)
			p := policystore.Publication{Set: setOf(40, 1), Mode: library.ModeScripts}
			publish(t, servers, p)
			server.Do(damage...)
			before := holdings(t, []*redistest.Server{server})
			_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(0, 1), Mode: library.ModeScripts})
			var held *policystore.ShrinkHeldError
			if !errors.As(err, &held) || held.Removed != 40 || held.Of != 40 {
				t.Errorf("error %v, want 40 of 40 held", err)
			}
			if after := holdings(t, []*redistest.Server{server}); after != before {
				t.Error("something was written")
			}
			publish(t, servers, p)
			wantNoFurtherWrite(t, servers, []*redistest.Server{server}, p)
		})
	}
}

func TestFlushedScriptsAreLoadedAgain(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	p := policystore.Publication{Set: setOf(3, 1), Mode: library.ModeScripts}
	publish(t, servers, p)
	server.Do("SCRIPT", "FLUSH")
	if result := publish(t, servers, p); !result.Changed {
		t.Error("nothing was repaired")
	}
	if loaded, err := library.ScriptsLoaded(t.Context(), server.Client()); err != nil || !loaded {
		t.Errorf("the scripts are there: %v, %v", loaded, err)
	}
	wantNoFurtherWrite(t, servers, []*redistest.Server{server}, p)
}

// Somebody's TTL on a document is taken off without writing all of it.
func TestTTLOnADocumentIsTakenOff(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	p := policystore.Publication{Set: setOf(3, 1)}
	publish(t, servers, p)
	for _, key := range []string{policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey} {
		server.Do("EXPIRE", key, 1000)
		if result := publish(t, servers, p); !result.Changed {
			t.Errorf("%s: nothing was repaired", key)
		}
		if ttl := server.Do("PTTL", key); ttl != int64(-1) {
			t.Errorf("%s expires in %v ms, want never", key, ttl)
		}
	}
	stats, err := server.Client().InfoMap(t.Context(), "commandstats").Result()
	if err != nil || stats["Commandstats"]["cmdstat_persist"] == "" {
		t.Errorf("PERSIST: %q, %v", stats["Commandstats"]["cmdstat_persist"], err)
	}
	wantNoFurtherWrite(t, servers, []*redistest.Server{server}, p)
}
