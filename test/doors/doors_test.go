// Package doors tests that every door of penstockd gives the same verdicts, and that all of them spend the same budgets.
package doors

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/client"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/translate"
	"github.com/penstock-dev/penstock/test/daemon"
)

// leastSequences is how many each door is asked.
const leastSequences = 40

// patience is what a client waits for an answer: a machine that is busy with tests is no outage.
const patience = 10 * time.Second

var penstockd daemon.Binary

func TestMain(m *testing.M) {
	os.Exit(daemon.Run(func(b daemon.Binary) int {
		penstockd = b
		return m.Run()
	}))
}

// door is a way to ask.
type door struct {
	ask func(t *testing.T, w *world, q *question) told
	// domain tells that all policies of the domain are asked for together; else the only one is, by its name.
	domain bool
	// costs tells that a caller may say what a request costs, looks that this may be 0.
	costs, looks bool
}

// doors are all there are, under names that can be a part of a namespace.
var doors = map[string]door{
	"rls":                {ask: askRLS, domain: true, costs: true, looks: true},
	"json":               {ask: askJSON, domain: true, costs: true, looks: true},
	"extauthz-policy":    {ask: askExtAuthzPolicy},
	"extauthz-domain":    {ask: askExtAuthzDomain, domain: true},
	"extauthz-metadata":  {ask: askExtAuthzMetadata, domain: true},
	"auth-policy":        {ask: askAuthPolicy},
	"auth-domain":        {ask: askAuthDomain, domain: true},
	"auth-domain-header": {ask: askAuthDomainHeader, domain: true},
	"auth-nginx-policy":  {ask: askAuthNginxPolicy},
	"auth-nginx-domain":  {ask: askAuthNginxDomain, domain: true},
	"auth-envoy":         {ask: askAuthEnvoy},
	"api-json":           {ask: askAPIJSON, costs: true, looks: true},
	"api-connect":        {ask: askAPIConnect, costs: true, looks: true},
	"api-grpc":           {ask: askAPIGRPC, costs: true, looks: true},
	"api-grpc-web":       {ask: askAPIGRPCWeb, costs: true, looks: true},
	"client-remote":      {ask: askRemote, costs: true},
	"client-direct":      {ask: askDirect, costs: true},
	"middleware-remote":  {ask: askMiddlewareRemote, costs: true},
	"middleware-direct":  {ask: askMiddlewareDirect, costs: true},
	functionsDoor:        {ask: askFunctions, domain: true, costs: true, looks: true},
}

// functionsDoor is no door of penstockd: it is who calls the function library.
const functionsDoor = "functions"

// world is a penstockd and whoever asks it, on a Redis.
type world struct {
	// remembers tells that what was denied a moment ago is denied without asking Redis.
	remembers bool
	// cached counts the verdicts that were.
	cached  atomic.Int64
	process *daemon.Process
	redis   *redis.Client
	http    *http.Client
	grpc    *grpc.ClientConn
	// onHTTP is gRPC at the port of HTTP.
	onHTTP *grpc.ClientConn
	remote *client.Remote
	direct *client.Direct
}

