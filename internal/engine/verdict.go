package engine

import (
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// Mode tells how a verdict came about.
type Mode uint8

// Modes of a Verdict.
const (
	// Unmatched: no policy applies, so the request is allowed and nothing was charged.
	Unmatched Mode = iota
	// Enforced: Redis decided.
	Enforced
	// Degraded: for at least one policy Redis could not be asked, and its onStoreFailure decided.
	Degraded
)

// String gives the name as documentation has it.
func (m Mode) String() string {
	switch m {
	case Enforced:
		return "enforced"
	case Degraded:
		return "degraded"
	default:
		return "unmatched"
	}
}

// degradedRetry is what a caller is told when a policy denies for want of Redis: nobody knows how long that lasts.
const degradedRetry = time.Second

// Verdict is the answer for one descriptor, or for one policy. Its figures are those of the binding limit: on a denial
// the one that takes longest to have room, else the tightest.
type Verdict struct {
	// Allowed tells whether the policies let the request pass. It is never charged when another descriptor of the same
	// request was refused.
	Allowed bool
	// Mode tells who decided.
	Mode Mode
	// Known tells that Limit, Remaining and ResetAfter are figures from Redis; else they are 0.
	Known bool
	// Limit is the number of requests of the binding limit (a TokenBucket's burst); -1 is unlimited.
	Limit int64
	// Remaining is what is left of it after this decision; never negative.
	Remaining int64
	// ResetAfter is how long until the limit is whole again, to the millisecond.
	ResetAfter time.Duration
	// RetryAfter is how long until the same request can pass: 0 when allowed, never 0 on a denial.
	RetryAfter time.Duration
	// Policy is the binding policy; nil when Unmatched.
	Policy *policy.RateLimit
	// Binding is the binding limit; nil when Unmatched, when Degraded without figures, and when Redis has a newer policy
	// than we do.
	Binding *policy.Limit
	// Name is what is reported: "<namespace>/<policy>", and "/<limit>" behind it when the policy has several.
	Name string
}

// RetryAfterSeconds is RetryAfter in seconds, rounded up: 0 when allowed, at least 1 on a denial.
func (v *Verdict) RetryAfterSeconds() int64 {
	if v.Allowed {
		return 0
	}
	return max(1, seconds(v.RetryAfter))
}

// ResetAfterSeconds is ResetAfter in seconds, rounded up.
func (v *Verdict) ResetAfterSeconds() int64 { return seconds(v.ResetAfter) }

func seconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64((d-1)/time.Second) + 1
}

func enforced(c *compiled, row *limit.Row) Verdict {
	v := Verdict{
		Allowed: row.Allowed, Mode: Enforced, Known: true,
		Limit: row.Limit, Remaining: row.Remaining, ResetAfter: row.Reset, RetryAfter: row.RetryAfter,
		Policy: c.policy,
	}
	v.Binding, v.Name = c.binding(row.LimitName)
	return v
}

func degraded(c *compiled) Verdict {
	v := Verdict{Allowed: c.policy.OnStoreFailure == policy.FailureAllow, Mode: Degraded, Policy: c.policy, Name: c.policy.Name}
	if !v.Allowed {
		v.RetryAfter = degradedRetry
	}
	return v
}

// merge makes v the verdict of what it stood for and of other together.
func (v *Verdict) merge(other *Verdict) {
	mode := max(v.Mode, other.Mode)
	if other.binds(v) {
		*v = *other
	}
	v.Mode = mode
}

// binds tells whether v is to be reported rather than other.
func (v *Verdict) binds(other *Verdict) bool {
	switch {
	case v.Allowed != other.Allowed:
		return !v.Allowed
	case !v.Allowed:
		return v.RetryAfter > other.RetryAfter
	case v.Known != other.Known:
		return v.Known
	case !v.Known:
		return v.Mode > other.Mode
	case (v.Limit < 0) != (other.Limit < 0):
		return other.Limit < 0
	case v.Remaining != other.Remaining:
		return v.Remaining < other.Remaining
	default:
		return v.ResetAfter > other.ResetAfter
	}
}
