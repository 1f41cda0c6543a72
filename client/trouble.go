package client

import (
	"sync/atomic"
	"time"
)

// hold is how long all must have gone well before a trouble counts as over, so that one call in ten that fails makes one
// line in the log and not hundreds.
const hold = 5 * time.Second

// trouble tells when something begins to go wrong and when that is over. Its zero value is: all is well. While it is, asking
// it costs one load.
type trouble struct {
	on   atomic.Bool
	last atomic.Int64
}

// failed notes a failure and tells whether it is the first of a trouble.
func (t *trouble) failed(now time.Time) bool {
	t.last.Store(now.UnixNano())
	return t.on.CompareAndSwap(false, true)
}

// succeeded notes a success and tells whether it ends a trouble.
func (t *trouble) succeeded(now time.Time) bool {
	if !t.on.Load() || now.UnixNano()-t.last.Load() < int64(hold) {
		return false
	}
	return t.on.CompareAndSwap(true, false)
}
