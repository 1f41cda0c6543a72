package rls

import (
	"math"
	"net/http"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service/answers"
)

// single is all that a response with one status is made of, so that it costs one allocation.
type single struct {
	response ratelimitv3.RateLimitResponse
	statuses [1]*ratelimitv3.RateLimitResponse_DescriptorStatus
	status   answer
	headers  headers
}

// several is all that a response is made of but for its statuses.
type several struct {
	response ratelimitv3.RateLimitResponse
	headers  headers
}

// answer is a status and what it points to.
type answer struct {
	status ratelimitv3.RateLimitResponse_DescriptorStatus
	limit  ratelimitv3.RateLimitResponse_RateLimit
	reset  durationpb.Duration
}

// response tells the result at that door.
func response(result *engine.Result, door engine.Door) *ratelimitv3.RateLimitResponse {
	var out *ratelimitv3.RateLimitResponse
	var h *headers
	if len(result.Verdicts) == 1 {
		all := &single{}
		all.statuses[0] = all.status.fill(&result.Verdicts[0])
		out, h = &all.response, &all.headers
		out.Statuses = all.statuses[:]
	} else {
		all := &several{}
		out, h = &all.response, &all.headers
		answers := make([]answer, len(result.Verdicts))
		out.Statuses = make([]*ratelimitv3.RateLimitResponse_DescriptorStatus, len(answers))
		for i := range answers {
			out.Statuses[i] = answers[i].fill(&result.Verdicts[i])
		}
	}
	out.OverallCode = code(result.Allowed)
	of := binding(result.Verdicts)
	h.add(of, result.Degraded)
	if door == engine.DoorRLS && !result.Allowed {
		out.RawBody = h.denial(of, result.Verdicts)
	}
	out.ResponseHeadersToAdd = h.all()
	return out
}

// refusal denies all descriptors of a request with a value that is too long for a policy. It has no figures, since no limit was
// asked; that it is not one which is exhausted, the body says to the client.
func refusal(tooLong *engine.ValueTooLongError, descriptors int) *ratelimitv3.RateLimitResponse {
	statuses := make([]*ratelimitv3.RateLimitResponse_DescriptorStatus, descriptors)
	for i := range statuses {
		statuses[i] = &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_OVER_LIMIT}
	}
	var h headers
	body := h.problem(answers.Problem{Status: http.StatusBadRequest, Detail: ofValue(tooLong)})
	return &ratelimitv3.RateLimitResponse{
		OverallCode: ratelimitv3.RateLimitResponse_OVER_LIMIT, Statuses: statuses, ResponseHeadersToAdd: h.all(), RawBody: body,
	}
}

// binding is the verdict that the response headers are about: on a denial the one that takes longest, else the tightest.
func binding(verdicts []engine.Verdict) *engine.Verdict {
	of := &verdicts[0]
	for i := 1; i < len(verdicts); i++ {
		if verdicts[i].Binds(of) {
			of = &verdicts[i]
		}
	}
	return of
}

// fill makes the status of a verdict. Without figures from Redis it has no current_limit, so that nobody takes invented
// ones for real.
func (a *answer) fill(v *engine.Verdict) *ratelimitv3.RateLimitResponse_DescriptorStatus {
	a.status.Code = code(v.Allowed)
	if !v.Known {
		return &a.status
	}
	a.status.LimitRemaining = clamp(v.Remaining)
	// Envoy reads whole seconds; a moment too early would be refused again.
	a.reset.Seconds = v.ResetAfterSeconds()
	a.status.DurationUntilReset = &a.reset
	if v.Limit >= 0 {
		a.limit.Name = v.Name
		a.limit.RequestsPerUnit, a.limit.Unit = rate(v)
		a.status.CurrentLimit = &a.limit
	} else {
		a.status.LimitRemaining = math.MaxUint32
	}
	return &a.status
}

func code(allowed bool) ratelimitv3.RateLimitResponse_Code {
	if allowed {
		return ratelimitv3.RateLimitResponse_OK
	}
	return ratelimitv3.RateLimitResponse_OVER_LIMIT
}

// rate is how many requests may pass in which unit of time. A window that is no unit of Envoy's is UNKNOWN: the number
// is then that of one window. A TokenBucket's number is what it refills, not its burst.
func rate(v *engine.Verdict) (uint32, ratelimitv3.RateLimitResponse_RateLimit_Unit) {
	if v.Binding == nil {
		return clamp(v.Limit), ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN
	}
	requests := v.Limit
	if v.Binding.Algorithm == policy.TokenBucket {
		requests = v.Binding.Requests
	}
	return clamp(requests), unit(v.Binding)
}

const day = 24 * time.Hour

func unit(l *policy.Limit) ratelimitv3.RateLimitResponse_RateLimit_Unit {
	if l.Calendar == policy.CalendarMonth { // of whatever length
		return ratelimitv3.RateLimitResponse_RateLimit_MONTH
	}
	switch time.Duration(l.WindowMs) * time.Millisecond {
	case time.Second:
		return ratelimitv3.RateLimitResponse_RateLimit_SECOND
	case time.Minute:
		return ratelimitv3.RateLimitResponse_RateLimit_MINUTE
	case time.Hour:
		return ratelimitv3.RateLimitResponse_RateLimit_HOUR
	case day:
		return ratelimitv3.RateLimitResponse_RateLimit_DAY
	case 7 * day:
		return ratelimitv3.RateLimitResponse_RateLimit_WEEK
	case 30 * day: // as envoyproxy/ratelimit counts a month
		return ratelimitv3.RateLimitResponse_RateLimit_MONTH
	default:
		return ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN
	}
}

// clamp fits a figure into the protocol.
func clamp(n int64) uint32 {
	return uint32(min(max(n, 0), math.MaxUint32))
}
