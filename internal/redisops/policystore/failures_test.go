package policystore_test

import (
	"context"
	"maps"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestTheLastFailureOfEachPolicyIsRead(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	client := server.Client()
	policies := []string{"shop/a", "shop/b", "shop/c", "shop/d", "shop/e"}
	if got, err := policystore.ReadFailures(ctx, client, policies); err != nil || len(got) != 0 {
		t.Fatalf("none were reported: %v, %v", got, err)
	}
	first := policystore.Failure{ContentHash: "a", Message: "when[0]: no such attribute"}
	last := policystore.Failure{ContentHash: "b", Message: "cost: out of range"}
	for _, report := range []struct {
		policy  string
		failure policystore.Failure
	}{{"shop/b", first}, {"shop/c", first}, {"shop/b", last}, {"shop/other", first}} {
		if err := policystore.ReportFailure(ctx, client, report.policy, report.failure); err != nil {
			t.Fatal(err)
		}
	}
	// Fault 59: somebody else writes there.
	server.Do("LPUSH", policystore.FailureKey("shop/a"), "x")
	server.Do("SET", policystore.FailureKey("shop/d"), "no JSON")
	server.Do("SET", policystore.FailureKey("shop/e"), `{"message":7}`)
	got, err := policystore.ReadFailures(ctx, client, policies)
	if want := map[string]policystore.Failure{"shop/b": last, "shop/c": first}; err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if left := client.PTTL(ctx, policystore.FailureKey("shop/b")).Val(); left <= 0 || left > policystore.FailureTTL {
		t.Errorf("kept for %v, want at most %v", left, policystore.FailureTTL)
	}
}

func TestFailuresOfAServerThatIsGoneAreAnError(t *testing.T) {
	server := redistest.Start(t)
	client := server.ClientWith(&redis.Options{MaxRetries: -1, DialerRetries: 1})
	server.Kill()
	if got, err := policystore.ReadFailures(context.Background(), client, []string{"shop/a"}); err == nil {
		t.Errorf("got %v and no error", got)
	}
}
