package redisstore

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

const (
	// driftDebounce is how long pushes are collected: there may be one for each key.
	driftDebounce = 50 * time.Millisecond
	// echo is how soon after a publication a push may well tell of that, and how long pushes are collected then, so that
	// somebody who writes on and on is not looked at without a pause. Whatever else they tell of is mended within the second,
	// and while changes go on, with the next publication.
	echo = 600 * time.Millisecond

	// underWay is in the place of when a publication ended: later than any time.
	underWay = math.MaxInt64
)

// alarm wakes the stores whose Redis somebody else wrote to.
type alarm struct {
	mu sync.Mutex
	// running ends with the controller; nil before it runs.
	running context.Context
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// source gives what fills the queue of the controller.
func (a *alarm) source() source.Source {
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.running, a.queue = ctx, queue
		return nil
	})
}

// context gives what ends with the controller; nil before it runs.
func (a *alarm) context() context.Context {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running
}

// raise wakes a store after a while.
func (a *alarm) raise(store types.NamespacedName, after time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue.AddAfter(reconcile.Request{NamespacedName: store}, after)
}

// watchDrift watches the Redis of a store for changes by others, as long as its server is used. What the operator publishes
// itself comes back as such a change, too, and is then found to be as it is wanted.
func (r *Reconciler) watchDrift(ctx context.Context, store types.NamespacedName, site *site, facts *Facts) {
	// The context of the reconciliation ends with it.
	running := r.alarm.context()
	if running == nil || site.watch != nil || !slices.Contains(facts.Capabilities, capabilityTracking) {
		return
	}
	watching, end := context.WithCancel(running)
	server, ended := site.server, make(chan struct{})
	site.watch = func() {
		end()
		<-ended
	}
	go func() {
		defer close(ended)
		err := server.WatchDrift(watching, func() {
			after := driftDebounce
			if r.now().UnixNano()-site.publication.Load() < int64(echo) {
				after = echo
			}
			r.alarm.raise(store, after)
		})
		if err != nil && watching.Err() == nil {
			// The resync finds what is not told.
			logf.FromContext(ctx).V(1).Info("changes in Redis are not told", "error", err.Error())
		}
	}()
}
