package main

import (
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

// rank gives the value that so many thousandths are not above, by nearest rank, exactly: all latencies are kept. They must be
// sorted; zero when there are none.
func rank(sorted []time.Duration, thousandths int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*thousandths+999)/1000-1]
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
