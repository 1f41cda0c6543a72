//go:build !race

// Under the race detector sync.Pool forgets at random, so allocations cannot be counted.

package engine

import "testing"

// The key of each charge is the one thing that must be made anew.
func TestADecisionAllocatesOnlyItsKeys(t *testing.T) {
	e := benchEngine(t)
	for name, test := range map[string]struct {
		decide func(testing.TB, *Engine)
		most   float64
	}{
		"one descriptor":    {decideOne, 1},
		"three descriptors": {decideThree, 3},
	} {
		t.Run(name, func(t *testing.T) {
			if got := testing.AllocsPerRun(1000, func() { test.decide(t, e) }); got > test.most {
				t.Errorf("%v allocations, want at most %v", got, test.most)
			}
		})
	}
}
