// Package fleet tests that several penstockd and their clients together keep to one limit.
package fleet

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
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

const (
	clients  = 10
	replicas = 3
	lasts    = 2 * time.Second
	window   = 500 * time.Millisecond
)

var penstockd daemon.Binary

func TestMain(m *testing.M) {
	os.Exit(daemon.Run(func(b daemon.Binary) int {
		penstockd = b
		return m.Run()
	}))
}

// charge is a request that passed: when Redis charged it, in microseconds, and for how much.
type charge struct{ at, cost int64 }

// limits are what 10 clients ask 3 replicas for, each with what must hold of the charges, in the order of their times.
var limits = map[string]struct {
	limit policy.Limit
	check func(t *testing.T, charges []charge)
}{
	"sliding-log": {
		policy.Limit{Algorithm: policy.SlidingLog, Requests: 50, WindowMs: window.Milliseconds()},
		func(t *testing.T, charges []charge) {
			for i, last := range charges {
				var sum int64
				for _, c := range charges[:i+1] {
					if c.at > last.at-window.Microseconds() {
						sum += c.cost
					}
				}
				if sum > 50 {
					t.Errorf("%d passed in the window that ends at %d", sum, last.at)
				}
			}
		},
	},
	"sliding-counter": {
		policy.Limit{Algorithm: policy.SlidingCounter, Requests: 50, WindowMs: window.Milliseconds()},
		func(t *testing.T, charges []charge) {
			used := map[int64]int64{}
			for _, c := range charges {
				ms := c.at / 1000
				n := ms / window.Milliseconds()
				rest := window.Milliseconds() - ms%window.Milliseconds()
				weighted := float64(used[n-1]) * float64(rest) / float64(window.Milliseconds())
				if sum := float64(used[n]+c.cost) + weighted; sum > 50.001 {
					t.Errorf("%d was charged at %d, which makes %.3f", c.cost, c.at, sum)
				}
				used[n] += c.cost
			}
		},
	},
	"fixed-window": {
		policy.Limit{Algorithm: policy.FixedWindow, Requests: 50, WindowMs: window.Milliseconds()},
		func(t *testing.T, charges []charge) {
			used := map[int64]int64{}
			for _, c := range charges {
				n := c.at / window.Microseconds()
				if used[n] += c.cost; used[n] > 50 {
					t.Errorf("%d passed in the window that begins at %d", used[n], n*window.Microseconds())
				}
			}
		},
	},
	"token-bucket": {
		policy.Limit{Algorithm: policy.TokenBucket, Requests: 50, WindowMs: window.Milliseconds(), Burst: 20, TickUs: 1},
		func(t *testing.T, charges []charge) {
			for i, first := range charges {
				var sum int64
				for _, c := range charges[i:] {
					sum += c.cost
					if most := 20 + float64(c.at-first.at)*50/float64(window.Microseconds()); float64(sum) > most+0.001 {
						t.Errorf("%d passed from %d to %d, want at most %.3f", sum, first.at, c.at, most)
					}
				}
			}
		},
	},
	"balance": {
		policy.Limit{Algorithm: policy.Balance, Requests: 300},
		func(t *testing.T, charges []charge) {
			var sum int64
			for _, c := range charges {
				sum += c.cost
			}
			// What is left is less than the largest cost that was asked for.
			if sum > 300 || sum < 298 {
				t.Errorf("%d were spent of 300", sum)
			}
		},
	},
}

func TestTenClientsOfThreeReplicasNeverExceedTheLimit(t *testing.T) {
	for name, test := range limits {
		t.Run(name, func(t *testing.T) {
			test.limit.Name = "default"
			p := policy.RateLimit{
				Name: "shop/api", Domain: "shop", Descriptors: []policy.Descriptor{{Key: "user"}},
				Limits: []policy.Limit{test.limit}, OnStoreFailure: policy.FailureDeny,
			}
			server := daemon.Publish(t, p)
			fleet := start(t, server)

			var passed, refused atomic.Int64
			everybody(t, func(t *testing.T, client int) {
				for n := 0; fleet.goesOn(); n++ {
					cost := 1 + rand.Int64N(3)
					a := fleet.ask(t, "Check", map[string]any{"id": fmt.Sprintf("%d-%d", client, n), "cost": cost})
					if a.Mode != "MODE_ENFORCED" {
						t.Errorf("mode %s", a.Mode)
						return
					}
					if a.Allowed {
						passed.Add(cost)
					} else {
						refused.Add(1)
					}
				}
			})
			charges := recorded(t, server, redisops.CounterKey(p.Name, []redisops.Entry{{Key: "user", Value: "u"}}))
			var sum int64
			for _, c := range charges {
				sum += c.cost
			}
			if sum != passed.Load() || sum == 0 || refused.Load() == 0 {
				t.Errorf("%d were charged, %d passed, %d calls were refused", sum, passed.Load(), refused.Load())
			}
			test.check(t, charges)
		})
	}
}

