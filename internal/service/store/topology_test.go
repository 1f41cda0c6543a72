package store_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/store"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// sentinelConfig is how clients find the primary.
func sentinelConfig(s *redistest.Sentinel) redisops.Config {
	return redisops.Config{
		Topology: policy.TopologySentinel, Addresses: s.Addresses(), MasterName: s.MasterName, CommandTimeout: commandTimeout,
	}
}

func clusterConfig(c *redistest.Cluster) redisops.Config {
	return redisops.Config{Topology: policy.TopologyCluster, Addresses: c.Addresses()[:1], CommandTimeout: commandTimeout}
}

// secured are certificates for both sides.
func secured(t *testing.T) (redistest.TLS, *redisops.TLS) {
	t.Helper()
	ca := tlstest.NewCA(t)
	server, ours := ca.Issue(t, "127.0.0.1"), ca.Issue(t, "penstockd")
	return redistest.TLS{Cert: server.Cert, Key: server.Key, ClientCA: ca.PEM}, &redisops.TLS{CA: ca.PEM, ClientCert: ours.Cert, ClientKey: ours.Key}
}

func TestEveryTopologyCountsEachSubject(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) redisops.Config{
		"Standalone, RESP3": func(t *testing.T) redisops.Config {
			return redisops.Config{Addresses: []string{redistest.Start(t).Addr}, Protocol: 3}
		},
		"Standalone, TLS": func(t *testing.T) redisops.Config {
			with, ours := secured(t)
			return redisops.Config{Addresses: []string{redistest.StartTLS(t, with).Addr}, TLS: ours}
		},
		"Sentinel": func(t *testing.T) redisops.Config {
			return sentinelConfig(redistest.StartSentinel(t, 1, redistest.SentinelOptions{}))
		},
		"Sentinel, passwords, TLS": func(t *testing.T) redisops.Config {
			with, ours := secured(t)
			cfg := sentinelConfig(redistest.StartSentinel(t, 1, redistest.SentinelOptions{
				Redis: append(with.Options(t), "--requirepass", "secret"), Sentinels: []string{"--requirepass", "other"},
			}))
			cfg.TLS, cfg.Password, cfg.SentinelPassword = ours, "secret", "other"
			return cfg
		},
		"Cluster": func(t *testing.T) redisops.Config { return clusterConfig(redistest.StartCluster(t, 3, 0)) },
		"Cluster, password, TLS, RESP3": func(t *testing.T) redisops.Config {
			with, ours := secured(t)
			cfg := clusterConfig(redistest.StartCluster(t, 3, 0, append(with.Options(t), "--requirepass", "secret")...))
			cfg.TLS, cfg.Password, cfg.Protocol = ours, "secret", 3
			return cfg
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := begin(t)
			cfg.CommandTimeout = commandTimeout
			publishBy(t, cfg, rateLimit("per-user", "user", policy.FailureDeny, policy.SlidingLog), rateLimit("per-team", "team", policy.FailureDeny, policy.FixedWindow))
			p := startAs(t, store.Options{Load: store.Always(cfg), Replica: "r"}, nil)
			p.ready(t)
			for i := range 20 {
				user := fmt.Sprintf("user-%d", i)
				for _, left := range []uint32{99, 98} {
					if got := p.mustAsk(t, "user", user); degraded(got) || got.GetStatuses()[0].GetLimitRemaining() != left {
						t.Fatalf("%s: %v, want %d left", user, got, left)
					}
				}
				// Two budgets in one decision, which may be on two servers.
				if got := p.mustAsk(t, "user", user, "team", user); degraded(got) || got.GetStatuses()[0].GetLimitRemaining() != 97 || got.GetStatuses()[1].GetLimitRemaining() != 99 {
					t.Fatalf("%s: %v, want 97 and 99 left", user, got)
				}
			}
			eventually(t, "it is counted", func() bool { return p.store.Replicas() == 1 && p.told("cannot") == 0 })
		})
	}
}

