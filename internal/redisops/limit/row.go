package limit

import (
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Charge is one budget that a request spends from.
type Charge struct {
	// Policy decides; its limits are the ones that Redis serves under its name, or (in script mode) these.
	Policy *policy.RateLimit
	// Key is redisops.CounterKey of the policy's name and the subject.
	Key string
	// Values are the subject's descriptor values, in the policy's order.
	Values []string
	// Cost is how many requests to charge: 0 (only look) to policy.MaxInteger.
	Cost int64
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
	// Reset is how long until the binding limit is whole again, to the millisecond, rounded up.
	Reset time.Duration
	// RetryAfter is how long until the same request can succeed, to the millisecond, rounded up: 0 when allowed, never 0
	// on a denial. For a cost that can never succeed it is the window.
	RetryAfter time.Duration
	// LimitName is the binding limit: on a denial the one that takes longest to have room, else the tightest.
	LimitName string
	// Reason is one of the Reason constants.
	Reason string
	// ID is the decision's id, as it was given.
	ID string
}

// Reasons of a Row.
const (
	ReasonOK    = "ok"
	ReasonLimit = "limit"
)
