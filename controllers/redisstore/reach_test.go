package redisstore_test

import (
	"context"
	"encoding/json"
	"net"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/controllers/redisstore"
)

var _ = Describe("a Redis that is gone", func() {
	It("makes the store unreachable and leaves policies alone, with growing pauses, until it is back", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.drain()
		b.redis.Kill()

		store, result := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/Unreachable"))
		Expect(condition(store, v1.ConditionLibraryLoaded)).To(Equal("Unknown/Unknown"))
		Expect(condition(store, v1.ConditionReady)).To(Equal("False/Unreachable"))
		Expect(condition(store, v1.ConditionReconciling)).To(Equal("True/Unreachable"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("absent"))
		Expect(store.Status.Version).NotTo(BeEmpty(), "what was seen last stays")
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))
		Expect(b.drain()).To(ConsistOf(HavePrefix("Warning Unreachable ")))
		Expect(result.RequeueAfter).To(BeNumerically("~", time.Second, 200*time.Millisecond))

		By("trying again")
		version := store.ResourceVersion
		for range 8 {
			store, result = b.reconcile(ctx)
		}
		Expect(result.RequeueAfter).To(BeNumerically("~", 4*time.Second, 800*time.Millisecond))
		Expect(store.ResourceVersion).To(Equal(version), "an outage is written once, not with every attempt")
		Expect(b.drain()).To(BeEmpty())

		By("starting it again, empty")
		b.redis.Run()
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionReconciling)).To(Equal("absent"))
		Expect(b.served("a").Limits[0].Requests).To(Equal(int64(100)))
	})

	It("is told by what it lost when it was only restarted meanwhile", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.drain()
		b.redis.Kill()
		b.redis.Run()
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(b.served("a").Limits[0].Requests).To(Equal(int64(100)))
		Expect(b.drain()).To(ConsistOf(HavePrefix("Warning StateLost ")))
	})

	It("is not known to serve anything after a restart of the operator", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		before, _ := b.reconcile(ctx)
		b.redis.Kill()
		b.restart(nil)
		store, _ := b.reconcile(ctx)
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Unknown))
		Expect(store.Status.ProgrammedHash).To(Equal(before.Status.ProgrammedHash))
		Expect(store.Status.Policies).To(HaveValue(Equal(int32(1))))
	})
})

var _ = Describe("what listens at the address of a store and is no Redis", func() {
	// listen gives the address of a service that says reply to everything, "" for one that keeps silent.
	listen := func(reply string) string {
		GinkgoHelper()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(listener.Close)
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = connection.Close() }()
					buffer := make([]byte, 4096)
					for {
						if _, err := connection.Read(buffer); err != nil {
							return
						}
						if _, err := connection.Write([]byte(reply)); err != nil {
							return
						}
					}
				}()
			}
		}()
		return listener.Addr().String()
	}

	It("keeps a worker for 3 s at most when it is silent, however long the store would wait", func(ctx SpecContext) {
		b := newBench(ctx)
		address := listen("")
		b.createStore(ctx, func(store *v1.RedisStore) {
			store.Spec.Addresses = []string{address}
			store.Spec.Timeouts.Dial, store.Spec.Reconnect.MinBackoff = "30s", "1ms"
		})
		for range 2 {
			begin := time.Now()
			store, result := b.reconcile(ctx)
			Expect(time.Since(begin)).To(BeNumerically("<", 4*time.Second))
			Expect(condition(store, v1.ConditionReachable)).To(Equal("False/Unreachable"))
			Expect(message(store, v1.ConditionReachable)).To(Equal("Redis does not answer: no answer in time"))
			Expect(result.RequeueAfter).To(BeNumerically(">=", 800*time.Millisecond))
		}
	})

	DescribeTable("is not read to those who look at the store", func(ctx SpecContext, reply string) {
		b := newBench(ctx)
		address := listen(reply)
		b.createStore(ctx, func(store *v1.RedisStore) { store.Spec.Addresses = []string{address} })
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/Unreachable"))
		Expect(message(store, v1.ConditionReachable)).To(HavePrefix("Redis does not answer: the server does not speak the Redis protocol as expected"))
		Expect(json.Marshal(store.Status)).NotTo(ContainSubstring("hunter2"))
		for _, event := range b.drain() {
			Expect(event).NotTo(ContainSubstring("hunter2"))
		}
	},
		Entry("HTTP", "HTTP/1.1 400 Bad Request\r\nSet-Cookie: hunter2\r\n\r\nhunter2\r\n"),
		Entry("text", "hunter2 says hello\r\n"),
		Entry("an error like one of Redis", "-ERR hunter2 is the password\r\n"),
		Entry("POP3", "+OK hunter2\r\n-ERR hunter2\r\n"),
		Entry("a number that is none", ":hunter2\r\n"),
		Entry("a length that is none", "$hunter2\r\n"),
	)
})

