package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/apitest"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// of gives a change that makes a store one of that topology.
func of(topology v1.Topology, addresses ...string) func(*v1.RedisStore) {
	return func(store *v1.RedisStore) { store.Spec.Topology, store.Spec.Addresses = topology, addresses }
}

// edit changes the requests of a policy.
func (b *bench) edit(ctx context.Context, name string, requests int64) {
	GinkgoHelper()
	limit := apitest.Limit(b.namespace, name, 0)
	Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(limit), limit)).To(Succeed())
	limit.Spec.Limits[0].Requests = &requests
	Expect(api.Client.Update(ctx, limit)).To(Succeed())
}

// loaded gives the hash of the library that a server has, "" for none.
func loaded(ctx context.Context, server *redistest.Server) string {
	GinkgoHelper()
	told, err := library.Told(ctx, server.Client())
	Expect(err).NotTo(HaveOccurred())
	return told
}

// losses gives what penstock_state_loss_total is for the store.
func (b *bench) losses() float64 {
	GinkgoHelper()
	families, err := metrics.Registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if family.GetName() == "penstock_state_loss_total" && label.GetName() == "namespace" && label.GetValue() == b.namespace {
					return metric.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

var _ = Describe("a Cluster", func() {
	It("has the library on every primary, and a lost one holds up nobody else", func(ctx SpecContext) {
		// More primaries than there are documents.
		cluster := redistest.StartCluster(GinkgoTB(), 5, 0, "--cluster-require-full-coverage", "no")
		b := newBench(ctx)
		b.createStore(ctx, of(v1.TopologyCluster, cluster.Addresses()[:2]...))
		b.createLimit(ctx, "a", 100)
		b.createLimit(ctx, "b", 100)
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(message(store, v1.ConditionReachable)).To(Equal("Redis answers at all 5 primaries"))
		Expect(message(store, v1.ConditionLibraryLoaded)).To(HavePrefix("2 policies are in force on all 5 primaries (set "))
		Expect(store.Status.Identity).To(HaveLen(40))
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))

		By("losing one that serves no document")
		var victim *redistest.Server
		for _, node := range cluster.Nodes {
			if !slices.ContainsFunc([]string{policystore.OwnerKey, policystore.PoliciesKey, policystore.NamesKey, library.DocumentKey},
				func(key string) bool { return cluster.Primary(key) == node }) {
				victim = node
			}
		}
		before := b.store(ctx)
		victim.Kill()
		b.drain()
		b.edit(ctx, "b", 200)
		store, result := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/Unreachable"))
		Expect(message(store, v1.ConditionReachable)).To(HavePrefix("Redis does not answer at " + victim.Addr + " (1 of 5 primaries): "))
		Expect(condition(store, v1.ConditionLibraryLoaded)).To(Equal("Unknown/Unknown"))
		Expect(message(store, v1.ConditionLibraryLoaded)).To(ContainSubstring("to 4 of 5 primaries"))
		Expect(condition(store, v1.ConditionReconciling)).To(Equal("True/Unreachable"))
		Expect(result.RequeueAfter).To(BeNumerically("<", 5*time.Second))
		Expect(store.Status.Identity).To(Equal(before.Status.Identity))
		Expect(store.Status.ProgrammedHash).To(Equal(before.Status.ProgrammedHash), "not every primary serves the new set")
		hashes := map[string]bool{}
		for _, node := range cluster.Nodes {
			if node != victim {
				hashes[loaded(ctx, node)] = true
			}
		}
		Expect(hashes).To(HaveLen(1), "the others have the same library")
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes), "it did not change")
		Expect(b.outcome("b").Serving).To(Equal(outcomes.No))
		Expect(b.outcome("b").Holdup).To(ContainSubstring("(Unreachable)"))

		By("trying again")
		again, _ := b.reconcile(ctx)
		Expect(again.ResourceVersion).To(Equal(store.ResourceVersion))

		By("starting it again, empty")
		victim.Run()
		Eventually(func(g Gomega) {
			store, _ = b.reconcile(ctx)
			g.Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		}).WithTimeout(20 * time.Second).WithPolling(200 * time.Millisecond).Should(Succeed())
		Expect(hashes).To(HaveKey(loaded(ctx, victim)))
		Expect(b.outcome("b").Serving).To(Equal(outcomes.Yes))
		Expect(b.losses()).To(Equal(1.0))
		Expect(b.drain()).To(ContainElement(HavePrefix("Warning StateLost ")))
	})
})

