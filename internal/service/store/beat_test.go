package store

import (
	"testing"
	"time"
)

// A count that falls too soon gives LocalShare too much.
func TestTheCountOfReplicasRisesAtOnceAndFallsWhenBeatsTellOfFewerForLong(t *testing.T) {
	type beat struct {
		after  time.Duration // since the one before
		live   int           // 0: it was missed
		counts int
	}
	const often = 5 * time.Second
	for name, beats := range map[string][]beat{
		"they start":                    {{0, 1, 1}, {often, 3, 3}, {often, 5, 5}},
		"two leave":                     {{0, 5, 5}, {often, 3, 5}, {often, 3, 5}, {often, 3, 5}, {often, 3, 3}},
		"after an outage of all":        {{0, 5, 5}, {often, 0, 5}, {time.Minute, 1, 5}, {often, 4, 5}, {often, 5, 5}, {often, 5, 5}},
		"one of them leaves meanwhile":  {{0, 5, 5}, {time.Minute, 1, 5}, {often, 4, 5}, {often, 4, 5}, {often, 4, 4}},
		"before and after an outage":    {{0, 5, 5}, {often, 4, 5}, {often, 0, 5}, {time.Minute, 1, 5}, {often, 5, 5}},
		"Redis loses all and is there":  {{0, 5, 5}, {often, 1, 5}, {often, 5, 5}, {often, 4, 5}, {often, 4, 5}},
		"Redis comes and goes, as long": {{0, 5, 5}, {often, 1, 5}, {often, 0, 5}, {often, 1, 5}, {often, 0, 5}, {often, 1, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			var c census
			c.count.Store(1)
			now := time.Now()
			for i, b := range beats {
				now = now.Add(b.after)
				if b.live == 0 {
					c.missed()
				} else {
					c.take(b.live, now)
				}
				if got := c.count.Load(); got != int64(b.counts) {
					t.Fatalf("beat %d: counts %d, want %d", i+1, got, b.counts)
				}
			}
		})
	}
}
