package ratelimit_test

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/apitest"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/controllers/ratelimit"
	"github.com/penstock-dev/penstock/controllers/redisstore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

var api *apitest.Server

func TestRateLimitController(t *testing.T) {
	ctrl.SetLogger(GinkgoLogr)
	RegisterFailHandler(Fail)
	RunSpecs(t, "RateLimit controller")
}

var _ = BeforeSuite(func() {
	api = apitest.Start()
	DeferCleanup(api.Stop)
})

// bench is both reconcilers, driven by hand, with a namespace and a Redis of its own. The operator's namespace is another.
type bench struct {
	policies          *ratelimit.Reconciler
	stores            *redisstore.Reconciler
	redis             *redistest.Server
	namespace, system string
	events            chan string
	time              time.Time
}

func newBench(ctx context.Context) *bench {
	b := &bench{redis: redistest.Start(GinkgoTB()), namespace: api.Namespace(ctx), system: api.Namespace(ctx), time: time.Now()}
	b.restart()
	return b
}

// restart replaces the reconcilers by ones that remember nothing, as a restart of the operator does.
func (b *bench) restart() {
	table, recorder := outcomes.NewTable(), events.NewFakeRecorder(1000)
	b.events = recorder.Events
	b.policies = ratelimit.New(ratelimit.Options{Client: api.Client, Recorder: recorder, Outcomes: table, OperatorNamespace: b.system, Clock: b.tick})
	b.stores = redisstore.New(redisstore.Options{
		Client: api.Client, APIReader: api.Client, Recorder: events.NewFakeRecorder(1000), Outcomes: table, OperatorNamespace: b.system,
		CachesSynced: func(context.Context) bool { return true }, Clock: b.tick,
	})
}

// tick gives a time that moves on with every look at it, so that whatever is written too often shows.
func (b *bench) tick() time.Time {
	b.time = b.time.Add(time.Minute)
	return b.time
}

// createStore creates the RedisStore default of a namespace.
func (b *bench) createStore(ctx context.Context, namespace string) *v1.RedisStore {
	GinkgoHelper()
	store := apitest.Store(namespace, "default", b.redis.Addr)
	Expect(api.Client.Create(ctx, store)).To(Succeed())
	return store
}

func (b *bench) createLimit(ctx context.Context, name string, requests int64, change ...func(*v1.RateLimit)) {
	GinkgoHelper()
	limit := apitest.Limit(b.namespace, name, requests)
	for _, c := range change {
		c(limit)
	}
	Expect(api.Client.Create(ctx, limit)).To(Succeed())
}

// publish reconciles the RedisStore default of a namespace.
func (b *bench) publish(ctx context.Context, namespace string) {
	GinkgoHelper()
	_, err := b.stores.Reconcile(ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: "default"}})
	Expect(err).NotTo(HaveOccurred())
}

// reconcile reconciles a RateLimit, and gives it as it is then. Nothing is ever waited for there.
func (b *bench) reconcile(ctx context.Context, name string) *v1.RateLimit {
	GinkgoHelper()
	result, err := b.policies.Reconcile(ctx, ctrl.Request{NamespacedName: types.NamespacedName{Namespace: b.namespace, Name: name}})
	Expect(err).NotTo(HaveOccurred())
	Expect(result.IsZero()).To(BeTrue())
	return b.get(ctx, name)
}

func (b *bench) get(ctx context.Context, name string) *v1.RateLimit {
	GinkgoHelper()
	limit := &v1.RateLimit{}
	Expect(api.Client.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: name}, limit)).To(Succeed())
	return limit
}

func (b *bench) change(ctx context.Context, name string, edit func(*v1.RateLimit)) {
	GinkgoHelper()
	limit := b.get(ctx, name)
	edit(limit)
	Expect(api.Client.Update(ctx, limit)).To(Succeed())
}

// drain gives the events since it was last called.
func (b *bench) drain() []string {
	all := []string{}
	for {
		select {
		case event := <-b.events:
			all = append(all, event)
		default:
			return all
		}
	}
}

func requests(n int64) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) { rl.Spec.Limits[0].Requests = &n }
}

func paused(value string) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) { metav1.SetMetaDataAnnotation(&rl.ObjectMeta, v1.AnnotationPaused, value) }
}

func condition(rl *v1.RateLimit, kind string) string {
	return apitest.Condition(rl.Status.Conditions, kind)
}

func message(rl *v1.RateLimit, kind string) string {
	return apitest.Message(rl.Status.Conditions, kind)
}
