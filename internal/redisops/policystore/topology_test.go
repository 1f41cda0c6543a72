package policystore_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func openCluster(t *testing.T, cluster *redistest.Cluster) *redisops.Servers {
	t.Helper()
	return redisopstest.Open(t, redisops.Config{
		Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), DialTimeout: 2 * time.Second,
	})
}

func openSentinel(t *testing.T, sentinel *redistest.Sentinel) *redisops.Servers {
	t.Helper()
	return redisopstest.Open(t, redisops.Config{
		Topology: policy.TopologySentinel, Addresses: sentinel.Addresses(), MasterName: sentinel.MasterName,
		DialTimeout: 2 * time.Second,
	})
}

func openIndependent(t *testing.T, nodes []*redistest.Server) *redisops.Servers {
	t.Helper()
	cfg := redisops.Config{Topology: policy.TopologyIndependent, DialTimeout: 2 * time.Second}
	for _, node := range nodes {
		cfg.Addresses = append(cfg.Addresses, node.Addr)
	}
	return redisopstest.Open(t, cfg)
}

func startMany(t *testing.T, count int) []*redistest.Server {
	t.Helper()
	var nodes []*redistest.Server
	for range count {
		nodes = append(nodes, redistest.Start(t))
	}
	return nodes
}

// holdings are everything that a publication may change, on each of the servers: the documents with whether they expire,
// and the library.
func holdings(t *testing.T, nodes []*redistest.Server) string {
	t.Helper()
	var all []string
	for _, node := range nodes {
		client := node.Client()
		for _, key := range []string{policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey, policystore.NamesKey} {
			value, err := client.Get(context.Background(), key).Result()
			switch {
			case err == nil:
				all = append(all, node.Addr+" "+key+"="+value, fmt.Sprint(client.PTTL(context.Background(), key).Val() >= 0))
			case err == redis.Nil, strings.HasPrefix(err.Error(), "MOVED"): //nolint:errorlint // As go-redis gives them.
			case strings.HasPrefix(err.Error(), "WRONGTYPE"):
				all = append(all, node.Addr+" "+key+" is no string")
			default:
				t.Fatal(err)
			}
		}
		text, found, err := library.Loaded(context.Background(), client)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(node.Addr, " library ", found, library.Hash(text)))
	}
	return strings.Join(all, "\n")
}

// writeCounts are how often each server ran a command that writes, announces or loads.
func writeCounts(t *testing.T, nodes []*redistest.Server, without ...string) string {
	t.Helper()
	var all []string
	for _, node := range nodes {
		stats, err := node.Client().InfoMap(context.Background(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{
			"set", "del", "persist", "multi", "publish", "function|load", "function|delete", "script|load", "pexpire", "hset",
		} {
			calls, _, found := strings.Cut(stats["Commandstats"]["cmdstat_"+command], ",")
			if found && !slices.Contains(without, command) {
				all = append(all, node.Addr+" "+command+" "+calls)
			}
		}
	}
	return strings.Join(all, "\n")
}

func wantNoFurtherWrite(t *testing.T, servers *redisops.Servers, nodes []*redistest.Server, p policystore.Publication) {
	t.Helper()
	var without []string
	if servers.Config().Topology == policy.TopologySentinel {
		without = append(without, "publish") // The sentinels do.
	}
	before := writeCounts(t, nodes, without...)
	if result := publish(t, servers, p); result.Changed || len(result.Missing) > 0 {
		t.Errorf("Result = %+v, want nothing changed and none missing", result)
	}
	if after := writeCounts(t, nodes, without...); after != before {
		t.Errorf("wrote: before\n%s\nafter\n%s", before, after)
	}
}

// withoutDocuments gives a primary that serves none of our documents.
func withoutDocuments(t *testing.T, cluster *redistest.Cluster, primaries int) *redistest.Server {
	t.Helper()
	for _, node := range cluster.Nodes[:primaries] {
		if !slices.ContainsFunc([]string{policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey, policystore.NamesKey},
			func(key string) bool { return cluster.Primary(key) == node }) {
			return node
		}
	}
	t.Fatal("each primary serves a document")
	return nil
}