var _ = Describe("Sentinels", func() {
	It("lead to the primary, also after a failover, which loses nothing", func(ctx SpecContext) {
		watched := redistest.StartSentinel(GinkgoTB(), 1, redistest.SentinelOptions{})
		b := newBench(ctx)
		b.createStore(ctx, of(v1.TopologySentinel, watched.Addresses()...), func(store *v1.RedisStore) {
			store.Spec.Sentinel = &v1.Sentinel{MasterName: watched.MasterName}
		})
		b.createLimit(ctx, "a", 100)
		before, _ := b.reconcile(ctx)
		Expect(condition(before, v1.ConditionReady)).To(Equal("True/Ready"))

		primary := watched.Failover()
		b.edit(ctx, "a", 200)
		b.drain()
		var store *v1.RedisStore
		Eventually(func(g Gomega) {
			store, _ = b.reconcile(ctx)
			g.Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		}).WithTimeout(20 * time.Second).WithPolling(200 * time.Millisecond).Should(Succeed())
		set, err := policystore.Read(ctx, primary.Client())
		Expect(err).NotTo(HaveOccurred())
		Expect(set.RateLimits[0].Limits[0].Requests).To(Equal(int64(200)))
		Expect(store.Status.Identity).NotTo(Equal(before.Status.Identity))
		Expect(b.losses()).To(BeZero())
		Expect(b.drain()).NotTo(ContainElement(HavePrefix("Warning StateLost ")))
	})

	It("that know no primary of the name say so", func(ctx SpecContext) {
		watched := redistest.StartSentinel(GinkgoTB(), 0, redistest.SentinelOptions{})
		b := newBench(ctx)
		b.createStore(ctx, of(v1.TopologySentinel, watched.Addresses()...), func(store *v1.RedisStore) {
			store.Spec.Sentinel = &v1.Sentinel{MasterName: "another"}
		})
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/Invalid"))
		Expect(message(store, v1.ConditionReachable)).To(ContainSubstring(`the Sentinels know no primary of the name "another"`))
	})
})

var _ = Describe("Independent servers", func() {
	It("each get what is published, which is no RateLimit", func(ctx SpecContext) {
		b := newBench(ctx)
		servers := []*redistest.Server{redistest.Start(GinkgoTB()), redistest.Start(GinkgoTB()), redistest.Start(GinkgoTB(), "--maxmemory-policy", "allkeys-lru")}
		b.createStore(ctx, of(v1.TopologyIndependent, servers[0].Addr, servers[1].Addr, servers[2].Addr))
		b.createLimit(ctx, "a", 100)
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionEvictionSafe)).To(Equal("False/MayEvict"))
		for _, server := range servers {
			Expect(server.Do("GET", policystore.OwnerKey)).To(HaveSuffix("/" + b.namespace + "/default"))
			Expect(loaded(ctx, server)).NotTo(BeEmpty())
		}
		Expect(b.outcome("a").Reason).To(Equal(v1.ReasonInvalid))
		Expect(b.outcome("a").Message).To(ContainSubstring("create a new RateLimit with spec.storeRef"))
	})
})

