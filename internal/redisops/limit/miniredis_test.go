package limit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// The embedded server of the quick start runs the same scripts, on another Lua.
func TestTheEmbeddedServerDecidesAlike(t *testing.T) {
	tests := map[string]struct {
		limits []policy.Limit
		steps  []step
	}{
		"fixed window": {[]policy.Limit{fixedWindow(3, time.Minute)}, []step{
			{cost: 2, want: "allow 1/3 reset 1m0s"},
			{cost: 2, peek: true, want: "deny 1/3 reset 1m0s retry 1m0s"},
			{at: time.Second, cost: 2, want: "deny 1/3 reset 59s retry 59s"},
			{at: time.Minute, cost: 3, want: "allow 0/3 reset 1m0s"},
		}},
		"the largest integers": {[]policy.Limit{fixedWindow(maxInteger, time.Minute)}, []step{
			{cost: maxInteger - 1, want: "allow 1/9007199254740991 reset 1m0s"},
			{cost: 2, want: "deny 1/9007199254740991 reset 1m0s retry 1m0s"},
			{cost: 1, want: "allow 0/9007199254740991 reset 1m0s"},
		}},
		"sliding log": {[]policy.Limit{slidingLog(1000, time.Minute)}, []step{
			{cost: 600, want: "allow 400/1000 reset 1m0s"},
			{at: time.Second, cost: 400, want: "allow 0/1000 reset 1m0s"},
			{at: 2 * time.Second, cost: 700, want: "deny 0/1000 reset 59s retry 59s"},
			{at: 2 * time.Second, cost: 600, want: "deny 0/1000 reset 59s retry 58s"},
			{at: time.Minute, cost: 600, want: "allow 0/1000 reset 1m0s"},
			{at: 0, cost: 1, want: "deny 0/1000 reset 1m0s retry 1m0s"},
			{at: time.Minute, cost: 1000, want: "allow 0/1000 reset 1m0s"},
		}},
		"token bucket": {[]policy.Limit{tokenBucket(60, time.Minute, 3)}, []step{
			{cost: 3, want: "allow 0/3 reset 3s"},
			{at: time.Second, cost: 2, want: "deny 1/3 reset 2s retry 1s"},
			{at: 2 * time.Second, cost: 2, want: "allow 0/3 reset 3s"},
		}},
		"sliding counter": {[]policy.Limit{slidingCounter(10, time.Minute)}, []step{
			{cost: 10, want: "allow 0/10 reset 2m0s"},
			{at: time.Minute, cost: 1, want: "deny 0/10 reset 1m0s retry 6.001s"},
			{at: 90 * time.Second, cost: 5, want: "allow 0/10 reset 1m30s"},
		}},
		"the most of a counter": {[]policy.Limit{slidingCounter(policy.MaxSlidingCounterRequests, 744*time.Hour)}, []step{
			{cost: 1 << 33, want: "allow 0/8589934592 reset 1456h0m0s"},
			{cost: 1, want: "deny 0/8589934592 reset 1456h0m0s retry 712h0m2.555s"},
		}},
		"a month": {[]policy.Limit{calendarLimit(policy.CalendarMonth, "Europe/Berlin")}, []step{
			{cost: 4, want: "allow 1/5 reset 399h0m0s"},
			{at: 400 * time.Hour, cost: 4, want: "allow 1/5 reset 671h0m0s"},
		}},
		"several limits": {[]policy.Limit{named("a", slidingLog(2, time.Minute)), named("b", fixedWindow(9, time.Minute)), named("c", tokenBucket(1, time.Minute, 9))}, []step{
			{cost: 2, want: "allow 0/2 reset 1m0s"},
			{cost: 1, want: "deny 0/2 reset 1m0s retry 1m0s"},
			{at: time.Minute, cost: 2, want: "allow 0/2 reset 1m0s"},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := miniredis.RunT(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr()})
			defer func() { _ = client.Close() }()
			calls := &recorder{Caller: direct{client: client}}
			limiter := limit.New(calls, client, library.ModeScripts)
			p := zoned(one("shop/api", test.limits...)).Sealed()
			for i, s := range test.steps {
				server.SetTime(time.UnixMicro(t0).Add(s.at))
				charge := []limit.Charge{{Policy: &p, Key: redisops.CounterKey(p.Name, nil), Cost: s.cost}}
				ask := limiter.Decide
				if s.peek {
					ask = limiter.Peek
				}
				rows, err := ask(context.Background(), charge)
				if err != nil {
					t.Fatal(err)
				}
				if got := show(rows[0]); got != s.want {
					t.Fatalf("step %d: %s, want %s", i, got, s.want)
				}
				want := "evalsha"
				if i == 0 {
					// It knows neither the script nor #!lua.
					want = "evalsha eval evalsha eval"
				} else if s.peek {
					want = "evalsha eval"
				}
				if got := calls.take(); got != want {
					t.Errorf("step %d: sent %s, want %s", i, got, want)
				}
			}
			if ttl := server.TTL(redisops.CounterKey(p.Name, nil)); ttl <= 0 {
				t.Errorf("the counter has TTL %v", ttl)
			}
		})
	}
}

