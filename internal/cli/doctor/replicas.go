package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// beatLate is how much later than every policystore.BeatEvery a replica may say what it serves.
const beatLate = 500 * time.Millisecond

func (p *publication) beats(ctx context.Context) (beats []policystore.ReplicaBeat, now time.Time, err error) {
	err = p.routed(ctx, func(ctx context.Context, client *redis.Client) (err error) {
		beats, now, err = policystore.Beats(ctx, client)
		return err
	})
	return beats, now, err
}

// untilHeard gives how long it takes until all replicas of another set than the published one should have spoken again.
func untilHeard(beats []policystore.ReplicaBeat, now time.Time, set *policy.Set) time.Duration {
	var pause time.Duration
	for _, beat := range beats {
		if set != nil && beat.Set != set.Hash && beat.Live(now) {
			pause = max(pause, policystore.BeatEvery+beatLate-now.Sub(beat.At))
		}
	}
	return min(pause, policystore.BeatEvery+beatLate)
}

// lookAtReplicas says which penstockd live, and which set they serve.
func (p *publication) lookAtReplicas(ctx context.Context, set *policy.Set) {
	beats, now, err := p.beats(ctx)
	if pause := untilHeard(beats, now, set); err == nil && pause > 0 {
		// They said what they serve before they had this set, and say it again soon.
		select {
		case <-time.After(pause):
			beats, now, err = p.beats(ctx)
		case <-ctx.Done():
		}
	}
	if forbidden(err) {
		p.tell(Note, CheckReplicas, "reading penstock:replicas is not permitted", "which penstockd live was not looked at", "add the rules +hgetall, +time and %R~penstock:replicas")
	}
	if err != nil {
		return
	}
	var live, behind, unable []string
	for _, beat := range beats {
		if !beat.Live(now) {
			continue
		}
		live = append(live, beat.Replica)
		switch {
		case set == nil || beat.Set == set.Hash:
		case beat.Format < policy.Format:
			unable = append(unable, beat.Replica)
		default:
			behind = append(behind, beat.Replica)
		}
	}
	if len(unable) > 0 {
		p.tell(Warning, CheckReplicas, fmt.Sprintf("%s an older version and cannot read the newest sets: %s", areOf(len(unable), len(live)), listed(unable)), "those keep the last set that they could read", "update them")
	}
	if len(behind) > 0 {
		p.tell(Warning, CheckReplicas, fmt.Sprintf("%s behind the published set: %s", areOf(len(behind), len(live)), listed(behind)), "those decide by older policies", "wait a moment; then look at their logs and at /readyz")
	}
	if len(unable)+len(behind) == 0 && len(beats) > 0 {
		p.tell(OK, CheckReplicas, fmt.Sprintf("%d penstockd live", len(live)), "", "")
	}
}

func areOf(n, all int) string {
	if n == 1 {
		return fmt.Sprintf("1 of %d live penstockd is", all)
	}
	return fmt.Sprintf("%d of %d live penstockd are", n, all)
}

// mostListed bounds how many names a finding has.
const mostListed = 10

func listed(names []string) string {
	slices.Sort(names)
	if len(names) > mostListed {
		return strings.Join(names[:mostListed], ", ") + fmt.Sprintf(" and %d more", len(names)-mostListed)
	}
	return strings.Join(names, ", ")
}
