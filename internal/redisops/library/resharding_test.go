package library_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// The subject of all calls here.
const digest = "rl:{AAAAAAAAAAAAAAAAAAAAAA}:"

// reshardedSet has a policy for each kind of state.
func reshardedSet() *policy.Set {
	var limits []policy.RateLimit
	for name, list := range map[string][]policy.Limit{
		"shop/window":  {{Name: "w", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 3_600_000}},
		"shop/log":     {{Name: "l", Algorithm: policy.SlidingLog, Requests: 100, WindowMs: 3_600_000}},
		"shop/logs":    {{Name: "a", Algorithm: policy.SlidingLog, Requests: 100, WindowMs: 3_600_000}, {Name: "b", Algorithm: policy.SlidingLog, Requests: 50, WindowMs: 60_000}},
		"shop/balance": {{Name: "m", Algorithm: policy.Balance, Requests: 100}},
		"shop/slots":   {{Name: "s", Algorithm: policy.Concurrency, Requests: 10, SlotTTLMs: 3_600_000}},
	} {
		limits = append(limits, policy.RateLimit{
			Name: name, Domain: "shop", OnStoreFailure: policy.FailureAllow, Limits: list,
		}.Sealed())
	}
	slices.SortFunc(limits, func(a, b policy.RateLimit) int { return cmp.Compare(a.Name, b.Name) })
	return policy.NewSet(limits)
}

// While a slot moves, a call that names only its counters never does a part of its work, never takes for absent what is on
// the other node, and leaves nothing there that the migration would stumble on.
func TestACallInAMovingSlotDoesAllOrNothing(t *testing.T) {
	m := newMoving(t)
	window, log, logs, balance, slots := digest+"shop/window", digest+"shop/log", digest+"shop/logs", digest+"shop/balance", digest+"shop/slots"
	for name, tc := range map[string]struct {
		before [][]any
		call   []any
	}{
		"a decision that is asked for again": {
			[][]any{{"FCALL", "penstock_limit", 1, window, "shop/window", 1, "id"}},
			[]any{"FCALL", "penstock_limit", 1, window, "shop/window", 1, "id"},
		},
		"a new decision with an id": {
			[][]any{{"FCALL", "penstock_limit", 1, window, "shop/window", 1, ""}},
			[]any{"FCALL", "penstock_limit", 1, window, "shop/window", 1, "id"},
		},
		"a decision with a log": {
			[][]any{{"FCALL", "penstock_limit", 1, log, "shop/log", 3, ""}},
			[]any{"FCALL", "penstock_limit", 1, log, "shop/log", 1, ""},
		},
		"a decision with two logs, of which one is named twice": {
			[][]any{{"FCALL", "penstock_limit", 1, logs, "shop/logs", 3, ""}},
			[]any{"FCALL", "penstock_limit", 3, logs, logs + ":a", logs + ":a", "shop/logs", 1, ""},
		},
		"a decision with two logs and an id": {
			[][]any{{"FCALL", "penstock_limit", 1, logs, "shop/logs", 3, "id"}},
			[]any{"FCALL", "penstock_limit", 1, logs, "shop/logs", 1, "id"},
		},
		"several decisions": {
			[][]any{
				{"FCALL", "penstock_limit", 1, window, "shop/window", 1, "id"}, {"FCALL", "penstock_limit", 1, log, "shop/log", 1, ""},
				{"FCALL", "penstock_limit", 1, balance, "shop/balance", 1, ""},
			},
			[]any{"FCALL", "penstock_limit_many", 3, window, log, balance, "shop/window", 1, "id", "shop/log", 1, "", "shop/balance", 1, "other"},
		},
		"a refund by id": {
			[][]any{{"FCALL", "penstock_limit", 1, logs, "shop/logs", 3, "id"}},
			[]any{"FCALL", "penstock_limit_refund", 1, logs, "shop/logs", "", "id"},
		},
		"a refund": {
			[][]any{{"FCALL", "penstock_limit", 1, log, "shop/log", 3, ""}},
			[]any{"FCALL", "penstock_limit_refund", 1, log, "shop/log", 2, ""},
		},
		"a credit that is asked for again": {
			[][]any{{"FCALL", "penstock_limit_credit", 1, balance, "shop/balance", 5, "id"}},
			[]any{"FCALL", "penstock_limit_credit", 1, balance, "shop/balance", 5, "id"},
		},
		"a reset": {
			[][]any{{"FCALL", "penstock_limit", 1, logs, "shop/logs", 3, ""}, {"FCALL", "penstock_limit_reset", 1, logs, "shop/logs", "", ""}, {"FCALL", "penstock_limit", 1, logs, "shop/logs", 3, ""}},
			[]any{"FCALL", "penstock_limit_reset", 1, logs, "shop/logs", "", ""},
		},
		"a slot that is acquired": {
			[][]any{{"FCALL", "penstock_slot_acquire", 1, slots, "shop/slots", "a", ""}},
			[]any{"FCALL", "penstock_slot_acquire", 1, slots, "shop/slots", "b", ""},
		},
		"a slot that is released": {
			[][]any{{"FCALL", "penstock_slot_acquire", 1, slots, "shop/slots", "a", ""}, {"FCALL", "penstock_slot_acquire", 1, slots, "shop/slots", "b", ""}},
			[]any{"FCALL", "penstock_slot_release", 1, slots, "shop/slots", "a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m.restart(t, tc.before)
			all := slices.Sorted(maps.Keys(values(t, m.from)))
			// Each key in turn moves first, since the order of a real migration is that of a hash table.
			for first := range all {
				order := append(slices.Clone(all[first:]), all[:first]...)
				m.restart(t, tc.before)
				for moved := 1; moved < len(order); moved++ {
					m.move(t, order[moved-1])
					m.callDoesNothing(t, tc.call, order[:moved])
				}
			}
			m.restart(t, tc.before)
			for _, key := range all {
				m.move(t, key)
			}
			m.cluster.FinishMigration(m.slot, m.to)
			if err := m.to.Client().Do(t.Context(), tc.call...).Err(); err != nil {
				t.Errorf("when all has moved: %v", err)
			}
			m.from, m.to = m.to, m.from
		})
	}
}

