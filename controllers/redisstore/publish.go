package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

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
	site.noticeLoss(store, seen)
	site.publication.Store(underWay)
	result, err := site.server.Publish(ctx, publication)
	site.publication.Store(r.now().UnixNano())
	site.drops.add(now, result.Dropped)
	if result.Changed {
		site.published(now, len(result.Document))
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
		r.pruneBeats(ctx, site)
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
	case errors.Is(err, policystore.ErrReadBack), errors.Is(err, redis.TxFailedErr):
		// What is in force changes while one looks at it.
		seen.known = false
		site.contended = now
	case errors.Is(err, policy.ErrNewerFormat):
		// A set is in force, but not one that this version can read.
		seen.known = false
		seen.load = &conditions.Stalling{Reason: v1.ReasonNotLoaded, Message: err.Error()}
	case redisops.Classify(err) == redisops.Failed:
		seen.load = &conditions.Stalling{Reason: v1.ReasonNotLoaded, Message: "Redis refuses the library: " + refusal(err)}
	default:
		// Also when the outcome is unknown: the next attempt looks first.
		if len(result.Missing) > 0 {
			// Some primaries have the set, or all had it before: what all of them serve is what they served before.
			seen.known = false
			site.lastPublished = set
		}
		if seen.reach == nil {
			seen.reach = unreachable(ctx, missing(err, result.Missing, seen.facts), site)
		}
	}
	if seen.load == nil {
		seen.load = site.contention(now)
	}
}

// contention tells of somebody else who writes what is published here, nil when nobody was met for 30 s: of one who does so
// again and again it is met by some publications and not by others, and the status must not follow each.
func (s *site) contention(now time.Time) error {
	calm := s.contended.Add(steady).Sub(now)
	if s.contended.IsZero() || calm <= 0 {
		return nil
	}
	if now.Equal(s.contended) {
		calm = s.backoff()
	}
	return &conditions.Waiting{Reason: v1.ReasonNotLoaded, After: calm, Message: "somebody else writes the keys penstock:* or the library of this Redis, so that what is published " +
		"does not stay; find out who does (CLIENT LIST, ACL LOG), and let one of both use another Redis"}
}

// missing names the primaries that an error is about.
func missing(err error, addresses []string, facts *Facts) error {
	if len(addresses) == 0 {
		return err
	}
	lost := &UnreachedError{Primaries: max(len(facts.Primaries)+len(facts.Unreached), len(addresses))}
	for _, address := range addresses {
		lost.Unreached = append(lost.Unreached, Unreached{Address: address, Err: err})
	}
	return lost
}

// pruneBeats forgets replicas of penstockd that are gone. Nothing depends on it, so that the next resync is soon enough
// where it fails.
func (r *Reconciler) pruneBeats(ctx context.Context, site *site) {
	if err := site.server.PruneBeats(ctx); err != nil {
		logf.FromContext(ctx).V(1).Info("replicas that are gone stay listed", "error", err.Error())
	}
}

// full says what does not fit.
func full(err error) string {
	if errors.Is(err, library.ErrTooLarge) {
		return err.Error()
	}
	return words(err)
}
