package service_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/extauthz"
	"github.com/penstock-dev/penstock/internal/service/forwardauth"
	"github.com/penstock-dev/penstock/internal/service/rls"
	"github.com/penstock-dev/penstock/internal/service/topdenied"
)

// denying denies whatever it is asked, and every subject is new to it.
type denying struct {
	engine.Limiter // the rest is not asked for
}

func (denying) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	rows := make([]limit.Row, len(charges))
	for i := range rows {
		rows[i] = limit.Row{
			Limit: 10, RetryAfter: time.Minute, LimitName: "default", Reason: limit.ReasonLimit, New: true, Garbled: i%2 == 0,
		}
	}
	return rows, nil
}

// Faults 45 and 46: however many subjects there are and whatever they are called, the metrics stay as small as they were,
// and neither they nor the log tell of any.
func TestNoDoorMakesSeriesOfItsUsers(t *testing.T) {
	const marker = "subject-"
	var policies []policy.RateLimit
	for _, key := range []string{"user", "header.user", "path", "host", "method", "remote_address"} {
		policies = append(policies, policy.RateLimit{
			Name: "shop/" + strings.NewReplacer(".", "-", "_", "-").Replace(key), Domain: "shop", OnStoreFailure: policy.FailureAllow,
			Descriptors: []policy.Descriptor{{Key: key}},
			Limits:      []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 10, WindowMs: 60_000}},
		}.Sealed())
	}
	registry, log := prometheus.NewRegistry(), &bytes.Buffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	denials := topdenied.New(nil)
	// Which denials are remembered is a matter of chance, and so is which outcomes there are.
	eng := engine.New(engine.Options{
		Limiter: denying{}, Registerer: registry, Logger: logger, Denied: denials.Denied, NoDenyCache: true,
	})
	eng.Use(policy.NewSet(policies))
	everybody := callers.Everybody()
	envoy := rls.New(eng, rls.Options{Callers: everybody, Registerer: registry, Logger: logger})
	authz := extauthz.New(eng, extauthz.Options{Callers: everybody})
	auth := forwardauth.New(eng, forwardauth.Options{Callers: everybody})
	json := envoy.JSON()

	// An error is one of the answers: some of what is sent here is refused.
	ask := func(i int) {
		subject := fmt.Sprint(marker, i)
		for _, domain := range []string{"shop", subject} {
			descriptors := []*ratelimitcommonv3.RateLimitDescriptor{
				{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "user", Value: subject}}},
				{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: subject, Value: subject}}},
				{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "user", Value: subject + strings.Repeat("x", 300)}}},
			}
			for n := range descriptors {
				request := &ratelimitv3.RateLimitRequest{Domain: domain, Descriptors: descriptors[n : n+1]}
				_, _ = envoy.ShouldRateLimit(t.Context(), request)
				body, err := protojson.Marshal(request)
				if err != nil {
					t.Fatal(err)
				}
				json.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/json", bytes.NewReader(body)))
			}
			_, _ = authz.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				ContextExtensions: map[string]string{"penstock-domain": domain, subject: subject},
				Source: &authv3.AttributeContext_Peer{Principal: subject, Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
					SocketAddress: &corev3.SocketAddress{Address: address(i)},
				}}},
				Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
					Id: subject, Method: subject, Host: subject, Path: "/" + subject + "?" + subject, Headers: map[string]string{"user": subject},
				}},
			}})
			for _, path := range []string{"/auth", "/auth/shop/user", "/auth/shop/path/" + subject, "/auth/shop/" + subject, "/auth/" + subject + "/p"} {
				r := httptest.NewRequest(subject, path+"?"+subject, nil)
				r.Host, r.RemoteAddr = subject, netip.AddrPortFrom(netip.MustParseAddr(address(i)), 1).String()
				r.Header.Set("User", subject)
				r.Header.Set("X-Penstock-Domain", domain)
				auth.ServeHTTP(httptest.NewRecorder(), r)
			}
		}
	}
	for i := range 3 {
		ask(i)
	}
	before, _ := scrape(t, registry)
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := worker; i < 10_000; i += 4 {
				ask(i)
			}
		})
	}
	all.Wait()
	after, shown := scrape(t, registry)
	if before == 0 || after != before {
		t.Errorf("%d series after 10,000 subjects, want %d as after three", after, before)
	}
	for name, text := range map[string]string{"metrics": shown, "log": log.String()} {
		if strings.Contains(text, marker) || strings.Contains(text, "10.0.") {
			t.Errorf("the %s tell of users:\n%.2000s", name, text)
		}
	}
	if got := denials.Top(1); got.Denials < 100_000 || len(got.Subjects) != 1 {
		t.Errorf("%d denials are known of, want those of 10,000 subjects at four doors", got.Denials)
	}
}

// address is that of the subject.
func address(i int) string { return fmt.Sprintf("10.0.%d.%d", i>>8, i&255) }

// scrape gives of how many series the metrics are, and what they show.
func scrape(t *testing.T, registry *prometheus.Registry) (int, string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	series := 0
	for _, family := range families {
		series += len(family.GetMetric())
		text.WriteString(family.String())
	}
	return series, text.String()
}
