package ratelimit_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

var _ = Describe("an expression of a RateLimit", func() {
	It("that fails for requests is shown, with one event, until it is edited", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100, func(rl *v1.RateLimit) { rl.Spec.When = []string{`request.method == "POST"`} })
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(condition(rl, v1.ConditionDegraded)).To(Equal("absent"))
		b.drain()

		failure := policystore.Failure{ContentHash: rl.Status.ContentHash, Message: "when[0]: no such attribute"}
		Expect(policystore.ReportFailure(ctx, b.redis.Client(), b.namespace+"/a", failure)).To(Succeed())
		b.publish(ctx, b.namespace)
		rl = b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(condition(rl, v1.ConditionDegraded)).To(Equal("True/ExpressionFailed"))
		Expect(message(rl, v1.ConditionDegraded)).To(ContainSubstring("when[0]: no such attribute"))
		Expect(b.drain()).To(ConsistOf(HavePrefix("Warning ExpressionFailed ")))

		b.publish(ctx, b.namespace)
		Expect(b.reconcile(ctx, "a").ResourceVersion).To(Equal(rl.ResourceVersion), "nothing is written again")
		b.redis.Kill()
		b.publish(ctx, b.namespace)
		Expect(b.reconcile(ctx, "a").ResourceVersion).To(Equal(rl.ResourceVersion), "nor while Redis is gone")
		Expect(b.drain()).To(BeEmpty())

		b.redis.Run()
		Expect(policystore.ReportFailure(ctx, b.redis.Client(), b.namespace+"/a", failure)).To(Succeed())
		b.change(ctx, "a", func(rl *v1.RateLimit) { rl.Spec.When = []string{`has(request.method)`} })
		b.publish(ctx, b.namespace)
		Expect(condition(b.reconcile(ctx, "a"), v1.ConditionDegraded)).To(Equal("absent"), "the failure is that of another content")
	})
})

var _ = Describe("a RateLimit that is in force", func() {
	It("shows its store, domain, limit and content", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")

		Expect(condition(rl, v1.ConditionAccepted)).To(Equal("True/Accepted"))
		Expect(condition(rl, v1.ConditionProgrammed)).To(Equal("True/Programmed"))
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		for _, kind := range []string{v1.ConditionPaused, v1.ConditionReconciling, v1.ConditionStalled} {
			Expect(condition(rl, kind)).To(Equal("absent"), kind)
		}
		Expect(rl.Status.ObservedGeneration).To(Equal(rl.Generation))
		Expect(rl.Status.StoreRef).To(Equal(&v1.StoreReference{Name: "default", Namespace: b.namespace}))
		Expect(rl.Status.ContentHash).To(HaveLen(32))
		Expect(rl.Status.Summary).To(Equal("100/1m sliding log"))
		Expect(rl.Status.Domain).To(Equal(b.namespace))
		Expect(b.drain()).To(ConsistOf("Normal Programmed in force on RedisStore " + b.namespace + "/default"))
	})

	It("is not written again when nothing changed, nor when another one did", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.createLimit(ctx, "b", 100)
		b.publish(ctx, b.namespace)
		before := b.reconcile(ctx, "a")
		b.change(ctx, "b", requests(7))
		b.publish(ctx, b.namespace)
		after := b.reconcile(ctx, "a")
		Expect(after.ResourceVersion).To(Equal(before.ResourceVersion))
	})

	It("waits, without a write, until its store has seen new content, which is then one write", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		old := b.reconcile(ctx, "a")
		b.drain()

		b.change(ctx, "a", requests(200))
		changed := b.get(ctx, "a")
		Expect(b.reconcile(ctx, "a").ResourceVersion).To(Equal(changed.ResourceVersion))

		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(rl.Status.ObservedGeneration).To(Equal(int64(2)))
		Expect(rl.Status.Summary).To(Equal("200/1m sliding log"))
		Expect(rl.Status.ContentHash).NotTo(Equal(old.Status.ContentHash))
		Expect(b.drain()).To(BeEmpty(), "a changed number of requests keeps what was counted")
	})

	It("says which limits start anew when their window changed", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		b.reconcile(ctx, "a")
		b.drain()
		b.change(ctx, "a", func(rl *v1.RateLimit) { rl.Spec.Limits[0].Window = "2m" })
		b.publish(ctx, b.namespace)
		b.reconcile(ctx, "a")
		Expect(b.drain()).To(ConsistOf(SatisfyAll(HavePrefix("Normal LimitRestarted "), HaveSuffix("start anew: default"))))
		b.publish(ctx, b.namespace)
		b.reconcile(ctx, "a")
		Expect(b.drain()).To(BeEmpty())
	})

	It("repairs a status that somebody edited", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		want := b.reconcile(ctx, "a").Status
		edited := b.get(ctx, "a")
		edited.Status.Summary, edited.Status.Conditions[0].Status = "unlimited", "False"
		Expect(api.Client.Status().Update(ctx, edited)).To(Succeed())
		got := b.reconcile(ctx, "a").Status
		Expect(got.Summary).To(Equal(want.Summary))
		Expect(condition(b.get(ctx, "a"), v1.ConditionReady)).To(Equal("True/Programmed"))
	})
})

