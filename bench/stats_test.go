package main

import (
	"testing"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

func TestPercentilesAreExact(t *testing.T) {
	var hundred []time.Duration
	for i := 1; i <= 100; i++ {
		hundred = append(hundred, time.Duration(i))
	}
	for name, test := range map[string]struct {
		sorted                           []time.Duration
		wantP50, wantP99, wantP999, most time.Duration
	}{
		"none":           {},
		"one":            {[]time.Duration{7}, 7, 7, 7, 7},
		"two":            {[]time.Duration{1, 9}, 1, 9, 9, 9},
		"one to hundred": {hundred, 50, 99, 100, 100},
	} {
		t.Run(name, func(t *testing.T) {
			for thousandths, want := range map[int]time.Duration{500: test.wantP50, 990: test.wantP99, 999: test.wantP999, 1000: test.most} {
				if got := rank(test.sorted, thousandths); got != want {
					t.Errorf("%d thousandths: got %v, want %v", thousandths, got, want)
				}
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
