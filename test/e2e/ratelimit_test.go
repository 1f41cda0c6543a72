package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// rateLimit follows a RateLimit from YAML to a 429. Its last spec stops the API server.
func rateLimit() {
	var (
		redis    *redistest.Server
		httpAddr string
		grpcAddr string
		samples  string
		rls      rlsv3.RateLimitServiceClient
	)

	BeforeAll(func() {
		redis = redistest.Start(GinkgoTB())
		httpAddr, grpcAddr = freeAddress(), freeAddress()

		// The default of 10 ms is for proxies that wait 20. Here every answer has to come from Redis, on however busy a
		// machine, since requests are counted one by one.
		start(exec.Command(filepath.Join(binaries, "penstockd"), "--command-timeout", "2s",
			"--redis", "redis://"+redis.Addr, "--http", httpAddr, "--grpc", grpcAddr, "--metrics", freeAddress()))

		// The samples as shipped; only the address of Redis is this machine's.
		samples = overlay(redis.Addr)

		connection, err := grpc.NewClient(grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(connection.Close)
		rls = rlsv3.NewRateLimitServiceClient(connection)
	})

	ask := func() int {
		GinkgoHelper()
		response, err := http.Get("http://" + httpAddr + "/auth/shop/api-per-ip")
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Body.Close()).To(Succeed())
		Expect(response.Header).NotTo(HaveKey("X-Penstock-Degraded"))
		return response.StatusCode
	}
	askRLS := func(ctx context.Context) *rlsv3.RateLimitResponse {
		GinkgoHelper()
		response, err := rls.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{
			Domain: "shop",
			Descriptors: []*ratelimitv3.RateLimitDescriptor{{
				Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: "remote_address", Value: "127.0.0.1"}},
			}},
		})
		Expect(err).NotTo(HaveOccurred())
		return response
	}
	// fcall is the line of docs/redis.md: the key is built with openssl, as an application without our codec would.
	fcall := func(ctx context.Context) []string {
		GinkgoHelper()
		_, port, _ := net.SplitHostPort(redis.Addr)
		return strings.Split(shell(ctx, `digest=$(printf '14:remote_address9:127.0.0.1' | openssl dgst -sha256 -binary | head -c 16 | base64 | tr '+/' '-_' | tr -d '=')
			redis-cli -p `+port+` FCALL penstock_limit 1 "rl:{$digest}:shop/api-per-ip" shop/api-per-ip 1 "" 127.0.0.1`), "\n")
	}

	It("is Ready after kubectl apply -k", func() {
		kubectl("apply", "-k", samples)
		kubectl("wait", "--for=condition=Ready", "--timeout=30s", "--namespace", "shop", "redisstore/default", "ratelimit/api-per-ip")

		columns := kubectl("get", "ratelimit", "--namespace", "shop")
		Expect(columns).To(MatchRegexp(`NAME\s+READY\s+LIMIT\s+MODE\s+DOMAIN\s+REASON\s+AGE`))
		Expect(columns).To(MatchRegexp(`api-per-ip\s+True\s+100/1m.*\s+Enforce\s+shop\s+Programmed`))
		Expect(kubectl("get", "redisstore", "--namespace", "shop")).To(MatchRegexp(`default\s+True\s+Standalone\s+\d+\.\d+`))
	})

	It("lets 100 requests a minute pass, and no more, at every door", func(ctx SpecContext) {
		Eventually(func() (int, error) {
			response, err := http.Get("http://" + httpAddr + "/readyz")
			if err != nil {
				return 0, err
			}
			return response.StatusCode, response.Body.Close()
		}).Should(Equal(http.StatusOK))

		for i := range 98 {
			Expect(ask()).To(Equal(http.StatusOK), "request %d", i+1)
		}
		Expect(askRLS(ctx).GetOverallCode()).To(Equal(rlsv3.RateLimitResponse_OK), "request 99")
		row := fcall(ctx)
		Expect(row[0]).To(Equal("1"), "request 100, by redis-cli: %q", row)
		Expect(row[2]).To(Equal("0"), "redis-cli sees what the doors spent: %q", row)

		response, err := http.Get("http://" + httpAddr + "/auth/shop/api-per-ip")
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Body.Close()).To(Succeed())
		Expect(response.StatusCode).To(Equal(http.StatusTooManyRequests), "request 101")
		Expect(response.Header.Get("RateLimit-Policy")).To(Equal(`"api-per-ip";q=100;w=60`))
		Expect(response.Header.Get("RateLimit")).To(HavePrefix(`"api-per-ip";r=0;t=`))
		retry, err := strconv.Atoi(response.Header.Get("Retry-After"))
		Expect(err).NotTo(HaveOccurred())
		Expect(retry).To(And(BeNumerically(">=", 1), BeNumerically("<=", 60)))

		over := askRLS(ctx)
		Expect(over.GetOverallCode()).To(Equal(rlsv3.RateLimitResponse_OVER_LIMIT))
		Expect(over.GetStatuses()).To(HaveLen(1))
		Expect(over.GetStatuses()[0].GetCode()).To(Equal(rlsv3.RateLimitResponse_OVER_LIMIT))
		Expect(over.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit()).To(BeEquivalentTo(100))

		Expect(fcall(ctx)[0]).To(Equal("0"), "redis-cli is refused too")
	})

	It("applies a raised limit to the next requests, and keeps what was used", func(ctx SpecContext) {
		kubectl("patch", "ratelimit", "api-per-ip", "--namespace", "shop", "--type=json",
			`--patch=[{"op":"replace","path":"/spec/limits/0/requests","value":105}]`)
		Eventually(ask).WithTimeout(5 * time.Second).Should(Equal(http.StatusOK))
		// 101 of 105 are used now, so four more pass.
		for i := range 4 {
			Expect(ask()).To(Equal(http.StatusOK), "request %d under the raised limit", i+2)
		}
		Expect(ask()).To(Equal(http.StatusTooManyRequests))
		Expect(askRLS(ctx).GetOverallCode()).To(Equal(rlsv3.RateLimitResponse_OVER_LIMIT))
		Expect(fcall(ctx)[0]).To(Equal("0"))
	})

	It("refuses unknown policies and foreign keys to redis-cli", func(ctx SpecContext) {
		_, port, _ := net.SplitHostPort(redis.Addr)
		key := "rl:{AAAAAAAAAAAAAAAAAAAAAA}:shop/api-per-ip"
		call := "redis-cli -p " + port + " FCALL penstock_limit 1 "
		Expect(shell(ctx, call+key+` shop/none 1 "" x 2>&1 || true`)).To(ContainSubstring("PENSTOCK_NOPOLICY"))
		Expect(shell(ctx, call+`some:key shop/api-per-ip 1 "" x 2>&1 || true`)).To(ContainSubstring("PENSTOCK_BADKEY"))
	})

	It("stops when the RateLimit is deleted", func(ctx SpecContext) {
		kubectl("delete", "ratelimit", "api-per-ip", "--namespace", "shop", "--timeout=10s")
		Eventually(ask).WithTimeout(5 * time.Second).Should(Equal(http.StatusNotFound))
		Expect(askRLS(ctx).GetOverallCode()).To(Equal(rlsv3.RateLimitResponse_OK))
		Expect(fcall(ctx)).To(ContainElement(ContainSubstring("PENSTOCK_NOPOLICY")))
	})

	It("goes on deciding while the operator and the API server are gone", func(ctx SpecContext) {
		kubectl("apply", "-k", samples)
		kubectl("wait", "--for=condition=Ready", "--timeout=30s", "--namespace", "shop", "ratelimit/api-per-ip")
		// The same name has the same counters, whoever deletes and creates the object: the former requests still count.
		Eventually(ask).WithTimeout(5 * time.Second).Should(Equal(http.StatusTooManyRequests))

		operator.kill()
		Expect(cluster.ControlPlane.APIServer.Stop()).To(Succeed())
		Expect(kubectlCommand("get", "ratelimits").Run()).NotTo(Succeed(), "the API server still answers")

		Expect(ask()).To(Equal(http.StatusTooManyRequests))
		Expect(askRLS(ctx).GetOverallCode()).To(Equal(rlsv3.RateLimitResponse_OVER_LIMIT))
		// A minute after the first request there is room again, which shows that these are decisions and no memory.
		Eventually(ask).WithTimeout(70 * time.Second).WithPolling(time.Second).Should(Equal(http.StatusOK))
		Expect(fcall(ctx)[0]).To(Equal("1"))
	})
}

// overlay gives a kustomization of the samples in which Redis is at the address.
func overlay(address string) string {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	base, err := filepath.Rel(dir, filepath.Join(repository, "config/samples"))
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `
resources: [%s]
patches:
- target: {kind: RedisStore}
  patch: '[{"op": "replace", "path": "/spec/addresses", "value": ["%s"]}]'
`, base, address), 0o600)).To(Succeed())
	return dir
}
