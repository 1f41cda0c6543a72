package service

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// post asks over HTTP, and gives the status, the headers and the body.
func post(t *testing.T, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(text)
}

const (
	checkBody = `{"namespace":"shop","policy":"api","subject":{"remote_address":"192.0.2.1"}}`
	rlsBody   = `{"domain":"shop","descriptors":[{"entries":[{"key":"remote_address","value":"192.0.2.1"}]}]}`
)

// httpDoors are the doors over HTTP: where each is, and what it is asked.
var httpDoors = map[string][2]string{
	"forward-auth":           {"/auth/shop/api", ""},
	"forward-auth, a domain": {"/auth?domain=shop", ""},
	"LimiterService":         {penstockv1connect.LimiterServiceCheckProcedure, checkBody},
	"/json":                  {"/json", rlsBody},
}

func ask(t *testing.T, r *running, target string, token string) error {
	t.Helper()
	ctx := t.Context()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	switch target {
	case "RLS":
		_, err := r.shouldRateLimit(ctx)
		return err
	default:
		_, err := authv3.NewAuthorizationClient(r.conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request:           &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/"}},
			ContextExtensions: map[string]string{"penstock-policy": "shop/api"},
		}})
		return err
	}
}

func TestEveryDoorAsksWhoIsThere(t *testing.T) {
	digest := func(token string) string {
		sum := sha256.Sum256([]byte(token))
		return hex.EncodeToString(sum[:])
	}
	path := filepath.Join(t.TempDir(), "callers.yaml")
	file := "callers:\n" +
		"- name: shop\n  tokenSHA256: [" + digest("of-the-shop") + "]\n  namespaces: [shop]\n" +
		"- name: bank\n  tokenSHA256: [" + digest("of-the-bank") + "]\n  namespaces: [bank]\n"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	directory, err := callers.New(callers.Config{Mode: callers.Bearer, File: path}, slog.New(slog.DiscardHandler), NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{Callers: directory}, allowAll)
	r.use(t) // which asks health, without a token

	for name, door := range httpDoors {
		for token, want := range map[string]int{"": http.StatusUnauthorized, "guessed": http.StatusUnauthorized, "of-the-bank": http.StatusForbidden, "of-the-shop": http.StatusOK} {
			header := []string{}
			if token != "" {
				header = []string{callers.Header, "Bearer " + token}
			}
			if code, _, body := post(t, "http://"+r.Addresses().HTTP+door[0], door[1], header...); code != want {
				t.Errorf("%s with the token %q: %d %s, want %d", name, token, code, body, want)
			}
		}
	}
	for _, door := range []string{"RLS", "ext_authz"} {
		for token, want := range map[string]codes.Code{
			"": codes.Unauthenticated, "guessed": codes.Unauthenticated, "of-the-bank": codes.PermissionDenied, "of-the-shop": codes.OK,
		} {
			if err := ask(t, r, door, token); status.Code(err) != want {
				t.Errorf("%s with the token %q: %v, want %v", door, token, err, want)
			}
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, _ := get(t, r.Addresses().HTTP, path); code != http.StatusOK {
			t.Errorf("%s without a token: %d", path, code)
		}
	}
}

func TestEveryPortIsServedWithTLS(t *testing.T) {
	ca := tlstest.NewCA(t)
	server := ca.Issue(t, "127.0.0.1")
	mount := tlstest.NewMount(t, map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key})
	files, err := tlsfiles.New(tlsfiles.Config{CertFile: mount.Path("tls.crt"), KeyFile: mount.Path("tls.key")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(files.Close)
	r := start(t, Config{TLS: files.ServerConfig()}, allowAll)
	r.engine.Use(testSet())

	trust := &tls.Config{RootCAs: ca.Pool()}
	for version, http2 := range map[int]bool{1: false, 2: true} {
		transport := &http.Transport{TLSClientConfig: trust.Clone(), ForceAttemptHTTP2: http2}
		t.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		for _, url := range []string{"https://" + r.Addresses().HTTP + "/auth/shop/api", "https://" + r.Addresses().Metrics + "/metrics"} {
			response, err := client.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK || response.ProtoMajor != version {
				t.Errorf("%s: %s %s, want HTTP/%d", url, response.Proto, response.Status, version)
			}
		}
	}
	conn, err := grpc.NewClient(r.Addresses().GRPC, grpc.WithTransportCredentials(credentials.NewTLS(trust)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &ratelimitv3.RateLimitRequest{Domain: "elsewhere", Descriptors: nil}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("over gRPC: %v, want an answer", err)
	}
	if _, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("over gRPC without TLS: %v, want no connection", err)
	}
	if response, err := http.Get("http://" + r.Addresses().HTTP + "/healthz"); err == nil {
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			t.Error("over HTTP without TLS: answered")
		}
	}
}

func TestATrustedProxyIsBelievedAndADomainNeedNotBeNamed(t *testing.T) {
	proxies, err := origin.ParseProxies([]string{"127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{Proxies: proxies, DefaultDomain: "shop"}, allowAll)
	r.use(t)
	code, header, body := post(t, "http://"+r.Addresses().HTTP+"/auth", "", "X-Forwarded-For", "192.0.2.7")
	if code != http.StatusOK || header.Get("RateLimit") == "" {
		t.Errorf("%d %v %s, want the policy of the default domain", code, header, body)
	}
}

func TestStrictRefusesADomainWithoutPolicies(t *testing.T) {
	for strict, want := range map[bool]int{false: http.StatusOK, true: http.StatusBadRequest} {
		r := start(t, Config{Strict: strict}, allowAll)
		r.use(t)
		for door, ask := range map[string][2]string{
			"forward-auth": {"/auth?domain=elsewhere", ""}, "/json": {"/json", strings.Replace(rlsBody, "shop", "elsewhere", 1)},
		} {
			if code, _, body := post(t, "http://"+r.Addresses().HTTP+ask[0], ask[1]); code != want {
				t.Errorf("strict %v, %s: %d %s, want %d", strict, door, code, body, want)
			}
		}
	}
}

func TestWhatIsForTheOperatorsOfPenstockdIsOnTheMetricsPort(t *testing.T) {
	for pprof, want := range map[bool]int{false: http.StatusNotFound, true: http.StatusOK} {
		r := start(t, Config{Pprof: pprof}, allowAll)
		if code, _ := get(t, r.Addresses().Metrics, "/debug/pprof/"); code != want {
			t.Errorf("pprof %v: %d, want %d", pprof, code, want)
		}
		if code, body := get(t, r.Addresses().Metrics, "/debug/top"); code != http.StatusOK || !strings.Contains(body, "0 denials") {
			t.Errorf("/debug/top: %d %s", code, body)
		}
		for _, path := range []string{"/debug/top", "/debug/pprof/", "/metrics"} {
			if code, _ := get(t, r.Addresses().HTTP, path); code != http.StatusNotFound {
				t.Errorf("%s where callers are: %d, want 404", path, code)
			}
		}
	}
}

func TestConnectionsBeyondTheBoundWaitUntilOthersEnd(t *testing.T) {
	r := start(t, Config{MaxConnections: 2}, allowAll)
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", r.Addresses().HTTP)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: penstockd\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answered := func(conn net.Conn, within time.Duration) bool {
		_ = conn.SetReadDeadline(time.Now().Add(within))
		var begin [12]byte
		_, err := io.ReadFull(conn, begin[:])
		return err == nil && bytes.Equal(begin[:], []byte("HTTP/1.1 200"))
	}
	first, second, third := dial(), dial(), dial()
	if !answered(first, 10*time.Second) || !answered(second, 10*time.Second) {
		t.Fatal("the first connections are not answered")
	}
	if answered(third, 50*time.Millisecond) {
		t.Fatal("one more than the bound was answered")
	}
	_ = first.Close()
	if !answered(third, 10*time.Second) {
		t.Error("still not answered after another had ended")
	}
}
