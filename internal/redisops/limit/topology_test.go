package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// store is some topology, as penstockd reaches it.
type store struct {
	*world
	servers *redisops.Servers
	caller  *redisops.Caller
}

// topologies start each topology that decides.
var topologies = map[policy.Topology]func(tb testing.TB) redisops.Config{
	policy.TopologyStandalone: func(tb testing.TB) redisops.Config {
		return redisops.Config{Addresses: []string{redistest.Start(tb).Addr}}
	},
	policy.TopologySentinel: func(tb testing.TB) redisops.Config {
		sentinel := redistest.StartSentinel(tb, 1, redistest.SentinelOptions{})
		return redisops.Config{Topology: policy.TopologySentinel, Addresses: sentinel.Addresses(), MasterName: sentinel.MasterName}
	},
	policy.TopologyCluster: func(tb testing.TB) redisops.Config {
		return redisops.Config{Topology: policy.TopologyCluster, Addresses: redistest.StartCluster(tb, 3, 0).Addresses()}
	},
}

// connect gives a Limiter with the policies over what the Config says.
func connect(tb testing.TB, cfg redisops.Config, mode library.Mode, policies ...policy.RateLimit) *store {
	tb.Helper()
	if cfg.CommandTimeout == 0 {
		cfg.CommandTimeout = 5 * time.Second // a busy machine is none of what is tested
	}
	servers := redisopstest.Open(tb, cfg)
	caller := redisops.NewCaller(servers, redisops.CallerOptions{})
	tb.Cleanup(caller.Close)
	s := &store{
		world:   &world{tb: tb, mode: mode, policies: map[string]*policy.RateLimit{}, limiter: limit.New(caller, servers.Client(), mode)},
		servers: servers, caller: caller,
	}
	for _, p := range policies {
		sealed := p.Sealed()
		s.policies[p.Name] = &sealed
	}
	s.publishEverywhere()
	warming, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := caller.Warm(warming); err != nil {
		tb.Fatal(err)
	}
	return s
}

// publishEverywhere puts the library on each primary, and its document where documents are.
func (s *store) publishEverywhere() {
	s.tb.Helper()
	if s.mode == library.ModeScripts {
		return
	}
	text := s.text()
	if err := s.servers.Client().Set(context.Background(), library.DocumentKey, library.NewDocument(text).Marshal(), 0).Err(); err != nil {
		s.tb.Fatal(err)
	}
	s.onPrimaries(func(client *redis.Client) error { return library.Load(context.Background(), client, text, true) })
}

func (s *store) onPrimaries(do func(client *redis.Client) error) {
	s.tb.Helper()
	primaries, err := s.servers.Primaries(context.Background())
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, node := range primaries {
		if err := do(node.Client); err != nil {
			s.tb.Fatal(err)
		}
	}
}

// perUser is a policy that counts each user.
func perUser(name string, limits ...policy.Limit) policy.RateLimit {
	p := one(name, limits...)
	p.Descriptors = []policy.Descriptor{{Key: "user"}}
	return p
}

// Each algorithm, id, refund, reset and slot, over many subjects, so that each primary of a cluster has some.
func TestEveryTopologyDecidesAlike(t *testing.T) {
	for topology, begin := range topologies {
		t.Run(string(topology), func(t *testing.T) {
			cfg := begin(t)
			for _, protocol := range []int{2, 3} {
				inBothModes(t, func(t *testing.T, mode library.Mode) {
					cfg := cfg
					cfg.Protocol = protocol
					// Names of its own, since the state of the runs before is there still.
					prefix := fmt.Sprintf("shop/resp%d-%v-", protocol, mode)
					limits := map[string]policy.Limit{
						"log": slidingLog(3, time.Hour), "counter": slidingCounter(3, 744*time.Hour), "window": fixedWindow(3, 744*time.Hour),
						"bucket": tokenBucket(3, 744*time.Hour, 3), "balance": balance(3),
					}
					policies := []policy.RateLimit{perUser(prefix+"slots", concurrency(2, time.Hour))}
					for name, l := range limits {
						policies = append(policies, perUser(prefix+name, l))
					}
					s := connect(t, cfg, mode, policies...)
					for i := range 12 {
						user := strconv.Itoa(i)
						for name := range limits {
							s.wantDecided(t, s.charge(prefix+name, 1, user))
						}
						s.wantSlots(t, prefix+"slots", user)
					}
				})
			}
		})
	}
}

