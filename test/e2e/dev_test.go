package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("make dev", func() {
	It("shows a 429 by the curl that it prints, and decides by an edited file", func(ctx SpecContext) {
		file := filepath.Join(GinkgoT().TempDir(), "edited.yaml")
		declare := func(requests int) {
			GinkgoHelper()
			Expect(os.WriteFile(file, fmt.Appendf(nil, `
apiVersion: penstock.dev/v1
kind: RateLimit
metadata: {name: edited, namespace: shop}
spec:
  descriptors: [{key: header.user}]
  limits: [{requests: %d, window: 1h}]
`, requests), 0o600)).To(Succeed())
		}
		declare(3)
		dev := start(exec.Command("make", "--no-print-directory", "dev",
			"DEV_ARGS=--http 127.0.0.1:0 --grpc 127.0.0.1:0 -f "+file))
		// The first time, this compiles it.
		Eventually(dev.output.String).WithTimeout(5 * time.Minute).Should(ContainSubstring("curl "))

		By("running the line that it prints")
		line := regexp.MustCompile(`curl .*`).FindString(dev.output.String())
		Expect(shell(ctx, line)).To(MatchRegexp(`^100 200\s+1 429$`), line)

		By("editing a file")
		address := regexp.MustCompile(`http://[0-9.:]+`).FindString(dev.output.String())
		ask := func(times int) string {
			GinkgoHelper()
			return shell(ctx, fmt.Sprintf(`curl -s -o /dev/null -w '%%{http_code} ' -H 'user: anna' '%s/auth/shop/edited?[1-%d]'`, address, times))
		}
		Expect(ask(4)).To(Equal("200 200 200 429"))
		declare(5)
		Eventually(ask).WithArguments(1).Should(Equal("200"), "the fourth of five")
		Expect(ask(2)).To(Equal("200 429"))

		By("ending it")
		dev.signal(syscall.SIGINT)
		Expect(dev.output.String()).NotTo(ContainSubstring("panic"))
	})
})
