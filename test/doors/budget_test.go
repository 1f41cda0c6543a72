package doors

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/client"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
	"github.com/penstock-dev/penstock/test/daemon"
)

// algorithms are those of a limit of 60 that all doors spend from. No window begins while a test runs, and no token comes back.
var algorithms = map[string]string{
	"sliding-log":     "[{requests: 60, window: 1h}]",
	"sliding-counter": "[{requests: 60, window: 744h, algorithm: SlidingCounter}]",
	"fixed-window":    "[{requests: 60, window: 744h, algorithm: FixedWindow}]",
	"token-bucket":    "[{requests: 60, window: 744h, algorithm: TokenBucket}]",
	"balance":         "[{requests: 60, algorithm: Balance}]",
}

const budget = 60

// ofBob is a request of the user bob to the policies.
func ofBob(policies []policy.RateLimit) *question {
	return &question{policies: policies, subject: []redisops.Entry{{Key: "header.user", Value: "bob"}}, cost: unsaid}
}

// startWith publishes the policies of each namespace, and starts a penstockd that remembers no denials.
func startWith(t *testing.T, specs map[string]map[string]string) (*world, map[string][]policy.RateLimit) {
	t.Helper()
	byNamespace := map[string][]policy.RateLimit{}
	var all []policy.RateLimit
	for namespace, s := range specs {
		byNamespace[namespace] = compile(t, namespace, s)
		all = append(all, byNamespace[namespace]...)
	}
	return start(t, daemon.Publish(t, all...), false), byNamespace
}

func ofAlgorithms() map[string]map[string]string {
	specs := map[string]map[string]string{}
	for name, limits := range algorithms {
		specs[name] = perUser(limits)
	}
	return specs
}

func TestEachDoorTellsWhatTheOthersHaveLeft(t *testing.T) {
	w, byNamespace := startWith(t, ofAlgorithms())
	names := slices.Sorted(maps.Keys(doors))
	for name, policies := range byNamespace {
		t.Run(name, func(t *testing.T) {
			q := ofBob(policies)
			for spent := range int64(budget) {
				at := names[int(spent)%len(names)]
				got := doors[at].ask(t, w, q)
				left := want{outcome: "allowed", figures: true, limit: budget, remaining: budget - spent - 1, of: "api"}
				for _, problem := range left.compare(&got, q, false) {
					t.Fatalf("request %d, at %s: %s", spent+1, at, problem)
				}
			}
			for _, at := range names {
				if got := doors[at].ask(t, w, q); got.allowed || got.failure != "" || got.refused {
					t.Errorf("%s, after all is spent: %+v", at, got)
				}
			}
		})
	}
}

func TestAllDoorsAtOnceLetNoMoreThanTheLimitPass(t *testing.T) {
	w, byNamespace := startWith(t, ofAlgorithms())
	for name, policies := range byNamespace {
		t.Run(name, func(t *testing.T) {
			var passed atomic.Int64
			var all sync.WaitGroup
			for at, d := range doors {
				all.Go(func() {
					for range 2 * budget / len(doors) {
						got := d.ask(t, w, ofBob(policies))
						if got.failure != "" || got.refused {
							t.Errorf("%s: %+v", at, got)
						}
						if got.allowed {
							passed.Add(1)
						}
					}
				})
			}
			all.Wait()
			if n := passed.Load(); n != budget {
				t.Errorf("%d passed, want %d", n, budget)
			}
		})
	}
}

// givers give one request back.
var givers = map[string]func(t *testing.T, w *world, q *question) error{
	"rls": func(t *testing.T, w *world, q *question) error {
		r := rateLimitRequest(q)
		r.GetDescriptors()[0].IsNegativeHits = true
		_, err := ratelimitv3.NewRateLimitServiceClient(w.grpc).ShouldRateLimit(t.Context(), r)
		return err
	},
	"api": func(t *testing.T, w *world, q *question) error {
		of := checkRequest(q)
		service := penstockv1connect.NewLimiterServiceClient(w.http, "http://"+w.process.HTTP, connect.WithProtoJSON())
		_, err := service.Refund(t.Context(), &penstockv1.RefundRequest{Namespace: of.GetNamespace(), Policy: of.GetPolicy(), Subject: of.GetSubject()})
		return err
	},
	"client-remote": func(t *testing.T, w *world, q *question) error {
		_, err := w.remote.Refund(t.Context(), client.Request{Policy: q.policy(), Subject: q.attributes()})
		return err
	},
	"client-direct": func(t *testing.T, w *world, q *question) error {
		_, err := w.direct.Refund(t.Context(), client.Request{Policy: q.policy(), Subject: q.attributes()})
		return err
	},
	functionsDoor: func(t *testing.T, w *world, q *question) error {
		key := redisops.CounterKey(q.policy(), q.subject)
		return w.redis.Do(t.Context(), "FCALL", "penstock_limit_refund", 1, key, q.policy(), "", "", q.subject[0].Value).Err()
	},
}

