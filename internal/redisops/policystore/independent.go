package policystore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// publishEach publishes on each of several servers that know nothing of each other.
func (w *publishing) publishEach(ctx context.Context, nodes []redisops.Node) (Result, error) {
	// In one order, so that of two publishers at once the second one is refused by the first server of all.
	slices.SortFunc(nodes, func(a, b redisops.Node) int { return cmp.Compare(a.Address, b.Address) })
	failures := make([]error, len(nodes))
	inParallel(nodes, func(i int) { failures[i] = w.mayGoTo(ctx, nodes[i]) })

	var result Result
	var missed []error
	for i, failure := range failures {
		switch {
		case failure == nil:
		case away(failure):
			result.addMissing(nodes[i].Address)
			missed = append(missed, fmt.Errorf("%s: %w", nodes[i].Address, failure))
		default:
			return Result{}, fmt.Errorf("%s: %w", nodes[i].Address, failure)
		}
	}
	for i := range nodes {
		if failures[i] != nil {
			continue
		}
		one, err := w.publishServer(ctx, nodes[i])
		result.add(one)
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", nodes[i].Address, err)
		if len(one.Missing) == 0 {
			return result, err
		}
		missed = append(missed, err)
	}
	return result, errors.Join(missed...)
}

// mayGoTo tells whether one server takes the publication.
func (w *publishing) mayGoTo(ctx context.Context, node redisops.Node) error {
	found, err := w.look(ctx, node.Client)
	if err != nil || len(differences(found.have, w.want, w.Mode)) == 0 || w.Mode == library.ModeScripts {
		return err
	}
	return w.takesLibrary(ctx, node)
}

// add adds what was done on one more server.
func (r *Result) add(one Result) {
	r.Changed = r.Changed || one.Changed
	if r.Previous == nil {
		r.Previous = one.Previous
	}
	r.Dropped = append(r.Dropped, one.Dropped...)
	slices.Sort(r.Dropped)
	r.Dropped = slices.Compact(r.Dropped)
	r.addMissing(one.Missing...)
}

// inParallel calls do for each node, and waits for all of them.
func inParallel(nodes []redisops.Node, do func(i int)) {
	var all sync.WaitGroup
	for i := range nodes {
		all.Go(func() { do(i) })
	}
	all.Wait()
}
