package client

import "errors"

// Errors of a Limiter, to be told by errors.Is. What wraps them says more.
var (
	// ErrUnknownPolicy tells that no RateLimit of that namespace and name is in force.
	ErrUnknownPolicy = errors.New("no RateLimit of that namespace and name is in force")
	// ErrWrongOperation tells that the policy's algorithm has no such call: one of algorithm Concurrency has slots and no
	// Check, and only one of algorithm Balance a Credit.
	ErrWrongOperation = errors.New("the policy has no such operation")
	// ErrValueTooLong tells that a value of the subject is longer than the 256 bytes that the policy can count by. It comes
	// with an *ArgumentError. Where the value is of a user's request, the request is at fault.
	ErrValueTooLong = errors.New("a value is too long")
	// ErrUnauthenticated tells that penstockd does not accept the credentials, or that they cannot be read.
	ErrUnauthenticated = errors.New("penstockd does not know this caller")
	// ErrForbidden tells that penstockd does not let this caller use the policy, or do what is administrative.
	ErrForbidden = errors.New("penstockd does not allow this to this caller")
	// ErrUnavailable tells that Redis or penstockd cannot be asked, and that nothing was changed: try again. Check, Peek and
	// AcquireSlot do not fail with it.
	ErrUnavailable = errors.New("nobody can be asked now; nothing was changed")
	// ErrUnknownOutcome tells that no answer came in time, and that the change may have been made: with an ID the same call
	// again is safe. Check, Peek and AcquireSlot do not fail with it.
	ErrUnknownOutcome = errors.New("no answer in time; the change may have been made")
	// ErrRefused tells that Redis refuses the credentials or rights of whoever asks it: those of penstockd, or those of the
	// Direct. Somebody has to mend them.
	ErrRefused = errors.New("redis refuses the credentials or rights of its user")
)

// ArgumentError tells that a request has a field that no policy takes, or that this one does not. Nothing was charged.
type ArgumentError struct {
	// Field is namespace, policy, subject, cost, id, amount, slot_id or ttl.
	Field string
	// Problem is what is wrong with it and what is wanted. It never holds a value of the subject or an id.
	Problem string
}

// Error names the field.
func (e *ArgumentError) Error() string { return e.Field + ": " + e.Problem }
