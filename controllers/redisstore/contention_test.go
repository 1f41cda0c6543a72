package redisstore_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

var _ = Describe("a Redis whose documents somebody else writes on and on", func() {
	It("is NotLoaded until that has ended for 30 s, and its policies stay Programmed", func(ctx SpecContext) {
		b := newBench(ctx)
		b.step = time.Millisecond
		b.createStore(ctx)
		b.createLimit(ctx, "a", 5)
		ready, _ := b.reconcile(ctx)
		Expect(condition(ready, v1.ConditionReady)).To(Equal("True/Ready"))

		writing, end := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			client := b.redis.Client()
			for writing.Err() == nil {
				client.Set(writing, policystore.PoliciesKey, "mine", 0)
			}
		}()
		Eventually(func() string {
			store, _ := b.reconcile(ctx)
			return condition(store, v1.ConditionLibraryLoaded)
		}).WithTimeout(time.Minute).Should(Equal("False/NotLoaded"))
		contended := b.store(ctx)
		Expect(condition(contended, v1.ConditionReachable)).To(Equal("True/Reachable"))
		Expect(message(contended, v1.ConditionReady)).To(ContainSubstring("somebody else writes the keys penstock:*"))
		b.drain()
		for range 20 {
			b.time = b.time.Add(time.Second)
			store, _ := b.reconcile(ctx)
			Expect(store.ResourceVersion).To(Equal(contended.ResourceVersion), "one status for all of it")
			Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))
		}

		end()
		<-ended
		store, result := b.reconcile(ctx)
		Expect(store.ResourceVersion).To(Equal(contended.ResourceVersion))
		Expect(result.RequeueAfter).To(BeNumerically("<=", 30*time.Second))
		Expect(b.published(ctx)).To(ConsistOf("a"))
		b.time = b.time.Add(30 * time.Second)
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
	})
})
