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
	policy.SlidingLog:  "sliding log",
	policy.FixedWindow: "fixed window",
	policy.TokenBucket: "token bucket",
}

// Summary is a policy in a few words, such as "100/1m sliding log" or "10/1s token bucket burst 20", limit by limit, in
// at most 256 characters.
func Summary(p *policy.RateLimit) string {
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
		if out.Len()+len(l)+len(rest) > maxSummary {
			out.WriteString(rest)
			break
		}
		out.WriteString(l)
	}
	return out.String()
}

func describe(l *policy.Limit) string {
	text := fmt.Sprintf("%d/%s %s", l.Requests, compact(time.Duration(l.WindowMs)*time.Millisecond), algorithmNames[l.Algorithm])
	if l.Algorithm == policy.TokenBucket && l.Burst != l.Requests {
		text += fmt.Sprintf(" burst %d", l.Burst)
	}
	return text
}