// wantDecided uses up a limit of 3, gives some back, and resets it.
func (s *store) wantDecided(t *testing.T, charge limit.Charge) {
	t.Helper()
	named := func(id string) limit.Charge {
		c := charge
		c.ID = id
		return c
	}
	check := func(what string, row limit.Row, allowed bool, remaining int64) {
		t.Helper()
		if row.Allowed != allowed || row.Remaining != remaining || row.Limit != 3 {
			t.Errorf("%s: %s: %s, want allowed %v, %d left", charge.Policy.Name, what, show(row), allowed, remaining)
		}
	}
	check("the first", s.decide(charge)[0], true, 2)
	check("by an id", s.decide(named("a"))[0], true, 1)
	check("by the same id", s.decide(named("a"))[0], true, 1)
	check("the third", s.decide(charge)[0], true, 0)
	check("one too many", s.decide(charge)[0], false, 0)
	for i := range 2 { // the second time there is nothing to give back
		row, err := s.limiter.Refund(context.Background(), named("a"))
		if err != nil || row.Remaining != 1 || (row.Reason == limit.ReasonAbsent) != (i == 1) {
			t.Errorf("%s: refunded: %s, %v; want 1 left", charge.Policy.Name, show(row), err)
		}
	}
	check("a look", s.peek(charge), true, 0)
	if row, err := s.limiter.Reset(context.Background(), charge); err != nil || row.Remaining != 3 {
		t.Errorf("%s: reset: %s, %v; want 3 left", charge.Policy.Name, show(row), err)
	}
}

func (s *store) wantSlots(t *testing.T, name, user string) {
	t.Helper()
	for i, want := range []bool{true, true, false} {
		slot := limit.Slot{Policy: s.policies[name], Key: s.key(name, user), Values: []string{user}, ID: strconv.Itoa(i)}
		if row, err := s.limiter.AcquireSlot(context.Background(), slot); err != nil || row.Allowed != want {
			t.Errorf("slot %d: %s, %v; want %v", i, show(row), err, want)
		}
	}
	slot := limit.Slot{Policy: s.policies[name], Key: s.key(name, user), Values: []string{user}, ID: "0"}
	if row, err := s.limiter.ReleaseSlot(context.Background(), slot); err != nil || row.Remaining != 1 {
		t.Errorf("released: %s, %v; want 1 free", show(row), err)
	}
}

// Fault 15, in each topology: every primary lost our Lua, and everything is counted once.
func TestEveryTopologyLoadsLostLuaWhereItIsMissed(t *testing.T) {
	for topology, begin := range topologies {
		t.Run(string(topology), func(t *testing.T) {
			cfg := begin(t)
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				s := connect(t, cfg, mode, perUser("shop/"+mode.String(), fixedWindow(1000, 744*time.Hour)))
				for range 3 {
					s.onPrimaries(func(client *redis.Client) error {
						if err := client.FunctionFlush(context.Background()).Err(); err != nil {
							return err
						}
						return client.ScriptFlush(context.Background()).Err()
					})
					var running sync.WaitGroup
					for i := range 60 {
						running.Go(func() {
							charge := s.charge("shop/"+mode.String(), 1, strconv.Itoa(i%20))
							if rows, err := s.limiter.Decide(context.Background(), []limit.Charge{charge}); err != nil || !rows[0].Allowed {
								t.Errorf("%+v, %v", rows, err)
							}
						})
					}
					running.Wait()
				}
				for i := range 20 {
					if left := s.peek(s.charge("shop/"+mode.String(), 0, strconv.Itoa(i))).Remaining; left != 991 {
						t.Errorf("user %d has %d left, want 991", i, left)
					}
				}
			})
		})
	}
}