// Fault 1.
func TestEveryTopologyMayBeAwayAtTheStart(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) (cfg redisops.Config, servers []*redistest.Server, back func()){
		"Sentinel": func(t *testing.T) (redisops.Config, []*redistest.Server, func()) {
			s := redistest.StartSentinel(t, 0, redistest.SentinelOptions{})
			return sentinelConfig(s), append(s.Servers, s.Sentinels...), func() {}
		},
		"Cluster": func(t *testing.T) (redisops.Config, []*redistest.Server, func()) {
			c := redistest.StartCluster(t, 3, 0)
			return clusterConfig(c), c.Nodes, c.WaitReady
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, servers, back := begin(t)
			for _, server := range servers {
				server.Kill()
			}
			p := startAs(t, store.Options{Load: store.Always(cfg), Replica: "r"}, nil)
			eventually(t, "it says why it is not ready", func() bool {
				return p.get(t, "/readyz").body == "not ready: no policy set is loaded yet: redis cannot be reached\n"
			})
			if got := p.get(t, "/healthz"); got.status != http.StatusOK {
				t.Errorf("liveness: %d, want 200", got.status)
			}
			for _, server := range servers {
				server.Run()
			}
			back()
			published := publishBy(t, cfg, lenient())
			eventually(t, "the policies are in force", func() bool { set := p.engine.Set(); return set != nil && set.Hash == published.Hash })
			eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
			if n := p.told("cannot reach redis; trying on"); n != 1 {
				t.Errorf("said %d times that it cannot be reached, want once:\n%s", n, p.log)
			}
		})
	}
}

func TestAfterAFailoverThePromotedServerDecides(t *testing.T) {
	servers := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	cfg := sentinelConfig(servers)
	publishBy(t, cfg, lenient(), strict())
	p := startAs(t, store.Options{Load: store.Always(cfg)}, nil)
	p.ready(t)
	eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
	// What the replica has not got by then is lost with the primary.
	eventually(t, "the replica has the policies", func() bool { return servers.Replicas()[0].Do("EXISTS", policystore.PoliciesKey).(int64) == 1 })
	old := servers.Primary()
	old.Kill()
	if got := p.mustAsk(t, "team", "red"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || !degraded(got) {
		t.Errorf("without a primary: %v, want the answer of Deny", got)
	}
	promoted := servers.WaitFailover(old)
	eventually(t, "the promoted one decides", func() bool { return !degraded(p.mustAsk(t, "team", "red")) })
	if commands(t, promoted, "fcall") == 0 {
		t.Error("it decided nothing")
	}
	eventually(t, "all is well", func() bool { return p.get(t, "/readyz").body == "ok\n" })
}

// Fault 21.
func TestAShardThatIsGoneHarmsOnlyItsKeys(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	cfg := clusterConfig(cluster)
	publishBy(t, cfg, rateLimit("per-user", "user", policy.FailureDeny, policy.FixedWindow))
	p := startAs(t, store.Options{Load: store.Always(cfg)}, nil)
	p.ready(t)
	gone := cluster.Nodes[1]
	users := map[*redistest.Server][]string{}
	for i := range 30 {
		user := fmt.Sprintf("user-%d", i)
		node := cluster.Primary(redisops.CounterKey("shop/per-user", []redisops.Entry{{Key: "user", Value: user}}))
		users[node] = append(users[node], user)
		if got := p.mustAsk(t, "user", user); degraded(got) {
			t.Fatalf("before: %v", got)
		}
	}
	gone.Kill()
	const state = "penstock_redis_breaker_state"
	eventually(t, "its breaker is open", func() bool {
		for _, user := range users[gone] {
			p.mustAsk(t, "user", user)
		}
		return p.metric(t, state, gone.Addr) == 2
	})
	for node, of := range users {
		for _, user := range of {
			got := p.mustAsk(t, "user", user)
			if degraded(got) != (node == gone) || (got.GetOverallCode() == ratelimitv3.RateLimitResponse_OVER_LIMIT) != (node == gone) {
				t.Errorf("%s: %v, want degraded %t", user, got, node == gone)
			}
		}
		if want := map[bool]float64{true: 2, false: 0}[node == gone]; p.metric(t, state, node.Addr) != want {
			t.Errorf("the breaker of a shard is %v, want %v", p.metric(t, state, node.Addr), want)
		}
	}
	if got := p.get(t, "/readyz"); got.status != http.StatusOK || !strings.HasPrefix(got.body, "ok\ndegraded: 1 of 3 servers of redis") {
		t.Errorf("%d %q, want ready, and one shard degraded", got.status, got.body)
	}
	gone.Run()
	eventually(t, "it decides again", func() bool {
		return !degraded(p.mustAsk(t, "user", users[gone][0])) && p.metric(t, state, gone.Addr) == 0 && p.get(t, "/readyz").body == "ok\n"
	})
}

func TestTheSeriesOfAShardThatLeavesGoToo(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	cfg := clusterConfig(cluster)
	publishBy(t, cfg, rateLimit("per-user", "user", policy.FailureDeny, policy.FixedWindow))
	p := startAs(t, store.Options{Load: store.Always(cfg)}, nil)
	p.ready(t)
	leaving, staying := cluster.Nodes[2], cluster.Nodes[0]
	const state = "penstock_redis_breaker_state"
	eventually(t, "all three are shown", func() bool { return p.metric(t, state, leaving.Addr) == 0 && p.metric(t, state, staying.Addr) == 0 })
	cluster.Remove(leaving)
	eventually(t, "its series are gone", func() bool {
		for i := range 10 {
			p.mustAsk(t, "user", fmt.Sprint(i))
		}
		return p.metric(t, state, leaving.Addr) == -1 && p.metric(t, state, staying.Addr) == 0
	})
}

func TestIndependentServersHaveNoRateLimitsAndAreServedAllTheSame(t *testing.T) {
	var addresses []string
	for range 3 {
		addresses = append(addresses, redistest.Start(t).Addr)
	}
	cfg := redisops.Config{Topology: policy.TopologyIndependent, Addresses: addresses, CommandTimeout: commandTimeout}
	publishBy(t, cfg)
	p := startAs(t, store.Options{Load: store.Always(cfg), Replica: "r"}, nil)
	p.ready(t)
	if got := p.mustAsk(t, "user", "bob"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || degraded(got) {
		t.Errorf("%v, want OK: there is no limit", got)
	}
	if got := p.get(t, "/readyz"); got.status != http.StatusOK || got.body != "ok\n" {
		t.Errorf("%d %q, want ready", got.status, got.body)
	}
}

// Fault 26.
func TestServersOfAnotherTopologyAreNotCalledARefusalOfTheUser(t *testing.T) {
	address := redistest.Start(t).Addr
	for name, cfg := range map[string]redisops.Config{
		"no cluster":       {Topology: policy.TopologyCluster},
		"no sentinel":      {Topology: policy.TopologySentinel, MasterName: "main"},
		"no such database": {DB: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Addresses = []string{address}
			p := startWith(t, cfg, nil)
			eventually(t, "the log says what it is", func() bool { return p.told("redis cannot be used as it is configured until that is mended") == 1 })
			if got := p.get(t, "/readyz"); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "cannot be used as penstockd is configured") || p.told("password") != 0 {
				t.Errorf("%d %q, and the log\n%s", got.status, got.body, p.log)
			}
		})
	}
}

