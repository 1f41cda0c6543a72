package policystore

import (
	"context"
	"errors"
	"fmt"

	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// loadScripts loads the scripts into every server that lacks them, and says so in the result. Of replicas that do not take
// them nothing is said: whoever calls a script that is not there sends its text.
func (w *publishing) loadScripts(ctx context.Context, result *Result) error {
	nodes, err := w.servers.Nodes(ctx)
	if err != nil {
		return fmt.Errorf("find the servers: %w", err)
	}
	loaded, failures := make([]bool, len(nodes)), make([]error, len(nodes))
	inParallel(nodes, func(i int) {
		found, err := library.ScriptsLoaded(ctx, nodes[i].Client)
		if err == nil && !found {
			err = library.LoadScripts(ctx, nodes[i].Client)
			loaded[i] = err == nil
		}
		failures[i] = err
	})
	var failed []error
	for i, node := range nodes {
		result.Changed = result.Changed || loaded[i]
		if failures[i] == nil || !node.Primary {
			continue
		}
		failed = append(failed, fmt.Errorf("%s: %w", node.Address, failures[i]))
		if away(failures[i]) {
			result.addMissing(node.Address)
		}
	}
	return errors.Join(failed...)
}
