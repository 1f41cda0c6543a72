package redisstore

import (
	"maps"
	"slices"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// dropMemory is how long a policy that was taken out counts as if it were still in force. A prune deletes its objects one
// after the other, over many publications, none of which drops much by itself.
const dropMemory = 10 * time.Minute

// drops are the policies that publications took out of a store lately, and when.
type drops struct {
	at map[string]time.Time
	// held keeps all of them: what waits for a confirmation must not be published by mere waiting.
	held bool
}

// lately gives the names of the last ten minutes, sorted, and forgets older ones unless a set is held.
func (d *drops) lately(now time.Time) []string {
	maps.DeleteFunc(d.at, func(_ string, at time.Time) bool { return !d.held && now.Sub(at) > dropMemory })
	return slices.Sorted(maps.Keys(d.at))
}

// add remembers names as dropped now.
func (d *drops) add(now time.Time, names []string) {
	if d.at == nil {
		d.at = make(map[string]time.Time, len(names))
	}
	for _, name := range names {
		d.at[name] = now
	}
}

// returned forgets the policies that are in force again.
func (d *drops) returned(set *policy.Set) {
	maps.DeleteFunc(d.at, func(name string, _ time.Time) bool { return set.RateLimit(name) != nil })
}
