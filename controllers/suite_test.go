package controllers_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers"
	"github.com/penstock-dev/penstock/controllers/apitest"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

var api *apitest.Server

func TestControllers(t *testing.T) {
	ctrl.SetLogger(GinkgoLogr)
	RegisterFailHandler(Fail)
	RunSpecs(t, "Controllers in a manager")
}

// The controllers run as the operator does: elected, and with no more rights than config/default gives its service
// account.
var _ = BeforeSuite(func() {
	api = apitest.Start()
	DeferCleanup(api.Stop)
	install()

	config := rest.CopyConfig(api.Config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:penstock-system:penstock-operator",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:penstock-system", "system:authenticated"},
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: apitest.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		LeaderElection: true, LeaderElectionID: "penstock-operator", LeaderElectionNamespace: "penstock-system", LeaderElectionReleaseOnCancel: true,
	})
	Expect(err).NotTo(HaveOccurred())
	Expect(controllers.Setup(mgr, "penstock-system")).To(Succeed())
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	DeferCleanup(func() {
		stop()
		Eventually(ended).WithTimeout(10 * time.Second).Should(Receive(BeNil()))
	})
})

// install applies config/default.
func install() {
	GinkgoHelper()
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	manifests, err := exec.Command(kubectl, "kustomize", filepath.Join("..", "config", "default")).Output()
	Expect(err).NotTo(HaveOccurred())
	kubeconfig := filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	Expect(os.WriteFile(kubeconfig, api.Kubeconfig(), 0o600)).To(Succeed())
	apply := exec.Command(kubectl, "--kubeconfig", kubeconfig, "apply", "-f", "-")
	apply.Stdin = bytes.NewReader(manifests)
	output, err := apply.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(output))
}

// ready waits until a RateLimit is Ready with its present content, and gives it.
func ready(ctx context.Context, namespace, name string) *v1.RateLimit {
	GinkgoHelper()
	limit := &v1.RateLimit{}
	Eventually(func(g Gomega) {
		g.Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, limit)).To(Succeed())
		g.Expect(apitest.Condition(limit.Status.Conditions, v1.ConditionReady)).To(Equal("True/Programmed"))
		g.Expect(limit.Status.ObservedGeneration).To(Equal(limit.Generation))
	}).WithTimeout(20 * time.Second).WithPolling(5 * time.Millisecond).Should(Succeed())
	return limit
}

// publications counts the announcements in a Redis from now on.
func publications(ctx context.Context, server *redistest.Server) func() int {
	GinkgoHelper()
	subscription := server.ClientWith(&redis.Options{}).Subscribe(ctx, policystore.Channel)
	_, err := subscription.Receive(ctx)
	Expect(err).NotTo(HaveOccurred())
	announced := subscription.Channel(redis.WithChannelSize(10_000))
	return func() int {
		// What a client publishes now comes after all that was published before.
		server.Do("PUBLISH", policystore.Channel, "end")
		n := 0
		for message := range announced {
			if message.Payload == "end" {
				return n
			}
			n++
		}
		Fail("the subscription ended")
		return 0
	}
}

