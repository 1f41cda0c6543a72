package engine_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func perKey(key string, requests int64, onStoreFailure string) policy.RateLimit {
	return policy.RateLimit{
		Name: "shop/" + key, Domain: "shop", OnStoreFailure: onStoreFailure, Descriptors: []policy.Descriptor{{Key: key}},
		Limits: []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: requests, WindowMs: time.Hour.Milliseconds()}},
	}.Sealed()
}

// Requests whose policies count in several slots: what one of them denies is charged to none, also when the server of one
// is gone, and that harms only what counts there.
func TestInAClusterWhatIsDeniedIsChargedNowhere(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	servers := redisopstest.Open(t, redisops.Config{
		Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), CommandTimeout: 5 * time.Second,
	})
	caller := redisops.NewCaller(servers, redisops.CallerOptions{})
	t.Cleanup(caller.Close)
	warming, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := caller.Warm(warming); err != nil {
		t.Fatal(err)
	}
	limiter := limit.New(caller, servers.Client(), library.ModeScripts)
	eng := engine.New(engine.Options{Limiter: limiter, NoDenyCache: true})
	const room = 30
	user, path := perKey("user", 1000, policy.FailureAllow), perKey("path", room, policy.FailureDeny)
	eng.Use(policy.NewSet([]policy.RateLimit{user, path}))

	charge := func(p *policy.RateLimit, value string) limit.Charge {
		key := redisops.CounterKey(p.Name, []redisops.Entry{{Key: p.Descriptors[0].Key, Value: value}})
		return limit.Charge{Policy: p, Key: key, Values: []string{value}}
	}
	used := func(p *policy.RateLimit, value string) int64 {
		t.Helper()
		rows, err := limiter.Peek(t.Context(), []limit.Charge{charge(p, value)})
		if err != nil {
			t.Fatal(err)
		}
		return p.Limits[0].Requests - rows[0].Remaining
	}
	decide := func(values ...string) engine.Result {
		r := engine.NewRequest("shop")
		defer r.Release()
		for i := 0; i < len(values); i += 2 {
			r.Descriptor(1)
			r.Entry(values[i], values[i+1])
		}
		result, err := eng.Decide(context.WithoutCancel(t.Context()), engine.DoorRLS, r)
		if err != nil {
			t.Error(err)
		}
		result.Verdicts = append([]engine.Verdict(nil), result.Verdicts...)
		return result
	}
	// Users whose counters are on other servers than that of the path.
	home := cluster.Primary(charge(&path, "/").Key)
	var users []string
	for i := 0; len(users) < 5; i++ {
		if name := fmt.Sprint("user-", i); cluster.Primary(charge(&user, name).Key) != home {
			users = append(users, name)
		}
	}

	var allowed [5]atomic.Int64
	var running sync.WaitGroup
	for i := range users {
		running.Go(func() {
			for range 20 {
				if decide("user", users[i], "path", "/").Allowed {
					allowed[i].Add(1)
				}
			}
		})
	}
	running.Wait()
	total := int64(0)
	for i, name := range users {
		total += allowed[i].Load()
		if got := used(&user, name); got != allowed[i].Load() {
			t.Errorf("%s is charged %d, for %d requests that were allowed", name, got, allowed[i].Load())
		}
	}
	if got := used(&path, "/"); got != room || total != room {
		t.Errorf("%d allowed, %d charged; want %d", total, got, room)
	}

	home.Kill()
	for range 10 {
		result := decide("user", users[0], "path", "/")
		if v := result.Verdicts[0]; result.Allowed || v.Mode != engine.Enforced {
			t.Errorf("%+v; want it denied for path, and user enforced", result)
		}
		if alone := decide("user", users[1]); !alone.Allowed || alone.Degraded {
			t.Errorf("user alone: %+v, want it enforced", alone)
		}
	}
	if got := used(&user, users[0]); got != allowed[0].Load() {
		t.Errorf("%s is charged %d, want %d as before", users[0], got, allowed[0].Load())
	}
}