var _ = Describe("the store of a RateLimit", func() {
	It("is asked for when there is none, and used once it is created", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createLimit(ctx, "a", 100)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionAccepted)).To(Equal("False/StoreNotFound"))
		Expect(condition(rl, v1.ConditionProgrammed)).To(Equal("False/NotAccepted"))
		Expect(condition(rl, v1.ConditionReady)).To(Equal("False/StoreNotFound"))
		Expect(condition(rl, v1.ConditionStalled)).To(Equal("True/StoreNotFound"))
		Expect(message(rl, v1.ConditionReady)).To(ContainSubstring("no RedisStore " + b.namespace + "/default; create it"))
		Expect(rl.Status.ObservedGeneration).To(Equal(rl.Generation))
		Expect(rl.Status.StoreRef).To(BeNil())
		Expect(rl.Status.Summary).To(Equal("100/1m sliding log"))
		Expect(b.drain()).To(ConsistOf(HavePrefix("Warning StoreNotFound ")))

		b.createStore(ctx, b.namespace)
		b.publish(ctx, b.namespace)
		rl = b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(condition(rl, v1.ConditionStalled)).To(Equal("absent"))
	})

	It("is kept: neither a new default nor the loss of the store moves the object", func(ctx SpecContext) {
		b := newBench(ctx)
		b.namespace = b.system // only there may an object use the operator's default by now
		store := b.createStore(ctx, b.system)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.system)
		b.reconcile(ctx, "a")

		Expect(api.Client.Delete(ctx, store)).To(Succeed())
		b.publish(ctx, b.system)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("False/StoreNotFound"))
		Expect(message(rl, v1.ConditionReady)).To(ContainSubstring("which this object uses, is gone"))
		Expect(rl.Status.StoreRef).To(Equal(&v1.StoreReference{Name: "default", Namespace: b.system}))

		b.createStore(ctx, b.system)
		b.publish(ctx, b.system)
		Expect(condition(b.reconcile(ctx, "a"), v1.ConditionReady)).To(Equal("True/Programmed"))
	})

	It("must be in the same namespace; one that is created there is used", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.system)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.system)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionAccepted)).To(Equal("False/RefNotPermitted"))
		Expect(message(rl, v1.ConditionReady)).To(ContainSubstring("create a RedisStore in namespace " + b.namespace))
		Expect(rl.Status.StoreRef).To(BeNil(), "what is not permitted must not stick")
		Expect(b.redis.Do("GET", "penstock:policies")).NotTo(ContainSubstring(b.namespace + "/a"))

		b.redis.Do("FLUSHALL")
		b.createStore(ctx, b.namespace)
		b.publish(ctx, b.namespace)
		rl = b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(rl.Status.StoreRef).To(Equal(&v1.StoreReference{Name: "default", Namespace: b.namespace}))
	})
})

var _ = Describe("a RateLimit that the schema cannot refuse", func() {
	It("stalls with field and remedy, and its last valid content stays in force", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		valid := b.reconcile(ctx, "a")

		b.change(ctx, "a", func(rl *v1.RateLimit) {
			rl.Spec.Limits[0] = v1.Limit{Name: "default", Requests: new(int64(5)), Window: "1h", Algorithm: v1.AlgorithmTokenBucket, Burst: new(int64(1 << 50))}
		})
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionAccepted)).To(Equal("False/Invalid"))
		Expect(condition(rl, v1.ConditionProgrammed)).To(Equal("False/NotAccepted"))
		Expect(condition(rl, v1.ConditionReady)).To(Equal("False/Invalid"))
		Expect(condition(rl, v1.ConditionStalled)).To(Equal("True/Invalid"))
		Expect(message(rl, v1.ConditionReady)).To(SatisfyAll(
			ContainSubstring("spec.limits[0].burst"), ContainSubstring("use at most"), ContainSubstring("the last valid content stays in force")))
		Expect(rl.Status.ObservedGeneration).To(Equal(int64(2)))
		Expect(rl.Status.ContentHash).To(Equal(valid.Status.ContentHash), "the entry that is in force")

		b.change(ctx, "a", func(rl *v1.RateLimit) { rl.Spec.Limits[0].Burst = nil })
		b.publish(ctx, b.namespace)
		rl = b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(condition(rl, v1.ConditionStalled)).To(Equal("absent"))
	})
})

