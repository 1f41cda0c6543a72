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

// policies are the limits of the bench as penstockd has them.
func policies() (*policy.Set, error) {
	day := (24 * time.Hour).Milliseconds()
	limit := func(name, key string, requests int64) policy.RateLimit {
		return policy.RateLimit{
			Name: "bench/" + name, Domain: domain,
			Descriptors: []policy.Descriptor{{Key: key}},
			Limits:      []policy.Limit{{Name: "day", Algorithm: policy.FixedWindow, Requests: requests, WindowMs: day}},
			// A decision without Redis would show as a denial, and is none of what is measured.
			OnStoreFailure: policy.FailureDeny,
		}.Sealed()
	}
	set := policy.NewSet([]policy.RateLimit{limit("load", loadKey, loadLimit), limit("probe", probeKey, probeLimit)})
	if err := set.Validate(); err != nil {
		return nil, fmt.Errorf("the bench's policies: %w", err)
	}
	return set, nil
}

// publish puts the policies and the function library into Redis, from where penstockd reads them.
func publish(ctx context.Context, address string) error {
	set, err := policies()
	if err != nil {
		return err
	}
	servers, err := redisops.Open(redisops.Config{Addresses: []string{address}})
	if err != nil {
		return fmt.Errorf("publishing the bench's policies: %w", err)
	}
	defer func() { _ = servers.Close() }()
	_, err = policystore.Publish(ctx, servers, policystore.Publication{Owner: "bench/bench/bench", Set: set, Mode: library.ModeFunctions})
	if err != nil {
		return fmt.Errorf("publishing the bench's policies: %w", err)
	}
	return nil
}
