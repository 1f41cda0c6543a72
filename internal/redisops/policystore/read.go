package policystore

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
)

// ErrNoPolicies tells that nothing was published yet, or that it is gone.
var ErrNoPolicies = errors.New("no policies are published in this Redis")

// Read gives the published set. Errors: ErrNoPolicies, policy.ErrNewerFormat, what policy.Parse finds wrong, or an error
// for redisops.Classify.
func Read(ctx context.Context, client redis.Cmdable) (*policy.Set, error) {
	document, err := readDocument(ctx, client)
	if err != nil {
		return nil, err
	}
	return parse(document)
}

func readDocument(ctx context.Context, client redis.Cmdable) ([]byte, error) {
	document, err := client.Get(ctx, PoliciesKey).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, ErrNoPolicies
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", PoliciesKey, err)
	}
	return document, nil
}

func parse(document []byte) (*policy.Set, error) {
	set, err := policy.Parse(document)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", PoliciesKey, err)
	}
	return set, nil
}
