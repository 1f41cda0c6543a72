package ratelimit

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/translate"
)

// +kubebuilder:rbac:groups=penstock.dev,resources=redisstores;ratelimits,verbs=list;watch
// +kubebuilder:rbac:groups=penstock.dev,resources=ratelimits/status,verbs=patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// workers is how many statuses are written at a time.
const workers = 4

// Options are what a Reconciler needs.
type Options struct {
	// Client reads from the cache and writes statuses.
	Client   client.Client
	Recorder events.EventRecorder
	// Outcomes is where the controller of the stores leaves what became of each policy.
	Outcomes *outcomes.Table
	// OperatorNamespace is where the RedisStore default for all namespaces is looked for.
	OperatorNamespace string
	// Clock gives the time; nil means time.Now.
	Clock func() time.Time
}

// Reconciler reconciles RateLimits.
type Reconciler struct {
	client            client.Client
	recorder          events.EventRecorder
	outcomes          *outcomes.Table
	operatorNamespace string
	now               func() time.Time
}

// New makes a Reconciler.
func New(o Options) *Reconciler {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Reconciler{client: o.Client, recorder: o.Recorder, outcomes: o.Outcomes, operatorNamespace: o.OperatorNamespace, now: o.Clock}
}

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("ratelimit").
		For(&v1.RateLimit{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		WatchesRawSource(r.outcomes.Source()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// Reconcile writes the status of a RateLimit. Nothing here waits or is retried: the outcome of the store wakes the object
// when there is something new to show, and a store that is created wakes all that were looking for it.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	rl := &v1.RateLimit{}
	if err := r.client.Get(ctx, req.NamespacedName, rl); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("get RateLimit: %w", err)
	}
	if !rl.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	seen, ok, err := r.observe(ctx, rl)
	if err != nil || !ok {
		return ctrl.Result{}, err
	}
	return conditions.Result(r.report(ctx, rl, seen), 0)
}

// observation is what is known of one RateLimit: that it is paused, that it has no store, or what became of it there.
type observation struct {
	paused     bool
	storeError error
	outcome    outcomes.Outcome
}

// observe gives what is known of the object as it is now; false when its store has not looked at this state of it yet.
func (r *Reconciler) observe(ctx context.Context, rl *v1.RateLimit) (observation, bool, error) {
	if translate.Paused(rl.Annotations) {
		return observation{paused: true}, true, nil
	}
	var failure error
	store, err := translate.ResolveStore(rl.Namespace, rl.Spec.StoreRef, rl.Status.StoreRef, r.operatorNamespace, func(name types.NamespacedName) bool {
		err := r.client.Get(ctx, name, &v1.RedisStore{})
		if client.IgnoreNotFound(err) != nil {
			failure = fmt.Errorf("get RedisStore %s: %w", name, err)
		}
		return err == nil
	})
	if failure != nil {
		return observation{}, false, failure
	}
	if err != nil {
		return observation{storeError: err}, true, nil
	}
	outcome, found := r.outcomes.Get(store, client.ObjectKeyFromObject(rl))
	current := found && outcome.UID == rl.UID && outcome.Generation == rl.Generation && !outcome.Paused
	return observation{outcome: outcome}, current, nil
}
