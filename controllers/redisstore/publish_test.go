package redisstore_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/apitest"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/controllers/redisstore"
)

var _ = Describe("publishing", func() {
	It("puts every policy of the store into Redis and says so", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.createLimit(ctx, "b", 5)
		store, result := b.reconcile(ctx)

		Expect(b.published(ctx)).To(Equal([]string{"a", "b"}))
		Expect(b.served("a").Limits[0].Requests).To(Equal(int64(100)))
		system := &corev1.Namespace{}
		Expect(api.Client.Get(ctx, types.NamespacedName{Name: "kube-system"}, system)).To(Succeed())
		Expect(b.redis.Do("GET", "penstock:owner")).To(Equal(fmt.Sprintf("%s/%s/default", system.UID, b.namespace)))

		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionReachable)).To(Equal("True/Reachable"))
		Expect(condition(store, v1.ConditionLibraryLoaded)).To(Equal("True/Loaded"))
		Expect(condition(store, v1.ConditionEvictionSafe)).To(Equal("True/NoEviction"))
		Expect(condition(store, v1.ConditionDurabilitySafe)).To(Equal("False/NotPersistent"))
		for _, kind := range []string{v1.ConditionDegraded, v1.ConditionPaused, v1.ConditionReconciling, v1.ConditionStalled} {
			Expect(condition(store, kind)).To(Equal("absent"), kind)
		}
		Expect(store.Status.ObservedGeneration).To(Equal(store.Generation))
		Expect(store.Status.Engine).To(Equal("redis"))
		Expect(store.Status.Version).To(MatchRegexp(`^[0-9]+\.[0-9]+\.[0-9]+$`))
		Expect(store.Status.Identity).To(HaveLen(40))
		Expect(store.Status.Capabilities).To(ContainElement("functions"))
		Expect(store.Status.MaxmemoryPolicy).To(Equal("noeviction"))
		Expect(store.Status.Persistence).To(Equal("None"))
		Expect(store.Status.ProgrammedHash).To(HaveLen(32))
		Expect(store.Status.Policies).To(HaveValue(Equal(int32(2))))
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))
		Expect(b.drain()).To(ConsistOf(HavePrefix("Normal Ready ")))

		Expect(result.RequeueAfter).To(BeNumerically("~", 30*time.Second, 6*time.Second))
	})

	It("writes nothing, anywhere, when nothing changed", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		before, _ := b.reconcile(ctx)
		b.drain()
		b.redis.Do("CONFIG", "RESETSTAT")
		after, _ := b.reconcile(ctx)
		Expect(after.ResourceVersion).To(Equal(before.ResourceVersion))
		Expect(b.drain()).To(BeEmpty())
		Expect(b.redis.Do("INFO", "commandstats")).NotTo(SatisfyAny(
			ContainSubstring("cmdstat_set:"), ContainSubstring("cmdstat_function|load"), ContainSubstring("cmdstat_publish")))
	})

	It("publishes nothing before the caches are synced", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		synced := false
		b.restart(func(o *redisstore.Options) {
			o.CachesSynced = func(context.Context) bool { return synced }
		})
		Expect(api.Client.Delete(ctx, apitest.Limit(b.namespace, "a", 0))).To(Succeed())

		_, result := b.reconcile(ctx)
		Expect(result.RequeueAfter).To(Equal(time.Second))
		Expect(b.published(ctx)).To(Equal([]string{"a"}))

		synced = true
		b.reconcile(ctx)
		Expect(b.published(ctx)).To(BeEmpty())
	})

	It("publishes a raised limit, and takes out a deleted one", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.createLimit(ctx, "b", 100)
		b.reconcile(ctx)

		limit := apitest.Limit(b.namespace, "a", 0)
		Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(limit), limit)).To(Succeed())
		limit.Spec.Limits[0].Requests = new(int64(200))
		Expect(api.Client.Update(ctx, limit)).To(Succeed())
		b.reconcile(ctx)
		Expect(b.served("a").Limits[0].Requests).To(Equal(int64(200)))

		Expect(api.Client.Delete(ctx, limit)).To(Succeed())
		store, _ := b.reconcile(ctx)
		Expect(b.published(ctx)).To(Equal([]string{"b"}))
		Expect(store.Status.Policies).To(HaveValue(Equal(int32(1))))
	})

	It("publishes again what somebody took out of Redis", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.redis.Do("FLUSHALL")
		b.redis.Do("FUNCTION", "FLUSH")
		store, _ := b.reconcile(ctx)
		Expect(b.served("a").Limits[0].Requests).To(Equal(int64(100)))
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
	})

	It("keeps the last valid content of a policy that became invalid, and publishes the others", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)

		// What no schema holds: the capacity of a bucket depends on its window.
		limit := apitest.Limit(b.namespace, "a", 0)
		Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(limit), limit)).To(Succeed())
		limit.Spec.Limits[0] = v1.Limit{Name: "default", Requests: new(int64(1 << 50)), Window: "1h", Algorithm: v1.AlgorithmTokenBucket}
		Expect(api.Client.Update(ctx, limit)).To(Succeed())
		b.createLimit(ctx, "b", 5)
		store, _ := b.reconcile(ctx)

		Expect(b.published(ctx)).To(Equal([]string{"a", "b"}))
		Expect(b.served("a").Limits[0].Requests).To(Equal(int64(100)))
		Expect(b.outcome("a").Reason).To(Equal(v1.ReasonInvalid))
		Expect(b.outcome("a").Message).To(ContainSubstring("spec.limits[0].requests"))
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
	})

	It("leaves everything in Redis when the store is deleted, and lets go of its policies", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		store, _ := b.reconcile(ctx)
		Expect(api.Client.Delete(ctx, store)).To(Succeed())
		_, result := b.reconcile(ctx)
		Expect(result.IsZero()).To(BeTrue())
		Expect(b.published(ctx)).To(Equal([]string{"a"}))
		_, found := b.outcomes.Get(client.ObjectKeyFromObject(store), types.NamespacedName{Namespace: b.namespace, Name: "a"})
		Expect(found).To(BeFalse())
	})

	It("does nothing for a paused store but say so", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.annotate(ctx, v1.AnnotationPaused, "true")
		b.createLimit(ctx, "b", 5)
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionPaused)).To(Equal("True/Paused"))
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(b.published(ctx)).To(Equal([]string{"a"}))
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))
		Expect(b.outcome("b").Serving).To(Equal(outcomes.No))
		Expect(b.outcome("b").Holdup).To(ContainSubstring("(Paused)"))

		b.annotate(ctx, v1.AnnotationPaused, "false")
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionPaused)).To(Equal("absent"))
		Expect(b.published(ctx)).To(Equal([]string{"a", "b"}))
	})
})

