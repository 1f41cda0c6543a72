package store_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// metric is the value of the series with that name and, if any, that shard; -1 when there is none.
func (p *penstockd) metric(t *testing.T, name, shard string) float64 {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if labels := m.GetLabel(); shard != "" && (len(labels) != 1 || labels[0].GetName() != "shard" || labels[0].GetValue() != shard) {
				continue
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return -1
}

// Fault 2: how an outage is seen from outside, and that it ends by itself where nobody asks for a decision any more.
func TestAnOutageShowsInMetricsAndReadinessAndIsOverOnAnIdleReplica(t *testing.T) {
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	publish(t, server, lenient(), strict())
	p := startAs(t, store.Options{
		Load: store.Always(redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: commandTimeout}), Replica: "idle",
	}, nil)
	p.ready(t)
	p.mustAsk(t, "user", "bob")
	const state, opened = "penstock_redis_breaker_state", "penstock_redis_breaker_opened_total"
	if got := p.get(t, "/readyz"); got.status != http.StatusOK || got.body != "ok\n" {
		t.Errorf("before: %d %q, want ok", got.status, got.body)
	}
	if p.metric(t, state, server.Addr) != 0 || p.metric(t, opened, server.Addr) != 0 || p.metric(t, "penstock_degraded", "") != 0 {
		t.Errorf("before: state %v, opened %v, degraded %v; want none", p.metric(t, state, server.Addr), p.metric(t, opened, server.Addr), p.metric(t, "penstock_degraded", ""))
	}

	server.Kill()
	eventually(t, "the breaker is open", func() bool { p.mustAsk(t, "user", "bob"); return p.metric(t, state, server.Addr) == 2 })
	if got := p.mustAsk(t, "team", "red"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || !degraded(got) {
		t.Errorf("Deny: %v, want OVER_LIMIT and degraded", got)
	}
	if got := p.get(t, "/readyz"); got.status != http.StatusOK || got.body != "ok\ndegraded: 1 of 1 servers of redis that decide do not answer; onStoreFailure decides for what is there\n" {
		t.Errorf("meanwhile: %d %q, want ready, degraded, and no address", got.status, got.body)
	}
	if p.metric(t, opened, server.Addr) < 1 || p.metric(t, "penstock_degraded", "") != 1 {
		t.Errorf("meanwhile: opened %v, degraded %v; want both", p.metric(t, opened, server.Addr), p.metric(t, "penstock_degraded", ""))
	}

	server.Run()
	eventually(t, "all is well without a request", func() bool {
		return p.metric(t, "penstock_degraded", "") == 0 && p.metric(t, state, server.Addr) == 0 && p.get(t, "/readyz").body == "ok\n"
	})
}

func TestReplicasAreCountedAndTheLastCountIsKeptWhileRedisIsGone(t *testing.T) {
	server := redistest.Start(t)
	publish(t, server, lenient())
	cfg := redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: commandTimeout}
	one := startAs(t, store.Options{Load: store.Always(cfg), Replica: "one"}, nil)
	other := startAs(t, store.Options{Load: store.Always(cfg), Replica: "other"}, policy.NewSet([]policy.RateLimit{lenient()}))
	uncounted := startAs(t, store.Options{Load: store.Always(cfg)}, nil)
	uncounted.ready(t)
	for name, p := range map[string]*penstockd{"of published policies": one, "of a file": other} {
		p.ready(t)
		eventually(t, name+" counts two", func() bool { return p.store.Replicas() == 2 && p.metric(t, "penstock_live_replicas", "") == 2 })
	}
	if n := uncounted.store.Replicas(); n != 1 {
		t.Errorf("one that does not count: %d, want 1", n)
	}
	server.Kill()
	eventually(t, "it is known that Redis is gone", func() bool { return strings.HasPrefix(one.get(t, "/readyz").body, "ok\ndegraded: ") })
	if n := one.store.Replicas(); n != 2 {
		t.Errorf("without Redis: %d, want the last count", n)
	}
}

func TestARedisThatDoesNotLetReplicasBeCountedIsSaidOnce(t *testing.T) {
	server := redistest.Start(t)
	publish(t, server, lenient())
	server.Do("ACL", "SETUSER", "default", "-hgetall")
	p := startAs(t, store.Options{
		Load: store.Always(redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: commandTimeout}), Replica: "r",
	}, nil)
	p.ready(t)
	const said, over = "redis does not let this replica be counted", "redis counts this replica again"
	eventually(t, "it is said", func() bool { return p.told(said) == 1 })
	if got := p.mustAsk(t, "user", "bob"); degraded(got) || p.store.Replicas() != 1 {
		t.Errorf("%v, %d replicas; want a decision all the same, and 1", got, p.store.Replicas())
	}
	server.Do("ACL", "SETUSER", "default", "+hgetall")
	eventually(t, "it is said to be over", func() bool { return p.told(over) == 1 })
	if p.told(said) != 1 {
		t.Errorf("said %d times, want once", p.told(said))
	}
}

// What answers at an address may be replaced by a server that is older or newer.
func TestAnotherKindOfServerIsNoticed(t *testing.T) {
	server := redistest.Start(t)
	p := start(t, server.Addr, nil)
	set := publish(t, server, lenient())
	p.ready(t)
	eventually(t, "decided by functions", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })

	server.Kill()
	old := miniredis.NewMiniRedis()
	if err := old.StartAddr(server.Addr); err != nil {
		t.Fatal(err)
	}
	if err := old.Set("penstock:policies", string(set.Marshal())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "decided by scripts", func() bool {
		got, err := p.ask(t, "user", "bob")
		return err == nil && !degraded(got)
	})
	old.Close()
	server.Run()
	publish(t, server, lenient())
	eventually(t, "decided by functions again", func() bool {
		got, err := p.ask(t, "user", "bob")
		return err == nil && !degraded(got) && commands(t, server, "fcall") > 0
	})
}
