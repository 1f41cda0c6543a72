package engine

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Door names where a request came in, for the metrics.
type Door uint8

// Doors of penstockd.
const (
	// DoorRLS is the Envoy Rate Limit Service.
	DoorRLS Door = iota
	// DoorForwardAuth is the HTTP door for proxies that ask before they forward.
	DoorForwardAuth
	// DoorAPI is the LimiterService.
	DoorAPI
	// DoorExtAuthz is Envoy's external authorization over gRPC.
	DoorExtAuthz
	// DoorJSON is the JSON form of the Envoy Rate Limit Service.
	DoorJSON
	// DoorClient is the Go client that decides in the process of an application.
	DoorClient
	doors
)

var doorNames = [doors]string{DoorRLS: "rls", DoorForwardAuth: "forwardauth", DoorAPI: "api", DoorExtAuthz: "extauthz", DoorJSON: "json", DoorClient: "client"}

// outcome is what a policy said to one decision.
type outcome uint8

const (
	outcomeAllowed outcome = iota
	outcomeDenied
	// outcomeShadow: it would have denied.
	outcomeShadow
	// outcomeCached: denied without asking Redis again.
	outcomeCached
	// outcomePenalty: denied, because the subject was denied too often.
	outcomePenalty
	outcomeUnmatched
	outcomeDegradedAllowed
	outcomeDegradedDenied
	outcomeError
	outcomes
)

var outcomeNames = [outcomes]string{
	outcomeAllowed: "allowed", outcomeDenied: "denied", outcomeShadow: "shadow", outcomeCached: "cached", outcomePenalty: "penalty",
	outcomeUnmatched: "unmatched", outcomeDegradedAllowed: "degraded_allowed", outcomeDegradedDenied: "degraded_denied",
	outcomeError: "error",
}

// outcome is what the policy of one charge said. It is not called for what was spared, which said nothing.
func (r *Request) outcome(charge int) outcome {
	a := &r.answers[charge]
	switch {
	case a.state == stateGone:
		return outcomeUnmatched
	case a.state == stateCached:
		return outcomeCached
	case a.state == stateFailed && !a.row.Allowed:
		return outcomeDegradedDenied
	case a.state == stateFailed:
		return outcomeDegradedAllowed
	case a.row.Reason == limit.ReasonShadow:
		return outcomeShadow
	case a.row.Allowed:
		return outcomeAllowed
	case a.row.Reason == limit.ReasonPenalty:
		return outcomePenalty
	default:
		return outcomeDenied
	}
}

// operationResult is what became of an operation that is no decision.
type operationResult uint8

const (
	operationDone operationResult = iota
	// operationAbsent: there was no such decision or slot, so nothing changed.
	operationAbsent
	// operationFailed: it was not done.
	operationFailed
	// operationUnknown: it may have been done.
	operationUnknown
	operationResults
)

var operationResultNames = [operationResults]string{
	operationDone: "done", operationAbsent: "absent", operationFailed: "failed", operationUnknown: "unknown",
}

// metrics are the engine's. Labels are names of policies and constants, never what a request carries.
type metrics struct {
	decisions        *prometheus.CounterVec
	operations       *prometheus.CounterVec
	newSubjects      *prometheus.CounterVec
	garbledStates    *prometheus.CounterVec
	expressionErrors *prometheus.CounterVec
	latency          [doors]prometheus.Observer
	redis            prometheus.Histogram
	storeErrors      *prometheus.CounterVec
	unknownDomain    prometheus.Counter
	degraded         prometheus.Gauge

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
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_operations_total",
			Help: "Refunds, credits, resets and releases of slots, by what became of them and the door where they came in.",
		}, []string{"namespace", "policy", "operation", "outcome", "door"}),
		newSubjects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_new_subjects_total",
			Help: "Subjects that a policy had no state of when they were charged.",
		}, []string{"namespace", "policy"}),
		garbledStates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_garbled_states_total",
			Help: "Subjects whose state in Redis was none of ours when they were charged, so that it started anew.",
		}, []string{"namespace", "policy"}),
		expressionErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_expression_errors_total",
			Help: "Requests for which an expression of the policy has no value, or does not compile.",
		}, []string{"namespace", "policy"}),
		redis: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "penstock_redis_duration_seconds", Buckets: latencyBuckets,
			Help: "How long a decision waited for Redis, failures included.",
		}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "penstock_store_errors_total",
			Help: "Calls of Redis that failed, by class of error; breaker_open was not sent at all.",
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
		registerer.MustRegister(m.decisions, m.operations, m.newSubjects, m.garbledStates, m.expressionErrors, latency, m.redis,
			m.storeErrors, m.unknownDomain, m.degraded, m.info, m.timestamp, m.policies)
	}
	return m
}

func (m *metrics) setInForce(set *policy.Set, now time.Time) {
	m.info.WithLabelValues(set.Hash).Set(1)
	m.timestamp.Set(float64(now.UnixMilli()) / 1000)
	m.policies.Set(float64(len(set.RateLimits)))
}

