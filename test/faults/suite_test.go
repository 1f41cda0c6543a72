// Package faults breaks real Redis servers under the built penstockd, and asks its doors what docs/faults.md says of that: who
// is answered how, what metrics, readiness and log tell, and that all is well again afterwards without a restart.
package faults

import (
	"bytes"
	"context"
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
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/test/daemon"
)

const (
	// patience bounds what has to happen: the machine may be busy.
	patience = 40 * time.Second
	// prompt bounds the answer to one question, whatever is wrong with Redis. Where nothing else is said, penstockd waits for 1 s.
	prompt = 8 * time.Second
)

// What penstockd logs.
const (
	givenUp      = "Redis does not serve decisions: they are answered without it"
	servesAgain  = "Redis serves decisions again"
	noAnswer     = "redis does not answer; the onStoreFailure of each policy decides"
	answersAgain = "redis answers again; policies are enforced"
)

var penstockd daemon.Binary

func TestMain(m *testing.M) {
	os.Exit(daemon.Run(func(b daemon.Binary) int {
		penstockd = b
		return m.Run()
	}))
}

// What the policies give each subject, and how many slots there are.
const (
	budget = 100_000
	shared = 10
	slots  = 5
)

// policies are one of each onStoreFailure, named as the descriptor that they are about, and one of slots.
func policies() []policy.RateLimit {
	windowed := func(name, onStoreFailure string, requests int64) policy.RateLimit {
		return policy.RateLimit{
			Name: "shop/" + name, Domain: "shop", OnStoreFailure: onStoreFailure, Descriptors: []policy.Descriptor{{Key: name}},
			Limits: []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: requests, WindowMs: policy.MaxWindow.Milliseconds()}},
		}
	}
	return []policy.RateLimit{
		windowed("open", policy.FailureAllow, budget),
		windowed("shut", policy.FailureDeny, budget),
		windowed("share", policy.FailureLocalShare, shared),
		{
			Name: "shop/slots", Domain: "shop", OnStoreFailure: policy.FailureDeny, Descriptors: []policy.Descriptor{{Key: "slots"}},
			Limits: []policy.Limit{{Name: "default", Algorithm: policy.Concurrency, Requests: slots, SlotTTLMs: time.Hour.Milliseconds()}},
		},
	}
}

// publish starts a server with the policies.
func publish(t *testing.T, options ...string) *redistest.Server {
	t.Helper()
	server := redistest.Start(t, options...)
	republish(t, server)
	return server
}

func republish(t *testing.T, server *redistest.Server) {
	t.Helper()
	daemon.PublishTo(t, redisopstest.At(t, server.Addr), policies()...)
}

// replica is a penstockd that is asked.
type replica struct {
	*daemon.Process
	t     *testing.T
	envoy ratelimitv3.RateLimitServiceClient
}

// launch starts penstockd, ready or not.
func launch(t *testing.T, flags ...string) *replica {
	t.Helper()
	r := &replica{
		Process: penstockd.Launch(t, append([]string{"--replica", "one", "--deny-cache=false", "--command-timeout", "1s"}, flags...)...), t: t,
	}
	connection, err := grpc.NewClient(r.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	r.envoy = ratelimitv3.NewRateLimitServiceClient(connection)
	return r
}

// start starts penstockd for what listens at the address, and waits until Redis has decided.
func start(t *testing.T, address string, flags ...string) *replica {
	t.Helper()
	r := launch(t, append([]string{"--redis", "redis://" + address}, flags...)...)
	r.AwaitLog(t, "ready")
	r.decides("start")
	return r
}

// answer is that of the Rate Limit Service.
type answer struct {
	allowed, degraded bool
	remaining         []int64 // of each descriptor
}

// entry is a descriptor of one entry.
type entry struct{ key, value string }

// try asks the Rate Limit Service about one request.
func (r *replica) try(descriptors ...entry) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request := &ratelimitv3.RateLimitRequest{Domain: "shop"}
	for _, d := range descriptors {
		request.Descriptors = append(request.Descriptors, &ratelimitcommonv3.RateLimitDescriptor{
			Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: d.key, Value: d.value}},
		})
	}
	begin := time.Now()
	response, err := r.envoy.ShouldRateLimit(ctx, request)
	if took := time.Since(begin); took > prompt {
		r.t.Errorf("%v was answered after %v (%v), want at most %v", descriptors, took, err, prompt)
	}
	if err != nil {
		return answer{}, err
	}
	a := answer{allowed: response.GetOverallCode() == ratelimitv3.RateLimitResponse_OK}
	for _, status := range response.GetStatuses() {
		a.remaining = append(a.remaining, int64(status.GetLimitRemaining()))
	}
	for _, header := range response.GetResponseHeadersToAdd() {
		a.degraded = a.degraded || header.GetKey() == "x-penstock-degraded" && header.GetValue() == "store"
	}
	return a, nil
}

// ask is try of one descriptor, which must be answered.
func (r *replica) ask(key, value string) answer {
	r.t.Helper()
	a, err := r.try(entry{key, value})
	if err != nil {
		r.t.Fatalf("asking about %s: %v", key, err)
	}
	return a
}