func start(t *testing.T, server *redistest.Server, remembers bool) *world {
	t.Helper()
	w := &world{
		remembers: remembers, redis: server.Client(), http: &http.Client{Timeout: patience},
		process: penstockd.Start(t, server, "--trusted-proxies", "127.0.0.1/32", fmt.Sprintf("--deny-cache=%t", remembers)),
	}
	w.grpc, w.onHTTP = dial(t, w.process.GRPC), dial(t, w.process.HTTP)
	quiet := slog.New(slog.DiscardHandler)
	var err error
	if w.remote, err = client.New("http://"+w.process.HTTP, client.Options{Timeout: patience, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	w.direct, err = client.NewDirect(t.Context(), client.DirectOptions{
		Redis: "redis://" + server.Addr, CommandTimeout: patience, NoDenyCache: !remembers, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.http.CloseIdleConnections()
		_, _ = w.remote.Close(), w.direct.Close()
	})
	return w
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// compile compiles the policies, each the YAML of a spec by its name, as objects of the namespace, sorted by name. $namespace
// in a spec is that.
func compile(t *testing.T, namespace string, specs map[string]string) []policy.RateLimit {
	t.Helper()
	var policies []policy.RateLimit
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		rl := v1.RateLimit{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		text := os.Expand(specs[name], func(variable string) string { return map[string]string{"namespace": namespace}[variable] })
		if err := yaml.UnmarshalStrict([]byte(text), &rl.Spec); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		compiled, errs := translate.RateLimit(&rl)
		if len(errs) > 0 {
			t.Fatalf("%s: %v", name, errs.ToAggregate())
		}
		policies = append(policies, compiled)
	}
	return policies
}

// asked is a sequence for one door. Its policies are in a namespace of their own, so that each door begins anew.
type asked struct {
	name     string
	policies []policy.RateLimit
	steps    []step
}

// assemble gives the sequences for each door of each world.
func assemble(t *testing.T, worlds []string) (byWorld map[string]map[string][]asked, all []policy.RateLimit) {
	t.Helper()
	byWorld = map[string]map[string][]asked{}
	for _, in := range worlds {
		byWorld[in] = map[string][]asked{}
		for at, d := range doors {
			for i, name := range slices.Sorted(maps.Keys(sequences)) {
				s := sequences[name]
				a := asked{name: name, policies: compile(t, fmt.Sprintf("%s-%s-%d", in, at, i), s.policies)}
				a.steps = parse(t, name, s.steps, a.policies)
				if d.fits(&a) {
					byWorld[in][at] = append(byWorld[in][at], a)
					all = append(all, a.policies...)
				}
			}
		}
	}
	return byWorld, all
}

// fits tells whether all of the sequence can be asked at the door.
func (d *door) fits(a *asked) bool {
	if len(a.policies) > 1 && !d.domain {
		return false
	}
	for _, s := range a.steps {
		if s.cost > 0 && !d.costs || s.cost == 0 && !d.looks {
			return false
		}
	}
	return true
}

// The heart of "one engine behind every door": what a user has written gets the same verdicts wherever somebody asks.
func TestEverySequenceGetsTheSameVerdictsAtEveryDoor(t *testing.T) {
	remembers := map[string]bool{"asking": false, "remembering": true}
	byWorld, all := assemble(t, slices.Collect(maps.Keys(remembers)))
	server := daemon.Publish(t, all...)
	for in, byDoor := range byWorld {
		t.Run(in, func(t *testing.T) {
			w := start(t, server, remembers[in])
			// Not by t.Parallel, which has as many run as there are cores: some of them wait.
			var together sync.WaitGroup
			for at, list := range byDoor {
				together.Go(func() {
					t.Run(at, func(t *testing.T) {
						if len(list) < leastSequences {
							t.Errorf("%d sequences, want at least %d", len(list), leastSequences)
						}
						for i := range list {
							t.Run(list[i].name, func(t *testing.T) { run(t, w, at, &list[i]) })
						}
					})
				})
			}
			together.Wait()
			if (w.cached.Load() > 0) != w.remembers {
				t.Errorf("%d denials were remembered", w.cached.Load())
			}
		})
	}
}

// run asks the door the steps of a sequence, one after the other.
func run(t *testing.T, w *world, at string, a *asked) {
	needsDoor := slices.ContainsFunc(a.policies, func(p policy.RateLimit) bool { return p.NeedsDoor() })
	var last told
	for i := range a.steps {
		s := &a.steps[i]
		if s.wait {
			if last.retry <= 0 {
				t.Fatalf("step %d waits, and the door has not told how long", i+1)
			}
			time.Sleep(last.retry)
			continue
		}
		q := &question{policies: a.policies, subject: s.subject, cost: s.cost}
		last = doors[at].ask(t, w, q)
		if last.mode == "cached" {
			w.cached.Add(1)
		}
		if at == functionsDoor && needsDoor {
			if last.failure != "PENSTOCK_NEEDS_DOOR" {
				t.Errorf("step %d (%s): got %q, want PENSTOCK_NEEDS_DOOR, since only penstockd evaluates expressions", i+1, s.text, last.failure)
			}
			continue
		}
		for _, problem := range s.want.compare(&last, q, w.remembers) {
			t.Errorf("step %d (%s): %s", i+1, s.text, problem)
		}
		if t.Failed() {
			return // what follows depends on it
		}
	}
}
