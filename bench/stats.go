package main

import (
	"slices"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

// percentiles gives the median and the 99th percentile by nearest rank, exactly: all latencies are kept. It sorts its
// argument.
func percentiles(latencies []time.Duration) (p50, p99 time.Duration) {
	if len(latencies) == 0 {
		return 0, 0
	}
	slices.Sort(latencies)
	rank := func(percent int) time.Duration { return latencies[(len(latencies)*percent+99)/100-1] }
	return rank(50), rank(99)
}

// ratios divides the figures of two targets round by round: what is measured at nearly the same time is compared, so
// that a machine that changes its speed changes both.
func ratios(ours, peer []round, figure func(round) float64) figures.Spread {
	n := min(len(ours), len(peer))
	pairs := make([]float64, 0, n)
	for i := range n {
		if below := figure(peer[i]); below > 0 {
			pairs = append(pairs, figure(ours[i])/below)
		}
	}
	return figures.SpreadOf(pairs, func(v float64) float64 { return v })
}