var _ = Describe("a foreign owner", func() {
	DescribeTable("is never written over, and is named", func(ctx SpecContext, start func() (servers []*redistest.Server, owned *redistest.Server, store func(*v1.RedisStore))) {
		servers, owned, change := start()
		b := newBench(ctx)
		b.createStore(ctx, change)
		b.createLimit(ctx, "a", 100)
		owned.Do("SET", policystore.OwnerKey, "cluster/far/away")
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("True/Reachable"))
		Expect(condition(store, v1.ConditionLibraryLoaded)).To(Equal("False/Conflicted"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/Conflicted"))
		Expect(message(store, v1.ConditionReady)).To(HaveSuffix("penstock.dev/take-over: cluster/far/away"))
		for _, server := range servers {
			Expect(loaded(ctx, server)).To(BeEmpty())
		}

		b.annotate(ctx, v1.AnnotationTakeOver, "cluster/far/away")
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		for _, server := range servers {
			Expect(loaded(ctx, server)).NotTo(BeEmpty())
		}
		Expect(owned.Do("GET", policystore.OwnerKey)).To(HaveSuffix("/" + b.namespace + "/default"))
	},
		Entry("of a Cluster", func() ([]*redistest.Server, *redistest.Server, func(*v1.RedisStore)) {
			cluster := redistest.StartCluster(GinkgoTB(), 3, 0)
			return cluster.Nodes, cluster.Primary(policystore.OwnerKey), of(v1.TopologyCluster, cluster.Addresses()...)
		}),
		Entry("of a primary that Sentinels watch", func() ([]*redistest.Server, *redistest.Server, func(*v1.RedisStore)) {
			watched := redistest.StartSentinel(GinkgoTB(), 0, redistest.SentinelOptions{})
			return watched.Servers, watched.Primary(), func(store *v1.RedisStore) {
				of(v1.TopologySentinel, watched.Addresses()...)(store)
				store.Spec.Sentinel = &v1.Sentinel{MasterName: watched.MasterName}
			}
		}),
		Entry("of one of several Independent servers", func() ([]*redistest.Server, *redistest.Server, func(*v1.RedisStore)) {
			servers := []*redistest.Server{redistest.Start(GinkgoTB()), redistest.Start(GinkgoTB()), redistest.Start(GinkgoTB())}
			return servers, servers[1], of(v1.TopologyIndependent, servers[0].Addr, servers[1].Addr, servers[2].Addr)
		}),
	)
})

var _ = Describe("TLS", func() {
	secret := func(b *bench, name string, data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name}, Data: data}
	}
	withTLS := func(server *redistest.Server) func(*v1.RedisStore) {
		return func(store *v1.RedisStore) {
			store.Spec.Addresses = []string{server.Addr}
			store.Spec.TLS = &v1.TLS{
				CASecretRef: &v1.SecretKeyReference{Name: "ca"}, ClientCertSecretRef: &v1.LocalSecretReference{Name: "client"},
			}
		}
	}

	It("is with a private CA and a client certificate, both of which are rotated without a restart", func(ctx SpecContext) {
		b := newBench(ctx)
		ca, clients := tlstest.NewCA(GinkgoTB()), tlstest.NewCA(GinkgoTB())
		certificate := ca.Issue(GinkgoTB(), "127.0.0.1")
		server := redistest.StartTLS(GinkgoTB(), redistest.TLS{Cert: certificate.Cert, Key: certificate.Key, ClientCA: clients.PEM})
		me := clients.Issue(GinkgoTB(), "penstock")
		b.createStore(ctx, withTLS(server))
		b.createLimit(ctx, "a", 100)

		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/SecretInvalid"))
		Expect(message(store, v1.ConditionReachable)).To(Equal("there is no Secret " + b.namespace + "/ca; create it with the certificates of the authorities in the key ca.crt"))
		Expect(api.Client.Create(ctx, secret(b, "ca", map[string][]byte{"ca.crt": []byte("hunter2")}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(message(store, v1.ConditionReachable)).To(SatisfyAll(ContainSubstring("key ca.crt of Secret "+b.namespace+"/ca has no certificate in PEM"), Not(ContainSubstring("hunter2"))))
		Expect(api.Client.Update(ctx, secret(b, "ca", map[string][]byte{"ca.crt": ca.PEM}))).To(Succeed())
		Expect(api.Client.Create(ctx, secret(b, "client", map[string][]byte{"tls.crt": me.Cert, "tls.key": certificate.Key}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(message(store, v1.ConditionReachable)).To(HavePrefix("keys tls.crt and tls.key of Secret " + b.namespace + "/client are no certificate and its private key"))
		Expect(api.Client.Update(ctx, secret(b, "client", map[string][]byte{"tls.crt": me.Cert, "tls.key": me.Key}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(message(store, v1.ConditionReady)).To(Equal("Redis can be reached and serves the policies"))

		By("another CA, with the Secret a moment later")
		ca = tlstest.NewCA(GinkgoTB())
		certificate = ca.Issue(GinkgoTB(), "127.0.0.1")
		server.UseTLS(redistest.TLS{Cert: certificate.Cert, Key: certificate.Key, ClientCA: clients.PEM})
		server.Kill()
		server.Run()
		store, result := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/TLSFailed"))
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/TLSFailed"))
		Expect(message(store, v1.ConditionReachable)).To(ContainSubstring("put that of the authority into the Secret of spec.tls.caSecretRef"))
		Expect(result.RequeueAfter).To(BeNumerically("<", 5*time.Second), "somebody who mends a Secret waits")
		Expect(api.Client.Update(ctx, secret(b, "ca", map[string][]byte{"ca.crt": ca.PEM}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(b.outcome("a").Serving).To(Equal(outcomes.Yes))

		By("a client certificate that the server does not trust")
		other := tlstest.NewCA(GinkgoTB()).Issue(GinkgoTB(), "penstock")
		Expect(api.Client.Update(ctx, secret(b, "client", map[string][]byte{"tls.crt": other.Cert, "tls.key": other.Key}))).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/TLSFailed"))
		Expect(message(store, v1.ConditionReachable)).To(ContainSubstring("spec.tls.clientCertSecretRef"))
	})

	DescribeTable("is not with a server whose certificate is not in order", func(ctx SpecContext, issue func(*tlstest.CA) tlstest.Pair, want string) {
		b := newBench(ctx)
		ca := tlstest.NewCA(GinkgoTB())
		certificate := issue(ca)
		server := redistest.StartTLS(GinkgoTB(), redistest.TLS{Cert: certificate.Cert, Key: certificate.Key})
		Expect(api.Client.Create(ctx, secret(b, "ca", map[string][]byte{"ca.crt": ca.PEM}))).To(Succeed())
		b.createStore(ctx, func(store *v1.RedisStore) {
			store.Spec.Addresses = []string{server.Addr}
			store.Spec.TLS = &v1.TLS{CASecretRef: &v1.SecretKeyReference{Name: "ca"}}
		})
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/TLSFailed"))
		Expect(message(store, v1.ConditionReachable)).To(ContainSubstring(want))
		again, _ := b.reconcile(ctx)
		Expect(again.ResourceVersion).To(Equal(store.ResourceVersion), "the words stay the same")
	},
		Entry("expired", func(ca *tlstest.CA) tlstest.Pair {
			return ca.IssueUntil(GinkgoTB(), time.Now().Add(-time.Minute), "127.0.0.1")
		}, "has expired or is not valid yet; renew it"),
		Entry("for another name", func(ca *tlstest.CA) tlstest.Pair {
			return ca.Issue(GinkgoTB(), "elsewhere.example")
		}, `is not for "127.0.0.1"`),
		Entry("of another authority", func(*tlstest.CA) tlstest.Pair {
			return tlstest.NewCA(GinkgoTB()).Issue(GinkgoTB(), "127.0.0.1")
		}, "of an authority that is not trusted"),
	)

	It("is not with a server that does not speak it, and the other way round", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx, func(store *v1.RedisStore) { store.Spec.TLS = &v1.TLS{} })
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(HavePrefix("False/"))
		Expect(message(store, v1.ConditionReachable)).To(ContainSubstring("TLS at this port"))

		certificate := tlstest.NewCA(GinkgoTB()).Issue(GinkgoTB(), "127.0.0.1")
		server := redistest.StartTLS(GinkgoTB(), redistest.TLS{Cert: certificate.Cert, Key: certificate.Key})
		b.change(ctx, func(store *v1.RedisStore) { store.Spec.Addresses, store.Spec.TLS = []string{server.Addr}, nil })
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionStalled)).To(Equal("True/TLSFailed"))
		Expect(message(store, v1.ConditionReachable)).To(HaveSuffix("the server speaks TLS at this port; add spec.tls, or use another port"))
	})
})

var _ = Describe("a Secret that is deleted", func() {
	It("raises an alarm, and what was read from it before serves on", func(ctx SpecContext) {
		b := newBench(ctx, "--requirepass", "correct horse")
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "redis"}, StringData: map[string]string{"password": "correct horse"}}
		Expect(api.Client.Create(ctx, secret)).To(Succeed())
		b.createStore(ctx, func(store *v1.RedisStore) {
			store.Spec.Auth = &v1.Auth{SecretRef: v1.LocalSecretReference{Name: "redis"}}
		})
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.drain()

		Expect(api.Client.Delete(ctx, secret)).To(Succeed())
		b.createLimit(ctx, "b", 100)
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("True/SecretInvalid"))
		Expect(message(store, v1.ConditionDegraded)).To(ContainSubstring("no Secret " + b.namespace + "/redis"))
		Expect(b.drain()).To(ContainElement(HavePrefix("Warning SecretInvalid ")))
		Expect(b.published(ctx)).To(Equal([]string{"a", "b"}))

		By("changing what it would be sent to")
		b.change(ctx, func(store *v1.RedisStore) { store.Spec.Timeouts.Dial = "2s" })
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReachable)).To(Equal("False/SecretInvalid"))

		By("creating it again")
		secret.ResourceVersion = ""
		Expect(api.Client.Create(ctx, secret)).To(Succeed())
		store, _ = b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
		Expect(condition(store, v1.ConditionDegraded)).To(Equal("absent"))
	})
})

var _ = Describe("a Redis that comes and goes", func() {
	It("has one status for all of it, and gets its publications meanwhile", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.step = time.Second / 4
		turn := func() *v1.RedisStore {
			b.redis.Kill()
			down, _ := b.reconcile(ctx)
			Expect(condition(down, v1.ConditionReachable)).To(Equal("False/Unreachable"))
			b.redis.Run()
			store, _ := b.reconcile(ctx)
			return store
		}
		Expect(condition(turn(), v1.ConditionReachable)).To(Equal("True/Reachable"), "the first outage and its end show at once")
		first := turn()
		Expect(condition(first, v1.ConditionReady)).To(Equal("False/Unreachable"))
		Expect(message(first, v1.ConditionReady)).To(HavePrefix("Redis comes and goes, and has to answer for 30s before this is True; publications go on meanwhile; first: Redis does not answer: "))
		b.drain()
		for range 3 {
			again := turn()
			Expect(again.ResourceVersion).To(Equal(first.ResourceVersion))
			Expect(b.published(ctx)).To(Equal([]string{"a"}))
		}
		Expect(b.drain()).NotTo(ContainElement(Not(HavePrefix("Warning StateLost "))))

		b.step = 31 * time.Second
		store, _ := b.reconcile(ctx)
		Expect(condition(store, v1.ConditionReady)).To(Equal("True/Ready"))
	})
})

var _ = Describe("a Redis that lost its data", func() {
	It("is counted, and told once", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.createLimit(ctx, "a", 100)
		b.reconcile(ctx)
		b.drain()

		By("a deletion by somebody, which loses no counters")
		b.redis.Do("DEL", policystore.PoliciesKey)
		b.redis.Do("FUNCTION", "FLUSH")
		b.reconcile(ctx)
		Expect(b.losses()).To(BeZero())
		Expect(b.drain()).To(BeEmpty())

		By("a restart without persistence, unseen, and one of the operator too")
		for i, restart := range []func(){func() {}, func() { b.restart(nil) }} {
			b.redis.Kill()
			b.redis.Run()
			restart()
			b.reconcile(ctx)
			Expect(b.losses()).To(Equal(float64(i + 1)))
			Expect(b.drain()).To(ContainElement(HavePrefix("Warning StateLost ")))
		}
		b.reconcile(ctx)
		Expect(b.losses()).To(Equal(2.0))
		Expect(b.drain()).To(BeEmpty())
	})
})

var _ = Describe("replicas of penstockd that are gone", func() {
	It("are forgotten after a minute", func(ctx SpecContext) {
		b := newBench(ctx)
		b.createStore(ctx)
		b.redis.Do("HSET", policystore.ReplicasKey, "gone", fmt.Sprintf(`{"at":%d}`, time.Now().Add(-61*time.Second).UnixMilli()), "unreadable", "hello")
		_, err := policystore.Beat(ctx, b.redis.Client(), "lives", "")
		Expect(err).NotTo(HaveOccurred())
		b.reconcile(ctx)
		Expect(b.redis.Do("HKEYS", policystore.ReplicasKey)).To(Equal([]any{"lives"}))
	})
})
