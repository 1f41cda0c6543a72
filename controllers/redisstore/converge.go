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
	// failures are the expressions that penstockd could not evaluate lately, by policy.
	failures map[string]policystore.Failure
	// stores are all RedisStores, and whether each is there to stay: it is not being deleted.
	stores map[types.NamespacedName]bool

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
	}
	bounded, done := context.WithTimeout(ctx, patience)
	defer done()
	if !seen.paused && seen.reach == nil {
		r.look(bounded, site, seen)
	}
	if err := r.assemble(ctx, store, site, seen); err != nil {
		return nil, err
	}
	if !seen.paused && seen.reach == nil {
		cluster, err := r.cluster(ctx)
		if err != nil {
			return nil, err
		}
		r.publish(bounded, cluster, store, site, seen)
		r.readFailures(bounded, site, seen)
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
		seen.reach = unreachable(ctx, err, site)
	}
}

// assemble makes the set of all policies that refer to the store.
func (r *Reconciler) assemble(ctx context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	stores := &v1.RedisStoreList{}
	if err := r.client.List(ctx, stores, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list RedisStores: %w", err)
	}
	seen.stores = make(map[types.NamespacedName]bool, len(stores.Items))
	for i := range stores.Items {
		seen.stores[client.ObjectKeyFromObject(&stores.Items[i])] = stores.Items[i].DeletionTimestamp.IsZero()
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
		StoreExists:       func(name types.NamespacedName) bool { _, found := seen.stores[name]; return found },
		OperatorNamespace: r.operatorNamespace,
		RateLimits:        policies.Items,
		Published:         published,
	})
	return nil
}

// readFailures asks which expressions of policies failed. It is for statuses only, so an error is not worth more than to
// show what was known before, and to ask again with the next resync.
func (r *Reconciler) readFailures(ctx context.Context, site *site, seen *observation) {
	if seen.reach != nil || seen.inForce == nil {
		return
	}
	var policies []string
	for i := range seen.inForce.RateLimits {
		if rl := &seen.inForce.RateLimits[i]; rl.NeedsDoor() {
			policies = append(policies, rl.Name)
		}
	}
	if failures, err := site.server.Failures(ctx, policies); err == nil {
		site.expressions = failures
	}
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
	seen.failures = s.expressions
	if wait := (*conditions.Waiting)(nil); errors.As(seen.reach, &wait) {
		// After some failures to connect, go-redis answers with the last one for a second without trying.
		s.close()
	} else if !errors.As(seen.load, &wait) {
		s.failures = 0
	}
}
