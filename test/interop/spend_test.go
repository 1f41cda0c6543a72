package interop

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/test/daemon"
)

// perUser is a policy of so many requests per hour. A log has no border of windows that a test could run across.
func perUser(requests int64) policy.RateLimit {
	return policy.RateLimit{
		Name: "shop/api-per-user", Domain: "shop", OnStoreFailure: policy.FailureDeny,
		Descriptors: []policy.Descriptor{{Key: "header.x-user"}},
		Limits:      []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: requests, WindowMs: time.Hour.Milliseconds()}},
	}
}

// user is a question for one request of a user.
func user(name string) question {
	return question{Policy: "shop/api-per-user", Subject: parts([]redisops.Entry{{Key: "header.x-user", Value: name}}, false)}
}

func TestAProgramAndPenstockdSpendOneBudget(t *testing.T) {
	server := daemon.Publish(t, perUser(10))
	door := startPenstockd(t, server)
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		for name, who := range map[string]string{
			"text": t.Name(), "not ASCII": "Zo\u00eb " + t.Name(), "invalid UTF-8": "b\xff " + t.Name(), "braces": "{x}" + t.Name(),
		} {
			for spent := range int64(10) {
				if spent%2 == 0 {
					if !door.allows("shop/api-per-user", who) {
						t.Errorf("%s: penstockd denies request %d of 10", name, spent+1)
					}
				} else if got := client.spend(user(who)); !got.Allowed || got.Remaining != 9-spent {
					t.Errorf("%s: request %d of 10 gets %+v", name, spent+1, got)
				}
			}
			if got := client.spend(user(who)); got.Allowed {
				t.Errorf("%s: the client gets %+v when all is spent", name, got)
			}
			if door.allows("shop/api-per-user", who) {
				t.Errorf("%s: penstockd allows when all is spent", name)
			}
		}
	})
}

func TestAtOnceNoMoreThanTheLimitPasses(t *testing.T) {
	server := daemon.Publish(t, perUser(10))
	door := startPenstockd(t, server)
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		var passed atomic.Int64
		var both sync.WaitGroup
		for range 100 {
			both.Go(func() {
				if client.spend(user(t.Name())).Allowed {
					passed.Add(1)
				}
			})
			both.Go(func() {
				if door.allows("shop/api-per-user", t.Name()) {
					passed.Add(1)
				}
			})
		}
		both.Wait()
		if passed.Load() != 10 {
			t.Errorf("%d of 200 requests passed, want 10", passed.Load())
		}
	})
}

func TestASharedPatternIsOneBudgetForAllItsValues(t *testing.T) {
	shared := perUser(2)
	shared.Name = "shop/api-v1"
	shared.Descriptors = []policy.Descriptor{{Key: "header.x-user"}, {Key: "path", Value: "/v1/*", Shared: true}}
	server := daemon.Publish(t, shared)
	door := startPenstockd(t, server)
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		path := func(value string) question {
			q := question{Policy: "shop/api-v1", Subject: parts([]redisops.Entry{{Key: "header.x-user", Value: t.Name()}, {Key: "path", Value: value}}, false)}
			q.Subject[1] = append(q.Subject[1], part{text: "/v1/*"})
			return q
		}
		if !door.allows("shop/api-v1/v1/orders", t.Name()) {
			t.Error("penstockd denies the first of 2")
		}
		if got := client.spend(path("/v1/carts")); !got.Allowed || got.Remaining != 0 {
			t.Errorf("the second of 2 gets %+v", got)
		}
		if got := client.spend(path("/v1/users")); got.Allowed {
			t.Errorf("the third of 2 gets %+v", got)
		}
	})
}

func TestTheRowTellsWhatIsLeftAndWhen(t *testing.T) {
	const hour = int64(3_600_000)
	server := daemon.Publish(t, perUser(3))
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		ask := func(cost int) row {
			q := user(t.Name())
			q.Cost = cost
			return client.spend(q)
		}
		first := ask(2)
		if want := (row{Allowed: true, Limit: 3, Remaining: 1, ResetMs: hour, LimitName: "default", Reason: "ok"}); first != want {
			t.Errorf("got %+v, want %+v", first, want)
		}
		denied := ask(2)
		if denied.Allowed || denied.Limit != 3 || denied.Remaining != 1 || denied.LimitName != "default" || denied.Reason != "limit" ||
			denied.ResetMs < 1 || denied.ResetMs > hour || denied.RetryAfterMs < 1 || denied.RetryAfterMs > denied.ResetMs {
			t.Errorf("2 of the 1 that is left get %+v", denied)
		}
		if look := ask(0); !look.Allowed || look.Remaining != 1 || look.RetryAfterMs != 0 {
			t.Errorf("a look gets %+v, want that the denial was not charged", look)
		}
	})
}

