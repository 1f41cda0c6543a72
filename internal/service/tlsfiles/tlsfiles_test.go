package tlsfiles

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// followed is Files over a mount, read again when the test says so.
type followed struct {
	*Files
	mount *tlstest.Mount
	files map[string][]byte
	again chan time.Time
	log   *logged
}

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

func start(t *testing.T, server tlstest.Pair, clientCA []byte) *followed {
	t.Helper()
	files := map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key}
	if clientCA != nil {
		files["ca.crt"] = clientCA
	}
	f := &followed{mount: tlstest.NewMount(t, files), files: files, again: make(chan time.Time), log: &logged{}}
	cfg := Config{CertFile: f.mount.Path("tls.crt"), KeyFile: f.mount.Path("tls.key")}
	if clientCA != nil {
		cfg.ClientCAFile = f.mount.Path("ca.crt")
	}
	var err error
	if f.Files, err = follow(cfg, slog.New(slog.NewTextHandler(f.log, nil)), f.again); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// change swaps what the mount holds, and has it read.
func (f *followed) change(t *testing.T, files map[string][]byte) {
	t.Helper()
	maps.Copy(f.files, files)
	f.mount.Swap(t, f.files)
	f.reload()
}

// serve answers every handshake with one byte, and gives the address.
func serve(t *testing.T, config *tls.Config) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = connection.Close() }()
				if _, err := connection.Write([]byte("!")); err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, connection)
			}()
		}
	}()
	return listener.Addr().String()
}

// dial makes a handshake that the server has agreed to.
func dial(address string, config *tls.Config) (tls.ConnectionState, error) {
	connection, err := tls.Dial("tcp", address, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = connection.Close() }()
	// With TLS 1.3 a client learns only by what follows that its certificate was refused; and tickets come then.
	if _, err := io.ReadFull(connection, make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return connection.ConnectionState(), nil
}

func client(t *testing.T, trusts *tlstest.CA, own ...tlstest.Pair) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: trusts.Pool(), ServerName: "penstockd"}
	for _, pair := range own {
		certificate := pair.Certificate(t)
		// Whatever the server says that it accepts: a caller that means harm does not ask.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return config
}

func TestOnlyCertificatesOfTheClientCAPassTheHandshake(t *testing.T) {
	ca, foreign := tlstest.NewCA(t), tlstest.NewCA(t)
	f := start(t, ca.Issue(t, "penstockd"), ca.PEM)
	address := serve(t, f.ServerConfig())
	for name, test := range map[string]struct {
		own  []tlstest.Pair
		want string
	}{
		"none":           {nil, ""},
		"of the CA":      {[]tlstest.Pair{ca.Issue(t, "spiffe://cluster.local/ns/shop/sa/cart")}, ""},
		"expired":        {[]tlstest.Pair{ca.IssueUntil(t, time.Now().Add(-time.Minute), "cart")}, "expired"},
		"of another CA":  {[]tlstest.Pair{foreign.Issue(t, "cart")}, "certificate authority"},
		"not yet in use": {[]tlstest.Pair{ca.IssueUntil(t, time.Now().Add(3*time.Hour), "cart")}, "expired"},
	} {
		for protocol, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
			t.Run(name+", "+protocol, func(t *testing.T) {
				config := client(t, ca, test.own...)
				config.MinVersion, config.MaxVersion = version, version
				_, err := dial(address, config)
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%v, want %q", err, test.want)
				}
			})
		}
	}
}

func TestTLSBefore12IsRefused(t *testing.T) {
	ca := tlstest.NewCA(t)
	f := start(t, ca.Issue(t, "penstockd"), nil)
	config := client(t, ca)
	old := uint16(tls.VersionTLS11)
	config.MinVersion, config.MaxVersion = old, old
	if _, err := dial(serve(t, f.ServerConfig()), config); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("%v, want it refused", err)
	}
}

func TestANewCertificateIsServedAfterAMountWasSwapped(t *testing.T) {
	before, after := tlstest.NewCA(t), tlstest.NewCA(t)
	f := start(t, before.Issue(t, "penstockd"), nil)
	address := serve(t, f.ServerConfig())
	if _, err := dial(address, client(t, before)); err != nil {
		t.Fatal(err)
	}
	pair := after.Issue(t, "penstockd")
	f.mount.Swap(t, map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key})
	// The second is taken once the first is done.
	f.again <- time.Time{}
	f.again <- time.Time{}
	if _, err := dial(address, client(t, after)); err != nil {
		t.Error(err)
	}
	if _, err := dial(address, client(t, before)); err == nil {
		t.Error("the old certificate is still served")
	}
}

