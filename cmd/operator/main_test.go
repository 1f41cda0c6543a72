package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/penstock-dev/penstock/controllers/apitest"
)

func TestWrongCommandLinesAreToldAndEndWith2(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":    {[]string{"--nope"}, "unknown flag: --nope"},
		"an argument":     {[]string{"run"}, `unexpected argument "run"; all settings are flags`},
		"wrong log level": {[]string{"--log-level=loud"}, `--log-level "loud": want debug, info, warn or error`},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := run(t.Context(), tt.args, func(string) string { return "" }, io.Discard, &stderr)
			if code != 2 || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit %d: %s", code, stderr.String())
			}
		})
	}
}

// penstockd listens on :8080, :8081 and :9090.
func TestTheDefaultPortsLeavePenstockdsFree(t *testing.T) {
	cfg, err := parse([]string{"--operator-namespace=penstock-system"}, func(string) string { return "" }, io.Discard)
	if err != nil || cfg.probeAddress != ":8082" || cfg.metricsAddress != ":8443" {
		t.Errorf("probes %q, metrics %q, error %v", cfg.probeAddress, cfg.metricsAddress, err)
	}
}

func TestOperatorNamespaceIsTheFirstThatIsSet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "namespace")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		given, pod, file string
		want             string
		wantError        string
	}{
		"flag":            {"from-flag", "from-pod", file, "from-flag", ""},
		"environment":     {"", "from-pod", file, "from-pod", ""},
		"service account": {"", "", file, "from-file", ""},
		"none":            {"", "", file + "-missing", "", "set it, or $POD_NAMESPACE"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := operatorNamespace(tt.given, tt.pod, tt.file)
			if got != tt.want || (err != nil) != (tt.wantError != "") || err != nil && !strings.Contains(err.Error(), tt.wantError) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestOperatorServesHealthToAllAndMetricsToThoseWhoMay(t *testing.T) {
	RegisterTestingT(t)
	api := apitest.Start()
	defer api.Stop()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	Expect(os.WriteFile(kubeconfig, api.Kubeconfig(), 0o600)).To(Succeed())
	Expect(api.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "penstock-system"}})).To(Succeed())

	probes, metrics := freeAddress(t), freeAddress(t)
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"--kubeconfig", kubeconfig, "--operator-namespace=penstock-system", "--leader-elect",
			"--health-probe-bind-address", probes, "--metrics-bind-address", metrics,
		}, func(string) string { return "" }, io.Discard, io.Discard)
	}()
	status := func(url, token string) int {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // its certificate is self-signed
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		Expect(err).NotTo(HaveOccurred())
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := client.Do(request)
		if err != nil {
			return 0
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	Eventually(func() int { return status("http://"+probes+"/readyz", "") }).WithTimeout(20 * time.Second).Should(Equal(http.StatusOK))
	Expect(status("http://"+probes+"/healthz", "")).To(Equal(http.StatusOK))

	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "penstock-system", Name: "prometheus"}}
	Expect(api.Client.Create(ctx, account)).To(Succeed())
	token := &authenticationv1.TokenRequest{}
	Expect(api.Client.SubResource("token").Create(ctx, account, token)).To(Succeed())
	Eventually(func() int { return status("https://"+metrics+"/metrics", "") }).WithTimeout(20 * time.Second).Should(Equal(http.StatusUnauthorized))
	Expect(api.Client.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "scrape"},
		Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}})).To(Succeed())
	Expect(api.Client.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "scrape"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "scrape"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "penstock-system", Name: "prometheus"}}})).To(Succeed())
	// A refusal is remembered for 30 s, so another account asks in vain.
	other := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "penstock-system", Name: "other"}}
	Expect(api.Client.Create(ctx, other)).To(Succeed())
	otherToken := &authenticationv1.TokenRequest{}
	Expect(api.Client.SubResource("token").Create(ctx, other, otherToken)).To(Succeed())
	Expect(status("https://"+metrics+"/metrics", otherToken.Status.Token)).To(Equal(http.StatusForbidden))
	Expect(status("https://"+metrics+"/metrics", token.Status.Token)).To(Equal(http.StatusOK))

	stop()
	Eventually(ended).WithTimeout(20 * time.Second).Should(Receive(Equal(0)))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