var _ = Describe("a set that drops most policies", func() {
	It("is held until its hash is confirmed", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		for i := range 13 {
			b.createLimit(ctx, fmt.Sprintf("p%02d", i), 100)
		}
		before, _ := b.reconcile(ctx)
		Expect(api.Client.DeleteAllOf(ctx, &v1.RateLimit{}, client.InNamespace(b.namespace))).To(Succeed())
		b.createLimit(ctx, "fresh", 1)
		b.drain()

		store, _ := b.reconcile(ctx)
		Expect(b.published(ctx)).To(HaveLen(13))
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("True/ShrinkHeld"))
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(message(store, v1.ConditionDegraded)).To(MatchRegexp(`drops 13 of 13 policies .* annotate this RedisStore with penstock.dev/confirm-shrink: [0-9a-f]{32}$`))
		Expect(store.Status.ProgrammedHash).To(Equal(before.Status.ProgrammedHash))
		Expect(b.outcome("fresh").Serving).To(Equal(outcomes.No))
		Expect(b.outcome("fresh").Holdup).To(ContainSubstring("(ShrinkHeld)"))
		Expect(b.drain()).To(ConsistOf(HavePrefix("Warning ShrinkHeld ")))

		By("confirming another hash")
		b.annotate(ctx, v1.AnnotationConfirmShrink, before.Status.ProgrammedHash)
		b.reconcile(ctx)
		Expect(b.published(ctx)).To(HaveLen(13))

		By("confirming that one")
		words := message(store, v1.ConditionDegraded)
		b.annotate(ctx, v1.AnnotationConfirmShrink, words[len(words)-32:])
		store, _ = b.reconcile(ctx)
		Expect(b.published(ctx)).To(Equal([]string{"fresh"}))
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("absent"))
	})
})

