// Package headers tells HTTP clients of the limit that binds them, in the ways that the policy asks for
// (spec.response.headers). Nothing but integers and names of policies and limits goes into a header.
//
// Draft is draft-ietf-httpapi-ratelimit-headers-11:
//
//	RateLimit-Policy: "api-per-ip";q=100;w=60
//	RateLimit: "api-per-ip";r=50;t=30
//
// The name is the policy's, with "/<limit>" behind it when it has several limits. q is what may be spent in w seconds, r
// what is left, and t the seconds in which no more than that should be.
//
// Legacy is X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset, the seconds until the limit is whole again: a
// length of time and not a point in it, because the only clock of a decision is that of Redis.
//
// RetryAfter is Retry-After of RFC 9110, on denials: the seconds until the same request can pass, at least 1.
package headers

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
)

// maxInteger is the largest Integer of Structured Fields (RFC 9651), 15 digits; a larger figure is told as this.
const maxInteger = 999_999_999_999_999

// Add adds the headers of the verdict. Without figures from Redis, for an unlimited subject and for a policy that only looks
// on there are none of figures: clients must not slow down for a limit that nobody enforces.
func Add(header http.Header, v *engine.Verdict) {
	if v.Policy == nil {
		return
	}
	figures := v.Known && v.Limit >= 0 && !v.LooksOn()
	for _, dialect := range dialects(v.Policy) {
		switch {
		case dialect == policy.HeaderRetryAfter:
			if !v.Allowed {
				set(header, "Retry-After", strconv.FormatInt(v.RetryAfterSeconds(), 10))
			}
		case !figures:
		case dialect == policy.HeaderDraft:
			addDraft(header, v)
		case dialect == policy.HeaderLegacy:
			set(header, "X-Ratelimit-Limit", strconv.FormatInt(v.Limit, 10))
			set(header, "X-Ratelimit-Remaining", strconv.FormatInt(v.Remaining, 10))
			set(header, "X-Ratelimit-Reset", strconv.FormatInt(v.ResetAfterSeconds(), 10))
		}
	}
}

// set is Header.Set for a name that is in its canonical form.
func set(header http.Header, name, value string) { header[name] = []string{value} }

func dialects(p *policy.RateLimit) []string {
	if p.Response == nil || p.Response.Headers == nil {
		return policy.DefaultHeaders
	}
	return p.Response.Headers
}

func addDraft(header http.Header, v *engine.Verdict) {
	_, name, _ := strings.Cut(v.Name, "/") // without the namespace, which is ours to know
	// Names of policies and limits hold no character that a String would have to escape.
	item := `"` + name + `"`

	quota := parameter([]byte(item), ";q=", v.Limit)
	if w := window(v.Binding); w > 0 {
		quota = parameter(quota, ";w=", w)
	}
	set(header, "Ratelimit-Policy", string(quota))

	available := parameter([]byte(item), ";r=", v.Remaining)
	switch {
	case !v.Allowed:
		// Not until the limit is whole: the draft wants Retry-After no earlier than the end of t.
		available = parameter(available, ";t=", v.RetryAfterSeconds())
	case v.Binding == nil || v.Binding.Algorithm != policy.Balance: // which no time refills
		available = parameter(available, ";t=", v.ResetAfterSeconds())
	}
	set(header, "Ratelimit", string(available))
}

func parameter(dst []byte, name string, value int64) []byte {
	dst = append(dst, name...)
	return strconv.AppendInt(dst, min(value, maxInteger), 10)
}

// window is the seconds in which the quota may be spent; 0 when there are none, or not whole ones, which the draft cannot
// tell. The quota of a TokenBucket is its burst, as r may be as much, so its window is the time in which that refills, rounded
// up: the quotient is the rate, as clients take it for, and not the burst in every window.
func window(l *policy.Limit) int64 {
	second := time.Second.Milliseconds()
	switch {
	case l == nil:
		return 0
	case l.Algorithm == policy.TokenBucket:
		if l.Requests == 0 {
			return 0
		}
		refill := l.Burst * l.WindowMs // within MaxInteger, as policy.MaxBurst has it
		return (refill-1)/(l.Requests*second) + 1
	case l.WindowMs%second != 0:
		return 0
	default:
		return l.WindowMs / second
	}
}
