package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// arrivalSeed makes every target, and every run, see the same arrivals.
const arrivalSeed = 42

// poisson gives the times, since the beginning, at which checks are due that know nothing of each other: on average rate of
// them a second, up to length. Requests of many clients come like that, in bursts too, which equal distances would never
// have: a server that is loaded by half still has to queue.
func poisson(rate float64, length time.Duration, seed uint64) []time.Duration {
	random := rand.New(rand.NewPCG(arrivalSeed, seed))
	mean := float64(time.Second) / rate
	due := make([]time.Duration, 0, int(rate*length.Seconds()*1.1))
	for at := 0.0; ; {
		at += random.ExpFloat64() * mean
		if at >= float64(length) {
			return due
		}
		due = append(due, time.Duration(at))
	}
}

// openRates gives the rates, in whole checks per second, that are these percentages of a throughput; at least 1.
func openRates(throughput float64, percentages []int) []float64 {
	rates := make([]float64, len(percentages))
	for i, percent := range percentages {
		rates[i] = max(1, math.Round(throughput*float64(percent)/100))
	}
	return rates
}

// slowest gives the outcome of the least throughput in the closed loop, since all are to be asked for a rate that all can
// give. The ceiling counts only when it is alone: it decides nothing.
func slowest(outcomes []*outcome) *outcome {
	var found *outcome
	for _, o := range outcomes {
		switch {
		case found == nil, found.Role == roleCeiling && o.Role != roleCeiling:
			found = o
		case o.Role != roleCeiling && o.throughput().Median < found.throughput().Median:
			found = o
		}
	}
	return found
}
