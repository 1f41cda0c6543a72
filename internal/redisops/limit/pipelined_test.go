package limit_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
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

// pipelined is a world whose Limiter decides as penstockd's does: through a Caller, over a network.
type pipelined struct {
	*world
	proxy  *redistest.Proxy
	caller *redisops.Caller
}

// startPipelined starts one with the policies shop/user (1000 per user) and shop/all (1000 together).
func startPipelined(t *testing.T, mode library.Mode, commandTimeout time.Duration) *pipelined {
	t.Helper()
	perUser := one("shop/user", fixedWindow(1000, 744*time.Hour))
	perUser.Descriptors = []policy.Descriptor{{Key: "user"}}
	w := start(t, mode, false, perUser, one("shop/all", fixedWindow(1000, 744*time.Hour)))
	proxy := redistest.StartProxy(t, w.server.Addr)
	cfg := redisops.Config{Addresses: []string{proxy.Addr}, CommandTimeout: commandTimeout, DialTimeout: 30 * time.Second}
	servers, err := redisops.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	caller := redisops.NewCaller(servers, redisops.CallerOptions{})
	t.Cleanup(func() {
		_ = servers.Close()
		caller.Close()
	})
	w.limiter = limit.New(caller, servers.Client(), mode)
	if err := caller.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &pipelined{world: w, proxy: proxy, caller: caller}
}

// charges gives the charges of the i-th of several requests: one, or two that are decided together.
func (p *pipelined) charges(i, n int) []limit.Charge {
	charges := []limit.Charge{p.charge("shop/user", 1, strconv.Itoa(i)), p.charge("shop/all", 1)}
	return charges[:n]
}

// wantCountedOnce asks the server itself.
func (p *pipelined) wantCountedOnce(t *testing.T, requests, chargesEach int) {
	t.Helper()
	left := func(c limit.Charge) int64 { return p.peekDirect(t, c).Remaining }
	for i := range requests {
		if got := left(p.charge("shop/user", 0, strconv.Itoa(i))); got != 999 {
			t.Errorf("request %d was counted %d times", i, 1000-got)
		}
	}
	if want := int64(1000 - requests*(chargesEach-1)); left(p.charge("shop/all", 0)) != want {
		t.Errorf("%d of all are left, want %d", left(p.charge("shop/all", 0)), want)
	}
}

// Fault 15: many requests of shared pipelines meet a server that lost our Lua.
func TestLostLuaCostsNoneOfAPipelineItsDecision(t *testing.T) {
	for _, charges := range []int{1, 2} {
		inBothModes(t, func(t *testing.T, mode library.Mode) {
			p := startPipelined(t, mode, 30*time.Second)
			p.do("FUNCTION", "FLUSH")
			p.do("SCRIPT", "FLUSH")
			p.proxy.Delay(20 * time.Millisecond) // while replies are on their way, pipelines gather
			before := p.proxy.Replies()
			const requests = 200
			var wg sync.WaitGroup
			for i := range requests {
				wg.Go(func() {
					if rows, err := p.limiter.Decide(t.Context(), p.charges(i, charges)); err != nil || !rows[0].Allowed {
						t.Errorf("request %d: %v, %v", i, rows, err)
					}
				})
			}
			wg.Wait()
			p.wantCountedOnce(t, requests, charges)
			if got := p.proxy.Replies() - before; got >= requests {
				t.Errorf("%d replies to %d requests: they shared no pipelines", got, requests)
			}
		})
	}
}

// Fault 16: what ran and whose reply was lost is counted once, and nobody is told that it was not. A repeat would succeed:
// new connections work, and callers wait for long.
func TestLostDecisionIsCountedOnceAndItsOutcomeUnknown(t *testing.T) {
	for _, charges := range []int{1, 2} {
		inBothModes(t, func(t *testing.T, mode library.Mode) {
			p := startPipelined(t, mode, 30*time.Second)
			const requests = 20
			// So that the server has the scripts, and no reply says otherwise. It is not to be counted.
			if _, err := p.limiter.Decide(t.Context(), p.charges(requests, charges)); err != nil {
				t.Fatal(err)
			}
			p.do("DEL", p.key("shop/all"))
			keys := p.client.DBSize(t.Context()).Val()
			p.proxy.SwallowReplies()
			var wg sync.WaitGroup
			var unknown atomic.Int64
			for i := range requests {
				wg.Go(func() {
					rows, err := p.limiter.Decide(t.Context(), p.charges(i, charges))
					if !errors.Is(err, redisops.ErrUnknownOutcome) {
						t.Errorf("request %d: %v, %v; want an unknown outcome", i, rows, err)
						return
					}
					unknown.Add(1)
				})
			}
			eventually(t, "all decisions to be made", func() bool { return p.client.DBSize(t.Context()).Val() == keys+int64(requests+charges-1) })
			p.proxy.Cut()
			wg.Wait()
			if unknown.Load() != requests {
				t.Errorf("%d outcomes are unknown, want all %d", unknown.Load(), requests)
			}
			p.wantCountedOnce(t, requests, charges)
			if _, err := p.limiter.Decide(t.Context(), p.charges(requests+1, charges)); err != nil {
				t.Errorf("the decision after: %v", err)
			}
		})
	}
}

