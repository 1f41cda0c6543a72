package policystore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
)

// ReplicasKey is a hash of the replicas of penstockd: name → beat.
const ReplicasKey = "penstock:replicas"

const (
	// BeatEvery is how often a replica says that it lives.
	BeatEvery = 5 * time.Second
	// LiveFor is how long it counts as living after that.
	LiveFor = 15 * time.Second
	// keepBeats is how long what it said is kept.
	keepBeats = 60 * time.Second
)

// ReplicaBeat is what a replica said last.
type ReplicaBeat struct {
	// Replica is its name.
	Replica string
	// Set is the hash of the set that it serves; empty for none.
	Set string
	// At is when, by the clock of Redis.
	At time.Time
	// Format is the newest format of a set that it can read; see policy.Format.
	Format int
}

// Live tells whether the replica counts as living at that time of Redis. A beat of the future (the clock went back) does.
func (b ReplicaBeat) Live(now time.Time) bool { return now.Sub(b.At) < LiveFor }

// beatDocument is the value of a field.
type beatDocument struct {
	Set    string `json:"set"`
	AtMs   int64  `json:"at"`
	Format int    `json:"format"`
}

// Beat says that the replica lives and which set it serves, and gives the number of living replicas, itself included.
func Beat(ctx context.Context, client redis.UniversalClient, replica, set string) (int, error) {
	server, err := beatServer(ctx, client)
	if err != nil {
		return 0, err
	}
	now, err := server.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("beat: read the time: %w", err)
	}
	document, err := json.Marshal(beatDocument{Set: set, AtMs: now.UnixMilli(), Format: policy.Format})
	if err != nil {
		return 0, fmt.Errorf("beat: %w", err)
	}
	var all *redis.MapStringStringCmd
	if _, err := server.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, ReplicasKey, replica, document)
		all = pipe.HGetAll(ctx, ReplicasKey)
		return nil
	}); err != nil {
		return 0, fmt.Errorf("beat: %w", err)
	}
	live := 0
	for _, beat := range readBeats(all.Val()) {
		if beat.Live(now) {
			live++
		}
	}
	return max(live, 1), nil
}

// Beats gives what the replicas said last, by name, and the time of Redis. What was not written by Beat is left out: anybody
// may have written it.
func Beats(ctx context.Context, client redis.UniversalClient) ([]ReplicaBeat, time.Time, error) {
	all, now, err := allBeats(ctx, client)
	if err != nil {
		return nil, time.Time{}, err
	}
	return readBeats(all), now, nil
}

// PruneBeats removes what replicas said more than a minute ago, or seem to have said more than a minute in the future (the
// clock went back: those that live say it again), and what cannot be read.
func PruneBeats(ctx context.Context, client redis.UniversalClient) error {
	all, now, err := allBeats(ctx, client)
	if err != nil {
		return err
	}
	for _, beat := range readBeats(all) {
		if now.Sub(beat.At).Abs() <= keepBeats {
			delete(all, beat.Replica)
		}
	}
	if len(all) == 0 {
		return nil
	}
	var gone []string
	for replica := range all {
		gone = append(gone, replica)
	}
	if err := client.HDel(ctx, ReplicasKey, gone...).Err(); err != nil {
		return fmt.Errorf("remove beats: %w", err)
	}
	return nil
}

func allBeats(ctx context.Context, client redis.UniversalClient) (map[string]string, time.Time, error) {
	server, err := beatServer(ctx, client)
	if err != nil {
		return nil, time.Time{}, err
	}
	var all *redis.MapStringStringCmd
	var now *redis.TimeCmd
	if _, err := server.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		all, now = pipe.HGetAll(ctx, ReplicasKey), pipe.Time(ctx)
		return nil
	}); err != nil {
		return nil, time.Time{}, fmt.Errorf("read beats: %w", err)
	}
	return all.Val(), now.Val(), nil
}

// beatServer gives the server that has the beats: in a cluster each has its own clock.
func beatServer(ctx context.Context, client redis.UniversalClient) (redis.Cmdable, error) {
	cluster, is := client.(*redis.ClusterClient)
	if !is {
		return client, nil
	}
	server, err := cluster.MasterForKey(ctx, ReplicasKey)
	if err != nil {
		return nil, fmt.Errorf("find the server of %s: %w", ReplicasKey, err)
	}
	return server, nil
}

// readBeats gives the beats that can be read, by name.
func readBeats(all map[string]string) []ReplicaBeat {
	var beats []ReplicaBeat
	for replica, text := range all {
		var document beatDocument
		if json.Unmarshal([]byte(text), &document) == nil && document.AtMs > 0 {
			beats = append(beats, ReplicaBeat{Replica: replica, Set: document.Set, At: time.UnixMilli(document.AtMs), Format: document.Format})
		}
	}
	slices.SortFunc(beats, func(a, b ReplicaBeat) int { return cmp.Compare(a.Replica, b.Replica) })
	return beats
}