func TestErrorsTellTheCallerWhatIsWrong(t *testing.T) {
	withExpression := perUser(10)
	withExpression.Name, withExpression.When = "shop/with-expression", []string{"request.method == 'POST'"}
	server := daemon.Publish(t, perUser(10), withExpression)
	server.Do("SET", redisops.CounterKey("shop/api-per-user", []redisops.Entry{{Key: "header.x-user", Value: "taken"}}), "by another program")
	long := user(strings.Repeat("b", 257))
	unknown, foreign, float, expression := user("bob"), user("bob"), user("bob"), user("bob")
	unknown.Policy = "shop/gone"
	foreign.Key = redisops.CounterKey("shop/another", nil)
	float.Cost = 1.5
	expression.Policy = "shop/with-expression"
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		for name, tc := range map[string]struct {
			ask  question
			want []string
		}{
			"a policy that is not there": {unknown, []string{"PENSTOCK_NOPOLICY ", "shop/gone"}},
			"a policy with expressions":  {expression, []string{"PENSTOCK_NEEDS_DOOR ", "shop/with-expression", "penstockd"}},
			"a key of another policy":    {foreign, []string{"PENSTOCK_BADKEY ", "shop/another", "rl:{", "shop/api-per-user"}},
			"a value too long":           {long, []string{"PENSTOCK_BADARG ", "header.x-user", "257 bytes", "256"}},
			"a cost that is no integer":  {float, []string{"PENSTOCK_BADARG ", "cost", "1.5"}},
			"a key that is taken":        {user("taken"), []string{"PENSTOCK_WRONGTYPE "}},
		} {
			got := client.ask(tc.ask).Error
			for i, want := range tc.want {
				if !strings.Contains(got, want) || i == 0 && !strings.HasPrefix(got, want) {
					t.Errorf("%s: the error is %q, want it to begin with %q and to name %q", name, got, tc.want[0], tc.want[1:])
				}
			}
		}
	})
}

func TestAnErrorOfRedisIsNotOneOfPenstock(t *testing.T) {
	server := redistest.Start(t)
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		if got := start(url(server.Addr)).ask(user("bob")).Error; !strings.Contains(got, "Function not found") {
			t.Errorf("a server without the library says %q", got)
		}
	})
}

func TestWithoutACostItIsThePolicys(t *testing.T) {
	costly := perUser(10)
	costly.Cost = 4
	server := daemon.Publish(t, costly)
	door := startPenstockd(t, server)
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		if got := client.spend(user(t.Name())); !got.Allowed || got.Remaining != 6 {
			t.Errorf("the first request gets %+v, want 10-4 remaining", got)
		}
		if !door.allows("shop/api-per-user", t.Name()) {
			t.Error("penstockd denies the second request")
		}
		one := user(t.Name())
		one.Cost = 1
		if got := client.spend(one); !got.Allowed || got.Remaining != 1 {
			t.Errorf("a third request for 1 gets %+v, want 10-4-4-1 remaining", got)
		}
	})
}

func TestTheSameIDIsChargedOnce(t *testing.T) {
	server := daemon.Publish(t, perUser(10))
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		client := start(url(server.Addr))
		q := user(t.Name())
		q.ID = "order-1"
		first := client.spend(q)
		if again := client.spend(q); !first.Allowed || first.Remaining != 9 || again != first {
			t.Errorf("first %+v, again %+v: want the same row with 9 remaining", first, again)
		}
		q.ID = "order-2"
		if got := client.spend(q); got.Remaining != 8 {
			t.Errorf("another id gets %+v, want 8 remaining", got)
		}
	})
}

// A client that by itself sends a command again when it lost the reply would charge twice, and so would the caller
// without an id.
func TestALostReplyIsChargedOnce(t *testing.T) {
	server := daemon.Publish(t, perUser(10))
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		proxy := redistest.StartProxy(t, server.Addr)
		client := start(url(proxy.Addr))
		q := user(t.Name())
		if got := client.spend(q); got.Remaining != 9 {
			t.Fatalf("the first request gets %+v", got)
		}
		lose := func(q question, wantCharged int64) {
			proxy.SwallowReplies()
			lost := make(chan answer, 1)
			go func() { lost <- client.ask(q) }()
			waitForCharge(t, server, t.Name(), wantCharged)
			proxy.Cut()
			if got := <-lost; got.Error == "" {
				t.Errorf("the lost request gets %+v, want an error", got)
			}
		}

		lose(q, 2)
		if got := client.spend(q); got.Remaining != 7 {
			t.Errorf("after three requests, one of which lost its reply, the row is %+v: want 7 remaining", got)
		}

		q.ID = "order-1"
		lose(q, 4)
		if got := client.spend(q); !got.Allowed || got.Remaining != 6 {
			t.Errorf("the lost request asked again by its id gets %+v, want the row that was lost, with 6 remaining", got)
		}
	})
}

// waitForCharge waits until the log of a user holds so many requests.
func waitForCharge(t *testing.T, server *redistest.Server, name string, want int64) {
	t.Helper()
	key := redisops.LogKey(redisops.CounterKey("shop/api-per-user", []redisops.Entry{{Key: "header.x-user", Value: name}}), "default")
	client := server.Client()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if n, err := client.ZCard(t.Context(), key).Result(); err == nil && n == want {
			return
		}
	}
	t.Fatalf("the log does not get to %d requests", want)
}
