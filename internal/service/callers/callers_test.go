package callers

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

const (
	everything = "shop/api shop-eu/api pay/api shop pay edge"
	asOurs     = everything + " administrative overrides"
)

func TestAWrongConfigurationIsNamedWithItsRemedy(t *testing.T) {
	file := write(t, "callers.yaml", "callers: []")
	keys := write(t, "keys.json", jwks(t, newECKey(t, "one")))
	bad := write(t, "bad.json", `{"keys": []}`)
	url := "https://key-server/openid/v1/jwks"
	for name, test := range map[string]struct {
		cfg  Config
		want []string
	}{
		"no mode":            {Config{}, []string{`--auth is ""`, "none, mtls or bearer"}},
		"unknown mode":       {Config{Mode: "basic"}, []string{`--auth is "basic"`, "none, mtls or bearer"}},
		"none with a file":   {Config{Mode: None, File: file}, []string{"--auth-callers is of no use with --auth none"}},
		"none with keys":     {Config{Mode: None, JWKS: keys}, []string{"--auth-jwks is of no use with --auth none"}},
		"mtls without file":  {Config{Mode: MTLS}, []string{"--auth-callers is missing"}},
		"mtls with keys":     {Config{Mode: MTLS, File: file, JWKS: keys, Issuer: issuer}, []string{"--auth-jwks is of no use with --auth mtls"}},
		"mtls with issuer":   {Config{Mode: MTLS, File: file, Issuer: issuer}, []string{"--auth-issuer needs --auth-jwks"}},
		"bearer of nobody":   {Config{Mode: Bearer}, []string{"give --auth-callers, --auth-jwks or both"}},
		"no issuer":          {Config{Mode: Bearer, JWKS: keys}, []string{"--auth-issuer is missing", "kubectl get --raw"}},
		"CA without keys":    {Config{Mode: Bearer, File: file, JWKSCAFile: file}, []string{"--auth-jwks-ca needs --auth-jwks"}},
		"token without keys": {Config{Mode: Bearer, File: file, JWKSTokenFile: file}, []string{"--auth-jwks-token-file needs --auth-jwks"}},
		"plain HTTP":         {Config{Mode: Bearer, JWKS: "http://a/b", Issuer: issuer}, []string{"--auth-jwks", "plain HTTP", "https://"}},
		"no host":            {Config{Mode: Bearer, JWKS: "https://", Issuer: issuer}, []string{"--auth-jwks is no URL"}},
		"a user":             {Config{Mode: Bearer, JWKS: "https://me:hunter2@a/b", Issuer: issuer}, []string{"--auth-jwks has a user", "--auth-jwks-token-file"}},
		"no file":            {Config{Mode: Bearer, File: "/does/not/exist"}, []string{"--auth-callers", "/does/not/exist"}},
		"a bad file":         {Config{Mode: Bearer, File: keys}, []string{"--auth-callers: " + keys, "unknown field"}},
		"no keys":            {Config{Mode: Bearer, JWKS: "/does/not/exist", Issuer: issuer}, []string{"--auth-jwks", "/does/not/exist"}},
		"keys of nothing":    {Config{Mode: Bearer, JWKS: bad, Issuer: issuer}, []string{"--auth-jwks: " + bad, "no public key"}},
		"keys of YAML":       {Config{Mode: Bearer, JWKS: file, Issuer: issuer}, []string{"--auth-jwks: " + file, "no JSON Web Key Set"}},
		"a file and a CA":    {Config{Mode: Bearer, JWKS: keys, Issuer: issuer, JWKSCAFile: file}, []string{"--auth-jwks is a file", "https://"}},
		"no CA":              {Config{Mode: Bearer, JWKS: url, Issuer: issuer, JWKSCAFile: "/does/not/exist"}, []string{"--auth-jwks-ca", "/does/not/exist"}},
		"an empty CA":        {Config{Mode: Bearer, JWKS: url, Issuer: issuer, JWKSCAFile: file}, []string{"--auth-jwks-ca: " + file, "no certificate"}},
		"no token":           {Config{Mode: Bearer, JWKS: url, Issuer: issuer, JWKSTokenFile: "/does/not/exist"}, []string{"--auth-jwks-token-file", "/does/not/exist"}},
		"no bearer token":    {Config{Mode: Bearer, JWKS: url, Issuer: issuer, JWKSTokenFile: file}, []string{"--auth-jwks-token-file: " + file, "no bearer token"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(test.cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q shows a password", err)
			}
		})
	}
}

