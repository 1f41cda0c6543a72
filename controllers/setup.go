// Package controllers has the one list of controllers that the operator runs.
package controllers

import (
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/controllers/ratelimit"
	"github.com/penstock-dev/penstock/controllers/redisstore"
)

// Setup adds every controller to a manager. operatorNamespace is where the RedisStore default for all namespaces is
// looked for.
func Setup(mgr ctrl.Manager, operatorNamespace string) error {
	table := outcomes.NewTable()
	for _, c := range []struct {
		name       string
		controller interface{ SetupWithManager(ctrl.Manager) error }
	}{
		{"redisstore", redisstore.New(redisstore.Options{
			Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("penstock.dev/redisstore"),
			Outcomes: table, OperatorNamespace: operatorNamespace,
		})},
		{"ratelimit", ratelimit.New(ratelimit.Options{
			Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder("penstock.dev/ratelimit"),
			Outcomes: table, OperatorNamespace: operatorNamespace,
		})},
	} {
		if err := c.controller.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("set up controller %s: %w", c.name, err)
		}
	}
	return nil
}
