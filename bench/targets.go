package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-dev/penstock/bench/internal/process"
)

// What every target is asked about, and its limits per day: a window of a day, so that none ends during a run, and what
// was counted can be compared with what was asked.
const (
	domain  = "bench"
	loadKey = "remote_address"
	// loadLimit is never reached: a denial under load is a fault.
	loadLimit = 1_000_000_000
	probeKey  = "probe"
	// probeLimit is reached on purpose, see verify.
	probeLimit = 100
)

// connections is how many HTTP/2 connections the callers share, as the worker threads of an Envoy have one each.
const connections = 4

// role tells what a target is compared as.
type role string

const (
	roleCeiling role = "ceiling"
	roleOurs    role = "ours"
	rolePeer    role = "peer"
)

// target is a server under load, in a process of its own.
type target struct {
	// name is what the report calls it.
	name string
	role role

	process *process.Process
	heap    heapSource
	conns   []*grpc.ClientConn
	clients []rlsv3.RateLimitServiceClient
	// sent counts every answer to a request about a load key, for verify.
	sent answers
}

// launcher knows how to start the targets.
type launcher struct {
	// own is this program, penstockd and ratelimit the two others: paths of binaries.
	own, penstockd, ratelimit string
	// redis is host:port.
	redis string
	// penstockdArgs are added to ours, and win over what the bench sets.
	penstockdArgs []string
	// ratelimitEnv is added to the peer's environment and wins over what the bench sets: NAME=value.
	ratelimitEnv []string
	// dir holds what a target needs as files.
	dir string
}

// targetNames are the known targets, in the order of the report.
var targetNames = []string{"no-op", "penstockd", "ratelimit", "ratelimit-nostats"}

// start starts a target and waits until it decides by the limits of the bench.
func (l launcher) start(ctx context.Context, name string) (*target, error) {
	addresses, err := freeAddresses(4)
	if err != nil {
		return nil, err
	}
	t := &target{name: name}
	grpcAddress, httpAddress, otherAddress, debugAddress := addresses[0], addresses[1], addresses[2], addresses[3]
	switch name {
	case "no-op":
		t.role = roleCeiling
		t.heap = heapSource{url: "http://" + otherAddress + "/metrics", parse: prometheusHeap}
		t.process, err = process.Start(name, nil, l.own, "-serve-noop", grpcAddress+","+otherAddress)
	case "penstockd":
		t.role = roleOurs
		t.heap = heapSource{url: "http://" + otherAddress + "/metrics", parse: prometheusHeap}
		// A saturated machine is no outage: as the peer does by default, it waits for Redis longer than 10 ms.
		args := []string{
			"--redis", "redis://" + l.redis, "--grpc", grpcAddress, "--http", httpAddress, "--metrics", otherAddress,
			"--lame-duck", "0s", "--command-timeout", "500ms",
		}
		t.process, err = process.Start(name, nil, l.penstockd, append(args, l.penstockdArgs...)...)
	case "ratelimit", "ratelimit-nostats":
		t.role = rolePeer
		// Its debug port tells the same with and without Prometheus.
		t.heap = heapSource{url: "http://" + debugAddress + "/stats", parse: expvarHeap}
		t.process, err = l.startRatelimit(name, grpcAddress, httpAddress, otherAddress, debugAddress)
	default:
		err = fmt.Errorf("no target is named %q", name)
	}
	if err != nil {
		return nil, err
	}
	if err := t.connect(grpcAddress); err != nil {
		t.stop()
		return nil, err
	}
	if err := t.process.Eventually(ctx, t.ready); err != nil {
		t.stop()
		return nil, err
	}
	return t, nil
}

// ratelimitConfig is the peer's configuration of the same limits.
const ratelimitConfig = `domain: %s
descriptors:
  - key: %s
    rate_limit: {unit: day, requests_per_unit: %d}
  - key: %s
    rate_limit: {unit: day, requests_per_unit: %d}
`

// startRatelimit starts envoyproxy/ratelimit as its README has it for one Redis. Its pipelining option works in cluster
// mode only (driver_impl.go of the pinned version); connections pipeline concurrent calls anyway. With USE_STATSD=false
// alone every check would print a line, which nobody runs: so it has Prometheus metrics like penstockd, or, as
// ratelimit-nostats, none at all.
func (l launcher) startRatelimit(name, grpcAddress, httpAddress, metricsAddress, debugAddress string) (*process.Process, error) {
	root := filepath.Join(l.dir, name)
	folder := filepath.Join(root, "ratelimit", "config")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", name, err)
	}
	config := fmt.Appendf(nil, ratelimitConfig, domain, loadKey, loadLimit, probeKey, probeLimit)
	if err := os.WriteFile(filepath.Join(folder, "bench.yaml"), config, 0o644); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", name, err)
	}
	env := []string{
		"REDIS_TYPE=SINGLE", "REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + l.redis,
		"RUNTIME_ROOT=" + root, "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false",
		"LOG_LEVEL=error", "USE_STATSD=false",
		// The two share a Redis, and must not count each other's requests.
		"CACHE_KEY_PREFIX=" + name + ":",
	}
	if name == "ratelimit" {
		env = append(env, "USE_PROMETHEUS=true", "PROMETHEUS_ADDR="+metricsAddress)
	} else {
		env = append(env, "DISABLE_STATS=true")
	}
	for prefix, address := range map[string]string{"": httpAddress, "GRPC_": grpcAddress, "DEBUG_": debugAddress} {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("configuring %s: %w", name, err)
		}
		env = append(env, prefix+"HOST="+host, prefix+"PORT="+port)
	}
	return process.Start(name, append(env, l.ratelimitEnv...), l.ratelimit)
}

func (t *target) connect(address string) error {
	for range connections {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", t.name, err)
		}
		t.conns = append(t.conns, conn)
		t.clients = append(t.clients, rlsv3.NewRateLimitServiceClient(conn))
	}
	return nil
}

// ready tells whether the target answers by the limits of the bench on every connection.
func (t *target) ready(ctx context.Context) error {
	for _, client := range t.clients {
		response, err := check(ctx, client, requestFor(loadKey, "ready"))
		if err != nil {
			return err
		}
		statuses := response.GetStatuses()
		if len(statuses) != 1 || statuses[0].GetCurrentLimit().GetRequestsPerUnit() != loadLimit {
			return errors.New("it does not know the limits yet")
		}
	}
	return nil
}

// disconnect closes the connections, so that the server need not wait for them.
func (t *target) disconnect() {
	for _, conn := range t.conns {
		_ = conn.Close()
	}
}

func (t *target) stop() {
	t.disconnect()
	t.process.Stop()
}

// freeAddresses gives n different loopback addresses that nobody listens on.
func freeAddresses(n int) ([]string, error) {
	addresses := make([]string, 0, n)
	for len(addresses) < n {
		address, err := process.FreeAddress()
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}
