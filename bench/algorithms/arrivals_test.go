package main

import (
	"slices"
	"testing"
)

func TestArrivalsAreWhatTheirNamesSay(t *testing.T) {
	const limit, windows = 100, 30
	// fullest gives the most arrivals of any window, and in how many of the fixed windows there are any.
	fullest := func(times []int64) (most int64, windows int) {
		l := &ledger{limit: limit, window: windowUs}
		seen := map[int64]bool{}
		for _, at := range times {
			l.decided(at, true)
			seen[at/windowUs] = true
		}
		return l.most, len(seen)
	}
	for name, test := range map[string]struct {
		wantCount, within    int
		wantMost, wantInside int
	}{
		"Poisson, 0.5 × the limit":          {wantCount: 1500, within: 150, wantInside: windows},
		"Poisson, 1 × the limit":            {wantCount: 3000, within: 220, wantInside: windows},
		"Poisson, 2 × the limit":            {wantCount: 6000, within: 310, wantInside: windows},
		"Poisson, 10 × the limit":           {wantCount: 30_000, within: 700, wantInside: windows},
		"evenly, exactly the limit":         {wantCount: 3000, wantMost: limit, wantInside: windows},
		"bursts at the ends of windows":     {wantCount: 29 * 2 * limit, wantMost: 2 * limit, wantInside: windows},
		"burst after a pause, then a flood": {wantCount: 10 * 11 * limit, wantMost: 99*limit/10 + limit, wantInside: 20},
	} {
		t.Run(name, func(t *testing.T) {
			at := slices.IndexFunc(arrivals, func(a arrival) bool { return a.name == name })
			if at < 0 {
				t.Fatal("there is no such arrival")
			}
			times := arrivals[at].times(limit, windows)
			if !slices.IsSorted(times) || times[0] < 0 || times[len(times)-1] >= windows*windowUs {
				t.Errorf("times go back or leave the %d windows", windows)
			}
			// Four standard deviations of a count by chance.
			if n := len(times); n < test.wantCount-test.within || n > test.wantCount+test.within {
				t.Errorf("%d arrivals, want %d ± %d", n, test.wantCount, test.within)
			}
			most, inside := fullest(times)
			if test.wantMost > 0 && most != int64(test.wantMost) || inside != test.wantInside {
				t.Errorf("at most %d in a window, and some in %d fixed windows; want %d and %d", most, inside, test.wantMost, test.wantInside)
			}
			if again := arrivals[at].times(limit, windows); !slices.Equal(times, again) {
				t.Error("they are others the second time")
			}
		})
	}
	if len(arrivals) != 7 {
		t.Errorf("there are %d arrivals, some are not tested", len(arrivals))
	}
}

func TestStepsAreInOrderAndSomeVisitsAreNeverReleased(t *testing.T) {
	all := visits(10, 5)
	order := steps(all)
	released := 0
	for i, s := range order {
		if i > 0 && s.at < order[i-1].at {
			t.Fatalf("step %d goes back", i)
		}
		if !s.acquire {
			released++
		}
	}
	if kept := len(all) - released; kept == 0 || kept > len(all)/5 {
		t.Errorf("%d of %d visits are never released, want about one in ten", kept, len(all))
	}
	// On average 2 × 10 slots are wanted, 5 times in a window.
	if len(all) < 400 || len(all) > 600 {
		t.Errorf("%d visits, want about 500", len(all))
	}
}