// forget removes the series of policies that are no longer there. A decision that is still under way counts for nobody.
func (m *metrics) forget(old, next *tables) {
	for name, c := range old.names {
		if next.names[name] != nil {
			continue
		}
		c.counters.gone.Store(true)
		for door := range c.counters.decisions {
			for outcome := range c.counters.decisions[door] {
				if c.counters.decisions[door][outcome].Load() != nil {
					m.decisions.DeleteLabelValues(decisionLabels(name, Door(door), uint8(outcome))...)
				}
			}
		}
		namespace, short, _ := strings.Cut(name, "/")
		m.newSubjects.DeleteLabelValues(namespace, short)
		m.garbledStates.DeleteLabelValues(namespace, short)
		m.expressionErrors.DeleteLabelValues(namespace, short)
		for _, operation := range operationNames[opRefund:] {
			for _, result := range operationResultNames {
				for _, door := range doorNames {
					m.operations.DeleteLabelValues(namespace, short, operation, result, door)
				}
			}
		}
	}
}

// counters are the handles of those of one policy's series that decisions need, each resolved when it is first needed:
// most never are.
type counters struct {
	decisions   [doors][outcomes]atomic.Pointer[prometheus.Counter]
	newSubjects atomic.Pointer[prometheus.Counter]
	// gone tells that the policy is no longer there, so that no series of it may be made any more.
	gone atomic.Bool
}

func (c *counters) takeOver(old *counters) {
	for door := range c.decisions {
		for outcome := range c.decisions[door] {
			c.decisions[door][outcome].Store(old.decisions[door][outcome].Load())
		}
	}
	c.newSubjects.Store(old.newSubjects.Load())
}

// refused counts a request that no policy could be asked about. A look is not counted, nor is it in decided.
func (m *metrics) refused(r *Request, door Door) {
	if r.operation == opPeek {
		return
	}
	for i := range r.answers {
		m.count(r.answers[i].policy, door, outcomeError)
	}
}

// decided counts what the policies said to a request.
func (m *metrics) decided(r *Request, door Door) {
	if r.operation == opPeek {
		return
	}
	for i := range r.answers {
		a := &r.answers[i]
		if a.state == stateSpared {
			continue // it said nothing
		}
		m.count(a.policy, door, r.outcome(i))
		if a.state == stateDecided && a.row.New {
			m.countNew(a.policy)
		}
		if a.state == stateDecided && a.row.Garbled && !a.policy.counters.gone.Load() {
			namespace, short, _ := strings.Cut(a.policy.policy.Name, "/")
			m.garbledStates.WithLabelValues(namespace, short).Inc()
		}
	}
}

// tellDenied tells of what denied the request. It is called after the decision, and of a look not at all.
func (e *Engine) tellDenied(r *Request) {
	if e.denied == nil || r.operation == opPeek {
		return
	}
	for i := range r.answers {
		if r.answers[i].state == stateSpared {
			continue // it said nothing
		}
		switch r.outcome(i) {
		case outcomeDenied, outcomeCached, outcomePenalty, outcomeDegradedDenied:
			e.denied(r.answers[i].policy.policy, r.charges[i].Key, r.charges[i].Values)
		default: // it let the request pass
		}
	}
}

// countNew counts a subject that is new to the policy.
func (m *metrics) countNew(c *compiled) {
	handle := c.counters.newSubjects.Load()
	if handle == nil {
		if c.counters.gone.Load() {
			return
		}
		namespace, short, _ := strings.Cut(c.policy.Name, "/")
		counter := m.newSubjects.WithLabelValues(namespace, short)
		handle = &counter
		c.counters.newSubjects.Store(handle)
	}
	(*handle).Inc()
}

// expressionFailed counts a request for which an expression of the policy has no value.
func (m *metrics) expressionFailed(c *compiled) {
	if c.counters.gone.Load() {
		return
	}
	namespace, short, _ := strings.Cut(c.policy.Name, "/")
	m.expressionErrors.WithLabelValues(namespace, short).Inc()
}

// operated counts an operation that is no decision.
func (m *metrics) operated(c *compiled, door Door, op operation, result operationResult) {
	if c.counters.gone.Load() {
		return
	}
	namespace, short, _ := strings.Cut(c.policy.Name, "/")
	m.operations.WithLabelValues(namespace, short, operationNames[op], operationResultNames[result], doorNames[door]).Inc()
}

// count counts one decision of the policy.
func (m *metrics) count(c *compiled, door Door, o outcome) {
	handle := c.counters.decisions[door][o].Load()
	if handle == nil {
		if c.counters.gone.Load() {
			return
		}
		counter := m.decisions.WithLabelValues(decisionLabels(c.policy.Name, door, uint8(o))...)
		handle = &counter
		c.counters.decisions[door][o].Store(handle)
	}
	(*handle).Inc()
}

func decisionLabels(name string, door Door, outcome uint8) []string {
	namespace, short, _ := strings.Cut(name, "/")
	return []string{namespace, short, outcomeNames[outcome], doorNames[door]}
}
