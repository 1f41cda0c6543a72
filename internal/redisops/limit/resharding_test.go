package limit_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// outcomes are what became of the decisions about one subject of one policy.
type outcomes struct {
	allowed, unknown atomic.Int64
}

// count notes a decision.
func (n *outcomes) count(row limit.Row, err error) {
	switch {
	case redisops.Classify(err) == redisops.UnknownOutcome:
		n.unknown.Add(1)
	case err == nil && row.Allowed:
		n.allowed.Add(1)
	}
}

// Fault 19: slots move back and forth, key by key, while their subjects are charged, alone and together, with ids and
// without. Every decision that was told is counted, once and whole; none is counted that was not told, but those of which
// nobody knows; and no limit lets more pass.
func TestReshardingUnderLoadLosesAndDoublesNothing(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	cfg := redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()}
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		roomy := []string{"shop/log-" + mode.String(), "shop/window-" + mode.String()}
		tight := []string{"shop/few-" + mode.String(), "shop/fewer-" + mode.String()}
		s := connect(t, cfg, mode,
			perUser(roomy[0], fixedWindow(1<<40, 744*time.Hour), named("log", slidingLog(1000, 744*time.Hour))),
			perUser(roomy[1], fixedWindow(1<<40, 744*time.Hour)),
			perUser(tight[0], slidingLog(40, 744*time.Hour)), perUser(tight[1], fixedWindow(40, 744*time.Hour)))
		users := []string{"ann", "bob", "eve"}
		told := map[string]map[string]*outcomes{}
		names := slices.Concat(roomy, tight)
		for _, name := range names {
			told[name] = map[string]*outcomes{}
			for _, user := range users {
				told[name][user] = &outcomes{}
			}
		}
		work := func(user string, number int64) {
			ctx := context.Background()
			switch rand.IntN(4) {
			case 0: // alone
				for _, name := range names {
					rows, err := s.limiter.Decide(ctx, []limit.Charge{s.charge(name, 1, user)})
					told[name][user].count(first(rows), err)
				}
			case 1: // by an id, until it is told
				for _, name := range names {
					charge := s.charge(name, 1, user)
					charge.ID = strconv.FormatInt(number, 10)
					rows, err := s.limiter.Decide(ctx, []limit.Charge{charge})
					for until := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(until); {
						rows, err = s.limiter.Decide(ctx, []limit.Charge{charge})
					}
					told[name][user].count(first(rows), err)
				}
			case 2: // two together, of one slot
				charges := []limit.Charge{s.charge(roomy[0], 1, user), s.charge(roomy[1], 1, user)}
				rows, err := s.limiter.Decide(ctx, charges)
				for i := range charges {
					row := limit.Row{}
					if err == nil {
						row = rows[i]
						row.Allowed = rows[0].Allowed && rows[1].Allowed
					}
					told[roomy[i]][user].count(row, err)
				}
			default: // and given back, exactly
				charge := s.charge(tight[0], 1, user)
				charge.ID = strconv.FormatInt(number, 10)
				if rows, err := s.limiter.Decide(ctx, []limit.Charge{charge}); err != nil {
					told[tight[0]][user].count(limit.Row{}, err)
				} else if rows[0].Allowed {
					undoing, cancel := context.WithTimeout(ctx, 30*time.Second)
					rows[0].Undo = charge.ID
					if err := s.limiter.Undo(undoing, []limit.Charge{charge}, rows); err != nil {
						told[tight[0]][user].allowed.Add(1)
					}
					cancel()
				}
			}
		}
		var number atomic.Int64
		stop := make(chan struct{})
		var running sync.WaitGroup
		for range 6 {
			running.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						n := number.Add(1)
						work(users[n%int64(len(users))], n)
					}
				}
			})
		}
		for range 5 {
			for _, user := range users {
				slot := redisops.Slot(s.key(roomy[0], user))
				from := cluster.Owner(slot)
				to := cluster.Nodes[(slices.Index(cluster.Nodes, from)+1+rand.IntN(2))%3]
				cluster.StartMigration(slot, from, to)
				for cluster.MigrateKeys(slot, from, to, 1+rand.IntN(60)) > 0 {
					continue
				}
				cluster.FinishMigration(slot, to)
			}
		}
		close(stop)
		running.Wait()

		total := int64(0)
		for name, of := range told {
			for user, n := range of {
				row := s.peek(s.charge(name, 0, user))
				p := s.policies[name]
				used := p.Limits[0].Requests - row.Remaining
				if row.LimitName == "log" {
					used = 1000 - row.Remaining
				}
				if used < n.allowed.Load() || used > n.allowed.Load()+n.unknown.Load() {
					t.Errorf("%s of %s: %d are counted; %d were allowed, %d unknown", name, user, used, n.allowed.Load(), n.unknown.Load())
				}
				if most := p.Limits[len(p.Limits)-1].Requests; n.allowed.Load() > most {
					t.Errorf("%s of %s: %d were allowed, want at most %d", name, user, n.allowed.Load(), most)
				}
				total += n.allowed.Load()
			}
		}
		if total < 100 {
			t.Errorf("only %d were allowed, want many", total)
		}
	})
}

func first(rows []limit.Row) limit.Row {
	if len(rows) == 0 {
		return limit.Row{}
	}
	return rows[0]
}