func TestACertificateThatIsNotTrustedIsRefusedAndTheLogSaysWhy(t *testing.T) {
	ca, other := tlstest.NewCA(t), tlstest.NewCA(t)
	for name, test := range map[string]struct {
		pair tlstest.Pair
		want string
	}{
		"expired":            {ca.IssueUntil(t, time.Now().Add(-time.Minute), "127.0.0.1"), "expired"},
		"of another name":    {ca.Issue(t, "elsewhere.example"), "certificate"},
		"of another CA":      {other.Issue(t, "127.0.0.1"), "unknown authority"},
		"and one that is so": {ca.Issue(t, "127.0.0.1"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.StartTLS(t, redistest.TLS{Cert: test.pair.Cert, Key: test.pair.Key})
			cfg := redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: commandTimeout, TLS: &redisops.TLS{InsecureSkipVerify: true}}
			publishBy(t, cfg, lenient())
			cfg.TLS = &redisops.TLS{CA: ca.PEM}
			p := startAs(t, store.Options{Load: store.Always(cfg)}, nil)
			if test.want == "" {
				p.ready(t)
				return
			}
			eventually(t, "the log says why", func() bool { return p.told(test.want) > 0 })
			if got := p.get(t, "/readyz"); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "cannot be used as penstockd is configured") || strings.Contains(got.body, server.Addr) {
				t.Errorf("%d %q, want it not ready, and no address", got.status, got.body)
			}
			good := ca.Issue(t, "127.0.0.1")
			server.UseTLS(redistest.TLS{Cert: good.Cert, Key: good.Key})
			p.ready(t)
		})
	}
}
