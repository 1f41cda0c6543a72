package redisstore

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
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
	// trimmed names the values in Secrets that ended in a newline.
	trimmed []string
	// secret is what is wrong with a Secret whose former content still serves, nil when nothing is.
	secret *conditions.Stalling
	// facts of the primaries that were reached, nil when none was.
	facts *Facts
	// reach is why Redis, or a part of it, could not be used, nil when all could; shown is what the status says of it, which
	// differs for a Redis that comes and goes.
	reach, shown error
	unsteady     bool
	// load is why Redis does not hold the set that is wanted, nil when it does.
	load error
	// held is a set that waits for a confirmation.
	held *policystore.ShrinkHeldError
	// full is what Redis said when it had no memory for the set.
	full error
	// inForce is the set that every primary serves, as far as is known; remembered rather than observed while Redis, or a
	// part of it, is gone.
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
	return errors.Join(o.shown, o.load)
}

// refused tells whether Redis did not accept what the Secrets hold, or the other way round. Secrets are not watched, and
// somebody who has mended one waits.
func (o *observation) refused() bool {
	reason, _ := explain(o.reach)
	return reason == v1.ReasonAuthenticationFailed || reason == v1.ReasonTLSFailed
}

// converge makes Redis hold the set of a store, step by step. What goes wrong with Redis is part of the observation; the
// error is for what goes wrong with the API server.
func (r *Reconciler) converge(ctx context.Context, store *v1.RedisStore, site *site) (*observation, error) {
	seen := &observation{paused: translate.Paused(store.Annotations)}
	bounded, done := context.WithTimeout(ctx, patience)
	defer done()
	if !seen.paused {
		if err := r.reach(ctx, bounded, store, site, seen); err != nil {
			return nil, err
		}
	}
	site.begin()
	if err := r.assemble(ctx, store, site, seen); err != nil {
		return nil, err
	}
	if seen.facts != nil {
		cluster, err := r.cluster(ctx)
		if err != nil {
			return nil, err
		}
		r.watchDrift(ctx, client.ObjectKeyFromObject(store), site, seen.facts)
		r.publish(bounded, cluster, store, site, seen)
		r.readFailures(bounded, site, seen)
	}
	if err := ctx.Err(); err != nil {
		// What a shutdown cut short says nothing about Redis.
		return nil, err
	}
	if !seen.paused {
		seen.shown = site.see(r.now(), seen.reach)
		seen.unsteady = site.unsteady != nil
	}
	site.remember(seen)
	return seen, nil
}

// reach sees to a server and asks what it is. When that refuses, the Secrets may have changed since they were read.
func (r *Reconciler) reach(ctx, bounded context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	if err := r.connect(ctx, store, site, seen); err != nil || seen.reach != nil {
		return err
	}
	r.look(bounded, site, seen)
	if !seen.refused() || site.fresh {
		return nil
	}
	refusal := seen.reach
	seen.reach = nil
	if err := r.connect(ctx, store, site, seen); err != nil || seen.reach != nil {
		return err
	}
	if !site.fresh {
		seen.reach = refusal
		return nil
	}
	r.look(bounded, site, seen)
	return nil
}

// connect sees to a server, unless the spec or a Secret of the store does not allow one.
func (r *Reconciler) connect(ctx context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	compiled, errs := translate.RedisStore(store)
	if len(errs) > 0 {
		seen.reach = &conditions.Stalling{Reason: v1.ReasonInvalid, Message: errs.ToAggregate().Error()}
		return nil
	}
	secrets, err := ReadSecrets(ctx, r.apiReader, store, r.operatorNamespace)
	if stall := (*conditions.Stalling)(nil); errors.As(err, &stall) {
		if site.server != nil && equality.Semantic.DeepEqual(site.spec, store.Spec) {
			// What is there goes on, since what it was made of was right.
			seen.secret, site.fresh = stall, false
			return nil
		}
		seen.reach = stall
		return nil
	}
	if err != nil {
		return err
	}
	seen.trimmed = secrets.Trimmed
	if err := site.connect(redisops.ConfigFor(compiled, secrets.Secrets), r.dial); err != nil {
		seen.reach = unreachable(ctx, err, site)
		return nil
	}
	site.spec = *store.Spec.DeepCopy()
	return nil
}

// look finds out what the servers are and what they hold.
func (r *Reconciler) look(ctx context.Context, site *site, seen *observation) {
	facts, err := site.server.Probe(ctx)
	if redisops.Classify(err) == redisops.UnknownOutcome && site.reconnect(r.dial) {
		// An idle connection may have ended since it was last used, and a server that was restarted is not gone.
		facts, err = site.server.Probe(ctx)
	}
	if err != nil {
		seen.reach = unreachable(ctx, err, site)
		if stall := (*conditions.Stalling)(nil); seen.secret != nil && errors.As(seen.reach, &stall) {
			seen.reach, seen.secret = seen.secret, nil
		}
		return
	}
	seen.facts = &facts
	if err := facts.lost(); err != nil {
		seen.reach = unreachable(ctx, err, site)
	}
	seen.inForce, err = site.server.Published(ctx)
	seen.known = err == nil
	if err != nil && seen.reach == nil {
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
		published = site.lastPublished
	}
	seen.assembly = translate.Assemble(translate.Input{
		Store:             client.ObjectKeyFromObject(store),
		Topology:          policy.Topology(store.Spec.Topology),
		StoreExists:       func(name types.NamespacedName) bool { _, found := seen.stores[name]; return found },
		OperatorNamespace: r.operatorNamespace,
		RateLimits:        policies.Items,
		Published:         published,
		Compilations:      &site.compilations,
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
		s.lastPublished = seen.inForce
	}
	seen.failures = s.expressions
	if seen.facts != nil {
		s.identify(seen.facts)
	}
	out := waits(seen.reach) || seen.refused()
	if out && seen.facts == nil {
		// Nothing that is open is of use any more, and the watching for drift would dial beside these attempts.
		s.close()
	}
	if !out && !waits(seen.load) {
		s.failures = 0
	}
}

func waits(outcome error) bool {
	wait := (*conditions.Waiting)(nil)
	return errors.As(outcome, &wait)
}

// identify remembers the identities of the primaries; of those that could not be asked, the ones that they had.
func (s *site) identify(facts *Facts) {
	before := s.identities
	s.identities = make(map[string]string, len(facts.Primaries)+len(facts.Unreached))
	for _, p := range facts.Unreached {
		s.identities[p.Address] = before[p.Address]
	}
	for _, p := range facts.Primaries {
		s.identities[p.Address] = p.Identity
	}
}