func TestWhatOneDoorGivesBackMayBeSpentAtAnother(t *testing.T) {
	w, byNamespace := startWith(t, ofAlgorithms())
	for name, policies := range byNamespace {
		t.Run(name, func(t *testing.T) {
			q := ofBob(policies)
			spendAll := *q
			spendAll.cost = budget
			if got := askRLS(t, w, &spendAll); !got.allowed {
				t.Fatalf("%+v", got)
			}
			for from, give := range givers {
				for at, d := range doors {
					if got := d.ask(t, w, q); got.allowed {
						t.Fatalf("%s lets pass what nobody has given back", at)
					}
					if err := give(t, w, q); err != nil {
						t.Fatalf("given back at %s: %v", from, err)
					}
					if got := d.ask(t, w, q); !got.allowed {
						t.Errorf("%s does not let pass what was given back at %s: %+v", at, from, got)
					}
				}
			}
		})
	}
}

// creditors add one to a balance.
var creditors = map[string]func(t *testing.T, w *world, q *question) error{
	"api": func(t *testing.T, w *world, q *question) error {
		of := checkRequest(q)
		service := penstockv1connect.NewLimiterServiceClient(w.http, "http://"+w.process.HTTP)
		_, err := service.Credit(t.Context(), &penstockv1.CreditRequest{
			Namespace: of.GetNamespace(), Policy: of.GetPolicy(), Subject: of.GetSubject(), Amount: 1,
		})
		return err
	},
	"client-remote": func(t *testing.T, w *world, q *question) error {
		_, err := w.remote.Credit(t.Context(), client.Request{Policy: q.policy(), Subject: q.attributes(), Cost: 1})
		return err
	},
	"client-direct": func(t *testing.T, w *world, q *question) error {
		_, err := w.direct.Credit(t.Context(), client.Request{Policy: q.policy(), Subject: q.attributes(), Cost: 1})
		return err
	},
	functionsDoor: func(t *testing.T, w *world, q *question) error {
		key := redisops.CounterKey(q.policy(), q.subject)
		return w.redis.Do(t.Context(), "FCALL", "penstock_limit_credit", 1, key, q.policy(), 1, "", q.subject[0].Value).Err()
	},
}

func TestWhatIsCreditedMayBeSpentAtEveryDoor(t *testing.T) {
	w, byNamespace := startWith(t, map[string]map[string]string{"shop": perUser("[{requests: 0, algorithm: Balance}]")})
	q := ofBob(byNamespace["shop"])
	for from, credit := range creditors {
		for at, d := range doors {
			if got := d.ask(t, w, q); got.allowed {
				t.Fatalf("%s lets pass what nobody has credited", at)
			}
			if err := credit(t, w, q); err != nil {
				t.Fatalf("credited at %s: %v", from, err)
			}
			if got := d.ask(t, w, q); !got.allowed {
				t.Errorf("%s does not let pass what was credited at %s: %+v", at, from, got)
			}
		}
	}
}

// slotPolicy counts what is under way.
var slotPolicy = perUser("[{requests: 6, algorithm: Concurrency}]")

// No door of a proxy could tell when a request ends: what it says of a policy that counts what is under way.
func TestNoDoorTakesSlotsThatItCannotRelease(t *testing.T) {
	w, byNamespace := startWith(t, map[string]map[string]string{"shop": slotPolicy})
	q := ofBob(byNamespace["shop"])
	for at, want := range map[string]struct {
		allowed bool
		status  int
		failure string
	}{
		// It is none of the policies that a domain applies.
		"rls": {allowed: true}, "json": {allowed: true}, "extauthz-domain": {allowed: true}, "extauthz-metadata": {allowed: true},
		"auth-domain": {allowed: true, status: 200}, "auth-domain-header": {allowed: true, status: 200}, "auth-nginx-domain": {allowed: true, status: 200},
		// Whoever asks for it by its name hears what to use.
		"extauthz-policy": {failure: "FailedPrecondition"}, "auth-policy": {status: 409}, "auth-nginx-policy": {status: 409}, "auth-envoy": {status: 409},
		"api-json": {failure: "failed_precondition"}, "api-connect": {failure: "failed_precondition"},
		"api-grpc": {failure: "FailedPrecondition"}, "api-grpc-web": {failure: "failed_precondition"},
		"client-remote": {failure: client.ErrWrongOperation.Error()}, "client-direct": {failure: client.ErrWrongOperation.Error()},
		"middleware-remote": {status: 500}, "middleware-direct": {status: 500},
		functionsDoor: {failure: "PENSTOCK_BADARG"},
	} {
		got := doors[at].ask(t, w, q)
		if got.allowed != want.allowed || got.status != want.status || !strings.Contains(got.failure, want.failure) || (got.failure == "") != (want.failure == "") {
			t.Errorf("%s: allowed %t, status %d, failure %q; want %+v", at, got.allowed, got.status, got.failure, want)
		}
	}
}