var _ = Describe("policies that are deleted one after the other", func() {
	const policies = 100

	// deleteOne deletes the policy of that number and reconciles.
	deleteOne := func(ctx context.Context, b *bench, i int) *v1.RedisStore {
		GinkgoHelper()
		Expect(api.Client.Delete(ctx, apitest.Limit(b.namespace, fmt.Sprintf("p%02d", i), 0))).To(Succeed())
		store, _ := b.reconcile(ctx)
		return store
	}

	It("are held once those of ten minutes are most of all, also when time passes, until that is confirmed", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		for i := range policies {
			b.createLimit(ctx, fmt.Sprintf("p%02d", i), 100)
		}
		b.reconcile(ctx)
		b.step = time.Second
		for i := range policies / 2 {
			Expect(condition(deleteOne(ctx, b, i), v1.ConditionDegraded)).To(Equal("absent"), "policy %d", i)
		}
		Expect(b.published(ctx)).To(HaveLen(policies / 2))
		var store *v1.RedisStore
		for i := range policies / 2 {
			store = deleteOne(ctx, b, policies/2+i)
			Expect(condition(store, v1.ConditionDegraded)).To(Equal("True/ShrinkHeld"), "policy %d", i)
			Expect(b.published(ctx)).To(HaveLen(policies / 2))
		}
		Expect(message(store, v1.ConditionDegraded)).To(ContainSubstring("drops 100 of 100 policies"))

		By("waiting, with one of them there again")
		b.createLimit(ctx, "p99", 100)
		b.step = 6 * time.Minute
		for range 3 {
			store, _ = b.reconcile(ctx)
		}
		Expect(message(store, v1.ConditionDegraded)).To(ContainSubstring("drops 99 of 100 policies"))
		Expect(b.published(ctx)).To(HaveLen(policies / 2))

		By("confirming, after which a further one is no more than that")
		words := message(store, v1.ConditionDegraded)
		b.annotate(ctx, v1.AnnotationConfirmShrink, words[len(words)-32:])
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("absent"))
		Expect(b.published(ctx)).To(Equal([]string{"p99"}))
		Expect(condition(deleteOne(ctx, b, 99), v1.ConditionDegraded)).To(Equal("absent"))
		Expect(b.published(ctx)).To(BeEmpty())
	})

	It("are not held when that takes longer", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		for i := range 13 {
			b.createLimit(ctx, fmt.Sprintf("p%02d", i), 100)
		}
		b.reconcile(ctx)
		for i := range 13 {
			Expect(condition(deleteOne(ctx, b, i), v1.ConditionDegraded)).To(Equal("absent"), "policy %d", i)
		}
		Expect(b.published(ctx)).To(BeEmpty())
	})
})

var _ = Describe("a publication whose status met a newer object", func() {
	It("is told with the next status", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		conflicts := 1
		b.restart(func(o *redisstore.Options) {
			o.Client = intercept(interceptor.Funcs{
				SubResourcePatch: func(ctx context.Context, c client.Client, sub string, object client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
					if conflicts > 0 {
						conflicts--
						return apierrors.NewConflict(schema.GroupResource{Resource: "redisstores"}, object.GetName(), nil)
					}
					return c.SubResource(sub).Patch(ctx, object, patch, options...)
				},
			})
		})
		_, result := b.reconcile(ctx)
		Expect(result.RequeueAfter).To(Equal(100 * time.Millisecond))
		Expect(b.published(ctx)).To(Equal([]string{"a"}))
		Expect(b.drain()).To(BeEmpty())

		b.reconcile(ctx)
		Expect(b.drain()).To(ConsistOf(HavePrefix("Normal Ready ")))
		b.reconcile(ctx)
		Expect(b.drain()).To(BeEmpty())
	})
})

