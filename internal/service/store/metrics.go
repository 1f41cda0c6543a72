package store

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// collector shows the breakers of the servers that there are now, so that those of servers that are gone go too.
type collector struct {
	store                   *Store
	state, opened, replicas *prometheus.Desc
}

func newCollector(s *Store) *collector {
	return &collector{
		store: s,
		state: prometheus.NewDesc("penstock_redis_breaker_state",
			"Whether decisions are sent to a server of Redis: 0 closed, they are; 1 half open, one is tried; 2 open, onStoreFailure decides at once.",
			[]string{"shard"}, nil),
		opened: prometheus.NewDesc("penstock_redis_breaker_opened_total",
			"How often a server of Redis was given up for a while.", []string{"shard"}, nil),
		replicas: prometheus.NewDesc("penstock_live_replicas",
			"How many processes decide with this Redis, as was last known, this one included. LocalShare divides by it.", nil, nil),
	}
}

var breakerStates = map[redisops.BreakerState]float64{
	redisops.BreakerClosed: 0, redisops.BreakerHalfOpen: 1, redisops.BreakerOpen: 2,
}

// Describe tells what there is to collect.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	to <- c.state
	to <- c.opened
	to <- c.replicas
}

// Collect gives the state of now.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	g := c.store.enter()
	defer g.leave()
	for _, shard := range g.caller.Shards() {
		address := strings.ToValidUTF8(shard.Address, "?") // a cluster tells those of its nodes
		to <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, breakerStates[shard.Breaker], address)
		to <- prometheus.MustNewConstMetric(c.opened, prometheus.CounterValue, float64(shard.Opened), address)
	}
	to <- prometheus.MustNewConstMetric(c.replicas, prometheus.GaugeValue, float64(c.store.Replicas()))
}
