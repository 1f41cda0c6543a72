package client

import (
	"context"
	"net/http"
	"time"
)

// Limiter spends from the budgets of RateLimits. Remote and Direct are two; all methods may be called concurrently.
//
// Their errors are *ArgumentError, or can be told by errors.Is: ErrValueTooLong, ErrUnknownPolicy, ErrWrongOperation,
// ErrUnauthenticated, ErrForbidden, ErrUnavailable, ErrUnknownOutcome, ErrRefused, or the error of the context. A denial is
// no error.
type Limiter interface {
	// Check asks whether a request may pass, and charges its cost if so. A request that is denied is charged nothing. While
	// nobody can decide, the policy's onStoreFailure does, and the verdict is Degraded.
	Check(ctx context.Context, r Request) (Verdict, error)
	// Peek answers what Check would, and changes nothing.
	Peek(ctx context.Context, r Request) (Verdict, error)
	// Refund gives back what was charged, and tells whether it did: with the ID of a Check what that one charged, once and
	// within 60 s, and else the cost, which is exact only for what was charged just now. False: there is no such decision
	// (any more).
	Refund(ctx context.Context, r Request) (bool, error)
	// Credit adds the cost, at least 1, to the Balance of a subject, and tells how much that has now. With an ID the call can
	// be repeated: it is credited once.
	Credit(ctx context.Context, r Request) (int64, error)
	// Reset forgets all that was counted for a subject: slots, penalties and ids included. penstockd does that for
	// administrators only. The cost and the ID do not matter.
	Reset(ctx context.Context, r Request) error
	// AcquireSlot takes a slot of a policy of algorithm Concurrency, until ReleaseSlot or until its TTL has passed. A slot
	// that is held is held for another TTL. It answers as Check does.
	AcquireSlot(ctx context.Context, r SlotRequest) (Slot, error)
	// ReleaseSlot gives a slot back, and tells whether it was held until now. The TTL does not matter.
	ReleaseSlot(ctx context.Context, r SlotRequest) (bool, error)
}

// Request is one policy asked about one subject.
type Request struct {
	// Policy is "<namespace>/<name>" of the RateLimit.
	Policy string
	// Subject is what is known of the request: the values of the policy's descriptors by their keys, and what its
	// expressions look at, such as method, path or header.<name>. At most 16 entries, keys and values of at most 256 bytes
	// each; to penstockd, bytes that are no UTF-8 go as U+FFFD.
	Subject map[string]string
	// Lookup gives what Subject lacks, by its key, and whether it is there. Only a Direct asks it, which knows what the policy
	// looks at. May be nil.
	Lookup func(key string) (string, bool)
	// Cost is how many requests this one counts as: at most 9007199254740991 (2^53-1). 0 leaves it to the policy.
	Cost int64
	// ID names the decision, so that the call can be repeated: for 60 s, the same id for the same subject gets the same
	// answer and is charged once. 1 to 128 visible ASCII characters; empty is none.
	ID string
	// HTTP asks a Check for Verdict.HTTP; other calls do not look at it. Values of the subject that the policy does not look at
	// may be longer then: not all of a request over HTTP is for its server to choose.
	HTTP bool
}

// SlotRequest is a slot of one policy asked for by one subject.
type SlotRequest struct {
	// Policy, Subject and Lookup are as of a Request, and so is HTTP, for an AcquireSlot. The subject must have all descriptors
	// of the policy.
	Policy  string
	Subject map[string]string
	Lookup  func(key string) (string, bool)
	HTTP    bool
	// ID names the slot: 1 to 128 visible ASCII characters. Empty: AcquireSlot makes a random one.
	ID string
	// TTL is how long the slot is held at most: at least a millisecond. 0, and what is longer, is the policy's slotTTL.
	TTL time.Duration
}

// Mode tells how a verdict came about.
type Mode string

// Modes of a Verdict.
const (
	// Unmatched: the policy does not apply, so the request is allowed and nothing was charged.
	Unmatched Mode = "unmatched"
	// Enforced: Redis decided.
	Enforced Mode = "enforced"
	// Shadow: Redis would have denied, but the policy only watches this subject.
	Shadow Mode = "shadow"
	// Cached: denied without asking Redis, which denied the same a moment (at most 1 s) ago.
	Cached Mode = "cached"
	// Degraded: nobody could decide, and the policy's onStoreFailure did. See Verdict.Degraded.
	Degraded Mode = "degraded"
)

// Reason tells why a verdict is as it is.
type Reason string

// Reasons of a Verdict. It has none (an empty one) when it is Unmatched or Degraded.
const (
	// ReasonOK: all limits have room.
	ReasonOK Reason = "ok"
	// ReasonLimit: a limit has no room for the cost.
	ReasonLimit Reason = "limit"
	// ReasonPenalty: the subject was denied too often, and is blocked for a while.
	ReasonPenalty Reason = "penalty"
	// ReasonBlocked: the limit is 0 requests.
	ReasonBlocked Reason = "blocked"
	// ReasonShadow: it would have been denied, but the policy only watches.
	ReasonShadow Reason = "shadow"
)

// Cause tells what could not be asked.
type Cause string

// Causes of a Degraded verdict, as X-Penstock-Degraded has them.
const (
	// CauseStore is Redis, as penstockd or a Direct found.
	CauseStore Cause = "store"
	// CauseService is penstockd.
	CauseService Cause = "service"
)

// Verdict is the answer to a Check, a Peek or an AcquireSlot.
type Verdict struct {
	// Allowed tells whether the request may pass.
	Allowed bool
	// Mode tells how the verdict came about, Reason why it is as it is.
	Mode   Mode
	Reason Reason
	// Degraded tells what could not be asked; empty unless the Mode is Degraded.
	Degraded Cause
	// Known tells that Limit, Remaining and ResetAfter are figures from Redis; else they are 0.
	Known bool
	// Limit is the number of requests of the binding limit (of a TokenBucket its burst, of a Balance what a subject has at
	// first); -1 is unlimited. The binding limit is the one that takes longest to have room when denied, else the tightest.
	Limit int64
	// Remaining is what is left of it after this decision: never negative, and 9007199254740991 when unlimited.
	Remaining int64
	// ResetAfter is how long until the binding limit is whole again, to the millisecond; 0 for a Balance.
	ResetAfter time.Duration
	// RetryAfter is how long until the same request can pass, to the millisecond: 0 when allowed, never 0 when denied.
	RetryAfter time.Duration
	// Policy is "<namespace>/<name>", LimitName the binding limit; empty when the policy does not apply, and without figures.
	Policy    string
	LimitName string
	// ID is that of the Request.
	ID string
	// HTTP is what to tell an HTTP client; nil unless the Request asked for it.
	HTTP *HTTPAnswer
}

// HTTPAnswer is what to tell an HTTP client, as the policy's response says, and as penstockd's own doors tell it.
type HTTPAnswer struct {
	// Status is 200, or that of the denial.
	Status int
	// Header has one value for each name. On a denial Content-Type is among them.
	Header http.Header
	// Body is that of a denial, application/problem+json; empty when allowed.
	Body []byte
}

// Slot is the answer to an AcquireSlot.
type Slot struct {
	Verdict

	// SlotID names the slot for ReleaseSlot: the one of the request, or the one that was made.
	SlotID string
	// TTL is how long the slot is held from now on, unless it is acquired again; 0 unless it is held, and when not known.
	TTL time.Duration
}

// FailureMode is how to answer requests that nobody can decide, as the onStoreFailure of a policy.
type FailureMode string

// Failure modes.
const (
	Allow FailureMode = "Allow"
	Deny  FailureMode = "Deny"
)
