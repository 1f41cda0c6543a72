// Package daemon runs the built penstockd for tests, on a real Redis whose policies were published as the operator does.
package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// patience bounds how long penstockd may take to be ready.
const patience = 30 * time.Second

// Binary is a built penstockd.
type Binary string

// Run builds penstockd into a folder that ends with run: it is for TestMain, which gives back the exit code.
func Run(run func(Binary) int) int {
	dir, err := os.MkdirTemp("", "penstockd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "penstockd")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/penstock-dev/penstock/cmd/penstockd").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building penstockd: %v\n%s", err, out)
		return 1
	}
	return run(Binary(path))
}

// Publish starts a server and publishes the policies there.
func Publish(tb testing.TB, policies ...policy.RateLimit) *redistest.Server {
	tb.Helper()
	server := redistest.Start(tb)
	PublishTo(tb, redisopstest.At(tb, server.Addr), policies...)
	return server
}

// PublishTo publishes the policies on the servers, in place of those of before.
func PublishTo(tb testing.TB, servers *redisops.Servers, policies ...policy.RateLimit) {
	tb.Helper()
	publication := policystore.Publication{Owner: "test/test/test", Set: Set(tb, policies...), Mode: library.ModeFunctions}
	if _, err := policystore.Publish(tb.Context(), servers, publication); err != nil {
		tb.Fatal(err)
	}
}

// Set is the set of the policies.
func Set(tb testing.TB, policies ...policy.RateLimit) *policy.Set {
	tb.Helper()
	sealed := make([]policy.RateLimit, len(policies))
	for i := range policies {
		sealed[i] = policies[i].Sealed()
	}
	set := policy.NewSet(sealed)
	if err := set.Validate(); err != nil {
		tb.Fatal(err)
	}
	return set
}

// Process is a penstockd that runs.
type Process struct {
	// HTTP, GRPC and Metrics are its addresses, host:port.
	HTTP, GRPC, Metrics string
	// PID is the number of the process, for /proc.
	PID int

	output *buffer
}

// Start starts penstockd on the server and waits until it is ready. It ends with the test, and its output is shown when that
// fails.
func (b Binary) Start(tb testing.TB, server *redistest.Server, flags ...string) *Process {
	tb.Helper()
	// A machine that is busy with tests is no outage of Redis.
	process := b.Launch(tb, append([]string{"--redis", "redis://" + server.Addr, "--command-timeout", "10s"}, flags...)...)
	process.AwaitLog(tb, "ready")
	return process
}

// Launch starts penstockd with these flags beside those of its ports, and waits until it listens, ready or not. It ends with
// the test, and its output is shown when that fails.
func (b Binary) Launch(tb testing.TB, flags ...string) *Process {
	tb.Helper()
	flags = append([]string{"--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"}, flags...)
	cmd := exec.Command(string(b), flags...)
	output := &buffer{}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("output of penstockd:\n%s", output)
		}
	})
	process := &Process{PID: cmd.Process.Pid, output: output}
	process.AwaitLog(tb, "listening")
	process.HTTP, process.GRPC, process.Metrics = output.address("http"), output.address("grpc"), output.address("metrics")
	return process
}

// AwaitLog waits until the log has a line with that message. By it readiness is known, too, where /readyz wants a certificate.
func (p *Process) AwaitLog(tb testing.TB, message string) {
	tb.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if p.Logged(message) > 0 {
			return
		}
	}
	tb.Fatalf("penstockd does not say %q: %s", message, p.Log())
}

// Logged is how many lines of the log have that message.
func (p *Process) Logged(message string) int { return strings.Count(p.Log(), `"msg":"`+message+`"`) }

// Log is all that it printed so far.
func (p *Process) Log() string { return p.output.String() }

// buffer lets a test read what a process is still writing.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
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

// address reads where penstockd says that it listens.
func (b *buffer) address(port string) string {
	match := regexp.MustCompile(`"msg":"listening".*"` + port + `":"([^"]+)"`).FindStringSubmatch(b.String())
	if match == nil {
		return ""
	}
	return match[1]
}
