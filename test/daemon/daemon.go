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
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
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
	sealed := make([]policy.RateLimit, len(policies))
	for i := range policies {
		sealed[i] = policies[i].Sealed()
	}
	set := policy.NewSet(sealed)
	if err := set.Validate(); err != nil {
		tb.Fatal(err)
	}
	publication := policystore.Publication{Owner: "test/test/test", Set: set, Mode: library.ModeFunctions}
	if _, err := policystore.Publish(tb.Context(), server.Client(), publication); err != nil {
		tb.Fatal(err)
	}
	return server
}

// Process is a penstockd that runs.
type Process struct {
	// HTTP, GRPC and Metrics are its addresses, host:port.
	HTTP, GRPC, Metrics string
	// PID is the number of the process, for /proc.
	PID int
}

// Start starts penstockd on the server and waits until it is ready. It ends with the test, and its output is shown when that
// fails.
func (b Binary) Start(tb testing.TB, server *redistest.Server, flags ...string) *Process {
	tb.Helper()
	// A machine that is busy with tests is no outage of Redis.
	flags = append([]string{
		"--redis", "redis://" + server.Addr, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
		"--command-timeout", "10s",
	}, flags...)
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
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		// By its own word and not by /readyz, which may want a certificate.
		if strings.Contains(output.String(), `"msg":"ready"`) {
			return &Process{
				HTTP: output.address("http"), GRPC: output.address("grpc"), Metrics: output.address("metrics"), PID: cmd.Process.Pid,
			}
		}
	}
	tb.Fatalf("penstockd is not ready: %s", output)
	return nil
}

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