// Fault 56: old and new CA for a while, then the new one alone.
func TestARotatedClientCARefusesNewConnectionsOfTheOldOneAndKeepsStreamsOpen(t *testing.T) {
	server, before, after := tlstest.NewCA(t), tlstest.NewCA(t), tlstest.NewCA(t)
	f := start(t, server.Issue(t, "penstockd"), before.PEM)
	address, status := serveHealth(t, f.ServerConfig())
	old, renewed := client(t, server, before.Issue(t, "cart")), client(t, server, after.Issue(t, "cart"))

	stream := watch(t, address, old)
	receive(t, stream, healthv1.HealthCheckResponse_SERVING)
	if err := check(t, address, renewed); err == nil {
		t.Error("a certificate of the new CA passed before that was trusted")
	}
	f.change(t, map[string][]byte{"ca.crt": append(bytes.Clone(before.PEM), after.PEM...)})
	for name, config := range map[string]*tls.Config{"old": old, "new": renewed} {
		if err := check(t, address, config); err != nil {
			t.Errorf("both are trusted, %s: %v", name, err)
		}
	}
	f.change(t, map[string][]byte{"ca.crt": after.PEM})
	if err := check(t, address, old); err == nil {
		t.Error("a certificate of the old CA still passes")
	}
	if err := check(t, address, renewed); err != nil {
		t.Errorf("new: %v", err)
	}
	status.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	receive(t, stream, healthv1.HealthCheckResponse_NOT_SERVING)
}

func serveHealth(t *testing.T, config *tls.Config) (string, *health.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, status := grpc.NewServer(grpc.Creds(credentials.NewTLS(config))), health.NewServer()
	healthv1.RegisterHealthServer(server, status)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), status
}

func connect(t *testing.T, address string, config *tls.Config) healthv1.HealthClient {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return healthv1.NewHealthClient(connection)
}

func watch(t *testing.T, address string, config *tls.Config) healthv1.Health_WatchClient {
	t.Helper()
	stream, err := connect(t, address, config).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func receive(t *testing.T, stream healthv1.Health_WatchClient, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	if got, err := stream.Recv(); err != nil || got.GetStatus() != want {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
}

// check asks over a new connection.
func check(t *testing.T, address string, config *tls.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := connect(t, address, config).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// A session carries the client's certificate of when it began.
func TestASessionIsNotResumedPastTheCAOfItsClient(t *testing.T) {
	for protocol, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(protocol, func(t *testing.T) {
			server, before, after := tlstest.NewCA(t), tlstest.NewCA(t), tlstest.NewCA(t)
			f := start(t, server.Issue(t, "penstockd"), before.PEM)
			address := serve(t, f.ServerConfig())
			config := client(t, server, before.Issue(t, "cart"))
			config.MinVersion, config.MaxVersion, config.ClientSessionCache = version, version, tls.NewLRUClientSessionCache(8)
			for range 2 {
				state, err := dial(address, config)
				if err != nil || state.DidResume {
					t.Fatalf("resumed %v, %v; want a whole handshake", state.DidResume, err)
				}
			}
			f.change(t, map[string][]byte{"ca.crt": after.PEM})
			if _, err := dial(address, config); err == nil {
				t.Error("a client whose CA was removed got in again")
			}
		})
	}
}

func TestWithoutAClientCASessionsAreResumed(t *testing.T) {
	ca := tlstest.NewCA(t)
	f := start(t, ca.Issue(t, "penstockd"), nil)
	address := serve(t, f.ServerConfig())
	config := client(t, ca)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for i, want := range []bool{false, true} {
		if state, err := dial(address, config); err != nil || state.DidResume != want {
			t.Errorf("connection %d: resumed %v, %v; want %v", i, state.DidResume, err, want)
		}
	}
}

func TestServersOverHTTPSpeakBothOfItsVersions(t *testing.T) {
	ca := tlstest.NewCA(t)
	f := start(t, ca.Issue(t, "penstockd"), ca.PEM)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{TLSConfig: f.ServerConfig(), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	})}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	for want, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		transport := &http.Transport{TLSClientConfig: client(t, ca), ForceAttemptHTTP2: http2}
		response, err := (&http.Client{Transport: transport}).Get("https://" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		transport.CloseIdleConnections()
		if string(body) != want {
			t.Errorf("%s, want %s", body, want)
		}
	}
}

