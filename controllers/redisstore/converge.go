package redisstore

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/translate"
)

// observation is everything that one reconciliation saw. Status and outcomes are computed from it alone.
type observation struct {
	// paused: nothing was done.
	paused bool
	// trimmed names the keys of the Secret that ended in a newline.
	trimmed []string
	// facts of the server, nil when it was not reached.
	facts *Facts
	// reach is why Redis could not be used, nil when it could.
	reach error
	// load is why Redis does not hold the set that is wanted, nil when it does.
	load error
	// held is a set that waits for a confirmation.
	held *policystore.ShrinkHeldError
	// full is what Redis said when it had no memory for the set.
	full error
	// inForce is the set that Redis serves, as far as is known; remembered rather than observed while Redis is gone.
	inForce *policy.Set
	// known tells whether inForce is known; nil is then none of ours.
	known bool
	// changed tells whether something was written into Redis.
	changed bool

	assembly translate.Assembly
}

// outcome is what the next reconciliation depends on.
func (o *observation) outcome() error {
	return errors.Join(o.reach, o.load)
}

// converge makes Redis hold the set of a store, step by step. What goes wrong with Redis is part of the observation; the
// error is for what goes wrong with the API server.
func (r *Reconciler) converge(ctx context.Context, store *v1.RedisStore, site *site) (*observation, error) {
	seen := &observation{paused: translate.Paused(store.Annotations)}
	if !seen.paused {
		if err := r.connect(ctx, store, site, seen); err != nil {
			return nil, err
		}
		if seen.reach == nil {
			r.look(ctx, site, seen)
		}
	}
	if err := r.assemble(ctx, store, site, seen); err != nil {
		return nil, err
	}
	if !seen.paused && seen.reach == nil {
		if err := r.publish(ctx, store, site, seen); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		// What a shutdown cut short says nothing about Redis.
		return nil, err
	}
	site.remember(seen)
	return seen, nil
}

// connect sees to a server, unless the spec or the Secret of the store does not allow one.
func (r *Reconciler) connect(ctx context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	compiled, errs := translate.RedisStore(store)
	if len(errs) > 0 {
		seen.reach = &conditions.Stalling{Reason: v1.ReasonInvalid, Message: errs.ToAggregate().Error()}
		return nil
	}
	secret, err := r.readCredentials(ctx, store)
	if stall := (*conditions.Stalling)(nil); errors.As(err, &stall) {
		seen.reach = stall
		return nil
	}
	if err != nil {
		return err
	}
	seen.trimmed = secret.trimmed
	site.connect(redisops.ConfigFor(compiled, secret.username, secret.password), r.dial)
	return nil
}

// look finds out what the server is and what it holds.
func (r *Reconciler) look(ctx context.Context, site *site, seen *observation) {
	facts, err := site.server.Probe(ctx)
	if redisops.Classify(err) == redisops.UnknownOutcome && site.reconnect(r.dial) {
		// An idle connection may have ended since it was last used, and a server that was restarted is not gone.
		facts, err = site.server.Probe(ctx)
	}
	if err == nil {
		seen.facts = &facts
		seen.inForce, err = site.server.Published(ctx)
		seen.known = err == nil
	}
	if err != nil {
		seen.reach = unreachable(err, site)
	}
}

// assemble makes the set of all policies that refer to the store.
func (r *Reconciler) assemble(ctx context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	stores := &v1.RedisStoreList{}
	if err := r.client.List(ctx, stores, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list RedisStores: %w", err)
	}
	names := make(map[types.NamespacedName]bool, len(stores.Items))
	for i := range stores.Items {
		names[client.ObjectKeyFromObject(&stores.Items[i])] = true
	}
	// Assemble only reads, and copies of all policies at every change would cost more than all else.
	policies := &v1.RateLimitList{}
	if err := r.client.List(ctx, policies, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list RateLimits: %w", err)
	}
	published := seen.inForce
	if published == nil {
		// Redis is gone or has lost everything: what is invalid or paused keeps the entry that it had before.
		published = site.published
	}
	seen.assembly = translate.Assemble(translate.Input{
		Store:             client.ObjectKeyFromObject(store),
		StoreExists:       func(name types.NamespacedName) bool { return names[name] },
		OperatorNamespace: r.operatorNamespace,
		RateLimits:        policies.Items,
		Published:         published,
	})
	return nil
}

// publish makes Redis hold the set.
func (r *Reconciler) publish(ctx context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	owner, err := r.owner(ctx, store)
	if err != nil {
		return err
	}
	result, err := site.server.Publish(ctx, policystore.Publication{
		Owner: owner, TakeOver: store.Annotations[v1.AnnotationTakeOver],
		Set: seen.assembly.Set, ConfirmShrink: store.Annotations[v1.AnnotationConfirmShrink],
		Mode: seen.facts.Mode,
	})
	seen.changed = result.Changed
	var owned *policystore.OwnedError
	var held *policystore.ShrinkHeldError
	switch {
	case err == nil:
		seen.inForce = seen.assembly.Set
		if result.Changed {
			site.spaced(r.now(), len(seen.assembly.Set.Marshal()))
		}
	case errors.As(err, &owned):
		// What is published there is not ours, whatever its policies are called.
		seen.inForce = nil
		seen.load = &conditions.Stalling{Reason: v1.ReasonConflicted, Message: fmt.Sprintf(
			"this Redis belongs to %q and nothing was published; to take it over, annotate this RedisStore with %s: %s", owned.Owner, v1.AnnotationTakeOver, owned.Owner)}
	case errors.As(err, &held):
		seen.held = held
	case redisops.Classify(err) == redisops.OutOfMemory, errors.Is(err, library.ErrTooLarge):
		seen.full = err
		seen.load = &conditions.Stalling{Reason: v1.ReasonStoreFull, Message: fmt.Sprintf(
			"the set in force stays, since Redis refuses the new one: %s; raise maxmemory, or remove policies or other data", words(err))}
	case errors.Is(err, policystore.ErrReadBack):
		seen.load = &conditions.Waiting{Reason: v1.ReasonNotLoaded, Message: words(err) + "; somebody else writes the keys penstock:*, too",
			After: site.backoff()}
	case errors.Is(err, policy.ErrNewerFormat):
		// A set is in force, but not one that this version can read.
		seen.known = false
		seen.load = &conditions.Stalling{Reason: v1.ReasonNotLoaded, Message: words(err)}
	case redisops.Classify(err) == redisops.Failed:
		seen.load = &conditions.Stalling{Reason: v1.ReasonNotLoaded, Message: "Redis refuses the library: " + words(err)}
	default:
		// Also when the outcome is unknown: the next attempt looks first.
		seen.reach = unreachable(err, site)
	}
	return nil
}

// remember keeps what will be wanted while Redis is gone, and falls back on it.
func (s *site) remember(seen *observation) {
	if seen.known {
		s.asked, s.inForce = true, seen.inForce
	} else {
		seen.known, seen.inForce = s.asked, s.inForce
	}
	if seen.inForce != nil {
		s.published = seen.inForce
	}
	if wait := (*conditions.Waiting)(nil); errors.As(seen.reach, &wait) {
		// After some failures to connect, go-redis answers with the last one for a second without trying.
		s.close()
	} else if !errors.As(seen.load, &wait) {
		s.failures = 0
	}
}
