package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// asPenstockd makes the test binary be penstockd, so that there is a real process to send signals to.
const asPenstockd = "PENSTOCKD_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPenstockd) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a penstockd that runs.
type process struct {
	*exec.Cmd
	lines chan map[string]any
}

func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self, args...), lines: make(chan map[string]any, 100)}
	p.Env = append(os.Environ(), asPenstockd+"=1", "PENSTOCKD_HTTP=127.0.0.1:0", "PENSTOCKD_GRPC=127.0.0.1:0", "PENSTOCKD_METRICS=127.0.0.1:0")
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill() })
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			var line map[string]any
			if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
				t.Errorf("a log line is no JSON: %q", scanner.Text())
				continue
			}
			p.lines <- line
		}
	}()
	return p
}

// line waits for a log line with that message.
func (p *process) line(t *testing.T, message string) map[string]any {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, open := <-p.lines:
			if !open {
				t.Fatalf("it ended without %q", message)
			}
			if line["msg"] == message {
				return line
			}
		case <-timeout:
			t.Fatalf("no %q within 20 s", message)
		}
	}
}

// silence wants no log line for so long.
func (p *process) silence(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case line := <-p.lines:
		t.Errorf("%v, want no line within %v", line, d)
	case <-time.After(d):
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestTheProcessStartsWithoutRedisServesAndEndsOnSIGTERM(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	server.Kill()
	p := startProcess(t, "--redis", "redis://"+server.Addr, "--lame-duck", "0s",
		"--redis-password-file", write(t, "password", "secret\n"), "--command-timeout", "1s")
	base := "http://" + p.line(t, "listening")["http"].(string)
	if code, _ := get(t, base+"/healthz"); code != http.StatusOK {
		t.Errorf("liveness without Redis: %d", code)
	}
	if code, body := get(t, base+"/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readiness without Redis: %d %q", code, body)
	}

	server.Run()
	publish(t, server)
	p.line(t, "ready")
	if code, body := get(t, base+"/auth/shop/one"); code != http.StatusOK {
		t.Errorf("the first request: %d %s", code, body)
	}
	if code, body := get(t, base+"/auth/shop/one"); code != http.StatusTooManyRequests {
		t.Errorf("the second request: %d %s, want 429", code, body)
	}

	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.line(t, "draining")
	p.line(t, "stopped")
	for range p.lines { // to its end, so that Wait may close the pipe
	}
	if err := p.Wait(); err != nil {
		t.Errorf("exit: %v, want 0", err)
	}
}

func setOfOne(onStoreFailure string) *policy.Set {
	return policy.NewSet([]policy.RateLimit{policy.RateLimit{
		Name: "shop/one", Domain: "shop", OnStoreFailure: onStoreFailure,
		Limits: []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 1, WindowMs: 3_600_000}},
	}.Sealed()})
}

func publish(t *testing.T, server *redistest.Server) {
	t.Helper()
	_, err := policystore.Publish(t.Context(), server.ClientWith(&redis.Options{Password: "secret"}), policystore.Publication{
		Owner: "test/shop/store", Mode: library.ModeFunctions, Set: setOfOne(policy.FailureDeny),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithPoliciesOfAFileItIsReadyWithoutRedisOnlyIfTheyAllAllow(t *testing.T) {
	for name, test := range map[string]struct {
		onStoreFailure string
		want           int
	}{
		"Allow": {policy.FailureAllow, http.StatusOK},
		"Deny":  {policy.FailureDeny, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			server.Kill()
			p := startProcess(t, "--redis", "redis://"+server.Addr, "--command-timeout", "1s", "--dial-timeout", "50ms",
				"--policies", write(t, "set.json", string(setOfOne(test.onStoreFailure).Marshal())))
			base := "http://" + p.line(t, "listening")["http"].(string)
			p.line(t, "cannot reach redis; trying on")
			if test.want == http.StatusOK {
				p.line(t, "ready")
			} else {
				p.silence(t, 10*50*time.Millisecond)
			}
			if code, body := get(t, base+"/readyz"); code != test.want {
				t.Errorf("readiness without Redis: %d %q, want %d", code, body, test.want)
			}
			server.Run()
			if test.want != http.StatusOK {
				p.line(t, "ready")
			}
			if code, body := get(t, base+"/readyz"); code != http.StatusOK {
				t.Errorf("readiness with Redis: %d %q, want 200", code, body)
			}
		})
	}
}

func TestGarbageIsCollectedLessOftenUnlessSomebodySaysHowOften(t *testing.T) {
	for name, test := range map[string]struct {
		env  map[string]string
		want int
	}{
		"nothing is set":    {nil, gcPercent},
		"GOGC is set":       {map[string]string{"GOGC": "150"}, 150},
		"GOMEMLIMIT is set": {map[string]string{"GOMEMLIMIT": "64MiB"}, 150},
		"both are empty":    {map[string]string{"GOGC": "", "GOMEMLIMIT": ""}, gcPercent},
	} {
		t.Run(name, func(t *testing.T) {
			before := debug.SetGCPercent(150)
			defer debug.SetGCPercent(before)
			collectLessOften(environment(test.env))
			if got := debug.SetGCPercent(150); got != test.want {
				t.Errorf("%d %%, want %d", got, test.want)
			}
		})
	}
}

func TestAWrongCommandLineExitsWithTwo(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(self, "--redis", "redis://r", "--lame-duck", "soon")
	command.Env = append(os.Environ(), asPenstockd+"=1")
	output, err := command.CombinedOutput()
	want := "penstockd: invalid argument \"soon\" for \"--lame-duck\" flag: must be a duration like \"30s\" or \"5m\"\nSee penstockd --help.\n"
	if command.ProcessState.ExitCode() != 2 || string(output) != want {
		t.Errorf("%v: %q, want exit code 2 and %q", err, output, want)
	}
}
