package policystore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// FailureKey is where the last failure of a policy stands ("<namespace>/<name>"). penstockd is the only one to notice
// that an expression fails, and knows no Kubernetes: the operator reads it for the policy's status.
func FailureKey(policy string) string { return "penstock:failure:" + policy }

// FailureTTL is how long a failure is kept.
const FailureTTL = 10 * time.Minute

// Failure is an expression of a policy that could not be evaluated for a request.
type Failure struct {
	// ContentHash is that of the policy which failed.
	ContentHash string `json:"contentHash"`
	// Message tells which expression failed and why. It holds nothing of any request.
	Message string `json:"message"`
}

// ReportFailure keeps a failure of the policy for FailureTTL, in the place of its last one.
func ReportFailure(ctx context.Context, client redis.Cmdable, policy string, f Failure) error {
	document, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("failure of %s: %w", policy, err)
	}
	if err := client.Set(ctx, FailureKey(policy), document, FailureTTL).Err(); err != nil {
		return fmt.Errorf("write %s: %w", FailureKey(policy), err)
	}
	return nil
}

// ReadFailures gives the failures of these policies. What was not written by ReportFailure is left out: anybody may have
// written it.
func ReadFailures(ctx context.Context, client redis.Cmdable, policies []string) (map[string]Failure, error) {
	if len(policies) == 0 {
		return nil, nil
	}
	pipe := client.Pipeline()
	replies := make([]*redis.StringCmd, len(policies))
	for i, name := range policies {
		replies[i] = pipe.Get(ctx, FailureKey(name))
	}
	// The error is that of the first command, which may be a key that is not there, or not a string.
	_, _ = pipe.Exec(ctx)
	failures := make(map[string]Failure)
	for i, reply := range replies {
		document, err := reply.Bytes()
		if err != nil {
			if _, answered := errors.AsType[redis.Error](err); answered {
				continue
			}
			return nil, fmt.Errorf("read failures of policies: %w", err)
		}
		var f Failure
		if json.Unmarshal(document, &f) == nil && f.Message != "" {
			failures[policies[i]] = f
		}
	}
	return failures, nil
}
