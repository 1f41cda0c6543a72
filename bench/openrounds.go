package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

// openRound is one measurement of one target at one rate. Its figures are of the checks that were due after the warm-up.
type openRound struct {
	// Percent is that of the flag, Rate what it was of, in checks per second: the same for every target.
	Percent int     `json:"percent"`
	Rate    float64 `json:"ratePerSecond"`
	// AnsweredPerSecond counts until the last answer, so that a backlog tells.
	AnsweredPerSecond float64 `json:"answeredPerSecond"`
	// Latencies count from the time that a check was due to its answer; failures have none.
	P50  time.Duration `json:"p50Ns"`
	P90  time.Duration `json:"p90Ns"`
	P99  time.Duration `json:"p99Ns"`
	P999 time.Duration `json:"p999Ns"`
	Max  time.Duration `json:"maxNs"`
	// How much later than due the load sent the checks. The latencies have that in them.
	LateP50 time.Duration `json:"sentLateP50Ns"`
	LateP99 time.Duration `json:"sentLateP99Ns"`
	LateMax time.Duration `json:"sentLateMaxNs"`
	// Due is the sum of all that follow.
	Due int64 `json:"due"`
	// Unsent were due when as many were under way as may be.
	Unsent    int64 `json:"unsent"`
	OK        int64 `json:"ok"`
	OverLimit int64 `json:"overLimit"`
	Failed    int64 `json:"failed"`
	// Foreign as in the closed loop.
	Foreign float64 `json:"foreignShareOfCPU"`
	// Invalid says why the figures do not count; empty when they do.
	Invalid string `json:"invalid,omitempty"`
}

// measureOpenRounds measures every target at every rate, in rounds of the open loop.
func (r *runner) measureOpenRounds(ctx context.Context, outcomes []*outcome) error {
	rounds := r.plan.openRounds()
	if rounds == 0 {
		return nil
	}
	rates := openRates(slowest(outcomes).throughput().Median, r.plan.shares)
	for n := range rounds {
		for k, rate := range rates {
			due := poisson(rate, r.plan.warm+r.plan.measure, uint64(n))
			// Rotated, as in the closed loop.
			for m := range r.targets {
				i := (m + n + k) % len(r.targets)
				result := openRound{Percent: r.plan.shares[k], Rate: rate}
				if err := r.measureOpen(ctx, r.targets[i], due, &result); err != nil {
					return err
				}
				outcomes[i].Open = append(outcomes[i].Open, result)
				fmt.Fprintf(r.progress, "open round %d/%d  %-18s %8.0f checks/s  p99 %5.2f ms  sent late p99 %5.2f ms  %s\n",
					n+1, rounds, r.targets[i].name, rate, figures.Milliseconds(result.P99), figures.Milliseconds(result.LateP99), result.Invalid)
			}
		}
	}
	return nil
}

// measureOpen asks one target at these times and fills in the result.
func (r *runner) measureOpen(ctx context.Context, t *target, due []time.Duration, result *openRound) error {
	before, err := readUsage(t.process.PID(), r.redis.Process.PID())
	if err != nil {
		return err
	}
	began := time.Now()
	checks, err := r.open.run(ctx, t.clients, due)
	if ended := t.process.Alive(); ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("measuring %s: %w", t.name, err)
	}
	elapsed := time.Since(began)
	after, err := readUsage(t.process.PID(), r.redis.Process.PID())
	if err != nil {
		return err
	}
	t.sent.add(tally(checks))
	result.Foreign = after.since(before).foreignShare(elapsed, r.cores)
	result.summarize(checks, r.plan.warm, r.plan.measure)
	return nil
}

// summarize fills in the figures of the checks that were due in the measured time, which follows the warm-up.
func (r *openRound) summarize(checks []openCheck, warm, measure time.Duration) {
	first, _ := slices.BinarySearchFunc(checks, warm, func(c openCheck, at time.Duration) int { return int(c.due - at) })
	checks = checks[first:]
	latencies := make([]time.Duration, 0, len(checks))
	lateness := make([]time.Duration, 0, len(checks))
	end := warm + measure
	for _, c := range checks {
		if c.verdict == unsent {
			continue
		}
		lateness = append(lateness, c.lateness())
		if c.verdict != failed {
			latencies = append(latencies, c.latency())
			end = max(end, c.answered)
		}
	}
	slices.Sort(latencies)
	slices.Sort(lateness)
	r.P50, r.P90, r.P99, r.P999, r.Max = rank(latencies, 500), rank(latencies, 900), rank(latencies, 990), rank(latencies, 999), rank(latencies, 1000)
	r.LateP50, r.LateP99, r.LateMax = rank(lateness, 500), rank(lateness, 990), rank(lateness, 1000)

	sum := tally(checks)
	r.Due, r.OK, r.OverLimit, r.Failed = int64(len(checks)), sum.ok, sum.overLimit, sum.failed
	r.Unsent = r.Due - sum.total()
	r.AnsweredPerSecond = float64(len(latencies)) / (end - warm).Seconds()
	r.Invalid = r.problem(measure)
}

// keptUp is the share of the due rate below which a target that answered everything, but late, did not keep up.
const keptUp = 0.95

// problem says why the figures do not count, "" when they do.
func (r *openRound) problem(measure time.Duration) string {
	switch {
	case r.Unsent > 0:
		return fmt.Sprintf("over capacity: %d of %d not sent", r.Unsent, r.Due)
	case r.Failed+r.OverLimit > 0:
		return fmt.Sprintf("%d failed, %d denied", r.Failed, r.OverLimit)
	case r.AnsweredPerSecond < keptUp*float64(r.Due)/measure.Seconds():
		return "over capacity: a backlog was left"
	default:
		return ""
	}
}
