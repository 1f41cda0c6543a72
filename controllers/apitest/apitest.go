// Package apitest gives controller tests a real kube-apiserver with the CRDs of Penstock.
package apitest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

// Server is a running kube-apiserver.
type Server struct {
	// Config reaches it as an administrator.
	Config *rest.Config
	// Client reads and writes it, uncached.
	Client client.Client

	environment *envtest.Environment
}

// Kubeconfig gives a file by which kubectl reaches the server as an administrator.
func (s *Server) Kubeconfig() []byte {
	return s.environment.KubeConfig
}

// Scheme has the kinds of Kubernetes and of Penstock.
func Scheme() *k8sruntime.Scheme {
	scheme := k8sruntime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1.AddToScheme(scheme)).To(Succeed())
	return scheme
}

// Start starts etcd and kube-apiserver and installs the CRDs.
func Start() *Server {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		Expect(errors.New("KUBEBUILDER_ASSETS is not set: use make test, or export KUBEBUILDER_ASSETS=$(hack/envtest-assets.sh)")).NotTo(HaveOccurred())
	}
	_, here, _, _ := runtime.Caller(0)
	s := &Server{environment: &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join(filepath.Dir(here), "..", "..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}}
	var err error
	s.Config, err = s.environment.Start()
	Expect(err).NotTo(HaveOccurred())
	s.Client, err = client.New(s.Config, client.Options{Scheme: Scheme()})
	Expect(err).NotTo(HaveOccurred())
	return s
}

// Stop ends both.
func (s *Server) Stop() {
	Expect(s.environment.Stop()).To(Succeed())
}

// Namespace creates a namespace of its own for a test, since envtest never removes one.
func (s *Server) Namespace(ctx context.Context) string {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	ExpectWithOffset(1, s.Client.Create(ctx, namespace)).To(Succeed())
	return namespace.Name
}

// Store gives a RedisStore for one address. It is not created yet.
func Store(namespace, name, address string) *v1.RedisStore {
	return &v1.RedisStore{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.RedisStoreSpec{Addresses: []string{address}},
	}
}

// Limit gives a RateLimit of that many requests in one minute. It is not created yet.
func Limit(namespace, name string, requests int64) *v1.RateLimit {
	return &v1.RateLimit{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.RateLimitSpec{Limits: []v1.Limit{{Name: "default", Requests: &requests, Window: "1m"}}},
	}
}

// Condition prints a condition as "Status/Reason", or "absent".
func Condition(list []metav1.Condition, kind string) string {
	c := meta.FindStatusCondition(list, kind)
	if c == nil {
		return "absent"
	}
	return fmt.Sprintf("%s/%s", c.Status, c.Reason)
}

// Message gives the message of a condition, or "".
func Message(list []metav1.Condition, kind string) string {
	if c := meta.FindStatusCondition(list, kind); c != nil {
		return c.Message
	}
	return ""
}
