// Package hostile attacks the built penstockd over the network, on every port. Of each attack it tests that the attacker is cut
// off or bounded as docs/faults.md says, that another caller is answered correctly all the while, and that what the attack had
// taken is given back.
package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/test/daemon"
)

// What every test here allows for.
const (
	// slack is what a busy machine may add to a timeout of penstockd.
	slack = 6 * time.Second
	// patience bounds an answer to the neighbour.
	patience = 5 * time.Second
	// goroutinesLeft and heapLeft are by how much what penstockd has after an attack may differ from before it: pools fill.
	goroutinesLeft = 30
	heapLeft       = 8 << 20
	// peak bounds the memory that the process ever had. Idle it has some 50 MiB.
	peak = 400 << 20
)

// Timeouts of penstockd: internal/service/http.go and grpc.go.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	pingTimeout   = 40 * time.Second
)

var penstockd daemon.Binary

func TestMain(m *testing.M) {
	os.Exit(daemon.Run(func(b daemon.Binary) int {
		penstockd = b
		return m.Run()
	}))
}

// budget is what the neighbour may spend at each door: more than it can.
const budget = 1_000_000

// publish starts a Redis with the neighbour's policies and one that attackers ask for.
func publish(t *testing.T) *redistest.Server {
	t.Helper()
	balance := func(name, key string, requests int64) policy.RateLimit {
		return policy.RateLimit{
			Name: name, Domain: "shop", OnStoreFailure: policy.FailureDeny, Descriptors: []policy.Descriptor{{Key: key}},
			Limits: []policy.Limit{{Name: "default", Algorithm: policy.Balance, Requests: requests}},
		}
	}
	return daemon.Publish(t, balance("shop/neighbour", "door", budget), balance("shop/door", "header.door", budget),
		balance("shop/spent", "header.spent", 1), balance("shop/crowd", "header.crowd", budget))
}

// victim is a penstockd that is attacked, and the neighbour beside the attacker.
type victim struct {
	*daemon.Process
	t          *testing.T
	tls        *tls.Config // nil is without
	http       *http.Client
	goroutines int
	heap       int
}

// start starts penstockd and lets the neighbour ask until the test ends; then it looks whether all was given back.
func start(t *testing.T, flags ...string) *victim {
	t.Helper()
	return startTLS(t, nil, flags...)
}

func startTLS(t *testing.T, config *tls.Config, flags ...string) *victim {
	t.Helper()
	process := penstockd.Start(t, publish(t), append([]string{"--pprof"}, flags...)...)
	v := &victim{Process: process, t: t, tls: config}
	v.http = &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 16}, Timeout: patience}
	t.Cleanup(v.http.CloseIdleConnections)
	stop := v.neighbour()
	v.goroutines, v.heap = v.resources()
	t.Cleanup(func() {
		v.settles()
		stop()
	})
	return v
}

// url gives the address of a path of the port.
func (v *victim) url(address, path string) string {
	if v.tls != nil {
		return "https://" + address + path
	}
	return "http://" + address + path
}

// neighbour asks every door, again and again, until the function is called that it gives. Each door has a budget of its own of
// which only the neighbour spends, so a correct answer has exactly one less than the answer before.
func (v *victim) neighbour() func() {
	transport := insecure.NewCredentials()
	if v.tls != nil {
		transport = credentials.NewTLS(v.tls)
	}
	connection, err := grpc.NewClient(v.GRPC, grpc.WithTransportCredentials(transport))
	if err != nil {
		v.t.Fatal(err)
	}
	envoy := ratelimitv3.NewRateLimitServiceClient(connection)
	if _, err := v.forwardAuth("/auth/shop/spent", "spent", http.StatusOK); err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for name, ask := range map[string]func() (int64, error){
		"forward-auth":   func() (int64, error) { return v.forwardAuth("/auth/shop/door", "door", http.StatusOK) },
		"LimiterService": v.limiterService,
		"RLS":            func() (int64, error) { return rateLimit(envoy) },
		"a denial": func() (int64, error) {
			_, err := v.forwardAuth("/auth/shop/spent", "spent", http.StatusTooManyRequests)
			return 0, err
		},
	} {
		var answers atomic.Int64
		began := make(chan struct{})
		all.Go(func() {
			defer func() {
				if n := answers.Load(); n < 10 {
					v.t.Errorf("the neighbour got %d answers of %s: nothing was tried", n, name)
				}
			}()
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for {
				remaining, err := ask()
				n := answers.Add(1)
				if err != nil || (remaining != 0 && remaining != budget-n) {
					v.t.Errorf("the neighbour's question %d of %s: %d are left, %v; want %d", n, name, remaining, err, budget-n)
					return
				}
				if n == 10 {
					close(began)
				}
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
			}
		})
		select {
		case <-began:
		case <-time.After(2 * patience):
			v.t.Errorf("the neighbour is not answered by %s", name)
		}
	}
	return func() {
		cancel()
		all.Wait()
		_ = connection.Close()
	}
}

