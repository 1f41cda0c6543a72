package redisstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// +kubebuilder:rbac:groups=penstock.dev,resources=redisstores;ratelimits,verbs=list;watch
// +kubebuilder:rbac:groups=penstock.dev,resources=redisstores/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get,roleName=penstock-secret-reader

const (
	// resync is how often a store is looked at although nothing changed, ± 20 %: Redis tells nobody that its functions
	// were flushed, and nobody tells of Secrets.
	resync = 30 * time.Second
	// debounce is how long changes of policies are collected before they are published together.
	debounce = 100 * time.Millisecond
	// unsynced is how long to wait for caches.
	unsynced = time.Second
	// stale is how long to wait for a cache to have what was written last.
	stale = 20 * time.Millisecond
)

// Options are what a Reconciler needs.
type Options struct {
	// Client reads from the cache and writes statuses.
	Client client.Client
	// APIReader reads Secrets and the namespace kube-system, uncached.
	APIReader client.Reader
	Recorder  events.EventRecorder
	// Outcomes gets what became of each policy.
	Outcomes *outcomes.Table
	// OperatorNamespace is where the RedisStore default for all namespaces is looked for.
	OperatorNamespace string
	// CachesSynced tells whether the cache holds all objects; until then nothing is published. SetupWithManager sets it where it is nil.
	CachesSynced func(context.Context) bool
	// Dial gives a Server; nil means Dial.
	Dial func(redisops.Config) (Server, error)
	// Clock gives the time; nil means time.Now.
	Clock func() time.Time
}

// Reconciler reconciles RedisStores.
type Reconciler struct {
	client            client.Client
	apiReader         client.Reader
	recorder          events.EventRecorder
	outcomes          *outcomes.Table
	operatorNamespace string
	cachesSynced      func(context.Context) bool
	dial              func(redisops.Config) (Server, error)
	now               func() time.Time
	alarm             alarm

	clusterID atomic.Pointer[string]

	mu    sync.Mutex
	sites map[types.NamespacedName]*site
}

// New makes a Reconciler.
func New(o Options) *Reconciler {
	if o.Dial == nil {
		o.Dial = Dial
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Reconciler{
		client: o.Client, apiReader: o.APIReader, recorder: o.Recorder, outcomes: o.Outcomes,
		operatorNamespace: o.OperatorNamespace, cachesSynced: o.CachesSynced, dial: o.Dial, now: o.Clock,
		sites: make(map[types.NamespacedName]*site),
	}
}

// Reconcile makes the Redis of a store hold its set, and tells how that went.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// A cache that is still filling looks like a cluster whose policies were deleted.
	if !r.cachesSynced(ctx) {
		return ctrl.Result{RequeueAfter: unsynced}, nil
	}
	store := &v1.RedisStore{}
	if err := r.client.Get(ctx, req.NamespacedName, store); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("get RedisStore: %w", err)
	}
	site := r.site(req.NamespacedName)
	if store.ResourceVersion == site.replaced {
		// The cache does not have the last status yet: it would be written again, over what is not there any more.
		return ctrl.Result{RequeueAfter: stale}, nil
	}
	if pause := site.wait(r.now()); pause > 0 {
		return ctrl.Result{RequeueAfter: pause}, nil
	}

	seen, err := r.converge(ctx, store, site)
	if err != nil {
		return ctrl.Result{}, err
	}
	r.outcomes.Replace(req.NamespacedName, seen.outcomes(store))
	if err := r.report(ctx, store, site, seen); err != nil {
		return conditions.Result(err, 0)
	}
	pause := jitter(resync)
	if seen.refused() {
		pause = min(pause, site.backoff())
	}
	return conditions.Result(seen.outcome(), pause)
}
