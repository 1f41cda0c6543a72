// Package proxies tests docs/doors with the real proxies: each runs with the configuration that its page shows, between
// clients and a backend, and asks the built penstockd on a real Redis.
package proxies

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/test/daemon"
)

// patience bounds how long anything here may take before the test fails.
const patience = 30 * time.Second

// Addresses of the loopback network, so that who connects can be told by its address. Clients have others, which penstockd
// does not trust.
const (
	// here is where everything listens, and from where proxies ask penstockd.
	here = "127.0.0.1"
	// edge is a proxy in front of the proxy, which both trust.
	edge = "127.0.0.2"
	// edgeNetwork is how the pages write the network of such proxies.
	edgeNetwork = "10.0.0.0/8"
)

// How the pages write addresses, which the tests replace.
const (
	pagePenstockd = "127.0.0.1:8080"
	pageBackend   = "127.0.0.1:3000"
	pagePolicy    = "shop/api-per-ip"
)

func TestMain(m *testing.M) {
	os.Exit(daemon.Run(func(b daemon.Binary) int {
		binary = b
		return m.Run()
	}))
}

// binary is the built penstockd.
var binary daemon.Binary

// budget is how many requests each subject may make.
const budget = 5

// startPenstockd starts it, with policies for each client address, one of which denies by 503, and one for all of a request.
func startPenstockd(t *testing.T) *daemon.Process {
	t.Helper()
	perMinute := []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: budget, WindowMs: 60_000}}
	server := daemon.Publish(t,
		policy.RateLimit{
			Name: pagePolicy, Domain: "shop", OnStoreFailure: policy.FailureDeny, Limits: perMinute,
			Descriptors: []policy.Descriptor{{Key: "remote_address"}},
		},
		policy.RateLimit{
			Name: "paths/api-per-path", Domain: "paths", OnStoreFailure: policy.FailureDeny, Limits: perMinute,
			Descriptors: []policy.Descriptor{{Key: "remote_address"}, {Key: "method"}, {Key: "host"}, {Key: "path"}},
		},
		policy.RateLimit{
			Name: "busy/api-per-ip", Domain: "busy", OnStoreFailure: policy.FailureDeny, Limits: perMinute,
			Descriptors: []policy.Descriptor{{Key: "remote_address"}}, Response: &policy.Response{Status: http.StatusServiceUnavailable},
		},
	)
	return binary.Start(t, server, "--trusted-proxies", here+","+edge)
}

// tool gives the path of a proxy.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("PENSTOCK_PROXIES")
	if dir == "" {
		t.Fatal("PENSTOCK_PROXIES is not set: run `make test`, which gets what the tests need, or set it to what hack/proxies.sh prints")
	}
	return filepath.Join(dir, name)
}

// backend is what the proxies protect. It answers every request, and remembers them.
type backend struct {
	address string
	mu      sync.Mutex
	seen    []string
}

// startBackend starts one. /forbidden is 403.
func startBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading what reached the backend: %v", err)
		}
		b.mu.Lock()
		b.seen = append(b.seen, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, body))
		b.mu.Unlock()
		w.Header().Set("X-Backend", "yes")
		if r.URL.Path == "/forbidden" {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = io.WriteString(w, "from the backend")
	}))
	t.Cleanup(server.Close)
	b.address = server.Listener.Addr().String()
	return b
}

// requests are what reached the backend so far.
func (b *backend) requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.seen...)
}

// site is what a proxy is set up for.
type site struct {
	penstockd, backend string
	// change replaces parts of the page's configuration, pairs of old and new text.
	change []string
	// hurried keeps the page's timeouts for penstockd. Else they are long: a machine busy with tests is no outage.
	hurried bool
}

// process runs a proxy until the test ends, and waits until it listens. What it writes is shown when the test fails.
func process(t *testing.T, address string, cmd *exec.Cmd) {
	t.Helper()
	var output buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (hack/proxies.sh gets what the tests need)", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd.Path, output.String())
		}
	})
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s has ended: %v", cmd.Path, err)
		default:
		}
		if connection, err := net.Dial("tcp", address); err == nil {
			_ = connection.Close()
			return
		}
	}
	t.Fatalf("%s does not listen at %s", cmd.Path, address)
}

// buffer lets a test read what a process is still writing.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// freeAddress gives an address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", here+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// silent listens, and answers nothing that it is asked.
type silent struct {
	address string
	heard   buffer
}

// questions is how often it was asked.
func (s *silent) questions() int { return strings.Count(s.heard.String(), " /auth") }

func listenSilently(t *testing.T) *silent {
	t.Helper()
	listener, err := net.Listen("tcp", here+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	s := &silent{address: listener.Addr().String()}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = connection.Close() })
			go func() { _, _ = io.Copy(&s.heard, connection) }()
		}
	}()
	return s
}

// write writes a file of a proxy's configuration.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clients counts the clients so far.
var clients atomic.Int32

// newClient gives the address of a client that has asked for nothing yet.
func newClient() string {
	n := clients.Add(1)
	return fmt.Sprintf("127.1.%d.%d", n>>8, n&0xff)
}

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request from that address.
func ask(t *testing.T, from, method, target string, header http.Header, body string) answer {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

// get asks for a path as browsers do.
func get(t *testing.T, from, target string) answer {
	t.Helper()
	return ask(t, from, http.MethodGet, target, http.Header{}, "")
}
