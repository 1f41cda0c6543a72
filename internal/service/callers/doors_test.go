package callers

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/penstock-dev/penstock/internal/service/tlsfiles"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// httpOf is the status over HTTP that says what a code says over gRPC.
var httpOf = map[codes.Code]int{
	codes.OK: http.StatusOK, codes.Unauthenticated: http.StatusUnauthorized,
	codes.PermissionDenied: http.StatusForbidden, codes.Unavailable: http.StatusServiceUnavailable,
}

// Fault 56, of tokens.
func TestABearerTokenIsCheckedAtEveryDoor(t *testing.T) {
	const static = "s3cret.token-_~+/=="
	cluster, ec, foreign := newRSAKey(t, "one"), newECKey(t, "two"), newRSAKey(t, "one")
	s := start(t, Config{
		Mode: Bearer, Issuer: issuer,
		File: write(t, "callers.yaml", callersFile(map[string]string{"%ADMIN%": static})),
		JWKS: write(t, "keys.json", jwks(t, cluster, ec)),
	}, nil)
	now := s.clock.now()
	good := claims(now, nil)
	with := func(name string, value any) map[string]any { return claims(now, map[string]any{name: value}) }
	unsigned := func(header string) string {
		part := base64.RawURLEncoding.EncodeToString
		return part([]byte(header)) + "." + strings.Split(cluster.sign(t, good), ".")[1] + "."
	}
	public, err := x509.MarshalPKIXPublicKey(cluster.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})

	for name, test := range map[string]struct {
		credentials string
		code        codes.Code
		reason      string
		want        string // what the caller may, or a part of the text
	}{
		"static":                   {bearer(static), codes.OK, "", "shop/api shop-eu/api pay/api shop pay edge administrative overrides"},
		"scheme in another case":   {"bEARER  " + static, codes.OK, "", everything + " administrative overrides"},
		"static, wrong":            {bearer(static[1:]), codes.Unauthenticated, "unknown_token", "the token is unknown"},
		"static, its digest":       {bearer(digestOf(static)), codes.Unauthenticated, "unknown_token", "the token is unknown"},
		"account":                  {bearer(cluster.sign(t, good)), codes.OK, "", "shop/api pay/api shop pay"},
		"account, ES256":           {bearer(ec.sign(t, good)), codes.OK, "", "shop/api pay/api shop pay"},
		"account without entry":    {bearer(cluster.sign(t, with("sub", "system:serviceaccount:pay:cart"))), codes.OK, "", "pay/api pay"},
		"another of the namespace": {bearer(cluster.sign(t, with("sub", "system:serviceaccount:shop:web"))), codes.OK, "", "shop/api shop"},
		"several audiences":        {bearer(cluster.sign(t, with("aud", []string{"api", "penstock"}))), codes.OK, "", "shop/api pay/api shop pay"},

		"none":             {"", codes.Unauthenticated, "missing", "no credentials; send a token as X-Penstock-Authorization: Bearer <token>"},
		"another scheme":   {"Basic " + static, codes.Unauthenticated, "malformed", "no bearer token"},
		"no scheme":        {static, codes.Unauthenticated, "malformed", "no bearer token"},
		"scheme alone":     {"Bearer", codes.Unauthenticated, "malformed", "no bearer token"},
		"two tokens":       {bearer("a b"), codes.Unauthenticated, "malformed", "no bearer token"},
		"JSON":             {bearer(`{"payload":"e30","signatures":[]}`), codes.Unauthenticated, "malformed", "no bearer token"},
		"too long":         {bearer(strings.Repeat("a", maxTokenBytes+1)), codes.Unauthenticated, "malformed", "no bearer token"},
		"dots only":        {bearer(".."), codes.Unauthenticated, "malformed", "no JWT"},
		"garbage in parts": {bearer("a.b.c"), codes.Unauthenticated, "malformed", "no JWT"},

		"expired":            {bearer(cluster.sign(t, with("exp", now.Add(-time.Second).Unix()))), codes.Unauthenticated, "expired", "has expired"},
		"never expires":      {bearer(cluster.sign(t, with("exp", nil))), codes.Unauthenticated, "expired", "has expired"},
		"not yet valid":      {bearer(cluster.sign(t, with("nbf", now.Add(time.Hour).Unix()))), codes.Unauthenticated, "claims", "--auth-audience"},
		"for somebody else":  {bearer(cluster.sign(t, with("aud", []string{issuer}))), codes.Unauthenticated, "claims", "--auth-audience"},
		"for nobody":         {bearer(cluster.sign(t, with("aud", nil))), codes.Unauthenticated, "claims", "--auth-audience"},
		"of another cluster": {bearer(cluster.sign(t, with("iss", "https://elsewhere"))), codes.Unauthenticated, "claims", "--auth-issuer"},
		"of no issuer":       {bearer(cluster.sign(t, with("iss", nil))), codes.Unauthenticated, "claims", "--auth-issuer"},
		"a user":             {bearer(cluster.sign(t, with("sub", "kubernetes-admin"))), codes.PermissionDenied, "unknown_caller", "of no ServiceAccount"},
		"half an account":    {bearer(cluster.sign(t, with("sub", "system:serviceaccount:shop"))), codes.PermissionDenied, "unknown_caller", "of no ServiceAccount"},
		"too many parts":     {bearer(cluster.sign(t, with("sub", "system:serviceaccount:shop:cart:x"))), codes.PermissionDenied, "unknown_caller", "of no ServiceAccount"},
		"no subject":         {bearer(cluster.sign(t, with("sub", nil))), codes.PermissionDenied, "unknown_caller", "of no ServiceAccount"},

		"another key of that id": {bearer(foreign.sign(t, good)), codes.Unauthenticated, "signature", "signature"},
		"unknown key":            {bearer(signingKey{"three", jose.RS256, foreign.key}.sign(t, good)), codes.Unauthenticated, "unknown_key", "not among those"},
		"no key named":           {bearer(signingKey{"", jose.RS256, cluster.key}.sign(t, good)), codes.Unauthenticated, "unknown_key", "not among those"},
		"another algorithm":      {bearer(signingKey{"one", jose.PS256, cluster.key}.sign(t, good)), codes.Unauthenticated, "signature", "signature"},
		"changed":                {bearer(changed(cluster.sign(t, good))), codes.Unauthenticated, "signature", "signature"},
		"not signed":             {bearer(unsigned(`{"alg":"none","kid":"one"}`)), codes.Unauthenticated, "malformed", "no JWT"},
		"not signed, case":       {bearer(unsigned(`{"alg":"nOnE","kid":"one"}`)), codes.Unauthenticated, "malformed", "no JWT"},
		"signature taken away":   {bearer(unsigned(`{"alg":"RS256","kid":"one"}`)), codes.Unauthenticated, "signature", "signature"},
		"public key as secret":   {bearer(sign(t, jose.HS256, jose.JSONWebKey{Key: inPEM, KeyID: "one"}, good)), codes.Unauthenticated, "malformed", "no JWT"},
		"its DER as secret":      {bearer(sign(t, jose.HS256, jose.JSONWebKey{Key: public, KeyID: "one"}, good)), codes.Unauthenticated, "malformed", "no JWT"},
	} {
		t.Run(name, func(t *testing.T) {
			var headers, keys []string
			if test.credentials != "" {
				headers, keys = []string{Header, test.credentials}, []string{"x-penstock-authorization", test.credentials}
			}
			before := 0.0
			if test.reason != "" {
				before = s.refusals(t, test.reason)
			}
			got, err := s.ask(t, nil, keys...)
			if status.Code(err) != test.code {
				t.Errorf("gRPC: %v, want %v", err, test.code)
			}
			if err != nil {
				got = status.Convert(err).Message()
			}
			check(t, "gRPC", got, test.code, test.want)
			for _, path := range []string{"/auth", "/direct"} {
				code, body, header := s.get(t, path, nil, headers...)
				if code != httpOf[test.code] {
					t.Errorf("%s: %d, want %d", path, code, httpOf[test.code])
				}
				check(t, path, body, test.code, test.want)
				if want := map[bool]string{true: "Bearer"}[code == http.StatusUnauthorized]; header.Get("WWW-Authenticate") != want {
					t.Errorf("%s: WWW-Authenticate %q, want %q", path, header.Get("WWW-Authenticate"), want)
				}
				if header.Get("Token-Seen") != "" {
					t.Error("the door was shown the token")
				}
			}
			if test.reason != "" && s.refusals(t, test.reason) != before+3 {
				t.Errorf("%v refusals for %s, want 3 more than %v", s.refusals(t, test.reason), test.reason, before)
			}
			if s.log.String() != "" {
				t.Errorf("a request logged\n%s", s.log)
			}
		})
	}
}

