package main

import (
	"cmp"
	"slices"
	"time"
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

// spread is a median over rounds, with the least and the greatest.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf gives the spread of one figure of each element; zero when there is none.
func spreadOf[E any](elements []E, figure func(E) float64) spread {
	if len(elements) == 0 {
		return spread{}
	}
	values := make([]float64, len(elements))
	for i := range elements {
		values[i] = figure(elements[i])
	}
	slices.SortFunc(values, cmp.Compare[float64])
	middle := len(values) / 2
	median := values[middle]
	if len(values)%2 == 0 {
		median = (values[middle-1] + values[middle]) / 2
	}
	return spread{Median: median, Min: values[0], Max: values[len(values)-1]}
}

// ratios divides the figures of two targets round by round: what is measured at nearly the same time is compared, so
// that a machine that changes its speed changes both.
func ratios(ours, peer []round, figure func(round) float64) spread {
	n := min(len(ours), len(peer))
	pairs := make([]float64, 0, n)
	for i := range n {
		if below := figure(peer[i]); below > 0 {
			pairs = append(pairs, figure(ours[i])/below)
		}
	}
	return spreadOf(pairs, func(v float64) float64 { return v })
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
