package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
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
	seen  []map[string]any // lines that were read while waiting for others
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

// line waits for a log line with that message, and takes it out.
func (p *process) line(t *testing.T, message string) map[string]any {
	t.Helper()
	for i, line := range p.seen {
		if line["msg"] == message {
			p.seen = slices.Delete(p.seen, i, i+1)
			return line
		}
	}
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
			p.seen = append(p.seen, line)
		case <-timeout:
			t.Fatalf("no %q within 20 s", message)
		}
	}
}

// unready wants it not to say that it is ready for so long.
func (p *process) unready(t *testing.T, d time.Duration) {
	t.Helper()
	for over := time.After(d); ; {
		select {
		case line, open := <-p.lines:
			if !open {
				t.Fatal("it ended")
			}
			if line["msg"] == "ready" {
				t.Errorf("it is ready, want it not to be within %v", d)
			}
		case <-over:
			return
		}
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
	publishBy(t, redisops.Config{Addresses: []string{server.Addr}, Password: "secret"})
}

func publishBy(t *testing.T, cfg redisops.Config) {
	t.Helper()
	_, err := policystore.Publish(t.Context(), redisopstest.Open(t, cfg), policystore.Publication{
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
				p.unready(t, 10*50*time.Millisecond)
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

// published starts servers and gives the arguments that lead to them.
var published = map[string]func(t *testing.T) (cfg redisops.Config, args []string){
	"Standalone": func(t *testing.T) (redisops.Config, []string) {
		server := redistest.Start(t)
		return redisops.Config{Addresses: []string{server.Addr}}, []string{"--redis", "redis://" + server.Addr, "--redis-protocol", "3"}
	},
	"Standalone with TLS": func(t *testing.T) (redisops.Config, []string) {
		with, ours, args := secured(t)
		server := redistest.StartTLS(t, with)
		return redisops.Config{Addresses: []string{server.Addr}, TLS: ours}, append(args, "--redis", "rediss://"+server.Addr)
	},
	"Sentinel with passwords and TLS": func(t *testing.T) (redisops.Config, []string) {
		with, ours, args := secured(t)
		servers := redistest.StartSentinel(t, 1, redistest.SentinelOptions{
			Redis: append(with.Options(t), "--requirepass", "secret"), Sentinels: []string{"--requirepass", "other"},
		})
		return redisops.Config{
				Topology: policy.TopologySentinel, Addresses: servers.Addresses(), MasterName: servers.MasterName, TLS: ours, Password: "secret", SentinelPassword: "other",
			}, append(args, "--redis", "rediss://"+strings.Join(servers.Addresses(), ","), "--redis-topology", "Sentinel", "--redis-master-name", servers.MasterName,
				"--redis-password-file", write(t, "password", "secret\n"), "--redis-sentinel-password-file", write(t, "password", "other\n"))
	},
	"Cluster with an ACL user and TLS": func(t *testing.T) (redisops.Config, []string) {
		with, ours, args := secured(t)
		cluster := redistest.StartCluster(t, 3, 0, with.Options(t)...)
		for _, node := range cluster.Nodes {
			node.Do("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all")
		}
		return redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), TLS: ours},
			append(args, "--redis", "rediss://"+strings.Join(cluster.Addresses(), ","), "--redis-topology", "Cluster",
				"--redis-username-file", write(t, "user", "app\n"), "--redis-password-file", write(t, "password", "secret\n"))
	},
}

// secured are certificates for both sides, and the arguments that name the files of ours.
func secured(t *testing.T) (redistest.TLS, *redisops.TLS, []string) {
	t.Helper()
	ca := tlstest.NewCA(t)
	server, ours := ca.Issue(t, "127.0.0.1"), ca.Issue(t, "penstockd")
	return redistest.TLS{Cert: server.Cert, Key: server.Key, ClientCA: ca.PEM},
		&redisops.TLS{CA: ca.PEM, ClientCert: ours.Cert, ClientKey: ours.Key},
		[]string{
			"--redis-tls-ca", write(t, "ca", string(ca.PEM)), "--redis-tls-cert", write(t, "cert", string(ours.Cert)), "--redis-tls-key", write(t, "key", string(ours.Key)),
		}
}

func TestTheProcessReachesEveryTopologyByItsFlags(t *testing.T) {
	for name, begin := range published {
		t.Run(name, func(t *testing.T) {
			cfg, args := begin(t)
			publishBy(t, cfg)
			p := startProcess(t, append(args, "--command-timeout", "1s")...)
			base := "http://" + p.line(t, "listening")["http"].(string)
			p.line(t, "ready")
			if code, body := get(t, base+"/auth/shop/one"); code != http.StatusOK {
				t.Errorf("the first request: %d %s", code, body)
			}
			if code, body := get(t, base+"/auth/shop/one"); code != http.StatusTooManyRequests {
				t.Errorf("the second request: %d %s, want 429", code, body)
			}
			if code, body := get(t, base+"/readyz"); code != http.StatusOK || body != "ok\n" {
				t.Errorf("readiness: %d %q, want ok", code, body)
			}
		})
	}
}

func TestTheProcessStartsFromItsSnapshotWhileRedisIsGone(t *testing.T) {
	server := redistest.Start(t)
	file := write(t, "snapshot.json", string(setOfOne(policy.FailureAllow).Marshal()))
	server.Kill()
	p := startProcess(t, "--redis", "redis://"+server.Addr, "--command-timeout", "1s", "--dial-timeout", "50ms", "--snapshot", file)
	base := "http://" + p.line(t, "listening")["http"].(string)
	p.line(t, "ready")
	response, err := http.Get(base + "/auth/shop/one")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("X-Penstock-Degraded") != "store" {
		t.Errorf("%d %v, want 200 and degraded", response.StatusCode, response.Header)
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
