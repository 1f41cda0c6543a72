package redisstore_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/apitest"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/controllers/redisstore"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

var api *apitest.Server

func TestRedisStoreController(t *testing.T) {
	ctrl.SetLogger(GinkgoLogr)
	RegisterFailHandler(Fail)
	RunSpecs(t, "RedisStore controller")
}

var _ = BeforeSuite(func() {
	api = apitest.Start()
	DeferCleanup(api.Stop)
})

// bench is a reconciler that is driven by hand, with a namespace and a Redis of its own.
type bench struct {
	*redisstore.Reconciler
	redis     *redistest.Server
	namespace string
	outcomes  *outcomes.Table
	events    chan string
	time      time.Time
	// step is how far the time moves with every look at it.
	step time.Duration
}

func newBench(ctx context.Context, redisOptions ...string) *bench {
	b := &bench{redis: redistest.Start(GinkgoTB(), redisOptions...), namespace: api.Namespace(ctx), time: time.Now(), step: time.Minute}
	b.restart(nil)
	return b
}

// restart replaces the reconciler by one that remembers nothing, as a restart of the operator does.
func (b *bench) restart(change func(*redisstore.Options)) {
	recorder := events.NewFakeRecorder(1000)
	b.outcomes, b.events = outcomes.NewTable(), recorder.Events
	options := redisstore.Options{
		Client: api.Client, APIReader: api.Client, Recorder: recorder, Outcomes: b.outcomes, OperatorNamespace: "penstock-system",
		CachesSynced: func(context.Context) bool { return true }, Clock: b.tick,
	}
	if change != nil {
		change(&options)
	}
	b.Reconciler = redisstore.New(options)
}

// tick gives a time that moves on with every look at it, so that whatever is written too often shows.
func (b *bench) tick() time.Time {
	b.time = b.time.Add(b.step)
	return b.time
}

func (b *bench) createStore(ctx context.Context, change ...func(*v1.RedisStore)) {
	GinkgoHelper()
	store := apitest.Store(b.namespace, "default", b.redis.Addr)
	for _, c := range change {
		c(store)
	}
	Expect(api.Client.Create(ctx, store)).To(Succeed())
}

func (b *bench) createLimit(ctx context.Context, name string, requests int64) {
	GinkgoHelper()
	Expect(api.Client.Create(ctx, apitest.Limit(b.namespace, name, requests))).To(Succeed())
}

// reconcile reconciles the store once, and gives it as it is then.
func (b *bench) reconcile(ctx context.Context) (*v1.RedisStore, ctrl.Result) {
	GinkgoHelper()
	key := types.NamespacedName{Namespace: b.namespace, Name: "default"}
	result, err := b.Reconcile(ctx, ctrl.Request{NamespacedName: key})
	Expect(err).NotTo(HaveOccurred())
	store := &v1.RedisStore{}
	Expect(client.IgnoreNotFound(api.Client.Get(ctx, key, store))).To(Succeed())
	return store, result
}

// store gives the store as it is now.
func (b *bench) store(ctx context.Context) *v1.RedisStore {
	GinkgoHelper()
	store := &v1.RedisStore{}
	Expect(api.Client.Get(ctx, types.NamespacedName{Namespace: b.namespace, Name: "default"}, store)).To(Succeed())
	return store
}

// change edits the store.
func (b *bench) change(ctx context.Context, edit func(*v1.RedisStore)) {
	GinkgoHelper()
	store := b.store(ctx)
	edit(store)
	Expect(api.Client.Update(ctx, store)).To(Succeed())
}

func (b *bench) annotate(ctx context.Context, key, value string) {
	GinkgoHelper()
	b.change(ctx, func(store *v1.RedisStore) { metav1.SetMetaDataAnnotation(&store.ObjectMeta, key, value) })
}

// published gives the names of the policies that Redis holds, without the namespace.
func (b *bench) published(ctx context.Context) []string {
	GinkgoHelper()
	set, err := policystore.Read(ctx, b.redis.Client())
	Expect(err).NotTo(HaveOccurred())
	names := []string{}
	for _, rl := range set.RateLimits {
		names = append(names, strings.TrimPrefix(rl.Name, b.namespace+"/"))
	}
	return names
}

// served gives a policy as the functions in Redis answer it.
func (b *bench) served(name string) policy.RateLimit {
	GinkgoHelper()
	reply, ok := b.redis.Do("FCALL", "penstock_policy", "0", b.namespace+"/"+name).(string)
	Expect(ok).To(BeTrue())
	var served policy.RateLimit
	Expect(json.Unmarshal([]byte(reply), &served)).To(Succeed())
	return served
}

func (b *bench) outcome(name string) outcomes.Outcome {
	GinkgoHelper()
	outcome, found := b.outcomes.Get(types.NamespacedName{Namespace: b.namespace, Name: "default"}, types.NamespacedName{Namespace: b.namespace, Name: name})
	Expect(found).To(BeTrue(), "no outcome for "+name)
	return outcome
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

// intercept gives a client whose calls go through funcs.
func intercept(funcs interceptor.Funcs) client.Client {
	GinkgoHelper()
	watching, err := client.NewWithWatch(api.Config, client.Options{Scheme: api.Client.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	return interceptor.NewClient(watching, funcs)
}

func condition(store *v1.RedisStore, kind string) string {
	return apitest.Condition(store.Status.Conditions, kind)
}

func message(store *v1.RedisStore, kind string) string {
	return apitest.Message(store.Status.Conditions, kind)
}
