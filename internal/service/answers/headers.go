package answers

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
)

// Names of the headers, in the canonical form of net/http.
const (
	headerPolicy     = "Ratelimit-Policy"
	headerRateLimit  = "Ratelimit"
	headerRetryAfter = "Retry-After"
	headerLimit      = "X-Ratelimit-Limit"
	headerRemaining  = "X-Ratelimit-Remaining"
	headerReset      = "X-Ratelimit-Reset"
	headerDegraded   = "X-Penstock-Degraded"
)

// maxInteger is the largest Integer of Structured Fields (RFC 9651), 15 digits; a larger figure is told as this.
const maxInteger = 999_999_999_999_999

// Headers calls set for each header of the verdict, each of them once; names are in the canonical form of net/http (see
// LowerName). A policy has those that it asks for, in its order; X-Penstock-Degraded comes before them.
//
// Without figures from Redis, for an unlimited subject and for a policy that only looks on there are none of figures: clients
// must not slow down for a limit that nobody enforces.
func Headers(set func(name, value string), v *engine.Verdict) {
	if v.Mode == engine.Degraded {
		set(headerDegraded, "store")
	}
	if v.Policy == nil {
		return
	}
	figures := v.Known && v.Limit >= 0 && !v.LooksOn()
	for _, dialect := range dialects(v.Policy) {
		switch {
		case dialect == policy.HeaderRetryAfter:
			if !v.Allowed {
				set(headerRetryAfter, strconv.FormatInt(v.RetryAfterSeconds(), 10))
			}
		case !figures:
		case dialect == policy.HeaderDraft:
			set(headerPolicy, quota(v))
			set(headerRateLimit, available(v))
		case dialect == policy.HeaderLegacy:
			set(headerLimit, strconv.FormatInt(v.Limit, 10))
			set(headerRemaining, strconv.FormatInt(v.Remaining, 10))
			set(headerReset, strconv.FormatInt(v.ResetAfterSeconds(), 10))
		}
	}
}

// Set sets the headers of the verdict (see Headers).
func Set(header http.Header, v *engine.Verdict) {
	Headers(func(name, value string) { header[name] = []string{value} }, v)
}

// LowerName gives the name of one of these headers in lower case, as HTTP/2 and Envoy have it.
func LowerName(name string) string {
	switch name {
	case headerPolicy:
		return "ratelimit-policy"
	case headerRateLimit:
		return "ratelimit"
	case headerRetryAfter:
		return "retry-after"
	case headerLimit:
		return "x-ratelimit-limit"
	case headerRemaining:
		return "x-ratelimit-remaining"
	case headerReset:
		return "x-ratelimit-reset"
	case headerDegraded:
		return "x-penstock-degraded"
	default:
		return strings.ToLower(name)
	}
}

func dialects(p *policy.RateLimit) []string {
	if p.Response == nil || p.Response.Headers == nil {
		return policy.DefaultHeaders
	}
	return p.Response.Headers
}

// maxItemBytes is how long an item with short names is; longer ones cost another allocation.
const maxItemBytes = 128

// quota is the item of RateLimit-Policy.
func quota(v *engine.Verdict) string {
	item := named(make([]byte, 0, maxItemBytes), v)
	item = parameter(item, ";q=", v.Limit)
	if w := window(v.Binding); w > 0 {
		item = parameter(item, ";w=", w)
	}
	return string(item)
}

// available is the item of RateLimit.
func available(v *engine.Verdict) string {
	item := named(make([]byte, 0, maxItemBytes), v)
	item = parameter(item, ";r=", v.Remaining)
	switch {
	case !v.Allowed:
		// Not until the limit is whole: the draft wants Retry-After no earlier than the end of t.
		item = parameter(item, ";t=", v.RetryAfterSeconds())
	case v.Binding == nil || v.Binding.Algorithm != policy.Balance: // which no time refills
		item = parameter(item, ";t=", v.ResetAfterSeconds())
	}
	return string(item)
}

// named begins an item with its name. Names of policies and limits hold no character that a String would have to escape.
func named(dst []byte, v *engine.Verdict) []byte {
	dst = append(dst, '"')
	dst = append(dst, shortName(v.Name)...)
	return append(dst, '"')
}

// shortName is the name without the namespace: short, and steady where a client compares it.
func shortName(name string) string {
	_, short, _ := strings.Cut(name, "/")
	return short
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
