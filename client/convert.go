package client

import (
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/answers"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// answered is an answer of penstockd with a verdict.
type answered interface {
	GetAllowed() bool
	GetLimit() int64
	GetRemaining() int64
	GetResetAfter() *durationpb.Duration
	GetRetryAfter() *durationpb.Duration
	GetMode() penstockv1.Mode
	GetReason() penstockv1.Reason
	GetPolicy() string
	GetLimitName() string
}

func verdictOf(a answered) Verdict {
	v := Verdict{
		Allowed: a.GetAllowed(), Mode: modes[a.GetMode()], Reason: reasons[a.GetReason()],
		Known: a.GetResetAfter() != nil, Limit: a.GetLimit(), Remaining: a.GetRemaining(),
		ResetAfter: a.GetResetAfter().AsDuration(), RetryAfter: a.GetRetryAfter().AsDuration(),
		Policy: a.GetPolicy(), LimitName: a.GetLimitName(),
	}
	if v.Mode == Degraded {
		v.Degraded = CauseStore
	}
	return v
}

var modes = map[penstockv1.Mode]Mode{
	penstockv1.Mode_MODE_UNMATCHED: Unmatched,
	penstockv1.Mode_MODE_ENFORCED:  Enforced,
	penstockv1.Mode_MODE_SHADOW:    Shadow,
	penstockv1.Mode_MODE_CACHED:    Cached,
	penstockv1.Mode_MODE_DEGRADED:  Degraded,
}

var reasons = map[penstockv1.Reason]Reason{
	penstockv1.Reason_REASON_OK:      ReasonOK,
	penstockv1.Reason_REASON_LIMIT:   ReasonLimit,
	penstockv1.Reason_REASON_PENALTY: ReasonPenalty,
	penstockv1.Reason_REASON_BLOCKED: ReasonBlocked,
	penstockv1.Reason_REASON_SHADOW:  ReasonShadow,
}

// httpAnswerOf gives what penstockd has to tell an HTTP client, if that was asked for. What is no header or no status of a
// denial does not come from a penstockd in order, and is left out.
func httpAnswerOf(told *penstockv1.HTTPAnswer, v *Verdict, asked bool) *HTTPAnswer {
	if !asked {
		return nil
	}
	if told == nil { // a penstockd that is older than this package
		return plainAnswer(v)
	}
	a := &HTTPAnswer{Status: http.StatusOK, Header: make(http.Header, len(told.GetHeaders())), Body: told.GetBody()}
	if !v.Allowed {
		a.Status = denialStatus(int(told.GetStatus()))
	}
	for _, h := range told.GetHeaders() {
		if httpguts.ValidHeaderFieldName(h.GetName()) && httpguts.ValidHeaderFieldValue(h.GetValue()) {
			a.Header.Set(h.GetName(), h.GetValue())
		}
	}
	return a
}

func denialStatus(status int) int {
	if status < 400 || status > 599 {
		return http.StatusTooManyRequests
	}
	return status
}

// plainAnswer is for a verdict without one.
func plainAnswer(v *Verdict) *HTTPAnswer {
	a := &HTTPAnswer{Status: http.StatusOK, Header: http.Header{}}
	if v.Degraded != "" {
		a.Header.Set(degradedHeader, string(v.Degraded))
	}
	if !v.Allowed {
		a.Status = http.StatusTooManyRequests
		seconds := max(1, int64((v.RetryAfter+time.Second-1)/time.Second))
		a.Header.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	return a
}

// ofEngine gives a verdict of an engine in this process.
func ofEngine(v *engine.Verdict, asked bool) Verdict {
	out := Verdict{
		Allowed: v.Allowed, Mode: Mode(v.Mode.String()), Reason: Reason(v.Reason),
		Known: v.Known, Limit: v.Limit, Remaining: v.Remaining, ResetAfter: v.ResetAfter, RetryAfter: v.RetryAfter, ID: v.ID,
	}
	if v.Mode == engine.Degraded {
		out.Degraded = CauseStore
	}
	if v.Policy != nil {
		out.Policy = v.Policy.Name
	}
	if v.Binding != nil {
		out.LimitName = v.Binding.Name
	}
	if asked {
		out.HTTP = answerOf(v)
	}
	return out
}

// answerOf is what the doors of penstockd tell an HTTP client of the verdict.
func answerOf(v *engine.Verdict) *HTTPAnswer {
	a := &HTTPAnswer{Status: answers.Status(v), Header: http.Header{}}
	answers.Set(a.Header, v)
	if !v.Allowed {
		a.Header.Set("Content-Type", answers.ProblemContentType)
		a.Body = answers.Denial(v, nil).JSON()
	}
	return a
}
