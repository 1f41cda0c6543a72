//go:build !race

// Under the race detector sync.Pool forgets at random, so allocations cannot be counted.

package extauthz

import "testing"

func TestAnAnswerAllocatesLittle(t *testing.T) {
	for name, m := range measured(t) {
		t.Run(name, func(t *testing.T) {
			got := testing.AllocsPerRun(1000, func() {
				if _, err := m.door.Check(t.Context(), m.request); err != nil {
					t.Fatal(err)
				}
			})
			if got > m.most {
				t.Errorf("%v allocations, want at most %v", got, m.most)
			}
		})
	}
}