// Charges of several slots are undone where one was denied, and none of their ids is to be seen.
func TestChargesOfSeveralSlotsAreUndoneExactly(t *testing.T) {
	cfg := topologies[policy.TopologyCluster](t)
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		name := func(short string) string { return "shop/" + short + "-" + mode.String() }
		s := connect(t, cfg, mode,
			perUser(name("log"), slidingLog(20, time.Hour)), perUser(name("window"), fixedWindow(20, 744*time.Hour)),
			perUser(name("bucket"), tokenBucket(20, 744*time.Hour, 20)), one(name("all"), fixedWindow(5, 744*time.Hour)))
		charges := []limit.Charge{
			s.charge(name("log"), 2, "ann"), s.charge(name("all"), 1), s.charge(name("window"), 2, "bob"), s.charge(name("bucket"), 2, "eve"),
			s.charge(name("window"), 2, "ann"), // with the first in one call
		}
		for i := range 8 {
			rows := s.decide(charges...)
			for c, row := range rows {
				if row.ID != "" || row.Allowed != (c != 1 || i < 5) || (row.Undo != "") != row.Allowed {
					t.Fatalf("decision %d, charge %d: %+v", i, c, row)
				}
			}
			if i >= 5 {
				for range 2 { // once, however often
					if err := s.limiter.Undo(context.Background(), charges, rows); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		for c, want := range []int64{10, 0, 10, 10, 10} {
			looks := charges[c]
			looks.Cost = 0
			if left := s.peek(looks).Remaining; left != want {
				t.Errorf("charge %d: %d left, want %d", c, left, want)
			}
		}
		same := []limit.Charge{s.charge(name("log"), 1, "zoe"), s.charge(name("window"), 1, "zoe")}
		for _, row := range s.decide(same...) {
			if row.Undo != "" {
				t.Errorf("%+v: want nothing to undo of what one call decided", row)
			}
		}
		looks := []limit.Charge{s.charge(name("log"), 0, "ann"), s.charge(name("window"), 0, "bob")}
		for _, row := range s.decide(looks...) {
			if row.Undo != "" || row.ID != "" {
				t.Errorf("%+v: want nothing to undo of a look", row)
			}
		}
	})
}

// swallowing loses the replies of so many refunds, after Redis has made them.
type swallowing struct {
	limit.Caller
	lose atomic.Int64
}

func (s *swallowing) Do(ctx context.Context, args []any) (any, error) {
	reply, err := s.Caller.Do(ctx, args)
	if args[1] == "penstock_limit_refund" && s.lose.Add(-1) >= 0 {
		return nil, fmt.Errorf("%w: swallowed", redisops.ErrUnknownOutcome)
	}
	return reply, err
}

func TestALostReplyOfAnUndoingGivesBackOnce(t *testing.T) {
	cfg := topologies[policy.TopologyCluster](t)
	s := connect(t, cfg, library.ModeFunctions, perUser("shop/log", slidingLog(20, time.Hour)))
	calls := &swallowing{Caller: s.caller}
	s.limiter = limit.New(calls, s.servers.Client(), library.ModeFunctions)
	charges := []limit.Charge{s.charge("shop/log", 3, "ann"), s.charge("shop/log", 3, "bob"), s.charge("shop/log", 3, "eve")}
	s.decide(charges...)
	rows := s.decide(charges...)
	calls.lose.Store(7)
	if err := s.limiter.Undo(context.Background(), charges, rows); err != nil {
		t.Fatal(err)
	}
	for _, c := range charges {
		if left := s.peek(c); left.Remaining != 14 {
			t.Errorf("%s: %d left after a charge of 3, want 17 less the look of 3", c.Values[0], left.Remaining)
		}
	}
	if calls.lose.Load() > 0 {
		t.Errorf("%d replies were not lost", calls.lose.Load())
	}

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	rows = s.decide(charges...)
	calls.lose.Store(1 << 40)
	if err := s.limiter.Undo(ctx, charges, rows); !errors.Is(err, redisops.ErrUnknownOutcome) {
		t.Errorf("%v, want the outcome to be unknown once the time is over", err)
	}
}

// failingCaller fails every call with that error.
type failingCaller struct {
	canned
	err   error
	calls int
}

func (r *failingCaller) Do(context.Context, []any) (any, error) {
	r.calls++
	return nil, r.err
}

func TestAnUndoingThatCannotSucceedEndsAtOnce(t *testing.T) {
	p := perUser("shop/log", slidingLog(20, time.Hour))
	charges := []limit.Charge{{Policy: &p, Key: redisops.CounterKey(p.Name, nil), Values: []string{"bob"}, Cost: 1}}
	for name, err := range map[string]error{
		"a key that holds something else": wireError("PENSTOCK_WRONGTYPE rl:{x}:shop/log holds a list"),
		"a policy that is gone":           wireError("PENSTOCK_NOPOLICY shop/log"),
		"refused credentials":             wireError("NOAUTH Authentication required."),
		"a closed caller":                 fmt.Errorf("%w: %w", redisops.ErrNotExecuted, redisops.ErrCallerClosed),
	} {
		t.Run(name, func(t *testing.T) {
			calls := &failingCaller{err: err}
			undone := limit.New(calls, nil, library.ModeFunctions).Undo(t.Context(), charges, []limit.Row{{Undo: "id"}})
			if undone == nil || calls.calls != 1 {
				t.Errorf("%v after %d calls, want the error of the first", undone, calls.calls)
			}
		})
	}
}

// wireError is an error reply.
type wireError string

func (e wireError) Error() string { return string(e) }

// RedisError makes it one.
func (wireError) RedisError() {}

// A new primary has no library: whoever is sent there first loads it, and what was counted is still there.
func TestANewPrimaryGetsTheLibraryByTheFirstCall(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	cfg := redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()}
	s := connect(t, cfg, library.ModeFunctions, perUser("shop/api", fixedWindow(1000, 744*time.Hour)))
	charge := s.charge("shop/api", 1, "bob")
	s.decide(charge)
	node := cluster.AddNode()
	cluster.MoveSlot(redisops.Slot(charge.Key), node)
	if row := s.decide(charge)[0]; row.Remaining != 998 {
		t.Errorf("%s, want 998 left", show(row))
	}
	if _, found, err := library.Loaded(context.Background(), node.Client()); err != nil || !found {
		t.Errorf("the library is loaded: %v, %v", found, err)
	}
}
