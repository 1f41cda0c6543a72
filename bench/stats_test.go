package main

import (
	"testing"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

func TestPercentilesAreExact(t *testing.T) {
	var hundred []time.Duration
	for i := 100; i >= 1; i-- {
		hundred = append(hundred, time.Duration(i))
	}
	for name, test := range map[string]struct {
		latencies        []time.Duration
		wantP50, wantP99 time.Duration
	}{
		"none":           {nil, 0, 0},
		"one":            {[]time.Duration{7}, 7, 7},
		"two":            {[]time.Duration{9, 1}, 1, 9},
		"one to hundred": {hundred, 50, 99},
	} {
		t.Run(name, func(t *testing.T) {
			if p50, p99 := percentiles(test.latencies); p50 != test.wantP50 || p99 != test.wantP99 {
				t.Errorf("got %v, %v; want %v, %v", p50, p99, test.wantP50, test.wantP99)
			}
		})
	}
}

func TestRatiosCompareRoundByRound(t *testing.T) {
	rate := func(values ...float64) (rounds []round) {
		for _, v := range values {
			rounds = append(rounds, round{ChecksPerSecond: v})
		}
		return rounds
	}
	// The machine is half as fast in the second round, for both.
	got := ratios(rate(200, 100, 220), rate(100, 50, 100), func(r round) float64 { return r.ChecksPerSecond })
	if want := (figures.Spread{Median: 2, Min: 2, Max: 2.2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := ratios(rate(200), rate(0), func(r round) float64 { return r.ChecksPerSecond }); got != (figures.Spread{}) {
		t.Errorf("a round without an answer gave %+v", got)
	}
}
