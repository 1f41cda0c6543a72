package main

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// What penstockd is asked about: a limit that is never reached, in a window that does not end during a run.
const (
	domain     = "bench"
	policyName = "bench/load"
	descriptor = "remote_address"
	limit      = 1_000_000_000
)

// publish puts the policy and the function library into the servers.
func publish(ctx context.Context, cfg redisops.Config) error {
	set := policy.NewSet([]policy.RateLimit{policy.RateLimit{
		Name: policyName, Domain: domain,
		Descriptors:    []policy.Descriptor{{Key: descriptor}},
		Limits:         []policy.Limit{{Name: "day", Algorithm: policy.FixedWindow, Requests: limit, WindowMs: (24 * time.Hour).Milliseconds()}},
		OnStoreFailure: policy.FailureAllow,
	}.Sealed()})
	if err := set.Validate(); err != nil {
		return fmt.Errorf("the bench's policy: %w", err)
	}
	// Whoever publishes has time: servers that just started are slow.
	cfg.CommandTimeout, cfg.DialTimeout = 5*time.Second, 5*time.Second
	servers, err := redisops.Open(cfg)
	if err != nil {
		return fmt.Errorf("publishing the bench's policy: %w", err)
	}
	defer func() { _ = servers.Close() }()
	if _, err := policystore.Publish(ctx, servers, policystore.Publication{Owner: "bench/bench/faults", Set: set, Mode: library.ModeFunctions}); err != nil {
		return fmt.Errorf("publishing the bench's policy: %w", err)
	}
	return nil
}
