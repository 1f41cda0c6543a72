package redisstore

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// publish makes Redis hold the set. cluster is the id of this cluster.
func (r *Reconciler) publish(ctx context.Context, cluster string, store *v1.RedisStore, site *site, seen *observation) {
	set, now := seen.assembly.Set, r.now()
	publication := policystore.Publication{
		Owner: owner(cluster, store), TakeOver: store.Annotations[v1.AnnotationTakeOver],
		Set: set, ConfirmShrink: store.Annotations[v1.AnnotationConfirmShrink], Dropped: site.drops.lately(now),
		Mode: seen.facts.Mode,
	}
	if lives(cluster, publication.TakeOver, seen.stores) {
		publication.TakeOver = ""
	}
	result, err := site.server.Publish(ctx, publication)
	site.drops.add(now, result.Dropped)
	if result.Changed {
		site.untold = set
	}
	var owned *policystore.OwnedError
	var held *policystore.ShrinkHeldError
	switch {
	case err == nil:
		seen.inForce = set
		site.drops.held = false
		site.drops.returned(set)
		if publication.ConfirmShrink == set.Hash {
			// Somebody stands by all that is gone: what is dropped from now on counts anew.
			site.drops = drops{}
		}
		if result.Changed {
			site.spaced(now, len(set.Marshal()))
		}
	case errors.As(err, &owned):
		// What is published there is not ours, whatever its policies are called.
		seen.inForce = nil
		seen.load = &conditions.Stalling{Reason: v1.ReasonConflicted, Message: conflict(owned.Owner, lives(cluster, owned.Owner, seen.stores))}
	case errors.As(err, &held):
		seen.held = held
		site.drops.held = true
	case redisops.Classify(err) == redisops.OutOfMemory, errors.Is(err, library.ErrTooLarge):
		seen.full = err
		seen.load = &conditions.Stalling{Reason: v1.ReasonStoreFull, Message: fmt.Sprintf(
			"the set in force stays, since Redis refuses the new one: %s; raise maxmemory, or remove policies or other data", full(err))}
	case errors.Is(err, policystore.ErrReadBack):
		seen.load = &conditions.Waiting{Reason: v1.ReasonNotLoaded, Message: err.Error() + "; somebody else writes the keys penstock:*, too",
			After: site.backoff()}
	case errors.Is(err, policy.ErrNewerFormat):
		// A set is in force, but not one that this version can read.
		seen.known = false
		seen.load = &conditions.Stalling{Reason: v1.ReasonNotLoaded, Message: err.Error()}
	case redisops.Classify(err) == redisops.Failed:
		seen.load = &conditions.Stalling{Reason: v1.ReasonNotLoaded, Message: "Redis refuses the library: " + refusal(err)}
	default:
		// Also when the outcome is unknown: the next attempt looks first.
		seen.reach = unreachable(ctx, err, site)
	}
}

// full says what does not fit.
func full(err error) string {
	if errors.Is(err, library.ErrTooLarge) {
		return err.Error()
	}
	return words(err)
}
