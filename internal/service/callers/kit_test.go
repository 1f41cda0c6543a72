package callers

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// logged is what was logged, for a test that looks while something else logs.
type logged struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

func (l *logged) to() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, nil))
}

// clock goes on when a test says so.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func digestOf(token string) string {
	digest := sha256.Sum256([]byte(token))
	return hex.EncodeToString(digest[:])
}

// subject is a Directory with doors, and what is seen of it.
type subject struct {
	*Directory
	clock *clock
	log   *logged
	// http is of the base URL of a door at /auth and one at /direct, grpc host:port.
	http, grpc string
}

func newSubject(t *testing.T, cfg Config) *subject {
	t.Helper()
	s := &subject{clock: &clock{at: time.Now()}, log: &logged{}}
	var err error
	if s.Directory, err = open(cfg, s.log.to(), prometheus.NewRegistry(), s.clock.now); err != nil {
		t.Fatal(err)
	}
	return s
}

// start serves doors, with TLS if there is a configuration of it.
func start(t *testing.T, cfg Config, config *tls.Config) *subject {
	t.Helper()
	s := newSubject(t, cfg)
	s.serveHTTP(t, config)
	s.serveGRPC(t, config)
	return s
}

// told is what doors tell of a caller, among some policies and domains.
func told(c Caller) string {
	var may []string
	for _, name := range []string{"shop/api", "shop-eu/api", "pay/api"} {
		if c.MayUsePolicy(name) {
			may = append(may, name)
		}
	}
	for _, domain := range []string{"shop", "pay", "edge"} {
		if c.MayUseDomain(domain) {
			may = append(may, domain)
		}
	}
	if c.Administrative() {
		may = append(may, "administrative")
	}
	if c.MayOverrideLimits() {
		may = append(may, "overrides")
	}
	return strings.Join(may, " ")
}

func (s *subject) serveHTTP(t *testing.T, config *tls.Config) {
	t.Helper()
	door := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Token-Seen", r.Header.Get(Header))
		_, _ = io.WriteString(w, told(s.Of(r.Context())))
	})
	mux := http.NewServeMux()
	mux.Handle("/auth", s.Handler(door))
	mux.Handle("/direct", s.DirectHandler(door))
	server := &http.Server{Handler: mux, TLSConfig: config.Clone(), ReadHeaderTimeout: time.Minute}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config == nil {
		s.http = "http://" + listener.Addr().String()
		go func() { _ = server.Serve(listener) }()
	} else {
		s.http = "https://" + listener.Addr().String()
		go func() { _ = server.ServeTLS(listener, "", "") }()
	}
	t.Cleanup(func() { _ = server.Close() })
}

// probe is a gRPC service that answers what its caller may.
func (s *subject) probe() *grpc.ServiceDesc {
	ask := func(ctx context.Context, _ any) (any, error) { return wrapperspb.String(told(s.Of(ctx))), nil }
	return &grpc.ServiceDesc{
		ServiceName: "test.Probe",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Ask", Handler: func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			var request wrapperspb.StringValue
			if err := decode(&request); err != nil {
				return nil, err
			}
			return interceptor(ctx, &request, &grpc.UnaryServerInfo{FullMethod: "/test.Probe/Ask"}, ask)
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				var request wrapperspb.StringValue
				if err := stream.RecvMsg(&request); err != nil {
					return nil
				}
				if err := stream.SendMsg(wrapperspb.String(told(s.Of(stream.Context())))); err != nil {
					return err
				}
			}
		}}},
	}
}

func (s *subject) serveGRPC(t *testing.T, config *tls.Config) {
	t.Helper()
	options := []grpc.ServerOption{grpc.UnaryInterceptor(s.Unary), grpc.StreamInterceptor(s.Stream)}
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(s.probe(), nil)
	healthv1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.grpc = listener.Addr().String()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
}

// get asks a door over HTTP; pairs are names and values of headers.
func (s *subject) get(t *testing.T, path string, config *tls.Config, pairs ...string) (int, string, http.Header) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.http+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		request.Header.Add(pairs[i], pairs[i+1])
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSuffix(string(body), "\n"), response.Header
}

func (s *subject) connect(t *testing.T, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	transport := insecure.NewCredentials()
	if config != nil {
		transport = credentials.NewTLS(config)
	}
	connection, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(transport))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// ask asks over gRPC; pairs are keys and values of metadata.
func (s *subject) ask(t *testing.T, config *tls.Config, pairs ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), 10*time.Second)
	defer cancel()
	var reply wrapperspb.StringValue
	err := s.connect(t, config).Invoke(ctx, "/test.Probe/Ask", wrapperspb.String(""), &reply)
	return reply.GetValue(), err
}

// refusals counts those for that reason.
func (s *subject) refusals(t *testing.T, reason string) float64 {
	t.Helper()
	var metric dto.Metric
	if err := s.refused.WithLabelValues(reason).Write(&metric); err != nil {
		t.Fatal(err)
	}
	return metric.GetCounter().GetValue()
}

// signingKey signs tokens.
type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	key       crypto.Signer
}

func newRSAKey(t testing.TB, id string) signingKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, jose.RS256, key}
}

func newECKey(t testing.TB, id string) signingKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, jose.ES256, key}
}

// jwks is the set of their public keys.
func jwks(t testing.TB, of ...signingKey) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, k := range of {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.key.Public(), KeyID: k.id, Algorithm: string(k.algorithm), Use: "sig"})
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const issuer = "https://kubernetes.default.svc"

// claims are of a good token of shop/cart, with some replaced; nil takes one away.
func claims(now time.Time, changed map[string]any) map[string]any {
	all := map[string]any{
		"iss": issuer, "aud": []string{"penstock"}, "sub": "system:serviceaccount:shop:cart",
		"exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "nbf": now.Unix(),
	}
	maps.Copy(all, changed)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return all
}

func (k signingKey) sign(t testing.TB, payload map[string]any) string {
	t.Helper()
	return sign(t, k.algorithm, jose.JSONWebKey{Key: k.key, KeyID: k.id}, payload)
}

func sign(t testing.TB, algorithm jose.SignatureAlgorithm, key any, payload map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func bearer(token string) string {
	return fmt.Sprint("Bearer ", token)
}