var _ = Describe("a cache that does not have the last status yet", func() {
	It("is waited for, and no status is written twice", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		behind, writes := b.store(ctx), 0
		b.restart(func(o *redisstore.Options) {
			o.Client = intercept(interceptor.Funcs{
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
					if store, is := object.(*v1.RedisStore); is && behind != nil {
						behind.DeepCopyInto(store)
						return nil
					}
					return c.Get(ctx, key, object, options...)
				},
				SubResourcePatch: func(ctx context.Context, c client.Client, sub string, object client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
					writes++
					return c.SubResource(sub).Patch(ctx, object, patch, options...)
				},
			})
		})
		b.reconcile(ctx)
		_, result := b.reconcile(ctx)
		Expect(result.RequeueAfter).To(Equal(20 * time.Millisecond))
		behind = nil
		b.reconcile(ctx)
		Expect(writes).To(Equal(1))
	})
})

var _ = Describe("two stores on one Redis", func() {
	It("lets the first publish; the other names it, and can take over only once the first is deleted", func(ctx SpecContext) {
		first, second := newBench(ctx), newBench(ctx)
		second.redis = first.redis
		first.createStore(ctx)
		first.createLimit(ctx, "a", 1)
		first.reconcile(ctx)
		second.createStore(ctx)
		second.createLimit(ctx, "b", 1)

		store, result := second.reconcile(ctx)
		owner, _ := first.redis.Do("GET", "penstock:owner").(string)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("True/Reachable"))
		Expect(condition(store, v1.ConditionLibraryLoaded)).To(Equal("False/Conflicted"))
		Expect(condition(store, v1.ConditionReady)).To(Equal("False/Conflicted"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/Conflicted"))
		Expect(message(store, v1.ConditionReady)).To(SatisfyAll(ContainSubstring(owner), ContainSubstring("delete that RedisStore"), Not(ContainSubstring("take-over"))))
		Expect(first.published(ctx)).To(Equal([]string{"a"}))
		Expect(second.outcome("b").Holdup).To(ContainSubstring("(Conflicted)"))
		Expect(result.RequeueAfter).To(BeNumerically("~", 30*time.Second, 6*time.Second), "nothing is retried in haste")

		By("naming a RedisStore that is there to stay")
		second.annotate(ctx, v1.AnnotationTakeOver, owner)
		store, _ = second.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("False/Conflicted"))
		Expect(first.published(ctx)).To(Equal([]string{"a"}))
		Expect(first.redis.Do("GET", "penstock:owner")).To(Equal(owner))
		Expect(condition(first.store(ctx), v1.ConditionReady)).To(Equal("True/Ready"))

		By("deleting that one")
		second.annotate(ctx, v1.AnnotationTakeOver, "nobody")
		Expect(api.Client.Delete(ctx, first.store(ctx))).To(Succeed())
		store, _ = second.reconcile(ctx)
		Expect(message(store, v1.ConditionReady)).To(HaveSuffix("penstock.dev/take-over: " + owner))
		second.annotate(ctx, v1.AnnotationTakeOver, owner)
		store, _ = second.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("absent"))
		Expect(second.published(ctx)).To(Equal([]string{"b"}))

		By("creating it again")
		first.createStore(ctx)
		store, _ = first.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("False/Conflicted"))
		Expect(message(store, v1.ConditionReady)).To(ContainSubstring("/" + second.namespace + "/default"))
		Expect(first.outcome("a").Serving).To(Equal(outcomes.No))
		Expect(store.Status.Policies).To(HaveValue(Equal(int32(0))))
	})
})
