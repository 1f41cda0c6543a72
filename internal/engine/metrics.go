package engine

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Door names where a request came in, for the metrics.
type Door uint8

// Doors of penstockd.
const (
	// DoorRLS is the Envoy Rate Limit Service.
	DoorRLS Door = iota
	// DoorForwardAuth is the HTTP door for proxies that ask before they forward.
	DoorForwardAuth
	doors
)

var doorNames = [doors]string{DoorRLS: "rls", DoorForwardAuth: "forwardauth"}

// outcome is what a policy said to one decision.
type outcome uint8

const (
	outcomeAllowed outcome = iota
	outcomeDenied
	outcomeUnmatched
	outcomeDegradedAllowed
	outcomeDegradedDenied
	outcomeError
	outcomes
)

var outcomeNames = [outcomes]string{
	outcomeAllowed: "allowed", outcomeDenied: "denied", outcomeUnmatched: "unmatched",
	outcomeDegradedAllowed: "degraded_allowed", outcomeDegradedDenied: "degraded_denied", outcomeError: "error",
}

func (v *Verdict) outcome() outcome {
	switch {
	case v.Mode == Unmatched:
		return outcomeUnmatched
	case v.Mode == Degraded && v.Allowed:
		return outcomeDegradedAllowed
	case v.Mode == Degraded:
		return outcomeDegradedDenied
	case v.Allowed:
		return outcomeAllowed
	default:
		return outcomeDenied
	}
}

// metrics are the engine's. Labels are names of policies and constants, never what a request carries.
type metrics struct {
	decisions     *prometheus.CounterVec
	latency       [doors]prometheus.Observer
	redis         prometheus.Histogram
	storeErrors   *prometheus.CounterVec
	unknownDomain prometheus.Counter
	degraded      prometheus.Gauge

	info      *prometheus.GaugeVec
	timestamp prometheus.Gauge
	policies  prometheus.Gauge
}

// latencyBuckets are dense where a decision should be (a round trip and little else) and reach to where a caller has
// long given up.
var latencyBuckets = []float64{.00025, .0005, .001, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .1, .25, 1}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_decisions_total",
			Help: "What a policy said to a request, by the door where it came in.",
		}, []string{"namespace", "policy", "outcome", "door"}),
		redis: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "penstock_redis_duration_seconds", Buckets: latencyBuckets,
			Help: "How long a decision waited for Redis, failures included.",
		}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_store_errors_total",
			Help: "Calls of Redis that failed, by class of error.",
		}, []string{"class"}),
		unknownDomain: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_unknown_domain_total",
			Help: "Requests for a domain that no policy answers for. They are allowed.",
		}),
		degraded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_degraded",
			Help: "1 while decisions are made by onStoreFailure, since Redis does not answer; else 0.",
		}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "penstock_policy_set_info",
			Help: "The policy set in force, by its hash.",
		}, []string{"hash"}),
		timestamp: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_policy_set_timestamp_seconds",
			Help: "Since when the policy set in force is in force, in seconds since 1970.",
		}),
		policies: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "penstock_policies",
			Help: "How many policies the set in force has.",
		}),
	}
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "penstock_decision_duration_seconds", Buckets: latencyBuckets,
		Help: "How long a decision took, Redis included, by the door where the request came in.",
	}, []string{"door"})
	for door, name := range doorNames {
		m.latency[door] = latency.WithLabelValues(name)
	}
	if registerer != nil {
		registerer.MustRegister(m.decisions, latency, m.redis, m.storeErrors, m.unknownDomain, m.degraded, m.info, m.timestamp, m.policies)
	}
	return m
}

func (m *metrics) setInForce(set *policy.Set, now time.Time) {
	m.info.WithLabelValues(set.Hash).Set(1)
	m.timestamp.Set(float64(now.UnixMilli()) / 1000)
	m.policies.Set(float64(len(set.RateLimits)))
}

// forget removes the series of policies that are no longer there. A decision that is still under way counts on for
// nobody, or brings its series back once: then it goes with the next set in which the policy was and is not.
func (m *metrics) forget(old, next *tables) {
	for name, c := range old.names {
		if next.names[name] != nil {
			continue
		}
		for door := range c.counters {
			for outcome := range c.counters[door] {
				if c.counters[door][outcome].Load() != nil {
					m.decisions.DeleteLabelValues(decisionLabels(name, Door(door), uint8(outcome))...)
				}
			}
		}
	}
}

// counters are the handles of one policy's series, each resolved when it is first needed: most never are.
type counters [doors][outcomes]atomic.Pointer[prometheus.Counter]

func (c *counters) takeOver(old *counters) {
	for door := range c {
		for outcome := range c[door] {
			c[door][outcome].Store(old[door][outcome].Load())
		}
	}
}

// count counts one decision of the policy.
func (m *metrics) count(c *compiled, door Door, o outcome) {
	handle := c.counters[door][o].Load()
	if handle == nil {
		counter := m.decisions.WithLabelValues(decisionLabels(c.policy.Name, door, uint8(o))...)
		handle = &counter
		c.counters[door][o].Store(handle)
	}
	(*handle).Inc()
}

func decisionLabels(name string, door Door, outcome uint8) []string {
	namespace, short, _ := strings.Cut(name, "/")
	return []string{namespace, short, outcomeNames[outcome], doorNames[door]}
}