var _ = Describe("a RateLimit that is invalid while Redis is gone and the operator was restarted", func() {
	invalid := func(rl *v1.RateLimit) {
		rl.Spec.Limits[0] = v1.Limit{Name: "default", Requests: new(int64(5)), Window: "1h", Algorithm: v1.AlgorithmTokenBucket, Burst: new(int64(1 << 50))}
	}

	It("keeps saying that its last valid content is in force", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		valid := b.reconcile(ctx, "a")
		b.change(ctx, "a", invalid)
		b.publish(ctx, b.namespace)
		before := b.reconcile(ctx, "a")

		b.redis.Kill()
		b.restart()
		b.publish(ctx, b.namespace)
		after := b.reconcile(ctx, "a")
		Expect(after.Status.ContentHash).To(Equal(valid.Status.ContentHash))
		Expect(message(after, v1.ConditionReady)).To(HaveSuffix("(the last valid content stays in force)"))
		Expect(after.ResourceVersion).To(Equal(before.ResourceVersion), "nothing is new")

		By("coming back empty")
		b.redis.Run()
		b.publish(ctx, b.namespace)
		after = b.reconcile(ctx, "a")
		Expect(after.Status.ContentHash).To(BeEmpty())
		Expect(message(after, v1.ConditionReady)).NotTo(ContainSubstring("in force"))
	})

	It("says so also when it became invalid meanwhile", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		valid := b.reconcile(ctx, "a")
		b.redis.Kill()
		b.restart()
		b.change(ctx, "a", invalid)
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("False/Invalid"))
		Expect(rl.Status.ContentHash).To(Equal(valid.Status.ContentHash))
		Expect(message(rl, v1.ConditionReady)).To(HaveSuffix("(the last valid content stays in force)"))
	})

	It("does not say so of content that was never published", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.redis.Kill()
		b.publish(ctx, b.namespace)
		Expect(condition(b.reconcile(ctx, "a"), v1.ConditionReady)).To(Equal("False/Pending"))
		b.change(ctx, "a", invalid)
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(rl.Status.ContentHash).To(BeEmpty())
		Expect(message(rl, v1.ConditionReady)).NotTo(ContainSubstring("in force"))
	})
})

var _ = Describe("a paused RateLimit", func() {
	It("shows Paused and otherwise what it showed, until it goes on", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		before := b.reconcile(ctx, "a")

		b.change(ctx, "a", paused("true"))
		b.change(ctx, "a", requests(5))
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionPaused)).To(Equal("True/Paused"))
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(rl.Status.ObservedGeneration).To(Equal(before.Generation))
		Expect(rl.Status.Summary).To(Equal("100/1m sliding log"))
		Expect(b.redis.Do("GET", "penstock:policies")).To(ContainSubstring(before.Status.ContentHash))

		b.change(ctx, "a", paused("false"))
		Expect(condition(b.reconcile(ctx, "a"), v1.ConditionPaused)).To(Equal("True/Paused"), "its store has not seen it yet")
		b.publish(ctx, b.namespace)
		rl = b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionPaused)).To(Equal("absent"))
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(rl.Status.Summary).To(Equal("5/1m sliding log"))
	})

	It("shows nothing but Paused when it was never in force", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100, paused("true"))
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(rl.Status.Conditions).To(HaveLen(1))
		Expect(condition(rl, v1.ConditionPaused)).To(Equal("True/Paused"))
		Expect(b.redis.Do("GET", "penstock:policies")).NotTo(ContainSubstring(b.namespace + "/a"))
	})
})

var _ = Describe("Programmed", func() {
	It("stays while Redis is gone, also over a restart of the operator", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		before := b.reconcile(ctx, "a")
		b.redis.Kill()
		b.publish(ctx, b.namespace)
		Expect(b.reconcile(ctx, "a").ResourceVersion).To(Equal(before.ResourceVersion))
		b.restart()
		b.publish(ctx, b.namespace)
		Expect(b.reconcile(ctx, "a").ResourceVersion).To(Equal(before.ResourceVersion))
	})

	It("speaks of one content: what was edited while Redis is gone is pending until it is back", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		b.reconcile(ctx, "a")
		b.redis.Kill()
		b.change(ctx, "a", requests(7))
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionAccepted)).To(Equal("True/Accepted"))
		Expect(condition(rl, v1.ConditionProgrammed)).To(Equal("False/Pending"))
		Expect(condition(rl, v1.ConditionReady)).To(Equal("False/Pending"))
		Expect(condition(rl, v1.ConditionReconciling)).To(Equal("True/Pending"))
		Expect(condition(rl, v1.ConditionStalled)).To(Equal("absent"))
		Expect(message(rl, v1.ConditionReady)).To(Equal("not published yet: see RedisStore " + b.namespace + "/default (Unreachable)"))

		b.redis.Run()
		b.publish(ctx, b.namespace)
		rl = b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionReady)).To(Equal("True/Programmed"))
		Expect(condition(rl, v1.ConditionReconciling)).To(Equal("absent"))
	})

	It("ends when another owner took the Redis over", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, b.namespace)
		b.createLimit(ctx, "a", 100)
		b.publish(ctx, b.namespace)
		b.reconcile(ctx, "a")
		b.redis.Do("SET", "penstock:owner", "another-cluster/shop/default")
		b.publish(ctx, b.namespace)
		rl := b.reconcile(ctx, "a")
		Expect(condition(rl, v1.ConditionProgrammed)).To(Equal("False/Pending"))
		Expect(message(rl, v1.ConditionReady)).To(ContainSubstring("(Conflicted)"))
	})
})