func TestNewRegistersEveryReasonAtZero(t *testing.T) {
	registry := prometheus.NewRegistry()
	if _, err := New(Config{Mode: None, Audience: DefaultAudience}, slog.New(slog.DiscardHandler), registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || len(families[0].GetMetric()) != len(reasons) {
		t.Errorf("%v, %v; want one family with %d series", families, err, len(reasons))
	}
	if _, err := New(Config{Mode: None}, slog.New(slog.DiscardHandler), registry); err == nil {
		t.Error("a second one went into the same registry")
	}
}

func TestACallerMayWhatItWasGrantedAndNoMore(t *testing.T) {
	for name, test := range map[string]struct {
		granted *grant
		want    string
	}{
		"nobody":             {nil, ""},
		"nothing":            {&grant{}, ""},
		"everybody":          {everybody, everything},
		"own namespace":      {&grant{own: "shop"}, "shop/api shop"},
		"a namespace":        {&grant{namespaces: []pattern{{text: "pay"}}}, "pay/api pay"},
		"several by pattern": {&grant{namespaces: []pattern{{text: "shop*"}}}, "shop/api shop-eu/api shop"},
		"no namespace":       {&grant{namespaces: []pattern{{text: "edge*"}}}, "edge"},
		"a domain":           {&grant{domains: []pattern{{text: "edge"}}}, "edge"},
		"administrative":     {&grant{own: "pay", administrative: true}, "pay/api pay administrative"},
		"overrides":          {&grant{own: "pay", overridesLimits: true}, "pay/api pay overrides"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := told(Caller{granted: test.granted}); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestAWordThatIsNoPolicyIsTouchedByNobodyInParticular(t *testing.T) {
	caller := Caller{granted: &grant{own: "shop", namespaces: []pattern{{text: "*"}}}}
	for _, name := range []string{"", "shop", "/", "/api", "shop/"} {
		if caller.MayUsePolicy(name) {
			t.Errorf("%q may be used", name)
		}
	}
	if caller.MayUseDomain("") {
		t.Error("the domain without a name may be used")
	}
}

// With none, what counts is the connection: loopback, and no proxy there that asks for somebody else.
func TestWithoutAuthenticationWhoIsLocalIsToldByTheConnection(t *testing.T) {
	for name, test := range map[string]struct {
		remote string
		header []string // name, value
		want   string
	}{
		"loopback":                 {"127.0.0.1:1234", nil, asOurs},
		"another of loopback":      {"127.8.9.1:1234", nil, everything},
		"loopback, IPv6":           {"[::1]:1234", nil, asOurs},
		"loopback, mapped":         {"[::ffff:127.0.0.1]:1234", nil, asOurs},
		"elsewhere":                {"10.0.0.1:1234", nil, everything},
		"says it is local":         {"10.0.0.1:1234", []string{"X-Forwarded-For", "127.0.0.1"}, everything},
		"says so otherwise":        {"10.0.0.1:1234", []string{"Forwarded", "for=127.0.0.1"}, everything},
		"by a local proxy":         {"127.0.0.1:1234", []string{"X-Forwarded-For", "10.0.0.1"}, everything},
		"by one, says it is local": {"127.0.0.1:1234", []string{"X-Forwarded-For", "127.0.0.1"}, everything},
		"by a local nginx":         {"[::1]:1234", []string{"X-Real-Ip", "10.0.0.1"}, everything},
		"a Unix socket":            {"@", nil, everything},
		"nothing":                  {"", nil, everything},
		"a name":                   {"localhost:80", nil, everything},
	} {
		t.Run(name, func(t *testing.T) {
			d, got := Everybody(), ""
			request := httptest.NewRequest(http.MethodGet, "http://localhost:8080/", http.NoBody)
			request.RemoteAddr = test.remote
			if test.header != nil {
				request.Header.Set(test.header[0], test.header[1])
			}
			door := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = told(d.Of(r.Context())) })
			d.Handler(door).ServeHTTP(httptest.NewRecorder(), request)
			if got != test.want {
				t.Errorf("HTTP: %q, want %q", got, test.want)
			}
			address, err := net.ResolveTCPAddr("tcp", test.remote)
			if test.remote == "" || test.remote == "@" || test.remote == "localhost:80" || err != nil {
				return
			}
			ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: address})
			if test.header != nil {
				ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(test.header...))
			}
			if got := told(d.Of(ctx)); got != test.want {
				t.Errorf("gRPC: %q, want %q", got, test.want)
			}
		})
	}
}

