package doors

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// told is what a door tells of a verdict. What it does not tell stays at the zero value.
type told struct {
	allowed bool
	// refused tells that the request cannot be decided, as it says; failure is any other code of an error.
	refused bool
	failure string
	// mode and reason are as in the documentation.
	mode, reason string
	// figures are those of each limit that is told of, known that figures are told when there are some. No figure is told
	// larger than most (0: as it is). rates tells that a limit's number is its rate.
	known   bool
	figures []figure
	most    int64
	rates   bool
	// retry is how long to wait; timed tells that every denial says it, to the millisecond.
	retry time.Duration
	timed bool
	// violated are the policies that denied.
	violated []string
	// status, header and body are what a client of HTTP is to get.
	status int
	header http.Header
	body   []byte
}

// figure is what is told of the limit of that name.
type figure struct {
	name             string
	limit, remaining int64
}

// slack is how long a sequence may take before a time to wait differs from what the policy says.
const slack = time.Minute

// maxHeaderInteger is the largest figure that a header of the draft can hold.
const maxHeaderInteger = 999_999_999_999_999

// headersOfFigures are those that tell of limits.
var headersOfFigures = map[string][]string{
	policy.HeaderDraft:  {"Ratelimit-Policy", "Ratelimit"},
	policy.HeaderLegacy: {"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
}

// compare gives what is not as it should be.
func (w *want) compare(got *told, q *question, remembers bool) []string {
	var c comparison
	switch {
	case got.failure != "":
		c.addf("failed with %s", got.failure)
		return c.problems
	case got.refused != (w.outcome == "refused"):
		c.addf("refused: %t", got.refused)
		return c.problems
	case w.outcome == "refused":
		return nil
	}
	if got.allowed != w.allowed() {
		c.addf("allowed: %t, with reason %q, figures %v, and headers %v", got.allowed, got.reason, got.figures, got.header)
		return c.problems
	}
	c.words(w, got, remembers)
	c.figures(w, got)
	if got.timed {
		c.wait(w, got.retry, 0)
	}
	if got.violated != nil && !slices.Equal(got.violated, w.violated()) {
		c.addf("violated %q, want %q", got.violated, w.violated())
	}
	response := w.response(q)
	if got.status != 0 && got.status != response.status {
		c.addf("status %d, want %d", got.status, response.status)
	}
	if got.header != nil {
		c.headers(w, got.header, &response)
	}
	if got.body != nil {
		c.problem(w, got.body, &response)
	}
	return c.problems
}

func (w *want) allowed() bool {
	return slices.Contains([]string{"allowed", "shadow", "unlimited", "unmatched"}, w.outcome)
}

// violated are the policies that deny.
func (w *want) violated() []string {
	switch {
	case w.allowed():
		return []string{}
	case w.violating != nil:
		return w.violating
	default:
		return []string{w.of}
	}
}

// manners are how the policy that binds has doors answer.
type manners struct {
	policy  string
	own     policy.Response
	status  int
	looksOn bool
}

func (w *want) response(q *question) manners {
	r := manners{status: http.StatusOK, own: policy.Response{Headers: policy.DefaultHeaders}}
	short, _, _ := strings.Cut(w.of, "/")
	for i := range q.policies {
		p := &q.policies[i]
		if !strings.HasSuffix(p.Name, "/"+short) {
			continue
		}
		r.policy, r.looksOn = p.Name, p.ShadowPercent == 100
		if p.Response != nil {
			r.own = *p.Response
			if r.own.Headers == nil {
				r.own.Headers = policy.DefaultHeaders
			}
		}
	}
	if !w.allowed() {
		r.status = http.StatusTooManyRequests
		if r.own.Status != 0 {
			r.status = r.own.Status
		}
	}
	return r
}

type comparison struct{ problems []string }

func (c *comparison) addf(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// words compares the mode and the reason, where a door tells them.
func (c *comparison) words(w *want, got *told, remembers bool) {
	mode, reason := "enforced", w.outcome
	switch w.outcome {
	case "allowed", "unlimited":
		reason = "ok"
	case "denied":
		reason = "limit"
	case "shadow":
		mode = "shadow"
	case "unmatched":
		mode, reason = "unmatched", ""
	}
	cached := remembers && got.mode == "cached" && (w.outcome == "denied" || w.outcome == "blocked")
	if got.mode != "" && got.mode != mode && !cached {
		c.addf("mode %s, want %s", got.mode, mode)
	}
	if got.reason != "" && got.reason != reason {
		c.addf("reason %s, want %s", got.reason, reason)
	}
}

func (c *comparison) figures(w *want, got *told) {
	limit, remaining := w.limit, w.remaining
	switch {
	case !got.known:
		return
	case w.outcome == "unlimited":
		limit, remaining = -1, policy.MaxInteger
	case !w.figures:
		if len(got.figures) > 0 {
			c.addf("figures %v, want none", got.figures)
		}
		return
	case got.rates && w.rate > 0:
		limit = w.rate
	}
	if got.most > 0 {
		limit, remaining = min(limit, got.most), min(remaining, got.most)
	}
	for _, f := range got.figures {
		if name, _, _ := strings.Cut(f.name, "/"); f.name != w.of && name != w.of {
			continue // some doors name the limit also where the policy has only one
		}
		if f.limit != limit || f.remaining != remaining {
			c.addf("%d of %d are left of %s, want %d of %d", f.remaining, f.limit, f.name, remaining, limit)
		}
		return
	}
	c.addf("figures %v, want those of %s", got.figures, w.of)
}

// wait compares how long to wait, told in such units (0: to the millisecond).
func (c *comparison) wait(w *want, got, unit time.Duration) {
	least, most := w.retry-slack, w.retry
	if w.within > 0 {
		least, most = 0, w.within
	}
	if unit > 0 {
		most = (most + unit - 1).Truncate(unit)
	}
	switch {
	case w.allowed():
		if got != 0 {
			c.addf("to be tried again in %s, though it may pass", got)
		}
	case most == 0:
		c.addf("to be tried again in %s, and the sequence does not say when", got)
	case got <= max(least, 0) || got > most:
		c.addf("to be tried again in %s, want more than %s and at most %s", got, max(least, 0), most)
	}
}

// headers compares those that tell of limits with those that the policy asks for.
func (c *comparison) headers(w *want, got http.Header, r *manners) {
	figures := w.figures && !r.looksOn && w.outcome != "shadow"
	for dialect, names := range headersOfFigures {
		for _, name := range names {
			if due := figures && slices.Contains(r.own.Headers, dialect); (len(got[name]) == 1) != due {
				c.addf("header %s: %q, due: %t", name, got[name], due)
				return
			}
		}
	}
	due := !w.allowed() && slices.Contains(r.own.Headers, policy.HeaderRetryAfter)
	if after := got["Retry-After"]; (len(after) == 1) != due {
		c.addf("header Retry-After: %q, due: %t", after, due)
	} else if due {
		seconds, err := strconv.Atoi(after[0])
		if err != nil || seconds < 1 {
			c.addf("header Retry-After: %q", after[0])
		}
		c.wait(w, time.Duration(seconds)*time.Second, time.Second)
	}
	if !figures {
		return
	}
	limit, remaining := strconv.FormatInt(w.limit, 10), strconv.FormatInt(w.remaining, 10)
	if slices.Contains(r.own.Headers, policy.HeaderLegacy) {
		if got.Get("X-Ratelimit-Limit") != limit || got.Get("X-Ratelimit-Remaining") != remaining {
			c.addf("headers %s of %s are left, want %s of %s", got.Get("X-Ratelimit-Remaining"), got.Get("X-Ratelimit-Limit"), remaining, limit)
		}
	}
	if slices.Contains(r.own.Headers, policy.HeaderDraft) {
		quota := fmt.Sprintf("%q;q=%d", w.of, min(w.limit, maxHeaderInteger))
		available := fmt.Sprintf("%q;r=%d", w.of, min(w.remaining, maxHeaderInteger))
		if !begins(got.Get("Ratelimit-Policy"), quota) || !begins(got.Get("Ratelimit"), available) {
			c.addf("headers %s and %s, want %s and %s", got.Get("Ratelimit-Policy"), got.Get("Ratelimit"), quota, available)
		}
	}
}

// begins tells whether an item is this one, which may have further parameters.
func begins(item, with string) bool { return item == with || strings.HasPrefix(item, with+";") }

const problemTypes = "https://iana.org/assignments/http-problem-types#"

// problem compares the body of a denial.
func (c *comparison) problem(w *want, body []byte, r *manners) {
	var got struct {
		Type, Title, Detail, Policy string
		Status, RetryAfter          int
		Violated                    []string `json:"violated-policies"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		c.addf("body %q: %v", body, err)
		return
	}
	kind := problemTypes + "quota-exceeded"
	if w.outcome == "penalty" {
		kind = problemTypes + "abnormal-usage-detected"
	}
	if r.own.Type != "" {
		kind = r.own.Type
	}
	if got.Type != kind || got.Status != r.status || got.Policy != r.policy || !slices.Equal(got.Violated, w.violated()) ||
		r.own.Title != "" && got.Title != r.own.Title || r.own.Detail != "" && got.Detail != r.own.Detail {
		c.addf("body %s, want type %s, status %d, policy %s, violated %q", body, kind, r.status, r.policy, w.violated())
	}
	c.wait(w, time.Duration(got.RetryAfter)*time.Second, time.Second)
}
