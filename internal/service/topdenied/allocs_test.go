//go:build !race

package topdenied

import (
	"fmt"
	"testing"
)

func TestADenialAllocatesNothing(t *testing.T) {
	c, _ := newCounter()
	values := make([][]string, 10_000)
	keys := make([]string, len(values))
	for i := range values {
		values[i] = []string{fmt.Sprint("user-", i)}
		keys[i] = key(perUser, values[i][0])
		c.Denied(perUser, keys[i], values[i])
	}
	at := 0
	for name, next := range map[string]func(){
		"of a subject that is known": func() {},
		"of another one each time":   func() { at = (at + 1) % len(values) },
	} {
		if got := testing.AllocsPerRun(5000, func() {
			c.Denied(perUser, keys[at], values[at])
			next()
		}); got != 0 {
			t.Errorf("%s: %v allocations, want none", name, got)
		}
	}
}