var remains = regexp.MustCompile(`;r=(\d+)`)

// forwardAuth asks about a request with that header and gives what is left.
func (v *victim) forwardAuth(path, header string, want int) (int64, error) {
	request, err := http.NewRequest(http.MethodGet, v.url(v.HTTP, path), nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set(header, "of the neighbour")
	response, err := v.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	left := remains.FindStringSubmatch(response.Header.Get("RateLimit"))
	if response.StatusCode != want || left == nil {
		return 0, fmt.Errorf("%s with RateLimit %q, want the status %d", response.Status, response.Header.Get("RateLimit"), want)
	}
	return strconv.ParseInt(left[1], 10, 64)
}

func (v *victim) limiterService() (int64, error) {
	const request = `{"namespace":"shop","policy":"neighbour","subject":{"door":"LimiterService"}}`
	response, err := v.http.Post(v.url(v.HTTP, "/penstock.v1.LimiterService/Check"), "application/json", strings.NewReader(request))
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Allowed   bool
		Remaining int64 `json:",string"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || !answer.Allowed {
		return 0, fmt.Errorf("%s, %+v: %w", response.Status, answer, err)
	}
	return answer.Remaining, nil
}

func rateLimit(envoy ratelimitv3.RateLimitServiceClient) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := envoy.ShouldRateLimit(ctx, rlsRequest("door", "RLS"))
	if err != nil {
		return 0, err
	}
	if answer.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || len(answer.GetStatuses()) != 1 {
		return 0, fmt.Errorf("answered %v", answer)
	}
	return int64(answer.GetStatuses()[0].GetLimitRemaining()), nil
}

func rlsRequest(key, value string) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: "shop", Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{
		{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: key, Value: value}}},
	}}
}

// metrics gives the metrics, after a collection of garbage.
func (v *victim) metrics() []byte {
	var page []byte
	for _, path := range []string{"/debug/pprof/heap?gc=1", "/metrics"} {
		response, err := v.http.Get(v.url(v.Metrics, path))
		if err != nil {
			v.t.Errorf("reading %s: %v", path, err)
			return nil
		}
		page, err = io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			v.t.Errorf("reading %s: %s, %v", path, response.Status, err)
			return nil
		}
	}
	return page
}

// resources gives how many goroutines and how many bytes in use penstockd has.
func (v *victim) resources() (goroutines, heap int) {
	page := v.metrics()
	return gauge(page, "go_goroutines"), gauge(page, "go_memstats_heap_alloc_bytes")
}

func gauge(page []byte, name string) int {
	for line := range bytes.Lines(page) {
		if value, found := strings.CutPrefix(string(line), name+" "); found {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return -1
			}
			return int(number)
		}
	}
	return -1
}

// settles waits until the attack has left nothing behind, and looks how large the process ever was.
func (v *victim) settles() {
	var goroutines, heap int
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		goroutines, heap = v.resources()
		if goroutines <= v.goroutines+goroutinesLeft && heap <= v.heap+heapLeft {
			break
		}
	}
	if goroutines > v.goroutines+goroutinesLeft || heap > v.heap+heapLeft {
		v.t.Errorf("%d goroutines and %d bytes are left of the attack, from %d and %d before", goroutines, heap, v.goroutines, v.heap)
	}
	if page := v.metrics(); gauge(page, "penstock_panics_total") != 0 {
		v.t.Error("a request met a panic")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.PID))
	if err != nil {
		v.t.Fatal(err)
	}
	var kilobytes int
	if match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); match != nil {
		kilobytes, _ = strconv.Atoi(string(match[1]))
	}
	if kilobytes == 0 || kilobytes<<10 > peak {
		v.t.Errorf("the process had up to %d KiB, want at most %d", kilobytes, peak>>10)
	}
}
