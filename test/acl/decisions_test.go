package acl_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// limiter is what decides.
type limiter interface {
	Decide(context.Context, []limit.Charge) ([]limit.Row, error)
	Peek(context.Context, []limit.Charge) ([]limit.Row, error)
	Refund(context.Context, limit.Charge) (limit.Row, error)
	Credit(context.Context, limit.Charge) (limit.Row, error)
	Reset(context.Context, limit.Charge) (limit.Row, error)
	AcquireSlot(context.Context, limit.Slot) (limit.Row, error)
	ReleaseSlot(context.Context, limit.Slot) (limit.Row, error)
}

// step is one call, and the reason that its row must have.
type step struct {
	name string
	do   func() (limit.Row, error)
	want string
}

// decide makes decisions of every kind for a subject, so that the Lua uses all commands that it can use.
func decide(ctx context.Context, s *site, l limiter, subject string) error {
	named := map[string]*policy.RateLimit{}
	for _, p := range policies() {
		named[p.Name] = &p
	}
	charge := func(name string, cost int64, id string) limit.Charge {
		return limit.Charge{Policy: named["shop/"+name], Key: key(name, subject), Values: []string{subject}, Cost: cost, ID: id}
	}
	slot := func(id string) limit.Slot {
		return limit.Slot{Policy: named["shop/slots"], Key: key("slots", subject), Values: []string{subject}, ID: id}
	}
	one := func(rows []limit.Row, err error) (limit.Row, error) {
		if err != nil || len(rows) == 0 {
			return limit.Row{}, err
		}
		return rows[0], nil
	}
	var steps []step
	add := func(name, want string, do func() (limit.Row, error)) { steps = append(steps, step{name, do, want}) }
	for _, name := range []string{"window", "sliding", "several", "balance"} {
		add(name, limit.ReasonOK, func() (limit.Row, error) { return one(l.Decide(ctx, []limit.Charge{charge(name, 2, "")})) })
		add(name+" by id", limit.ReasonOK, func() (limit.Row, error) { return one(l.Decide(ctx, []limit.Charge{charge(name, 2, "a")})) })
		add(name+" by id again", limit.ReasonOK, func() (limit.Row, error) { return one(l.Decide(ctx, []limit.Charge{charge(name, 2, "a")})) })
		add(name+" peek", limit.ReasonOK, func() (limit.Row, error) { return one(l.Peek(ctx, []limit.Charge{charge(name, 1, "")})) })
		add(name+" refund by id", limit.ReasonOK, func() (limit.Row, error) { return l.Refund(ctx, charge(name, 1, "a")) })
		add(name+" refund", limit.ReasonOK, func() (limit.Row, error) { return l.Refund(ctx, charge(name, 1, "")) })
		add(name+" denied", limit.ReasonLimit, func() (limit.Row, error) { return one(l.Decide(ctx, []limit.Charge{charge(name, 1000, "")})) })
	}
	add("several policies", limit.ReasonOK, func() (limit.Row, error) {
		return one(l.Decide(ctx, []limit.Charge{charge("window", 1, ""), charge("sliding", 1, "")}))
	})
	add("credit", limit.ReasonOK, func() (limit.Row, error) { return l.Credit(ctx, charge("balance", 3, "c")) })
	add("credit after a TTL", limit.ReasonOK, func() (limit.Row, error) {
		// A policy that counted by time before, or somebody's EXPIRE.
		if err := s.admin.Client().Expire(ctx, key("balance", subject), time.Hour).Err(); err != nil {
			s.t.Fatal(err)
		}
		return l.Credit(ctx, charge("balance", 1, ""))
	})
	add("acquire", limit.ReasonOK, func() (limit.Row, error) { return l.AcquireSlot(ctx, slot("one")) })
	add("acquire again", limit.ReasonOK, func() (limit.Row, error) { return l.AcquireSlot(ctx, slot("one")) })
	add("acquire the last", limit.ReasonOK, func() (limit.Row, error) { return l.AcquireSlot(ctx, slot("two")) })
	add("acquire none", limit.ReasonLimit, func() (limit.Row, error) { return l.AcquireSlot(ctx, slot("three")) })
	add("release", limit.ReasonOK, func() (limit.Row, error) { return l.ReleaseSlot(ctx, slot("one")) })
	for _, name := range []string{"window", "several", "balance", "slots"} {
		add(name+" reset", limit.ReasonOK, func() (limit.Row, error) { return l.Reset(ctx, charge(name, 0, "")) })
	}
	for _, step := range steps {
		row, err := step.do()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if row.Reason != step.want {
			return fmt.Errorf("%s: %s, want %s", step.name, row.Reason, step.want)
		}
	}
	return nil
}