func TestARequestThatPassedNoneOfTheDoorsHasNoMoreThanAnybody(t *testing.T) {
	if got := told(Everybody().Of(t.Context())); got != everything {
		t.Errorf("none: %q, want %q", got, everything)
	}
	s := newSubject(t, Config{Mode: Bearer, File: write(t, "callers.yaml", "callers: []")})
	local := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	if got := told(s.Of(local)); got != "" {
		t.Errorf("bearer: %q, want nothing", got)
	}
	if Everybody().Authenticates() || !s.Authenticates() {
		t.Error("want credentials asked for with bearer, and not with none")
	}
}

func TestWithoutAuthenticationRealConnectionsOverLoopbackAreLocal(t *testing.T) {
	s := start(t, Config{Mode: None}, nil)
	if code, got, _ := s.get(t, "/auth", nil); code != http.StatusOK || got != asOurs {
		t.Errorf("HTTP/1.1: %d %q", code, got)
	}
	if got, err := s.ask(t, nil); err != nil || got != asOurs {
		t.Errorf("gRPC: %q, %v", got, err)
	}
	if got, err := s.ask(t, nil, "x-forwarded-for", "10.0.0.1"); err != nil || got != everything {
		t.Errorf("gRPC, forwarded: %q, %v", got, err)
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(s.http + "/direct")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body := make([]byte, 1024)
	n, _ := response.Body.Read(body)
	if response.ProtoMajor != 2 || string(body[:n]) != asOurs {
		t.Errorf("%s: %q", response.Proto, body[:n])
	}
}

func TestFindingOutWhoAsksAllocatesNothing(t *testing.T) {
	d, local := Everybody(), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	s := newSubject(t, Config{Mode: Bearer, File: write(t, "callers.yaml", "callers: []")})
	for name, test := range map[string]struct {
		directory *Directory
		ctx       context.Context
	}{
		"none, gRPC":   {d, metadata.NewIncomingContext(peer.NewContext(t.Context(), &peer.Peer{Addr: local}), metadata.Pairs("user-agent", "x"))},
		"none, HTTP":   {d, context.WithValue(t.Context(), localKey{}, true)},
		"none, others": {d, peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}})},
		"bearer":       {s.Directory, context.WithValue(t.Context(), grantKey{}, everybody)},
	} {
		allowed := 0
		if n := testing.AllocsPerRun(100, func() {
			if test.directory.Of(test.ctx).MayUsePolicy("shop/api") {
				allowed++
			}
		}); n != 0 || allowed == 0 {
			t.Errorf("%s: %v allocations, allowed %d times", name, n, allowed)
		}
	}

	// The doors add nothing with none.
	request := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	handler := d.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if n := testing.AllocsPerRun(100, func() { handler.ServeHTTP(nil, request) }); n != 0 {
		t.Errorf("Handler: %v allocations", n)
	}
	info, answer := &grpc.UnaryServerInfo{FullMethod: "/test.Probe/Ask"}, func(context.Context, any) (any, error) { return nil, nil }
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = d.Unary(ctx, nil, info, answer) }); n != 0 {
		t.Errorf("Unary: %v allocations", n)
	}
}