// Fault 16, for what is not a decision: made once, or by an id once however often it is asked for.
func TestALostOperationIsMadeOnceAndItsOutcomeUnknown(t *testing.T) {
	tests := map[string]struct {
		policy         policy.RateLimit
		before, do     string
		look, want     string
		again, wantTwo string
	}{
		"refund":         {one("shop/api", balance(100)), "charge 50", "refund 7", "peek 0", "allow 57/100 reset 0s", "refund 7", "allow 64/100 reset 0s"},
		"refund by id":   {one("shop/api", balance(100)), "charge 50 #a", "refund 7 #a", "peek 0", "allow 57/100 reset 0s", "refund 7 #a", "allow 57/100 reset 0s absent"},
		"credit":         {one("shop/api", balance(100)), "charge 50", "credit 7", "peek 0", "allow 57/100 reset 0s", "credit 7", "allow 64/100 reset 0s"},
		"credit by id":   {one("shop/api", balance(100)), "charge 50", "credit 7 #a", "peek 0", "allow 57/100 reset 0s", "credit 7 #a", "allow 57/100 reset 0s"},
		"decision by id": {one("shop/api", balance(100)), "charge 50", "charge 7 #a", "peek 0", "allow 43/100 reset 0s", "charge 7 #a", "allow 43/100 reset 0s"},
		"reset":          {one("shop/api", balance(100)), "charge 50", "reset", "peek 0", "allow 100/100 reset 0s", "reset", "allow 100/100 reset 0s"},
		"acquire":        {one("shop/api", concurrency(9, time.Hour)), "acquire #b", "acquire #a 1h", "release #none", "allow 7/9", "acquire #a", "allow 7/9 reset 1h0m0s"},
		"release":        {one("shop/api", concurrency(9, time.Hour)), "acquire #a", "release #a", "release #none", "allow 9/9 reset 0s absent", "release #a", "allow 9/9 reset 0s absent"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				p := startPipelined(t, mode, 30*time.Second)
				p.publish(test.policy)
				through := p.limiter
				p.limiter = limit.New(direct{client: p.client}, p.client, mode)
				p.act(test.before)
				if mode == library.ModeScripts {
					// So that no reply says that there is no script.
					if err := library.LoadScripts(t.Context(), p.client); err != nil {
						t.Fatal(err)
					}
				}
				p.proxy.SwallowReplies()
				done := make(chan error, 1)
				go func() {
					w := *p.world
					w.limiter = through
					_, err := w.try(test.do)
					done <- err
				}()
				eventually(t, "it to be done", func() bool { return strings.HasPrefix(p.act(test.look), test.want) })
				p.proxy.Cut()
				if err := <-done; !errors.Is(err, redisops.ErrUnknownOutcome) {
					t.Errorf("%v, want an unknown outcome", err)
				}
				if got := p.act(test.look); !strings.HasPrefix(got, test.want) {
					t.Errorf("afterwards: %s, want %s", got, test.want)
				}
				p.limiter = through
				if got := p.act(test.again); got != test.wantTwo {
					t.Errorf("again: %s, want %s", got, test.wantTwo)
				}
			})
		})
	}
}

// A decision takes no longer than one command may, also when the Lua has to be loaded and the call to be repeated.
func TestLoadingLostLuaTakesNoLongerThanADecisionMay(t *testing.T) {
	const roundTrip = 400 * time.Millisecond
	for name, tc := range map[string]struct {
		command, own time.Duration // 0 is no deadline of its own
	}{
		"the command's": {command: roundTrip + roundTrip/2},
		"its own":       {command: 30 * time.Second, own: roundTrip + roundTrip/2},
	} {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				p := startPipelined(t, mode, tc.command)
				p.do("FUNCTION", "FLUSH")
				p.do("SCRIPT", "FLUSH")
				p.proxy.Delay(roundTrip)
				ctx := t.Context()
				if tc.own > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.own)
					defer cancel()
				}
				start := time.Now()
				_, err := p.limiter.Decide(ctx, p.charges(0, 1))
				took := time.Since(start)
				if !errors.Is(err, context.DeadlineExceeded) || took > 2*roundTrip {
					t.Errorf("after %v: %v; want a timeout after %v, before a second round trip ends", took, err, roundTrip*3/2)
				}
				p.proxy.Delay(0)
				eventually(t, "a decision", func() bool {
					_, err := p.limiter.Decide(t.Context(), p.charges(1, 1))
					return err == nil
				})
			})
		})
	}
}

func (p *pipelined) peekDirect(t *testing.T, c limit.Charge) limit.Row {
	t.Helper()
	rows, err := limit.New(direct{client: p.client}, p.client, p.mode).Peek(t.Context(), []limit.Charge{c})
	if err != nil {
		t.Fatal(err)
	}
	return rows[0]
}

// eventually fails the test when the condition does not come true.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("waited for %s", what)
}
