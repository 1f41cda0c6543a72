// Package e2e tests Penstock as its users run it: the built binaries as processes, a real kube-apiserver and etcd, a
// real redis-server, kubectl, redis-cli and curl. Nothing here looks inside.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	operatorNamespace      = "penstock-system"
	operatorServiceAccount = "penstock-operator"
)

var (
	// repository is the folder of go.mod.
	repository = must(filepath.Abs("../.."))
	// binaries is the folder of the built binaries.
	binaries string
	// cluster is a kube-apiserver with its etcd. No controllers run in it, so nothing but the operator acts.
	cluster *envtest.Environment
	// operator runs under the shipped ServiceAccount.
	operator *process
	// adminKubeconfig and operatorKubeconfig are files; the second holds a token of the shipped ServiceAccount.
	adminKubeconfig, operatorKubeconfig string
)

func TestEndToEnd(t *testing.T) {
	RegisterFailHandler(Fail)
	log.SetLogger(GinkgoLogr)
	SetDefaultEventuallyTimeout(30 * time.Second)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	RunSpecs(t, "End to end")
}

var _ = BeforeSuite(func() {
	binaries = GinkgoT().TempDir()
	for _, name := range []string{"operator", "penstockd"} {
		run(exec.Command("go", "build", "-o", filepath.Join(binaries, name), "./cmd/"+name))
	}

	cluster = &envtest.Environment{}
	config, err := cluster.Start()
	Expect(err).NotTo(HaveOccurred(), "`make test` sets KUBEBUILDER_ASSETS")
	DeferCleanup(func() { _ = cluster.Stop() })

	admin, err := cluster.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, config)
	Expect(err).NotTo(HaveOccurred())
	adminKubeconfig = filepath.Join(binaries, "admin.kubeconfig")
	Expect(os.WriteFile(adminKubeconfig, must(admin.KubeConfig()), 0o600)).To(Succeed())

	By("installing config/default")
	kubectl("apply", "-k", filepath.Join(repository, "config/default"))
	kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd",
		"ratelimits.penstock.dev", "redisstores.penstock.dev")

	By("asking for a token of the shipped ServiceAccount")
	token := strings.TrimSpace(kubectl("create", "token", operatorServiceAccount, "--namespace", operatorNamespace))
	operatorKubeconfig = filepath.Join(binaries, "operator.kubeconfig")
	Expect(clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			"e2e": {Server: config.Host, CertificateAuthorityData: config.CAData},
		},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"operator": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"e2e": {Cluster: "e2e", AuthInfo: "operator"}},
		CurrentContext: "e2e",
	}, operatorKubeconfig)).To(Succeed())
})

var _ = Describe("In a cluster", Ordered, func() {
	BeforeAll(func() {
		cmd := exec.Command(filepath.Join(binaries, "operator"), "--operator-namespace", operatorNamespace, "--leader-elect",
			"--metrics-bind-address", freeAddress(), "--health-probe-bind-address", freeAddress())
		cmd.Env = append(os.Environ(), "KUBECONFIG="+operatorKubeconfig)
		operator = start(cmd)
	})

	Context("a RedisStore", redisStore)
	Context("a RateLimit, from YAML to a 429,", rateLimit)
})

// kubectl runs it as the cluster's administrator and gives what it prints.
func kubectl(args ...string) string {
	GinkgoHelper()
	return run(kubectlCommand(args...))
}

func kubectlCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(cluster.ControlPlane.KubectlPath, args...)
	// Its own cache folder: discovery of a cluster that ran on the same port before must not be believed.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+adminKubeconfig, "KUBECACHEDIR="+filepath.Join(binaries, "kubecache"))
	return cmd
}

// run runs a command in the repository, fails the spec when it fails, and gives what it prints.
func run(cmd *exec.Cmd) string {
	GinkgoHelper()
	if cmd.Dir == "" {
		cmd.Dir = repository
	}
	out, err := cmd.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s\n%s", cmd, out)
	return string(out)
}

// shell runs a line as a user would type it.
func shell(ctx context.Context, line string) string {
	GinkgoHelper()
	return strings.TrimSpace(run(exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("e2e: %v", err))
	}
	return value
}