var _ = Describe("the Secret of a store", func() {
	const password = "correct horse"

	withAuth := func(store *v1.RedisStore) {
		store.Spec.Auth = &v1.Auth{SecretRef: v1.LocalSecretReference{Name: "redis"}}
	}
	secret := func(b *bench, data map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "redis"}, StringData: data}
	}

	It("is asked for by name and key when it is missing or incomplete, and its values are never shown", func(ctx SpecContext) {
		b := newBench(ctx, "--requirepass", password)
		b.createStore(ctx, withAuth)
		store, result := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/SecretInvalid"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/SecretInvalid"))
		Expect(message(store, v1.ConditionReady)).To(ContainSubstring("no Secret " + b.namespace + "/redis"))
		Expect(result.RequeueAfter).To(BeNumerically("~", 30*time.Second, 6*time.Second))

		Expect(api.Client.Create(ctx, secret(b, map[string]string{"pasword": password}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(message(store, v1.ConditionReady)).To(SatisfyAll(
			ContainSubstring("Secret "+b.namespace+"/redis has no key password"), Not(ContainSubstring(password))))
	})

	It("is read again when it was rotated", func(ctx SpecContext) {
		b := newBench(ctx, "--requirepass", password)
		b.createStore(ctx, withAuth)
		Expect(api.Client.Create(ctx, secret(b, map[string]string{"password": "wrong"}))).To(Succeed())
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/AuthenticationFailed"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/AuthenticationFailed"))
		Expect(message(store, v1.ConditionReady)).To(SatisfyAll(ContainSubstring("WRONGPASS"), ContainSubstring("spec.auth.secretRef")))

		Expect(api.Client.Update(ctx, secret(b, map[string]string{"password": password + "\n"}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(message(store, v1.ConditionReachable)).To(ContainSubstring("the newline at the end of password"))
	})

	It("prints how to allow reading it when that is forbidden", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, withAuth)
		b.restart(func(o *redisstore.Options) { o.APIReader = forbidSecrets() })
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/SecretForbidden"))
		Expect(message(store, v1.ConditionReady)).To(SatisfyAll(
			ContainSubstring("Secret "+b.namespace+"/redis"),
			ContainSubstring("kubectl create rolebinding penstock-secret-reader --namespace="+b.namespace+
				" --clusterrole=penstock-secret-reader --serviceaccount=penstock-system:penstock-operator")))
	})

	It("may name a user that may do little", func(ctx SpecContext) {
		b := newBench(ctx)
		b.redis.Do("ACL", "SETUSER", "operator", "on", ">"+password, "resetkeys", "~penstock:*", "resetchannels", "&penstock:changed",
			"-@all", "+ping", "+get", "+mget", "+pttl", "+set", "+watch", "+unwatch", "+multi", "+exec", "+discard", "+publish",
			"+function|load", "+function|list", "+fcall_ro", "+eval")
		b.createStore(ctx, withAuth)
		b.createLimit(ctx, "a", 100)
		Expect(api.Client.Create(ctx, secret(b, map[string]string{"username": "operator", "password": password}))).To(Succeed())
		store, _ := b.reconcile(ctx)
		Expect(message(store, v1.ConditionReady)).To(Equal("Redis can be reached and serves the policies"))
		Expect(b.published(ctx)).To(Equal([]string{"a"}))
		Expect(store.Status.Version).To(BeEmpty())
		Expect(condition(store, v1.ConditionEvictionSafe)).To(Equal("Unknown/Unknown"))
		Expect(condition(store, v1.ConditionDurabilitySafe)).To(Equal("Unknown/Unknown"))

		By("taking away what it needs")
		b.redis.Do("ACL", "SETUSER", "operator", "-get")
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/AuthenticationFailed"))
		Expect(message(store, v1.ConditionReady)).To(ContainSubstring("NOPERM"))
	})
})

func forbidSecrets() client.Reader {
	return intercept(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if _, is := object.(*corev1.Secret); is {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, key.Name, nil)
			}
			return c.Get(ctx, key, object, options...)
		},
	})
}

var _ = Describe("what a store is not safe against", func() {
	It("is said: eviction, and the loss of counters", func(ctx SpecContext) {
		b := newBench(ctx, "--maxmemory-policy", "allkeys-lru")
		b.createStore(ctx)
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionEvictionSafe)).To(Equal("False/MayEvict"))
		Expect(message(store, v1.ConditionEvictionSafe)).To(SatisfyAll(ContainSubstring("allkeys-lru"), ContainSubstring("set it to noeviction")))

		b.redis.Do("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
		b.redis.Do("CONFIG", "SET", "appendonly", "yes")
		b.redis.Do("CONFIG", "SET", "save", "3600 1")
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionEvictionSafe)).To(Equal("False/MayEvict"))
		Expect(condition(store, v1.ConditionDurabilitySafe)).To(Equal("True/Persistent"))
		Expect(store.Status.Persistence).To(Equal("RDB+AOF"))
	})

	It("is said: no memory for a new set, while the one in force stays", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.redis.Do("CONFIG", "SET", "maxmemory", "1")
		b.createLimit(ctx, "b", 100)
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("True/StoreFull"))
		Expect(message(store, v1.ConditionDegraded)).To(ContainSubstring("raise maxmemory"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/StoreFull"))
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(b.published(ctx)).To(Equal([]string{"a"}))
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))
		Expect(b.outcome("b").Holdup).To(ContainSubstring("(StoreFull)"))

		b.redis.Do("CONFIG", "SET", "maxmemory", "0")
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("absent"))
		Expect(b.published(ctx)).To(Equal([]string{"a", "b"}))
	})
})