// check compares what a caller may, and finds the text of an error.
func check(t *testing.T, door, got string, code codes.Code, want string) {
	t.Helper()
	if code == codes.OK && got != want || code != codes.OK && !strings.Contains(got, want) {
		t.Errorf("%s: %q, want %q", door, got, want)
	}
}

// changed gives the token another subject, and leaves the signature.
func changed(token string) string {
	parts := strings.Split(token, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), ":shop:", ":pay:", 1)))
	return strings.Join(parts, ".")
}

func TestAuthorizationIsTheCallersOnlyWhereItCanBe(t *testing.T) {
	s := start(t, Config{Mode: Bearer, File: write(t, "callers.yaml", callersFile(map[string]string{"%ADMIN%": "s3cret"}))}, nil)
	for name, test := range map[string]struct {
		path  string
		pairs []string
		want  int
	}{
		"at a door of others":           {"/auth", []string{"Authorization", "Bearer s3cret"}, 401},
		"at one of its own":             {"/direct", []string{"Authorization", "Bearer s3cret"}, 200},
		"beside that of a user":         {"/auth", []string{"Authorization", "Bearer users", Header, "Bearer s3cret"}, 200},
		"the other is not a way out":    {"/direct", []string{"Authorization", "Bearer s3cret", Header, "Bearer wrong"}, 401},
		"twice":                         {"/auth", []string{Header, "Bearer s3cret", Header, "Bearer s3cret"}, 401},
		"in lower case":                 {"/auth", []string{"x-penstock-authorization", "bearer s3cret"}, 200},
		"forwarded":                     {"/auth", []string{"X-Forwarded-For", "127.0.0.1"}, 401},
		"in the query, which is logged": {"/auth?access_token=s3cret", nil, 401},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body, _ := s.get(t, test.path, nil, test.pairs...); code != test.want {
				t.Errorf("%d %s, want %d", code, body, test.want)
			}
		})
	}
	for name, test := range map[string]struct {
		pairs []string
		want  codes.Code
	}{
		"authorization":              {[]string{"authorization", "Bearer s3cret"}, codes.OK},
		"both":                       {[]string{"authorization", "Bearer users", "x-penstock-authorization", "Bearer s3cret"}, codes.OK},
		"the other is not a way out": {[]string{"authorization", "Bearer s3cret", "x-penstock-authorization", "Bearer wrong"}, codes.Unauthenticated},
		"twice":                      {[]string{"authorization", "Bearer s3cret", "authorization", "Bearer s3cret"}, codes.Unauthenticated},
	} {
		t.Run("gRPC, "+name, func(t *testing.T) {
			if _, err := s.ask(t, nil, test.pairs...); status.Code(err) != test.want {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestHealthNeedsNoCredentialsAndReflectionDoes(t *testing.T) {
	s := start(t, Config{Mode: Bearer, File: write(t, "callers.yaml", callersFile(map[string]string{"%ADMIN%": "s3cret"}))}, nil)
	connection := s.connect(t, nil)
	if _, err := healthv1.NewHealthClient(connection).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("Check: %v", err)
	}
	watch, err := healthv1.NewHealthClient(connection).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Errorf("Watch: %v", err)
	}
	for want, credentials := range map[codes.Code]string{codes.Unauthenticated: "Bearer wrong", codes.OK: "Bearer s3cret"} {
		stream, err := reflectionv1.NewServerReflectionClient(connection).ServerReflectionInfo(metadata.AppendToOutgoingContext(t.Context(), "authorization", credentials))
		if err != nil {
			t.Fatal(err)
		}
		list := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
		// Sending fails once the server has refused; the reason comes by receiving.
		_ = stream.Send(list)
		if _, err := stream.Recv(); status.Code(err) != want {
			t.Errorf("reflection: %v, want %v", err, want)
		}
	}
}

// tlsOf is what a server of that CA, which trusts clients of the other, is configured by, and the mount of its files.
func tlsOf(t *testing.T, server, clients *tlstest.CA) *tls.Config {
	t.Helper()
	pair := server.Issue(t, "penstockd")
	mount := tlstest.NewMount(t, map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": clients.PEM})
	files, err := tlsfiles.New(tlsfiles.Config{
		CertFile: mount.Path("tls.crt"), KeyFile: mount.Path("tls.key"), ClientCAFile: mount.Path("ca.crt"),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(files.Close)
	return files.ServerConfig()
}

func clientOf(t *testing.T, trusts *tlstest.CA, pair *tlstest.Pair) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: trusts.Pool(), ServerName: "penstockd"}
	if pair != nil {
		certificate := pair.Certificate(t)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return config
}

// Fault 56, of certificates.
func TestAClientCertificateIsCheckedAtEveryDoor(t *testing.T) {
	const text = `
callers:
- name: edge
  san: ["spiffe://cluster.local/ns/edge/sa/*", "*.edge.SVC", "*@edge.example"]
  namespaces: ["shop*"]
  domains: [edge]
- name: pay
  san: ["spiffe://cluster.local/ns/edge/sa/till"]
  namespaces: [pay]
  limitOverrides: true
- name: nothing
  san: ["nothing"]
- name: by token
  tokenSHA256: [%ADMIN%]
  namespaces: ["*"]
`
	ca, foreign := tlstest.NewCA(t), tlstest.NewCA(t)
	s := start(t, Config{Mode: MTLS, File: write(t, "callers.yaml", strings.ReplaceAll(text, "%ADMIN%", digestOf("s3cret")))}, tlsOf(t, ca, ca))
	issue := func(names ...string) *tlstest.Pair { pair := ca.Issue(t, names...); return &pair }
	expired := ca.IssueUntil(t, time.Now().Add(-time.Minute), "spiffe://cluster.local/ns/edge/sa/envoy")
	others := foreign.Issue(t, "spiffe://cluster.local/ns/edge/sa/envoy")

	const ofEdge = "shop/api shop-eu/api shop edge"
	for name, test := range map[string]struct {
		pair   *tlstest.Pair
		code   codes.Code
		reason string
		want   string
	}{
		"URI":                {issue("spiffe://cluster.local/ns/edge/sa/envoy"), codes.OK, "", ofEdge},
		"DNS, of any case":   {issue("Envoy.edge.svc"), codes.OK, "", ofEdge},
		"email":              {issue("envoy@edge.example"), codes.OK, "", ofEdge},
		"one of many names":  {issue("a", "b@c", "spiffe://x/y", "envoy.edge.svc"), codes.OK, "", ofEdge},
		"two callers":        {issue("spiffe://cluster.local/ns/edge/sa/till"), codes.OK, "", "shop/api shop-eu/api pay/api shop pay edge overrides"},
		"may nothing":        {issue("nothing"), codes.OK, "", ""},
		"none":               {nil, codes.Unauthenticated, "missing", "no client certificate"},
		"wrong name":         {issue("spiffe://cluster.local/ns/shop/sa/envoy"), codes.PermissionDenied, "unknown_caller", "no name of the client certificate"},
		"longer name":        {issue("spiffe://cluster.local/ns/edge/sa/envoy/x"), codes.PermissionDenied, "unknown_caller", "no name of"},
		"a label more":       {issue("evil.envoy.edge.svc"), codes.PermissionDenied, "unknown_caller", "no name of"},
		"an address":         {issue("127.0.0.1"), codes.PermissionDenied, "unknown_caller", "no name of"},
		"no name":            {issue(), codes.PermissionDenied, "unknown_caller", "no name of"},
		"expired":            {&expired, codes.Unavailable, "", "expired"},
		"of a foreign CA":    {&others, codes.Unavailable, "", ""},
		"kinds do not mix 1": {issue("envoy.edge.svc@x"), codes.PermissionDenied, "unknown_caller", "no name of"},
	} {
		t.Run(name, func(t *testing.T) {
			config := clientOf(t, ca, test.pair)
			before := 0.0
			if test.reason != "" {
				before = s.refusals(t, test.reason)
			}
			// A token is no way in.
			got, err := s.ask(t, config, "authorization", "Bearer s3cret")
			if status.Code(err) != test.code {
				t.Errorf("gRPC: %v, want %v", err, test.code)
			}
			code, body, header := s.get(t, "/direct", config, "Authorization", "Bearer s3cret")
			if test.code == codes.Unavailable {
				// The handshake failed.
				if code != 0 || !strings.Contains(body, test.want) {
					t.Errorf("HTTP: %d %s", code, body)
				}
				return
			}
			if err != nil {
				got = status.Convert(err).Message()
			}
			check(t, "gRPC", got, test.code, test.want)
			check(t, "HTTP", body, test.code, test.want)
			if code != httpOf[test.code] || header.Get("WWW-Authenticate") != "" {
				t.Errorf("HTTP: %d %v, want %d", code, header, httpOf[test.code])
			}
			if test.reason != "" && s.refusals(t, test.reason) != before+2 {
				t.Errorf("%v refusals for %s, want 2 more than %v", s.refusals(t, test.reason), test.reason, before)
			}
		})
	}
}

func TestAStarAloneIsEveryNameOfACertificate(t *testing.T) {
	ca := tlstest.NewCA(t)
	s := start(t, Config{Mode: MTLS, File: write(t, "callers.yaml", "callers: [{name: all, san: ['*'], domains: [edge]}]")}, tlsOf(t, ca, ca))
	for name, want := range map[string]codes.Code{"spiffe://a/b/c": codes.OK, "a@b.c": codes.OK, "a.b.c": codes.OK, "10.0.0.1": codes.PermissionDenied} {
		pair := ca.Issue(t, name)
		if _, err := s.ask(t, clientOf(t, ca, &pair)); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestACertificateThatExpiresDuringAConnectionIsRefusedAndStreamsStay(t *testing.T) {
	ca := tlstest.NewCA(t)
	s := start(t, Config{Mode: MTLS, File: write(t, "callers.yaml", "callers: [{name: all, san: ['*'], domains: [edge]}]")}, tlsOf(t, ca, ca))
	pair := ca.Issue(t, "cart")
	connection := s.connect(t, clientOf(t, ca, &pair))
	stream, err := connection.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Probe/Watch")
	if err != nil {
		t.Fatal(err)
	}
	var reply wrapperspb.StringValue
	again := func() error {
		if err := stream.SendMsg(wrapperspb.String("")); err != nil {
			return err
		}
		return stream.RecvMsg(&reply)
	}
	if err := again(); err != nil || reply.GetValue() != "edge" {
		t.Fatalf("%q, %v", reply.GetValue(), err)
	}
	s.clock.advance(2 * time.Hour)
	if err := connection.Invoke(t.Context(), "/test.Probe/Ask", wrapperspb.String(""), &reply); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call: %v, want it refused", err)
	}
	if err := again(); err != nil || reply.GetValue() != "edge" {
		t.Errorf("the stream: %q, %v", reply.GetValue(), err)
	}
}

func TestWithoutTLSNobodyHasACertificate(t *testing.T) {
	s := start(t, Config{Mode: MTLS, File: write(t, "callers.yaml", "callers: [{name: all, san: ['*']}]")}, nil)
	if _, err := s.ask(t, nil); status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC: %v", err)
	}
	if code, body, _ := s.get(t, "/auth", nil); code != http.StatusUnauthorized {
		t.Errorf("HTTP: %d %s", code, body)
	}
	// One that was shown and not verified is none either.
	ca := tlstest.NewCA(t)
	leaf, err := x509.ParseCertificate(ca.Issue(t, "cart").Certificate(t).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if granted, refused := s.ofConnection(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); granted != nil || refused != noCertificate {
		t.Errorf("%v, %v", granted, refused)
	}
}

func TestEveryRefusalHasAReasonThatIsCounted(t *testing.T) {
	for _, r := range []*refusal{
		noToken, noCertificate, malformed, unreadable, unknownToken, unknownKey, badSignature, expiredToken, expiredOfClient,
		wrongClaims, noKeys, unknownSubject, unknownOfClient,
	} {
		if !strings.Contains(fmt.Sprint(reasons), r.reason) {
			t.Errorf("%q is not among %v", r.reason, reasons)
		}
	}
}

func FuzzBearer(f *testing.F) {
	key := newECKey(f, "one")
	g, err := parseKeys([]byte(jwks(f, key)))
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	token := key.sign(f, claims(now, nil))
	f.Add(bearer(token))
	f.Add("bearer  " + token + " ")
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.")
	f.Add("Basic dXNlcjpwYXNz")
	f.Add("Bearer a.b.c")
	f.Fuzz(func(t *testing.T, credentials string) {
		c := &clock{at: now}
		// The keys were just asked for, so that an unknown one is not looked for.
		a := &accounts{issuer: issuer, now: c.now, keys: &keys{now: c.now, tried: now}}
		a.config.ClientID, a.config.Now, a.config.SupportedSigningAlgs = DefaultAudience, c.now, []string{"ES256", "RS256"}
		a.keys.current.Store(g)
		d := &Directory{mode: Bearer, accounts: a, now: c.now}
		request := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		request.Header[Header] = []string{credentials}
		granted, refused := d.ofRequest(request, []string{Header})
		if (granted == nil) == (refused == nil) {
			t.Fatalf("%v and %v", granted, refused)
		}
		if granted != nil && !strings.Contains(credentials, token[:strings.LastIndexByte(token, '.')]) {
			t.Fatal("a token that nobody signed was let in")
		}
	})
}