func TestTheEmbeddedServerKnowsAllOperations(t *testing.T) {
	overridden := one("shop/api", fixedWindow(5, time.Hour))
	overridden.Descriptors = []policy.Descriptor{{Key: "user"}}
	overridden.Overrides = []policy.Override{
		{Values: []string{"root"}, Unlimited: true}, {Values: []string{"a*b"}, Limits: []policy.Limit{slidingLog(2, time.Hour)}},
	}
	shadow := one("shop/api", fixedWindow(1, time.Hour))
	shadow.ShadowPercent = 100
	tests := map[string]struct {
		policy policy.RateLimit
		values []string
		acts   []act
	}{
		"ids and refunds": {one("shop/api", slidingLog(10, time.Minute), named("b", slidingCounter(20, time.Minute))), nil, []act{
			{do: "charge 4 #a", want: "allow 6/10 reset 1m0s"},
			{do: "charge 4 #a", want: "allow 6/10 reset 1m0s"},
			{at: time.Second, do: "charge 3 #b", want: "allow 3/10 reset 1m0s"},
			{at: time.Second, do: "refund 9 #a", want: "allow 7/10 reset 1m0s"},
			{at: time.Second, do: "refund 9 #a", want: "allow 7/10 reset 1m0s absent"},
			{at: time.Second, do: "refund 1", want: "allow 8/10 reset 1m0s"},
			{at: time.Second, do: "reset", want: "allow 10/10 reset 0s"},
		}},
		"balances": {one("shop/api", balance(10)), nil, []act{
			{do: "charge 10", want: "allow 0/10 reset 0s"},
			{do: "credit 5 #a", want: "allow 5/10 reset 0s"},
			{do: "credit 5 #a", want: "allow 5/10 reset 0s"},
			{at: time.Hour, do: "refund 20", want: "allow 10/10 reset 0s"},
			{at: time.Hour, do: "credit 9007199254740991", want: "PENSTOCK_BADARG cost: the balance would be more"},
		}},
		"slots": {one("shop/api", concurrency(1, time.Minute)), nil, []act{
			{do: "acquire #a", want: "allow 0/1 reset 1m0s"},
			{at: time.Second, do: "acquire #b", want: "deny 0/1 reset 59s retry 59s"},
			{at: time.Second, do: "acquire #a 10s", want: "allow 0/1 reset 10s"},
			{at: 2 * time.Second, do: "release #a", want: "allow 1/1 reset 0s"},
			{at: 2 * time.Second, do: "acquire #b", want: "allow 0/1 reset 1m0s"},
			{at: 62 * time.Second, do: "release #b", want: "allow 1/1 reset 0s absent"},
			{at: 62 * time.Second, do: "reset", want: "allow 1/1 reset 0s"},
		}},
		"penalties": {penalized(), nil, []act{
			{do: "charge 2", want: "deny 1/1 reset 0s retry 1s"}, {do: "charge 2", want: "deny 1/1 reset 0s retry 1s"},
			{do: "charge 2", want: "deny 0/1 reset 0s retry 10s penalty"},
			{at: 5 * time.Second, do: "peek 1", want: "deny 0/1 reset 1s retry 5s penalty"},
			{at: 10 * time.Second, do: "charge 1", want: "allow 0/1 reset 1s"},
		}},
		"overrides": {overridden, []string{"axb"}, []act{
			{do: "charge 2", want: "allow 0/2 reset 1h0m0s override 2"}, {do: "charge 1", want: "deny 0/2 reset 1h0m0s retry 1h0m0s override 2"},
		}},
		"unlimited": {overridden, []string{"root"}, []act{{do: "charge 99", want: "allow 9007199254740991/-1 reset 0s override 1"}}},
		"shadow": {shadow, nil, []act{
			{do: "charge 1", want: "allow 0/1 reset 1h0m0s"}, {do: "charge 1", want: "allow 0/1 reset 1h0m0s shadow"},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := miniredis.RunT(t)
			client := redis.NewClient(&redis.Options{Addr: server.Addr()})
			defer func() { _ = client.Close() }()
			w := &world{
				tb: t, client: client, mode: library.ModeScripts, limiter: limit.New(direct{client: client}, client, library.ModeScripts),
				policies: map[string]*policy.RateLimit{},
			}
			w.publish(test.policy)
			for _, a := range test.acts {
				server.SetTime(time.UnixMicro(t0).Add(a.at))
				w.playOne(t, []act{a}, test.values...)
			}
		})
	}
}

func TestTheEmbeddedServerRefusesAlike(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = client.Close() }()
	limiter := limit.New(direct{client: client}, client, library.ModeScripts)
	api, log := one("shop/api", fixedWindow(5, time.Hour)).Sealed(), one("shop/log", slidingLog(5, time.Hour)).Sealed()
	charges := []limit.Charge{
		{Policy: &api, Key: redisops.CounterKey(api.Name, nil), Cost: 1}, {Policy: &log, Key: redisops.CounterKey(log.Name, nil), Cost: 1},
	}
	logKey := redisops.LogKey(charges[1].Key, "default")
	if err := server.Set(logKey, "x"); err != nil {
		t.Fatal(err)
	}
	_, err := limiter.Decide(context.Background(), charges)
	var wrong *limit.WrongTypeError
	if !errors.As(err, &wrong) || wrong.Key != logKey {
		t.Errorf("got %v, want a WrongTypeError of %s", err, logKey)
	}
	if server.Exists(charges[0].Key) {
		t.Error("the other charge was made")
	}
	server.Del(logKey)
	rows, err := limiter.Decide(context.Background(), charges)
	if err != nil || rows[0].Remaining != 4 || rows[1].Remaining != 4 {
		t.Errorf("got %+v, %v, want 4 left of each", rows, err)
	}
	charges[0].Key = "rl:{x}:shop/api"
	if _, err := limiter.Decide(context.Background(), charges); redisops.Classify(err) != redisops.Policy {
		t.Errorf("got %v, want PENSTOCK_BADKEY", err)
	}
}