var _ = Describe("the operator", func() {
	It("needs no more than its service account may do, from a policy without a store to one in force", func(ctx SpecContext) {
		server, namespace := redistest.Start(GinkgoTB(), "--requirepass", "secret"), api.Namespace(ctx)
		Expect(api.Client.Create(ctx, apitest.Limit(namespace, "a", 100))).To(Succeed())
		Eventually(func(g Gomega) {
			limit := &v1.RateLimit{}
			g.Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "a"}, limit)).To(Succeed())
			g.Expect(apitest.Condition(limit.Status.Conditions, v1.ConditionReady)).To(Equal("False/StoreNotFound"))
		}).WithTimeout(20 * time.Second).Should(Succeed())

		Expect(api.Client.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "redis"}, StringData: map[string]string{"password": "secret"},
		})).To(Succeed())
		store := apitest.Store(namespace, "default", server.Addr)
		store.Spec.Auth = &v1.Auth{SecretRef: v1.LocalSecretReference{Name: "redis"}}
		Expect(api.Client.Create(ctx, store)).To(Succeed())
		ready(ctx, namespace, "a")

		Expect(api.Client.Delete(ctx, store)).To(Succeed())
		Eventually(func(g Gomega) {
			limit := &v1.RateLimit{}
			g.Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "a"}, limit)).To(Succeed())
			g.Expect(apitest.Condition(limit.Status.Conditions, v1.ConditionReady)).To(Equal("False/StoreNotFound"))
		}).WithTimeout(20 * time.Second).Should(Succeed())
	})

	It("publishes to one store although others keep silent", func(ctx SpecContext) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(silent.Close) // what connects waits in its backlog
		server, namespace := redistest.Start(GinkgoTB()), api.Namespace(ctx)
		Expect(api.Client.Create(ctx, apitest.Store(namespace, "default", server.Addr))).To(Succeed())
		var stores []*v1.RedisStore
		for i := range 8 {
			store := apitest.Store(namespace, fmt.Sprintf("silent-%d", i), silent.Addr().String())
			store.Spec.Timeouts.Dial, store.Spec.Reconnect.MinBackoff = "30s", "1ms"
			stores = append(stores, store)
			Expect(api.Client.Create(ctx, store)).To(Succeed())
		}
		for _, store := range stores {
			Eventually(func(g Gomega) {
				g.Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(store), store)).To(Succeed())
				g.Expect(apitest.Condition(store.Status.Conditions, v1.ConditionReachable)).To(Equal("False/Unreachable"))
			}).WithTimeout(20 * time.Second).Should(Succeed())
		}
		for i := range 3 {
			begin := time.Now()
			Expect(api.Client.Create(ctx, apitest.Limit(namespace, fmt.Sprintf("p%d", i), 100))).To(Succeed())
			ready(ctx, namespace, fmt.Sprintf("p%d", i))
			Expect(time.Since(begin)).To(BeNumerically("<", 2*time.Second))
			AddReportEntry("beside 8 silent stores", fmt.Sprintf("in force after %v", time.Since(begin)))
		}
		for _, store := range stores {
			Expect(api.Client.Delete(ctx, store)).To(Succeed())
		}
	})

	It("mends at once what somebody changes in Redis, where Redis tells of it, and wakes nobody by its own writing", func(ctx SpecContext) {
		server, namespace := redistest.Start(GinkgoTB()), api.Namespace(ctx)
		Expect(api.Client.Create(ctx, apitest.Store(namespace, "default", server.Addr))).To(Succeed())
		Expect(api.Client.Create(ctx, apitest.Limit(namespace, "a", 100))).To(Succeed())
		ready(ctx, namespace, "a")
		mended := func(g Gomega) {
			set, err := policystore.Read(ctx, server.Client())
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(set.RateLimits).To(HaveLen(1))
			g.Expect(server.Do("PTTL", policystore.PoliciesKey)).To(Equal(int64(-1)))
			g.Expect(server.Do("GET", policystore.OwnerKey)).To(HaveSuffix("/" + namespace + "/default"))
		}
		// The watching begins with the first publication; its own connection is told of by CLIENT LIST.
		Eventually(func() any { return server.Do("CLIENT", "LIST") }).WithTimeout(10 * time.Second).Should(ContainSubstring("cmd=subscribe"))
		for _, change := range [][]any{
			{"DEL", policystore.PoliciesKey}, {"FLUSHALL"}, {"PEXPIRE", policystore.PoliciesKey, 1}, {"EXPIRE", policystore.PoliciesKey, 1000},
			{"SET", policystore.PoliciesKey, "{}"},
		} {
			server.Do(change...)
			begin := time.Now()
			// Far from the 30 s of the resync; 1 s where the machine does nothing else.
			Eventually(mended).WithTimeout(10*time.Second).WithPolling(5*time.Millisecond).Should(Succeed(), "%v", change)
			AddReportEntry(fmt.Sprint(change), fmt.Sprintf("mended after %v", time.Since(begin)))
		}
		count := publications(ctx, server)
		Expect(api.Client.Create(ctx, apitest.Limit(namespace, "b", 100))).To(Succeed())
		ready(ctx, namespace, "b")
		server.Do("CONFIG", "RESETSTAT")
		Consistently(func() any { return server.Do("INFO", "commandstats") }).WithTimeout(time.Second).ShouldNot(SatisfyAny(
			ContainSubstring("cmdstat_set:"), ContainSubstring("cmdstat_function|load"), ContainSubstring("cmdstat_publish")))
		Expect(count()).To(Equal(1))
	})

	It("collects garbage before its memory is used up", func(ctx SpecContext) {
		deployment := &appsv1.Deployment{}
		Expect(api.Client.Get(ctx, client.ObjectKey{Namespace: "penstock-system", Name: "penstock-operator"}, deployment)).To(Succeed())
		container := deployment.Spec.Template.Spec.Containers[0]
		i := slices.IndexFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
		Expect(i).NotTo(Equal(-1))
		// Go writes 230MiB, Kubernetes 230Mi.
		soft, err := resource.ParseQuantity(strings.TrimSuffix(container.Env[i].Value, "B"))
		Expect(err).NotTo(HaveOccurred())
		hard := container.Resources.Limits.Memory().Value()
		Expect(soft.Value()).To(And(BeNumerically("<", hard), BeNumerically(">", hard/2)))
	})

	It("publishes a burst of changes together, and one edit among many with one publication and one status", func(ctx SpecContext) {
		const policies = 200
		server, namespace := redistest.Start(GinkgoTB()), api.Namespace(ctx)
		Expect(api.Client.Create(ctx, apitest.Store(namespace, "default", server.Addr))).To(Succeed())
		count := publications(ctx, server)
		begin := time.Now()
		for i := range policies {
			Expect(api.Client.Create(ctx, apitest.Limit(namespace, fmt.Sprintf("p%03d", i), 100))).To(Succeed())
		}
		for i := range policies {
			ready(ctx, namespace, fmt.Sprintf("p%03d", i))
		}
		took := time.Since(begin)
		burst := count()
		AddReportEntry("burst", fmt.Sprintf("%d policies in %v: %d publications", policies, took, burst))
		// At most one in 100 ms, and the first.
		Expect(burst).To(BeNumerically("<=", int(took/(100*time.Millisecond))+2))

		before := &v1.RateLimitList{}
		Expect(api.Client.List(ctx, before, client.InNamespace(namespace))).To(Succeed())
		limit := &before.Items[policies/2]
		edited := limit.DeepCopy()
		edited.Spec.Limits[0].Requests = new(int64(200))
		begin = time.Now()
		Expect(api.Client.Update(ctx, edited)).To(Succeed())
		ready(ctx, namespace, edited.Name)
		AddReportEntry("edit", fmt.Sprintf("in force, and said so, after %v", time.Since(begin)))

		Expect(count()).To(Equal(1))
		after := &v1.RateLimitList{}
		Expect(api.Client.List(ctx, after, client.InNamespace(namespace))).To(Succeed())
		for i := range after.Items {
			if after.Items[i].Name != edited.Name {
				Expect(after.Items[i].ResourceVersion).To(Equal(before.Items[i].ResourceVersion), after.Items[i].Name)
			}
		}
		Expect(after.Items[policies/2].Status.ObservedGeneration).To(Equal(int64(2)))
	})
})
