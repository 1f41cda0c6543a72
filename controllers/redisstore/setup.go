package redisstore

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/translate"
)

// workers is how many stores are reconciled at a time, so that those whose Redis keeps silent do not hold up the others:
// each does so for 3 s, and then for 3 s in 30.
const workers = 16

// SetupWithManager adds the controller to a manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.cachesSynced == nil {
		r.cachesSynced = synced(mgr.GetCache())
	}
	// Annotations pause, confirm and take over. The controller's own writes of status are neither.
	changed := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	return ctrl.NewControllerManagedBy(mgr).
		Named("redisstore").
		For(&v1.RedisStore{}, builder.WithPredicates(changed)).
		Watches(&v1.RateLimit{}, r.storeOfPolicy(), builder.WithPredicates(changed)).
		WatchesRawSource(r.alarm.source()).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// storeOfPolicy enqueues the store of a policy that changed, after a while in which further changes join it.
func (r *Reconciler) storeOfPolicy() handler.EventHandler {
	enqueue := func(ctx context.Context, object client.Object, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		rl, ok := object.(*v1.RateLimit)
		if !ok {
			return
		}
		store, err := translate.ResolveStore(rl.Namespace, rl.Spec.StoreRef, rl.Status.StoreRef, r.operatorNamespace, func(name types.NamespacedName) bool {
			return r.client.Get(ctx, name, &v1.RedisStore{}) == nil
		})
		if err != nil {
			// Its own controller says so. When the store is created, it collects its policies itself.
			return
		}
		r.site(store).note(r.now())
		queue.AddAfter(reconcile.Request{NamespacedName: store}, debounce)
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { enqueue(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { enqueue(ctx, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { enqueue(ctx, e.Object, q) },
	}
}

// synced tells whether a cache has all objects that a set is made of.
func synced(objects cache.Cache) func(context.Context) bool {
	return func(ctx context.Context) bool {
		for _, kind := range []client.Object{&v1.RedisStore{}, &v1.RateLimit{}} {
			informer, err := objects.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
			if err != nil || !informer.HasSynced() {
				return false
			}
		}
		return true
	}
}