// decideOnTheMove makes a decision whose counter's slot is on its way to another node.
func decideOnTheMove(ctx context.Context, s *site, l limiter) error {
	s.moves++
	subject := fmt.Sprintf("on the move %d", s.moves)
	return s.whileItsSlotMoves(key("window", subject), func() error {
		window := policies()[0]
		if _, err := l.Decide(ctx, []limit.Charge{{Policy: &window, Key: key("window", subject), Values: []string{subject}, Cost: 1}}); err != nil {
			return fmt.Errorf("while a slot is moved: %w", err)
		}
		return nil
	})
}

func key(name, subject string) string {
	return redisops.CounterKey("shop/"+name, []redisops.Entry{{Key: "user", Value: subject}})
}

// serve does what penstockd does with a store.
func serve(s *site) (lost []string, failed error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	s.empty()
	s.publish(policy.NewSet(policies()))

	log := &records{}
	st, err := store.Open(store.Options{Load: store.Always(s.as()), Replica: "tried", Logger: log.logger()})
	if err != nil {
		return nil, err
	}
	sets := make(chan *policy.Set, 16)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		st.Follow(ctx, func(set *policy.Set) { sets <- set })
	}()
	defer func() { cancel(); <-followed; st.Close() }()
	if !arrives(sets, policies()) {
		return nil, fmt.Errorf("no policies: %s", st.Why())
	}
	if !soon(time.Second, func() bool { _, err := st.Peek(ctx, nil); return !errors.Is(err, redisops.ErrNotExecuted) }) {
		return nil, errors.New("it does not find out how to decide")
	}
	if err := decide(ctx, s, st, "bob"); err != nil {
		return nil, err
	}
	if err := decideOnTheMove(ctx, s, st); err != nil {
		return nil, err
	}
	s.forgetLibrary()
	if err := decideOnTheMove(ctx, s, st); err != nil {
		return nil, fmt.Errorf("after the library was flushed: %w", err)
	}
	if err := decide(ctx, s, st, "alice"); err != nil {
		return nil, fmt.Errorf("after the library was flushed: %w", err)
	}
	own := policies()[0]
	own.Name = "shop/own"
	own = own.Sealed()
	if _, err := st.Decide(ctx, []limit.Charge{{Policy: &own, Key: key("own", "bob"), Values: []string{"bob"}, Cost: 1, Unpublished: true}}); err != nil {
		lost = append(lost, fmt.Sprintf("limits in requests: %v", err))
	}
	admin := s.admin.Client()
	st.ExpressionFailed(&own, "no such key")
	if !s.soonUnlessRefused(time.Second, func() bool { return admin.Exists(ctx, policystore.FailureKey(own.Name)).Val() == 1 }) {
		lost = append(lost, "failures of expressions")
	}
	if !s.soonUnlessRefused(time.Second, func() bool { return admin.HExists(ctx, policystore.ReplicasKey, "tried").Val() }) {
		lost = append(lost, "beats")
	}
	if err := prune(ctx, s); err != nil {
		lost = append(lost, err.Error())
	}
	s.publish(policy.NewSet(policies()[1:]))
	if !arrives(sets, policies()[1:]) {
		lost = append(lost, "news of another set")
	}
	if failure := log.refusal(); failure != "" {
		lost = append(lost, failure)
	}
	return lost, nil
}

// prune is what penstockd with policies of a file does in the place of an operator.
func prune(ctx context.Context, s *site) error {
	servers, err := redisops.Open(s.as())
	if err != nil {
		return err
	}
	defer func() { _ = servers.Close() }()
	if err := s.admin.Client().HSet(ctx, policystore.ReplicasKey, "gone", `{"at":1}`).Err(); err != nil {
		s.t.Fatal(err)
	}
	return policystore.PruneBeats(ctx, servers.Client())
}

// forgetLibrary is a restart, or a new primary.
func (s *site) forgetLibrary() {
	primaries, err := s.admin.Primaries(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, primary := range primaries {
		command := []any{"FUNCTION", "FLUSH"}
		if s.old() {
			command = []any{"SCRIPT", "FLUSH"}
		}
		if err := primary.Client.Do(s.t.Context(), command...).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// arrives waits for a set of these policies.
func arrives(sets <-chan *policy.Set, want []policy.RateLimit) bool {
	hash := policy.NewSet(want).Hash
	timeout := time.After(time.Second)
	for {
		select {
		case set := <-sets:
			if set.Hash == hash {
				return true
			}
		case <-timeout:
			return false
		}
	}
}
