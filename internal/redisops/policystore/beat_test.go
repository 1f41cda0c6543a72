package policystore_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// saidAgo writes a beat as a replica did so long ago.
func saidAgo(t *testing.T, client redis.UniversalClient, replica string, ago time.Duration) {
	t.Helper()
	_, now, err := policystore.Beats(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	document := fmt.Sprintf(`{"set":"old","at":%d,"format":1}`, now.Add(-ago).UnixMilli())
	if err := client.HSet(t.Context(), policystore.ReplicasKey, replica, document).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestLivingReplicasAreCountedByTheirBeats(t *testing.T) {
	for name, client := range map[string]redis.UniversalClient{
		"standalone": redisopstest.At(t, redistest.Start(t).Addr).Client(),
		"cluster":    openCluster(t, redistest.StartCluster(t, 3, 0)).Client(),
		"embedded":   redisopstest.At(t, miniredis.RunT(t).Addr()).Client(),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if live, err := policystore.Beat(ctx, client, "a", "one"); err != nil || live != 1 {
				t.Errorf("%d live, %v; want itself", live, err)
			}
			saidAgo(t, client, "dead", policystore.LiveFor+time.Second)
			saidAgo(t, client, "late", policystore.LiveFor-5*time.Second)
			saidAgo(t, client, "gone", 70*time.Second)
			// The clock of Redis went back: it is not taken for dead.
			saidAgo(t, client, "future", -time.Hour)
			if err := client.HSet(ctx, policystore.ReplicasKey, "foreign", "no JSON").Err(); err != nil {
				t.Fatal(err)
			}
			if live, err := policystore.Beat(ctx, client, "b", "two"); err != nil || live != 4 {
				t.Errorf("%d live, %v; want a, b, late and future", live, err)
			}
			beats, now, err := policystore.Beats(ctx, client)
			if err != nil || len(beats) != 6 || beats[0].Replica != "a" || beats[0].Set != "one" || beats[0].Format != policy.Format {
				t.Errorf("got %+v, %v; want six, a first", beats, err)
			}
			if since := now.Sub(beats[0].At); since < 0 || since > patience {
				t.Errorf("a beat of now is %v old", since)
			}
			if err := policystore.PruneBeats(ctx, client); err != nil {
				t.Fatal(err)
			}
			if left := client.HKeys(ctx, policystore.ReplicasKey).Val(); !slices.Equal(slices.Sorted(slices.Values(left)), []string{"a", "b", "dead", "late"}) {
				t.Errorf("left %v, want all but gone, future and foreign", left)
			}
		})
	}
}

func TestPruningWithNothingToPruneWritesNothing(t *testing.T) {
	server := redistest.Start(t)
	client := redisopstest.At(t, server.Addr).Client()
	if err := policystore.PruneBeats(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	stats, err := server.Client().InfoMap(t.Context(), "commandstats").Result()
	if err != nil || stats["Commandstats"]["cmdstat_hdel"] != "" {
		t.Errorf("HDEL: %q, %v", stats["Commandstats"]["cmdstat_hdel"], err)
	}
}

func TestBeatsOfAServerThatIsGoneAreAnError(t *testing.T) {
	server := redistest.Start(t)
	client := redisopstest.At(t, server.Addr).Client()
	server.Kill()
	ctx := context.Background()
	if live, err := policystore.Beat(ctx, client, "a", "one"); err == nil || live != 0 {
		t.Errorf("Beat: %d, %v; want an error", live, err)
	}
	if _, _, err := policystore.Beats(ctx, client); err == nil {
		t.Error("Beats: no error")
	}
	if err := policystore.PruneBeats(ctx, client); err == nil {
		t.Error("PruneBeats: no error")
	}
}
