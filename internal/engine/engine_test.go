package engine

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// store is a Limiter that answers as it is told and remembers what it was asked.
type store struct {
	mu    sync.Mutex
	calls [][]limit.Charge
	// methods are those that were called, one for each of the calls, and slots what was acquired and released.
	methods []string
	slots   []limit.Slot
	// fail gives the error of a call, or nil.
	fail func(charges []limit.Charge) error
	// rows gives the row of a policy; without one it is allowed(10, 9).
	rows map[string]limit.Row
}

func (s *store) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return s.answer("Decide", charges)
}

func (s *store) Undo(_ context.Context, charges []limit.Charge, rows []limit.Row) error {
	var undone []limit.Charge
	for i := range rows {
		c := charges[i]
		c.ID = rows[i].Undo
		undone = append(undone, c)
	}
	_, err := s.answer("Undo", undone)
	return err
}

func (s *store) Peek(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	return s.answer("Peek", charges)
}

func (s *store) Refund(_ context.Context, charge limit.Charge) (limit.Row, error) {
	return s.single("Refund", charge)
}

func (s *store) Credit(_ context.Context, charge limit.Charge) (limit.Row, error) {
	return s.single("Credit", charge)
}

func (s *store) Reset(_ context.Context, charge limit.Charge) (limit.Row, error) {
	return s.single("Reset", charge)
}

func (s *store) AcquireSlot(_ context.Context, slot limit.Slot) (limit.Row, error) {
	return s.slot("AcquireSlot", slot)
}

func (s *store) ReleaseSlot(_ context.Context, slot limit.Slot) (limit.Row, error) {
	return s.slot("ReleaseSlot", slot)
}

func (s *store) slot(method string, slot limit.Slot) (limit.Row, error) {
	s.slots = append(s.slots, slot)
	return s.single(method, limit.Charge{Policy: slot.Policy, Key: slot.Key, Values: slot.Values, ID: slot.ID})
}

func (s *store) single(method string, charge limit.Charge) (limit.Row, error) {
	rows, err := s.answer(method, []limit.Charge{charge})
	if err != nil {
		return limit.Row{}, err
	}
	return rows[0], nil
}

func (s *store) answer(method string, charges []limit.Charge) ([]limit.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var copied []limit.Charge
	for _, c := range charges {
		c.Values = slices.Clone(c.Values)
		copied = append(copied, c)
	}
	s.calls, s.methods = append(s.calls, copied), append(s.methods, method)
	if s.fail != nil {
		if err := s.fail(charges); err != nil {
			return nil, err
		}
	}
	var rows []limit.Row
	for _, c := range charges {
		row, told := s.rows[c.Policy.Name]
		if !told {
			row = allowed(10, 9)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (s *store) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Hour)
}

// last are the charges of the last call.
func (s *store) last() []limit.Charge {
	if len(s.calls) == 0 {
		return nil
	}
	return s.calls[len(s.calls)-1]
}

// lastPolicies are the names of the policies that the last call charged, sorted.
func (s *store) lastPolicies() []string {
	var names []string
	if len(s.calls) > 0 {
		for _, c := range s.calls[len(s.calls)-1] {
			names = append(names, c.Policy.Name)
		}
	}
	slices.Sort(names)
	return names
}

func allowed(limitOf, remaining int64) limit.Row {
	return limit.Row{Allowed: true, Limit: limitOf, Remaining: remaining, Reset: time.Minute, LimitName: "default", Reason: limit.ReasonOK}
}

func denied(limitOf int64, retryAfter time.Duration) limit.Row {
	return limit.Row{Limit: limitOf, Reset: time.Minute, RetryAfter: retryAfter, LimitName: "default", Reason: limit.ReasonLimit}
}

// clock is a clock that stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is an engine with all around it in a test's hand.
type world struct {
	*Engine
	store    *store
	clock    *clock
	log      *bytes.Buffer
	registry *prometheus.Registry
	rereads  int
	// told are the expressions that failed, as <policy> <message>.
	told []string
}

func newWorld(t testing.TB, policies ...policy.RateLimit) *world {
	t.Helper()
	w := &world{
		store: &store{rows: map[string]limit.Row{}}, clock: &clock{now: time.Unix(1_800_000_000, 0)},
		log: &bytes.Buffer{}, registry: prometheus.NewRegistry(),
	}
	w.Engine = New(Options{
		Limiter: w.store, Reread: func() { w.rereads++ }, Registerer: w.registry, Now: w.clock.Now,
		Logger:           slog.New(slog.NewTextHandler(w.log, nil)),
		ExpressionFailed: func(p *policy.RateLimit, message string) { w.told = append(w.told, p.Name+" "+message) },
	})
	if len(policies) > 0 {
		w.Use(validSet(t, policies...))
	}
	w.log.Reset()
	return w
}

func validSet(t testing.TB, policies ...policy.RateLimit) *policy.Set {
	t.Helper()
	set := policy.NewSet(policies)
	if err := set.Validate(); err != nil {
		t.Fatalf("the test's own policies: %v", err)
	}
	return set
}

// rateLimit is a policy shop/<name> of domain shop; the descriptors are given as key, value, key, value…
func rateLimit(name string, descriptors ...string) policy.RateLimit {
	r := policy.RateLimit{
		Name: "shop/" + name, Domain: "shop", OnStoreFailure: policy.FailureAllow,
		Limits: []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 10, WindowMs: 60_000}},
	}
	for i := 0; i < len(descriptors); i += 2 {
		r.Descriptors = append(r.Descriptors, policy.Descriptor{Key: descriptors[i], Value: descriptors[i+1]})
	}
	return r.Sealed()
}

