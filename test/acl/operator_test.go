package acl_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/controllers/redisstore"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// operate does what the operator does with a store.
func operate(s *site) (lost []string, failed error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	s.empty()
	server, err := redisstore.Dial(s.as())
	if err != nil {
		return nil, err
	}
	defer func() { _ = server.Close() }()

	facts, err := server.Probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if facts.Version == "" || facts.MaxmemoryPolicy == "" {
		lost = append(lost, "version and eviction")
	}
	if facts.Persistence == "" {
		lost = append(lost, "persistence")
	}
	if facts.Mode != s.mode {
		return lost, fmt.Errorf("it decides by %v", facts.Mode)
	}

	publication := policystore.Publication{Owner: owner, Set: policy.NewSet(policies()), Mode: facts.Mode}
	if failed := refusedPublication(ctx, s, server, publication); failed != nil {
		return lost, failed
	}
	if _, err := server.Publish(ctx, publication); err != nil {
		return lost, fmt.Errorf("publish: %w", err)
	}
	if result, err := server.Publish(ctx, publication); err != nil || result.Changed {
		return lost, fmt.Errorf("publish the same again: %+v, %w", result, err)
	}
	if failed := s.whileItsSlotMoves(policystore.PoliciesKey, func() error {
		if _, err := server.Publish(ctx, publication); err != nil {
			return fmt.Errorf("look while a slot is moved: %w", err)
		}
		return nil
	}); failed != nil {
		return lost, failed
	}
	if set, err := server.Published(ctx); err != nil || set == nil || set.Hash != publication.Set.Hash {
		return lost, fmt.Errorf("read: %v, %w", set, err)
	}
	// Somebody puts a TTL on it.
	client := s.admin.Client()
	if err := client.Expire(ctx, policystore.PoliciesKey, time.Hour).Err(); err != nil {
		s.t.Fatal(err)
	}
	publication.Set = policy.NewSet(policies()[1:])
	publication.ConfirmShrink = publication.Set.Hash
	if result, err := server.Publish(ctx, publication); err != nil || !result.Changed {
		return lost, fmt.Errorf("publish another set: %+v, %w", result, err)
	}
	if err := client.Expire(ctx, policystore.OwnerKey, time.Hour).Err(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := server.Publish(ctx, publication); err != nil {
		return lost, fmt.Errorf("repair: %w", err)
	}
	if err := policystore.ReportFailure(ctx, client, "shop/window", policystore.Failure{Message: "no such key"}); err != nil {
		s.t.Fatal(err)
	}
	if failures, err := server.Failures(ctx, []string{"shop/window"}); err != nil || len(failures) != 1 {
		return lost, fmt.Errorf("failures: %v, %w", failures, err)
	}
	if err := client.HSet(ctx, policystore.ReplicasKey, "gone", `{"at":1}`).Err(); err != nil {
		s.t.Fatal(err)
	}
	if err := server.PruneBeats(ctx); err != nil || client.HExists(ctx, policystore.ReplicasKey, "gone").Val() {
		lost = append(lost, fmt.Sprintf("replicas that are gone: %v", err))
	}
	if err := driftIsSeen(ctx, client, server); err != nil {
		lost = append(lost, "drift: "+err.Error())
	}
	return lost, nil
}

// driftIsSeen changes what is published and waits until that is told.
func driftIsSeen(ctx context.Context, client redis.UniversalClient, server redisstore.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var told atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- server.WatchDrift(ctx, func() { told.Add(1) }) }()
	defer func() { cancel(); <-ended }()
	broken := false
	hears := func(before int64) bool {
		return soon(3*time.Second, func() bool {
			select {
			case err := <-ended:
				broken = true
				ended <- err
			default:
			}
			return broken || told.Load() > before
		}) && !broken
	}
	if !hears(0) {
		return errors.New("it does not begin")
	}
	// More calls may come for what was before.
	time.Sleep(50 * time.Millisecond)
	before := told.Load()
	if err := client.Set(ctx, policystore.PoliciesKey, "drift", 0).Err(); err != nil {
		return err
	}
	if !hears(before) {
		return errors.New("nothing is told of a change")
	}
	return nil
}

// refusedPublication publishes where a server refuses the library, so that all has to be taken back.
func refusedPublication(ctx context.Context, s *site, server redisstore.Server, publication policystore.Publication) error {
	if s.mode == library.ModeScripts || s.config.Topology == policy.TopologyIndependent {
		return nil // nothing is refused, or it is one of several that have nothing to do with each other
	}
	primaries, err := s.admin.Primaries(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	clash := primaries[len(primaries)-1].Client
	const foreign = "#!lua name=foreign\nredis.register_function('penstock_limit', function() return 1 end)"
	if err := clash.FunctionLoad(ctx, foreign).Err(); err != nil {
		s.t.Fatal(err)
	}
	_, err = server.Publish(ctx, publication)
	if deleted := clash.FunctionDelete(ctx, "foreign").Err(); deleted != nil {
		s.t.Fatal(deleted)
	}
	if err == nil {
		return errors.New("a library that a server refused was published")
	}
	documents := s.admin.Client()
	if n := documents.Exists(ctx, policystore.PoliciesKey).Val(); n != 0 {
		return fmt.Errorf("what was refused stays: %w", err)
	}
	for _, primary := range primaries {
		if _, loaded, err := library.Loaded(ctx, primary.Client); err != nil || loaded {
			return fmt.Errorf("the library stays in %s: %w", primary.Address, err)
		}
	}
	return nil
}

// policies are one of each kind that needs commands of its own.
func policies() []policy.RateLimit {
	limits := func(name string, all ...policy.Limit) policy.RateLimit {
		for i := range all {
			all[i].Name = fmt.Sprintf("limit-%d", i)
		}
		return policy.RateLimit{
			Name: "shop/" + name, Domain: "shop", Descriptors: []policy.Descriptor{{Key: "user"}}, Limits: all,
			OnStoreFailure: policy.FailureAllow,
		}.Sealed()
	}
	window := policy.Limit{Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}
	sliding := policy.Limit{Algorithm: policy.SlidingLog, Requests: 100, WindowMs: 60_000}
	return []policy.RateLimit{
		limits("window", window),
		limits("sliding", sliding),
		limits("several", sliding, policy.Limit{Algorithm: policy.SlidingCounter, Requests: 100, WindowMs: 60_000}),
		limits("balance", policy.Limit{Algorithm: policy.Balance, Requests: 5}),
		limits("slots", policy.Limit{Algorithm: policy.Concurrency, Requests: 2, SlotTTLMs: 60_000}),
	}
}
