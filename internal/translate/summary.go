package translate

import (
	"fmt"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// maxSummary is the maxLength of status.summary.
const maxSummary = 256

var algorithmNames = map[string]string{
	policy.SlidingLog:     "sliding log",
	policy.SlidingCounter: "sliding counter",
	policy.FixedWindow:    "fixed window",
	policy.TokenBucket:    "token bucket",
}

// Summary is a policy in a few words, such as "100/1m sliding log", "10/1s token bucket burst 20" or "5/day Europe/Berlin
// fixed window, and 2 overrides", limit by limit, in at most 256 characters.
func Summary(p *policy.RateLimit) string {
	end := ""
	switch n := len(p.Overrides); n {
	case 0:
	case 1:
		end = ", and 1 override"
	default:
		end = fmt.Sprintf(", and %d overrides", n)
	}
	var out strings.Builder
	for i := range p.Limits {
		l := describe(&p.Limits[i])
		if i > 0 {
			l = ", " + l
		}
		rest := ""
		if left := len(p.Limits) - i; left > 0 {
			rest = fmt.Sprintf(", and %d more", left)
		}
		if out.Len()+len(l)+len(rest)+len(end) > maxSummary {
			out.WriteString(rest)
			break
		}
		out.WriteString(l)
	}
	out.WriteString(end)
	return out.String()
}

func describe(l *policy.Limit) string {
	switch l.Algorithm {
	case policy.Concurrency:
		return fmt.Sprintf("%d slots of %s", l.Requests, compact(time.Duration(l.SlotTTLMs)*time.Millisecond))
	case policy.Balance:
		return fmt.Sprintf("balance %d", l.Requests)
	}
	window := compact(time.Duration(l.WindowMs) * time.Millisecond)
	if l.Calendar != "" {
		window = strings.ToLower(l.Calendar) + " " + l.TimeZone
	}
	text := fmt.Sprintf("%d/%s %s", l.Requests, window, algorithmNames[l.Algorithm])
	if l.Algorithm == policy.TokenBucket && l.Burst != l.Requests {
		text += fmt.Sprintf(" burst %d", l.Burst)
	}
	return text
}