// with is the policy with a change.
func with(r policy.RateLimit, change func(*policy.RateLimit)) policy.RateLimit {
	change(&r)
	return r.Sealed()
}

func denying(r policy.RateLimit) policy.RateLimit {
	return with(r, func(r *policy.RateLimit) { r.OnStoreFailure = policy.FailureDeny })
}

// when is the policy with conditions.
func when(r policy.RateLimit, conditions ...string) policy.RateLimit {
	return with(r, func(r *policy.RateLimit) { r.When = conditions })
}

// costing is the policy with an expression for its cost.
func costing(r policy.RateLimit, expression string) policy.RateLimit {
	return with(r, func(r *policy.RateLimit) { r.CostExpression = expression })
}

// shadowing is the policy that only looks on, at that share of its subjects.
func shadowing(r policy.RateLimit, percent int64) policy.RateLimit {
	return with(r, func(r *policy.RateLimit) { r.ShadowPercent = percent })
}

// of is the policy with that algorithm for its limit.
func of(r policy.RateLimit, algorithm string) policy.RateLimit {
	return with(r, func(r *policy.RateLimit) { r.Limits = []policy.Limit{limitOf(algorithm)} })
}

func limitOf(algorithm string) policy.Limit {
	l := policy.Limit{Name: "default", Algorithm: algorithm, Requests: 10, WindowMs: 60_000}
	switch algorithm {
	case policy.TokenBucket:
		l.Burst, l.TickUs = 10, policy.TickFor(l.WindowMs)
	case policy.Balance:
		l.WindowMs = 0
	case policy.Concurrency:
		l.WindowMs, l.SlotTTLMs = 0, 60_000
	}
	return l
}

// lookupIn looks up attributes, given as key, value, key, value…
func lookupIn(attributes ...string) func(string) (string, bool) {
	return func(key string) (string, bool) {
		for i := 0; i < len(attributes); i += 2 {
			if attributes[i] == key {
				return attributes[i+1], true
			}
		}
		return "", false
	}
}

// tuple is one descriptor of a request, as key, value, key, value…
type tuple []string

func request(domain string, tuples ...tuple) *Request { return requestOf(1, domain, tuples...) }

func requestOf(cost int64, domain string, tuples ...tuple) *Request {
	r := NewRequest(domain)
	for _, tuple := range tuples {
		r.Descriptor(cost)
		for i := 0; i < len(tuple); i += 2 {
			r.Entry(tuple[i], tuple[i+1])
		}
	}
	return r
}

// decide decides and fails the test on an error.
func (w *world) decide(t testing.TB, tuples ...tuple) Result {
	t.Helper()
	return w.decideAt(t, 1, tuples...)
}

// decideAt decides with that cost for each descriptor.
func (w *world) decideAt(t testing.TB, cost int64, tuples ...tuple) Result {
	t.Helper()
	result, err := w.Decide(t.Context(), DoorRLS, requestOf(cost, "shop", tuples...))
	if err != nil {
		t.Fatalf("Decide: %v", err)
	}
	return result
}