// moving is a slot of a cluster that moves from one node to the other.
type moving struct {
	cluster  *redistest.Cluster
	slot     int
	from, to *redistest.Server
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	m := &moving{cluster: redistest.StartCluster(t, 2, 0)}
	m.slot = m.cluster.Slot(digest)
	for _, node := range m.cluster.Nodes {
		if err := library.Load(t.Context(), node.Client(), render(t, reshardedSet()), true); err != nil {
			t.Fatal(err)
		}
		if node == m.cluster.Owner(m.slot) {
			m.from = node
		} else {
			m.to = node
		}
	}
	return m
}

// restart empties both nodes, makes these calls, and begins to move the slot.
func (m *moving) restart(t *testing.T, calls [][]any) {
	t.Helper()
	for _, node := range m.cluster.Nodes {
		node.Do("CLUSTER", "SETSLOT", m.slot, "STABLE")
		node.Do("FLUSHALL")
	}
	for _, call := range calls {
		m.from.Do(call...)
	}
	m.cluster.StartMigration(m.slot, m.from, m.to)
}

// move moves a key as a resharding does, which stops at a key that is there already.
func (m *moving) move(t *testing.T, key string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(m.to.Addr)
	if reply, err := m.from.Client().Migrate(t.Context(), host, port, key, 0, 10*time.Second).Result(); err != nil || reply != "OK" {
		t.Fatalf("MIGRATE %s: %s, %v", key, reply, err)
	}
}

// callDoesNothing sends the call to both nodes, to the second one as after ASK. Neither may answer, since each has only a
// part of what the call touches.
func (m *moving) callDoesNothing(t *testing.T, call []any, moved []string) {
	t.Helper()
	for _, asking := range []bool{false, true} {
		before := fmt.Sprint(values(t, m.from), values(t, m.to))
		err := m.send(t, call, asking)
		if class := redisops.Classify(err); class != redisops.NotExecuted {
			t.Errorf("%v moved: got %v of class %s (after ASK: %v), want a refusal for now", moved, err, class, asking)
		}
		if after := fmt.Sprint(values(t, m.from), values(t, m.to)); after != before {
			t.Errorf("%v moved: (after ASK: %v) wrote:\n%q\nbefore:\n%q", moved, asking, after, before)
		}
	}
}

func (m *moving) send(t *testing.T, call []any, asking bool) error {
	if !asking {
		return m.from.Client().Do(t.Context(), call...).Err()
	}
	_, err := m.to.Client().Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
		pipe.Do(t.Context(), "ASKING")
		pipe.Do(t.Context(), call...)
		return nil
	})
	return err
}

// values gives all that a node holds, by key.
func values(t *testing.T, node *redistest.Server) map[string]string {
	t.Helper()
	ctx, client, all := context.Background(), node.Client(), map[string]string{}
	for _, key := range client.Keys(ctx, "*").Val() {
		conn := client.Conn()
		commands, _ := conn.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Do(ctx, "ASKING")
			pipe.Dump(ctx, key)
			return nil
		})
		_ = conn.Close()
		dump, _ := commands[1].(*redis.StringCmd)
		if dump.Err() != nil && !strings.Contains(dump.Err().Error(), "nil") {
			t.Fatalf("DUMP %s: %v", key, dump.Err())
		}
		all[key] = dump.Val()
	}
	return all
}