func TestFilesThatCannotBeUsedLeaveTheLastGoodOnesInForce(t *testing.T) {
	ca := tlstest.NewCA(t)
	good, other := ca.Issue(t, "penstockd"), ca.Issue(t, "penstockd")
	for name, test := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"half of a new pair": {map[string][]byte{"tls.crt": other.Cert}, "are no pair"},
		"no PEM":             {map[string][]byte{"tls.crt": []byte("oops")}, "are no pair"},
		"empty CA":           {map[string][]byte{"ca.crt": nil}, "holds no certificate"},
		"CA half written":    {map[string][]byte{"ca.crt": ca.PEM[:len(ca.PEM)/2]}, "holds no certificate"},
		"a key as CA":        {map[string][]byte{"ca.crt": good.Key}, `"PRIVATE KEY"; give certificates only`},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, good, ca.PEM)
			address := serve(t, f.ServerConfig())
			f.change(t, test.files)
			if _, err := dial(address, client(t, ca, ca.Issue(t, "cart"))); err != nil {
				t.Errorf("not the last good ones: %v", err)
			}
			if logged := f.log.String(); strings.Count(logged, "\n") != 1 || !strings.Contains(strings.ReplaceAll(logged, `\"`, `"`), test.want) {
				t.Errorf("logged\n%s, want one line with %q", logged, test.want)
			}
			if strings.Contains(f.log.String(), "PRIVATE KEY-") {
				t.Error("a key was logged")
			}
			f.change(t, map[string][]byte{"tls.crt": good.Cert, "tls.key": good.Key, "ca.crt": ca.PEM})
			if logged := f.log.String(); strings.Count(logged, "\n") != 2 || !strings.Contains(logged, "again those in force") {
				t.Errorf("logged\n%s, want a line that it is mended", logged)
			}
			f.change(t, map[string][]byte{"tls.crt": other.Cert, "tls.key": other.Key})
			if logged := f.log.String(); strings.Count(logged, "\n") != 3 || !strings.Contains(logged, "TLS files changed") {
				t.Errorf("logged\n%s, want a line of the change", logged)
			}
		})
	}
}

// A mount is swapped as a whole, and read file by file.
func TestFilesThatAreSwappedWhileTheyAreReadAreReadAgain(t *testing.T) {
	of := func(cert, key string) *material { return &material{cert: []byte(cert), key: []byte(key)} }
	before, torn, after := of("a", "a"), of("a", "b"), of("b", "b")
	for name, test := range map[string]struct {
		readings []*material // nil fails
		want     *material
	}{
		"quiet":              {[]*material{before, before}, before},
		"torn":               {[]*material{torn, after, after}, after},
		"swapped in between": {[]*material{before, torn, after, after}, after},
		"gone for a moment":  {[]*material{nil, after, after}, after},
		"never quiet":        {[]*material{before, torn, after, before}, before},
		"gone":               {[]*material{nil, nil, nil, nil}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := agreed(func() (*material, error) {
				next := test.readings[0]
				test.readings = test.readings[1:]
				if next == nil {
					return nil, os.ErrNotExist
				}
				return next, nil
			})
			if len(test.readings) > 0 || (err != nil) != (test.want == nil) || err == nil && !got.same(test.want) {
				t.Errorf("%v, %v and %d left; want %v", got, err, len(test.readings), test.want)
			}
		})
	}
}

func TestAFileThatIsGoneLeavesTheLastGoodOnesInForce(t *testing.T) {
	ca := tlstest.NewCA(t)
	f := start(t, ca.Issue(t, "penstockd"), nil)
	if err := os.Remove(f.mount.Path("..data")); err != nil {
		t.Fatal(err)
	}
	f.reload()
	f.reload()
	if _, err := dial(serve(t, f.ServerConfig()), client(t, ca)); err != nil {
		t.Error(err)
	}
	if logged := f.log.String(); strings.Count(logged, "\n") != 1 || !strings.Contains(logged, "--tls-cert: open ") {
		t.Errorf("logged\n%s, want one line", logged)
	}
}

func TestFilesThatCannotBeUsedAtFirstAreNamedWithTheirFlag(t *testing.T) {
	ca := tlstest.NewCA(t)
	pair, other := ca.Issue(t, "penstockd"), ca.Issue(t, "penstockd")
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key, otherKey, empty := file("tls.crt", pair.Cert), file("tls.key", pair.Key), file("other.key", other.Key), file("empty", nil)
	for name, test := range map[string]struct {
		cfg  Config
		want []string
	}{
		"no certificate":     {Config{KeyFile: key}, []string{"--tls-cert is missing"}},
		"no key":             {Config{CertFile: cert}, []string{"--tls-key is missing"}},
		"certificate absent": {Config{CertFile: dir + "/none", KeyFile: key}, []string{"--tls-cert", dir + "/none"}},
		"key absent":         {Config{CertFile: cert, KeyFile: dir + "/none"}, []string{"--tls-key", dir + "/none"}},
		"another key":        {Config{CertFile: cert, KeyFile: otherKey}, []string{"--tls-cert " + cert, "--tls-key " + otherKey, "no pair"}},
		"CA absent":          {Config{CertFile: cert, KeyFile: key, ClientCAFile: dir + "/none"}, []string{"--tls-client-ca", dir + "/none"}},
		"CA empty":           {Config{CertFile: cert, KeyFile: key, ClientCAFile: empty}, []string{"--tls-client-ca " + empty, "holds no certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(test.cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(name, "absent") && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v, want ErrNotExist in it", err)
			}
		})
	}
}

func TestWhatNewReadIsServed(t *testing.T) {
	ca := tlstest.NewCA(t)
	pair := ca.Issue(t, "penstockd")
	mount := tlstest.NewMount(t, map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key})
	f, err := New(Config{CertFile: mount.Path("tls.crt"), KeyFile: mount.Path("tls.key")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := dial(serve(t, f.ServerConfig()), client(t, ca)); err != nil {
		t.Error(err)
	}
}
