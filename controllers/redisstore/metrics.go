package redisstore

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// stateLosses is served with the other metrics of the operator.
var stateLosses = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "penstock_state_loss_total",
	Help: "How often a Redis was found to have lost its data, and counters with it: another identity, and nothing published any more.",
}, []string{"namespace", "name"})

func init() {
	metrics.Registry.MustRegister(stateLosses)
}
