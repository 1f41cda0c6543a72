package answers

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// ProblemContentType is the media type of a Problem.
const ProblemContentType = "application/problem+json"

// Problem types of draft-ietf-httpapi-ratelimit-headers-11, section "Problem Types".
const (
	// TypeQuotaExceeded: the client sent more than its quota, which may be 0.
	TypeQuotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	// TypeAbnormalUsage: a penalty blocks the client, since it went on after it was denied.
	TypeAbnormalUsage = "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
	// TypeReducedCapacity: nobody can tell whether the client's quota is exceeded, as Redis cannot be asked.
	TypeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// titles are those that the draft registers with its types.
var titles = map[string]string{
	TypeQuotaExceeded:   "Quota Exceeded",
	TypeAbnormalUsage:   "Abnormal Usage Detected",
	TypeReducedCapacity: "Temporary Reduced Capacity",
}

// Problem is a body of application/problem+json (RFC 9457). It holds nothing that the request brought.
type Problem struct {
	// Type is a reference to what explains the problem; empty is about:blank.
	Type string `json:"type,omitempty"`
	// Title is that of the type or, if that has none here, of the status when it is empty.
	Title string `json:"title"`
	// Status is that of the answer, 400 to 599.
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Policy is the RateLimit that denied, as <namespace>/<name>.
	Policy string `json:"policy,omitempty"`
	// ViolatedPolicies are the names of all that denied, as in the header RateLimit-Policy: without the namespace.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
	// RetryAfter is the header of that name, in seconds.
	RetryAfter int64 `json:"retryAfter,omitempty"`
}

// Status is that of the answer to an HTTP client: 200, or the policy's of a denial, which is 429 unless it says.
func Status(v *engine.Verdict) int {
	switch {
	case v.Allowed:
		return http.StatusOK
	case v.Policy != nil && v.Policy.Response != nil && v.Policy.Response.Status != 0:
		return v.Policy.Response.Status
	default:
		return http.StatusTooManyRequests
	}
}

// Denial is the body of a verdict that does not allow, with what the policy has in the place of ours. The violated are
// engine.Result.Violated; nil stands for the verdict's own name.
func Denial(v *engine.Verdict, violated []string) Problem {
	p := Problem{Status: Status(v), RetryAfter: v.RetryAfterSeconds()}
	retry := "; retry after " + strconv.FormatInt(p.RetryAfter, 10) + " s"
	switch {
	case v.Mode == engine.Degraded && !v.Known:
		p.Type, p.Detail = TypeReducedCapacity, "rate limit "+v.Name+" cannot be checked now"+retry
	case v.Reason == limit.ReasonPenalty:
		p.Type, p.Detail = TypeAbnormalUsage, "rate limit "+v.Name+" was exceeded too often"+retry
	case v.Reason == limit.ReasonBlocked:
		p.Type, p.Detail = TypeQuotaExceeded, "rate limit "+v.Name+" lets nothing pass"
	default:
		p.Type, p.Detail = TypeQuotaExceeded, "rate limit "+v.Name+" is exhausted"+retry
	}
	if violated == nil {
		violated = []string{v.Name}
	}
	for _, name := range violated {
		if short := shortName(name); !slices.Contains(p.ViolatedPolicies, short) {
			p.ViolatedPolicies = append(p.ViolatedPolicies, short)
		}
	}
	if v.Policy == nil {
		return p
	}
	p.Policy = v.Policy.Name
	if own := v.Policy.Response; own != nil {
		p.Type, p.Title, p.Detail = cmp.Or(own.Type, p.Type), own.Title, cmp.Or(own.Detail, p.Detail)
	}
	return p
}

// JSON is the body, which ends with a line feed.
func (p Problem) JSON() []byte {
	p.Title = cmp.Or(p.Title, titles[p.Type], http.StatusText(p.Status), "Denied") // not every status has a text
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // it is no HTML, and people read it
	_ = encoder.Encode(p)        // strings and integers always encode
	return body.Bytes()
}

// Write answers with the problem and its status.
func (p Problem) Write(w http.ResponseWriter) { p.WriteAs(w, p.Status) }

// WriteAs answers with the problem, under another status than its own: for proxies that pass on only some.
func (p Problem) WriteAs(w http.ResponseWriter, status int) {
	body := p.JSON()
	w.Header()["Content-Type"] = []string{ProblemContentType}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
