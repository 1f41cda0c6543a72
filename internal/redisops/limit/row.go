package limit

import (
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// MaxIDBytes is how long an id of a decision or of a slot may be.
const MaxIDBytes = 128

// ValidID tells whether an id is 1 to MaxIDBytes visible ASCII characters, without spaces.
func ValidID(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return id != "" && len(id) <= MaxIDBytes
}

// Charge is one budget that a request spends from.
type Charge struct {
	// Policy decides; its limits are the ones that Redis serves under its name, or (in script mode, and in a call with an
	// Unpublished charge) these.
	Policy *policy.RateLimit
	// Key is redisops.CounterKey of the policy's name and the subject.
	Key string
	// Values are the subject's descriptor values, in the policy's order.
	Values []string
	// Cost is how many requests to charge: 0 (only look) to policy.MaxInteger.
	Cost int64
	// ID names the decision (see ValidID), so that it is made once: within 60 s it gets the same row again. Empty is none.
	ID string
	// Unpublished tells that Redis does not serve the policy, so that it has to go with the call. A call with such a charge
	// takes all its policies along: the same Lua runs as a script, on the same keys. The policy must be sealed.
	Unpublished bool
}

// Slot is a place among those of a Concurrency.
type Slot struct {
	// Policy, Key and Values are as of a Charge.
	Policy *policy.RateLimit
	Key    string
	Values []string
	// ID names the slot (see ValidID). Whoever acquires a slot that is held already holds it for another TTL.
	ID string
	// TTL is how long the slot is held at most, in milliseconds' precision; 0 and what is longer than the policy's
	// slotTTL is that.
	TTL time.Duration
}

// Row is what Redis answers for one charge.
type Row struct {
	// Allowed tells whether all limits of the policy have room for the cost. Of several charges that are decided
	// together, none is charged unless all are allowed.
	Allowed bool
	// Limit is the number of requests of the binding limit (a TokenBucket's burst); -1 is unlimited.
	Limit int64
	// Remaining is what is left of the binding limit after this decision; never negative.
	Remaining int64
	// Reset is how long until the binding limit is whole again, to the millisecond, rounded up; 0 for a Balance.
	Reset time.Duration
	// RetryAfter is how long until the same request can succeed, to the millisecond, rounded up: 0 when allowed, never 0
	// on a denial. For a cost that can never succeed it is the window, for a Balance, which somebody has to top up, a
	// minute.
	RetryAfter time.Duration
	// LimitName is the binding limit: on a denial the one that takes longest to have room, else the tightest. It is empty
	// for a subject without limits.
	LimitName string
	// Reason is one of the Reason constants.
	Reason string
	// ID is the decision's or the slot's id, as it was given.
	ID string
	// Override is which of the policy's overrides applied, counted from 1; 0 is none.
	Override int
	// New tells that the subject had no state before this charge, Garbled that it had one which nobody of ours has
	// written, so that it started anew.
	New, Garbled bool
	// Undo is the id by which Limiter.Undo gives back what this charge alone was charged, though it was to be charged together
	// with others; empty when there is nothing to undo.
	Undo string
}

// Reasons of a Row.
const (
	ReasonOK    = "ok"
	ReasonLimit = "limit"
	// ReasonPenalty denies because the subject was denied too often.
	ReasonPenalty = "penalty"
	// ReasonBlocked denies because the limit is 0 requests.
	ReasonBlocked = "blocked"
	// ReasonShadow allows what would have been denied.
	ReasonShadow = "shadow"
	// ReasonAbsent: there is no such decision to refund, or no such slot to release (any more); nothing changed.
	ReasonAbsent = "absent"
)