func TestTenClientsOfThreeReplicasNeverHoldMoreSlots(t *testing.T) {
	const slots = 4
	p := policy.RateLimit{
		Name: "shop/api", Domain: "shop", Descriptors: []policy.Descriptor{{Key: "user"}}, OnStoreFailure: policy.FailureDeny,
		Limits: []policy.Limit{{Name: "default", Algorithm: policy.Concurrency, Requests: slots, SlotTTLMs: 60_000}},
	}
	fleet := start(t, daemon.Publish(t, p))
	var held, most, refused atomic.Int64
	everybody(t, func(t *testing.T, client int) {
		for n := 0; fleet.goesOn(); n++ {
			slot := map[string]any{"slotId": fmt.Sprintf("%d-%d", client, n)}
			if !fleet.ask(t, "AcquireSlot", slot).Allowed {
				refused.Add(1)
				continue
			}
			// Counted from after it was acquired until before it is released, so never too many.
			now := held.Add(1)
			for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
			}
			if now > slots {
				t.Errorf("%d hold a slot at once", now)
			}
			held.Add(-1)
			if !fleet.ask(t, "ReleaseSlot", slot).Released {
				t.Error("a slot that was acquired cannot be released")
			}
		}
	})
	if most.Load() == 0 || refused.Load() == 0 {
		t.Errorf("at most %d held a slot and %d were refused: nothing was tried", most.Load(), refused.Load())
	}
	if a := fleet.ask(t, "AcquireSlot", map[string]any{"slotId": "last"}); a.Remaining != fmt.Sprint(slots-1) {
		t.Errorf("%s are left beside one, want all", a.Remaining)
	}
}

// fleet is three replicas on one Redis, asked for the policy shop/api and the user u.
type fleet struct {
	replicas []*daemon.Process
	ends     time.Time
}

func start(t *testing.T, server *redistest.Server) *fleet {
	t.Helper()
	f := &fleet{}
	for range replicas {
		f.replicas = append(f.replicas, penstockd.Start(t, server))
	}
	f.ends = time.Now().Add(lasts)
	return f
}

func (f *fleet) goesOn() bool { return time.Now().Before(f.ends) }

// answer is what the tests look at.
type answer struct {
	Allowed, Released bool
	Mode, Remaining   string
}

// ask asks one of the replicas, by chance.
func (f *fleet) ask(t *testing.T, method string, request map[string]any) answer {
	t.Helper()
	request["namespace"], request["policy"], request["subject"] = "shop", "api", map[string]string{"user": "u"}
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + f.replicas[rand.IntN(replicas)].HTTP + "/penstock.v1.LimiterService/" + method
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer func() { _ = response.Body.Close() }()
	var a answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("%s answers %s: %v", method, response.Status, err)
	}
	return a
}

// everybody runs all clients at once.
func everybody(t *testing.T, run func(t *testing.T, client int)) {
	t.Helper()
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() { run(t, client) })
	}
	all.Wait()
}

// recorded gives what was charged, from the records that decisions with an id leave behind: they have Redis' time.
func recorded(t *testing.T, server *redistest.Server, counter string) []charge {
	t.Helper()
	client := server.Client()
	keys, err := client.Keys(t.Context(), strings.ReplaceAll(counter, "[", `\[`)+"#*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d records, %v", len(keys), err)
	}
	var charges []charge
	for _, key := range keys {
		record, err := client.Get(t.Context(), key).Result()
		if err != nil {
			continue // of a denial, which is over
		}
		var c charge
		var allowed int
		if _, err := fmt.Sscan(record, &c.at, &c.cost, &allowed); err != nil {
			t.Fatalf("record %q: %v", record, err)
		}
		if allowed == 1 {
			charges = append(charges, c)
		}
	}
	slices.SortFunc(charges, func(a, b charge) int { return cmp.Compare(a.at, b.at) })
	return charges
}
