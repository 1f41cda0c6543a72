package policystore

import (
	"math/rand/v2"
	"time"
)

// backoff gives the pauses between attempts: between least and a bound that doubles with every failure, up to most.
type backoff struct {
	least, most time.Duration
	failures    int
}

func (b *backoff) next() time.Duration {
	bound := b.least
	for range b.failures {
		if bound >= b.most {
			break
		}
		bound *= 2
	}
	b.failures++
	bound = max(min(bound, b.most), b.least)
	return b.least + rand.N(bound-b.least+1)
}

// reset is for when an attempt succeeded.
func (b *backoff) reset() { b.failures = 0 }
