package engine

import (
	"sync/atomic"
	"time"
)

// hold is how long all must have gone well before a trouble counts as over, so that one call in ten that fails makes one
// log line and not hundreds.
const hold = 5 * time.Second

// transition tells when a trouble begins and when it is over. Its zero value is: no trouble. While there is none, asking
// it costs one load.
type transition struct {
	troubled atomic.Bool
	last     atomic.Int64
}

// failed notes a failure and tells whether it is the first of a trouble.
func (t *transition) failed(now time.Time) bool {
	t.last.Store(now.UnixNano())
	return t.troubled.CompareAndSwap(false, true)
}

// succeeded notes a success and tells whether it ends a trouble.
func (t *transition) succeeded(now time.Time) bool {
	if !t.troubled.Load() || now.UnixNano()-t.last.Load() < int64(hold) {
		return false
	}
	return t.troubled.CompareAndSwap(true, false)
}
