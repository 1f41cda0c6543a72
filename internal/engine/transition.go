package engine

import (
	"sync/atomic"
	"time"
)

// TransitionHold is how long all must have gone well before a trouble counts as over, so that one call in ten that fails makes
// one log line and not hundreds.
const TransitionHold = 5 * time.Second

// Transition tells when a trouble begins and when it is over. Its zero value is: no trouble. While there is none, asking
// it costs one load.
type Transition struct {
	troubled atomic.Bool
	last     atomic.Int64
}

// Failed notes a failure and tells whether it is the first of a trouble.
func (t *Transition) Failed(now time.Time) bool {
	t.last.Store(now.UnixNano())
	return t.troubled.CompareAndSwap(false, true)
}

// Succeeded notes a success and tells whether it ends a trouble.
func (t *Transition) Succeeded(now time.Time) bool {
	if !t.troubled.Load() || now.UnixNano()-t.last.Load() < int64(TransitionHold) {
		return false
	}
	return t.troubled.CompareAndSwap(true, false)
}

// grace is how long a policy that Redis does not serve may be left out of decisions, until the set is read again: it is
// asked for at once, at most a second after the time before (see service/store), and answered soon after.
const grace = 2 * time.Second

// absence tells for how long Redis has not served a policy of the set in force. Its zero value is: it serves it. While it
// does, asking costs one load.
type absence struct {
	// began and last are the first and the latest time that Redis did not know the policy, in nanoseconds since 1970; 0 is
	// never.
	began, last atomic.Int64
	lasting     atomic.Bool
}

// failed notes that Redis does not know the policy. It tells whether that is new, and whether it lasts: then the set was
// read again since and still has the policy, or it cannot be read.
func (a *absence) failed(now time.Time) (begins, lasts bool) {
	at := now.UnixNano()
	a.last.Store(at)
	begins = a.began.CompareAndSwap(0, at)
	began := a.began.Load()
	return begins, began != 0 && at-began >= int64(grace)
}

// succeeded notes that Redis decided by the policy, and tells whether that ends an absence. As in a Transition, all must
// have gone well for a while: of two servers that take turns, one that has the policy does not excuse the other.
func (a *absence) succeeded(now time.Time) bool {
	began := a.began.Load()
	if began == 0 || now.UnixNano()-a.last.Load() < int64(TransitionHold) || !a.began.CompareAndSwap(began, 0) {
		return false
	}
	a.lasting.Store(false)
	return true
}
