package engine

import (
	"encoding/base64"
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
	// Shadow: Redis would have denied, for at least one policy that only looks on at this subject.
	Shadow
	// Cached: Redis denied a moment ago, for at least one policy, and was not asked again.
	Cached
	// Degraded: for at least one policy Redis could not be asked, and its onStoreFailure decided.
	Degraded
)

// String gives the name as documentation has it.
func (m Mode) String() string {
	switch m {
	case Enforced:
		return "enforced"
	case Shadow:
		return "shadow"
	case Cached:
		return "cached"
	case Degraded:
		return "degraded"
	default:
		return "unmatched"
	}
}

// degradedRetry is what a caller is told when a policy of Deny denies for want of Redis: nobody knows how long that lasts.
const degradedRetry = time.Second

// Verdict is the answer for one descriptor, or for one policy. Its figures are those of the binding limit: on a denial
// the one that takes longest to have room, else the tightest.
type Verdict struct {
	// Allowed tells whether the policies let the request pass. It is never charged when another descriptor of the same
	// request was refused.
	Allowed bool
	// Mode tells who decided. Where policies decided together it is the last of the constants that fits one of them.
	Mode Mode
	// Known tells that Limit, Remaining and ResetAfter are figures from Redis; else they are 0.
	Known bool
	// Reason is one of the Reason constants of package limit; empty without figures from Redis.
	Reason string
	// Limit is the number of requests of the binding limit (a TokenBucket's burst); -1 is unlimited.
	Limit int64
	// Remaining is what is left of it after this decision; never negative, and policy.MaxInteger when unlimited.
	Remaining int64
	// ResetAfter is how long until the limit is whole again, to the millisecond.
	ResetAfter time.Duration
	// RetryAfter is how long until the same request can pass: 0 when allowed, never 0 on a denial.
	RetryAfter time.Duration
	// Policy is the binding policy; nil when Unmatched.
	Policy *policy.RateLimit
	// Binding is the binding limit, of the policy or of the override that applied; nil when there is none (Unmatched,
	// unlimited, without figures), and when Redis has a newer policy than we do.
	Binding *policy.Limit
	// Name is what is reported: "<namespace>/<policy>", and "/<limit>" behind it when there are several.
	Name string
	// ID is the id of the call, of a decision or of a slot; empty is none.
	ID string
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
		Allowed: row.Allowed, Mode: Enforced, Known: true, Reason: row.Reason,
		Limit: row.Limit, Remaining: row.Remaining, ResetAfter: row.Reset, RetryAfter: row.RetryAfter,
		Policy: c.policy, ID: row.ID,
	}
	if row.Reason == limit.ReasonShadow {
		v.Mode = Shadow
	}
	if v.Limit < 0 {
		v.Remaining = policy.MaxInteger
	}
	v.Binding, v.Name = c.binding(row.Override, row.LimitName)
	return v
}

// cached is the verdict of a denial that is remembered.
func cached(c *compiled, row *limit.Row) Verdict {
	v := enforced(c, row)
	v.Mode = Cached
	return v
}

// spared is the verdict of a policy that was not asked, because another one's denial is remembered.
func spared(c *compiled) Verdict {
	return Verdict{Allowed: true, Mode: Cached, Policy: c.policy, Name: c.policy.Name}
}

// degraded is the verdict of the policy's onStoreFailure, as it is in the row. It has no figures: what is left of the limit
// nobody knows, and of a local share each replica knows its own.
func degraded(c *compiled, row *limit.Row) Verdict {
	return Verdict{Allowed: row.Allowed, RetryAfter: row.RetryAfter, Mode: Degraded, Policy: c.policy, Name: c.policy.Name}
}

// inShadow tells whether the subject of the counter key is in that share of subjects, by the first 24 bits of its digest,
// as the function library decides it.
func inShadow(key string, percent int64) bool {
	if percent == 0 || percent == 100 {
		return percent == 100
	}
	var bits [3]byte
	if _, err := base64.RawURLEncoding.Decode(bits[:], []byte(key[len("rl:{"):][:4])); err != nil {
		return false // not to be met: the digest is of these digits
	}
	n := int64(bits[0])<<16 | int64(bits[1])<<8 | int64(bits[2])
	return n%100 >= 100-percent
}

// merge makes v the verdict of what it stood for and of other together.
func (v *Verdict) merge(other *Verdict) {
	mode := max(v.Mode, other.Mode)
	if other.Binds(v) {
		*v = *other
	}
	v.Mode = mode
}

// LooksOn tells whether the figures are those of a policy that would not deny this request, whatever they are.
func (v *Verdict) LooksOn() bool {
	return v.Reason == limit.ReasonShadow || v.Policy != nil && v.Policy.ShadowPercent == 100
}

// Binds tells whether v is to be reported rather than other: a denial before what is allowed, of denials the one that takes
// longest, else the tightest. What only looks on does not hide what enforces.
func (v *Verdict) Binds(other *Verdict) bool {
	switch {
	case v.Allowed != other.Allowed:
		return !v.Allowed
	case !v.Allowed:
		return v.RetryAfter > other.RetryAfter
	case v.Known != other.Known:
		return v.Known
	case !v.Known:
		return v.Mode > other.Mode
	case v.LooksOn() != other.LooksOn():
		return other.LooksOn()
	case (v.Limit < 0) != (other.Limit < 0):
		return other.Limit < 0
	case v.Remaining != other.Remaining:
		return v.Remaining < other.Remaining
	default:
		return v.ResetAfter > other.ResetAfter
	}
}
