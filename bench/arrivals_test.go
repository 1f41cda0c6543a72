package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestArrivalsAreOfTheirRateAndTheSameForEveryTarget(t *testing.T) {
	const rate, length = 2000.0, 10 * time.Second
	due := poisson(rate, length, 1)
	if !slices.Equal(due, poisson(rate, length, 1)) {
		t.Error("a second target would get other arrivals")
	}
	if slices.Equal(due, poisson(rate, length, 2)) {
		t.Error("a second round gets the same arrivals")
	}
	if !slices.IsSorted(due) || due[0] < 0 || due[len(due)-1] >= length {
		t.Errorf("arrivals from %v to %v are out of order, or beyond %v", due[0], due[len(due)-1], length)
	}
	// Of a Poisson process both the mean and the variance of the number in a second are the rate.
	if got := float64(len(due)); math.Abs(got-20_000) > 4*math.Sqrt(20_000) {
		t.Errorf("%v arrivals, want about 20000", got)
	}
	short := 0 // below the mean distance are 1-1/e of all
	for i := 1; i < len(due); i++ {
		if due[i]-due[i-1] < time.Second/rate {
			short++
		}
	}
	if share := float64(short) / float64(len(due)); math.Abs(share-(1-1/math.E)) > 0.02 {
		t.Errorf("%.3f of the distances are below their mean, want 0.632", share)
	}
}

func TestOpenRatesAreSharesOfTheSlowestThatDecides(t *testing.T) {
	ceiling := ran("no-op", roleCeiling, 5000, time.Microsecond)
	ours := ran("penstockd", roleOurs, 18001, time.Microsecond)
	peer := ran("ratelimit", rolePeer, 10002, time.Microsecond)
	for name, test := range map[string]struct {
		outcomes []*outcome
		want     string
	}{
		"the peer is slower":     {[]*outcome{ceiling, ours, peer}, "ratelimit"},
		"ours alone":             {[]*outcome{ceiling, ours}, "penstockd"},
		"the ceiling alone":      {[]*outcome{ceiling}, "no-op"},
		"in whatever order":      {[]*outcome{peer, ours, ceiling}, "ratelimit"},
		"the first of two equal": {[]*outcome{ours, ran("ratelimit", rolePeer, 18001, time.Microsecond)}, "penstockd"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := slowest(test.outcomes); got.Name != test.want {
				t.Errorf("got %s, want %s", got.Name, test.want)
			}
		})
	}
	if got, want := openRates(10002, []int{25, 50, 75, 150}), []float64{2501, 5001, 7502, 15003}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := openRates(0, []int{50}); got[0] != 1 {
		t.Errorf("of nothing: got %v, want 1", got)
	}
}

func TestTheBudgetGrowsWithTheOpenLoop(t *testing.T) {
	p := plan{targets: []string{"no-op", "penstockd"}, rounds: 5, warm: time.Second, measure: 4 * time.Second}
	if got, want := p.budget(), 2*time.Minute+3*2*5*5*time.Second; got != want {
		t.Errorf("without: got %v, want %v", got, want)
	}
	p.shares = []int{25, 50, 75}
	if got, want := p.budget(), 2*time.Minute+3*2*(5+3*3)*5*time.Second; got != want {
		t.Errorf("with three rounds of three rates: got %v, want %v", got, want)
	}
}