// byMode wants each policy to decide as its onStoreFailure says, and the answers to say so.
func (r *replica) byMode() {
	r.t.Helper()
	for _, key := range []string{"open", "shut"} {
		if a := r.ask(key, "by mode"); !a.degraded || a.allowed != (key == "open") {
			r.t.Errorf("%s: %+v, want degraded, and allowed by the policy that is open only", key, a)
		}
	}
}

// decides waits until Redis decides about that subject.
func (r *replica) decides(subject string) {
	r.t.Helper()
	eventually(r.t, "Redis decides", func() bool {
		a, err := r.try(entry{"shut", subject})
		return err == nil && !a.degraded && a.allowed
	})
}

// degrades waits until onStoreFailure decides.
func (r *replica) degrades() {
	r.t.Helper()
	eventually(r.t, "onStoreFailure decides", func() bool { return r.ask("open", "degrades").degraded })
}

// spent is how much of the policy's budget the subject has used, by a look.
func (r *replica) spent(key, value string) int64 {
	r.t.Helper()
	status, body := r.call("Peek", key, map[string]any{"subject": map[string]string{key: value}, "cost": "0"})
	if status != http.StatusOK || body["mode"] == "MODE_DEGRADED" {
		r.t.Fatalf("looking at %s: %d %v", key, status, body)
	}
	return number(body["limit"]) - number(body["remaining"])
}

func number(value any) int64 {
	text, _ := value.(string) // of ProtoJSON
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// call calls LimiterService.
func (r *replica) call(method, policyName string, fields map[string]any) (int, map[string]any) {
	r.t.Helper()
	fields["namespace"], fields["policy"] = "shop", policyName
	request, err := json.Marshal(fields)
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := http.Post("http://"+r.HTTP+"/penstock.v1.LimiterService/"+method, "application/json", bytes.NewReader(request))
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var body map[string]any
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		r.t.Fatalf("%s: %s: %v", method, response.Status, err)
	}
	return response.StatusCode, body
}

// get reads a page of the port of metrics.
func (r *replica) get(path string) (int, string) {
	r.t.Helper()
	response, err := http.Get("http://" + r.Metrics + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// metric is the sum of all series that begin with that name and these labels.
func (r *replica) metric(series string) float64 {
	r.t.Helper()
	_, page := r.get("/metrics")
	sum := 0.0
	for line := range strings.Lines(page) {
		name, value, found := cutLast(strings.TrimSpace(line))
		if found && (name == series || strings.HasPrefix(name, series+"{") || strings.HasPrefix(name, series+",")) {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				r.t.Fatalf("%q: %v", line, err)
			}
			sum += n
		}
	}
	return sum
}

func cutLast(line string) (before, after string, found bool) {
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return "", "", false
	}
	return line[:at], line[at+1:], true
}

// breakers is how many servers are given up now.
func (r *replica) breakers() float64 { return r.metric("penstock_redis_breaker_state") }

// opened is how often servers were given up.
func (r *replica) opened() float64 { return r.metric("penstock_redis_breaker_opened_total") }

// load asks about both policies, again and again from several sides, until the function is called that it gives, which gives
// how many questions were asked. All are answered: by Redis, or as onStoreFailure says.
func (r *replica) load(sides int) func() int {
	var asked atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range sides {
		all.Go(func() {
			for ctx.Err() == nil {
				for _, key := range []string{"open", "shut"} {
					a, err := r.try(entry{key, "load"})
					asked.Add(1)
					if err != nil || a.allowed != (key == "open" || !a.degraded) {
						r.t.Errorf("%s under load: %+v, %v; want an answer of Redis or of onStoreFailure", key, a, err)
						return
					}
				}
			}
		})
	}
	return func() int {
		cancel()
		all.Wait()
		return int(asked.Load())
	}
}

// healthy wants that nothing is said to be wrong any more; penstock_degraded follows 5 s later, for which one test waits.
func (r *replica) healthy() {
	r.t.Helper()
	eventually(r.t, "nothing is said to be wrong", func() bool {
		status, body := r.get("/readyz")
		return status == http.StatusOK && body == "ok\n" && r.breakers() == 0
	})
	if panics := r.metric("penstock_panics_total"); panics != 0 {
		r.t.Errorf("%v panics", panics)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// stat is a number that a server tells of itself, as INFO names it; 0 where it does not.
func stat(t *testing.T, server *redistest.Server, section, field string) int {
	t.Helper()
	info, _ := server.Do("INFO", section).(string)
	match := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(field) + `(\d+)`).FindStringSubmatch(info)
	if match == nil {
		return 0
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// decisions is how many decisions were sent to the server.
func decisions(t *testing.T, server *redistest.Server) int {
	t.Helper()
	return stat(t, server, "commandstats", "cmdstat_fcall:calls=")
}

// keys are those with state of subjects.
func keys(t *testing.T, server *redistest.Server) []string {
	t.Helper()
	found, err := server.Client().Keys(t.Context(), "rl:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// subject names subjects.
func subject(i int) string { return fmt.Sprintf("subject %d", i) }
