package e2e

import (
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// redisStore follows a RedisStore that authenticates, from a missing Secret to its deletion while Redis is gone.
func redisStore() {
	const namespace = "vault"
	var redis *redistest.Server

	BeforeAll(func() {
		redis = redistest.Start(GinkgoTB(), "--requirepass", "open sesame")
		kubectl("create", "namespace", namespace)
		file := filepath.Join(GinkgoT().TempDir(), "store.yaml")
		Expect(os.WriteFile(file, fmt.Appendf(nil, `
apiVersion: penstock.dev/v1
kind: RedisStore
metadata: {name: default, namespace: %s}
spec:
  addresses: ["%s"]
  auth: {secretRef: {name: redis}}
`, namespace, redis.Addr), 0o600)).To(Succeed())
		kubectl("apply", "-f", file)
	})

	columns := func() string { return kubectl("get", "redisstores", "--namespace", namespace) }
	message := func(condition string) string {
		return kubectl("get", "redisstore", "default", "--namespace", namespace,
			`-o=jsonpath={.status.conditions[?(@.type=="`+condition+`")].message}`)
	}
	// lookAgain has the store reconciled now and not at the next resync.
	lookAgain := func(why string) {
		kubectl("annotate", "redisstore", "default", "--namespace", namespace, "--overwrite", "example.com/because="+why)
	}

	It("says which Secret is missing", func() {
		Eventually(columns).Should(MatchRegexp(`default\s+False\s+Standalone\s+SecretInvalid`))
		Expect(message("Reachable")).To(ContainSubstring(namespace + "/redis"))
	})

	It("says that a password is wrong, and never shows it", func() {
		kubectl("create", "secret", "generic", "redis", "--namespace", namespace, "--from-literal=password=open barley")
		lookAgain("created")
		Eventually(columns).Should(MatchRegexp(`default\s+False\s+Standalone\s+AuthenticationFailed`))
		Expect(kubectl("get", "redisstore", "default", "--namespace", namespace, "-o=yaml")).NotTo(ContainSubstring("barley"))
	})

	It("is Ready with the right one, without a restart", func() {
		kubectl("patch", "secret", "redis", "--namespace", namespace, `--patch={"stringData":{"password":"open sesame"}}`)
		lookAgain("rotated")
		kubectl("wait", "--for=condition=Ready", "--timeout=30s", "--namespace", namespace, "redisstore/default")
		Expect(columns()).To(MatchRegexp(`default\s+True\s+Standalone\s+\d+\.\d+\S*\s+0\s+Ready`))
	})

	It("is Conflicted on a Redis that somebody else publishes to, and names the owner", func() {
		kubectl("create", "namespace", "rival")
		rival := kubectl("get", "redisstore", "default", "--namespace", namespace,
			`-o=go-template={"apiVersion":"penstock.dev/v1","kind":"RedisStore","metadata":{"name":"default","namespace":"rival"},"spec":{"addresses":["{{index .spec.addresses 0}}"],"auth":{"secretRef":{"name":"redis"}}}}`)
		file := filepath.Join(GinkgoT().TempDir(), "rival.json")
		Expect(os.WriteFile(file, []byte(rival), 0o600)).To(Succeed())
		kubectl("create", "secret", "generic", "redis", "--namespace", "rival", "--from-literal=password=open sesame")
		kubectl("apply", "-f", file)
		Eventually(func() string { return kubectl("get", "redisstores", "--namespace", "rival") }).
			Should(MatchRegexp(`default\s+False\s+Standalone\s+.*Conflicted`))
		kubectl("wait", "--for=condition=Ready", "--timeout=10s", "--namespace", namespace, "redisstore/default")
		kubectl("delete", "namespace", "rival", "--wait=false")
	})

	It("can be deleted while Redis is gone", func() {
		redis.Kill()
		kubectl("delete", "redisstore", "default", "--namespace", namespace, "--timeout=10s")
	})
}
