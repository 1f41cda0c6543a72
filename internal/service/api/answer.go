package api

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/answers"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// figures are the parts of an answer that it points to. They stand beside it, so that all is one allocation.
type figures struct {
	limit, remaining int64
	reset, retry     durationpb.Duration
}

// budget gives the limit and what is left of it; nil without figures from Redis, so that nobody takes invented ones for
// real.
func (f *figures) budget(v *engine.Verdict) (requests, remaining *int64) {
	if !v.Known {
		return nil, nil
	}
	f.limit, f.remaining = v.Limit, v.Remaining
	return &f.limit, &f.remaining
}

// resetAfter is nil without figures from Redis.
func (f *figures) resetAfter(v *engine.Verdict) *durationpb.Duration {
	if !v.Known {
		return nil
	}
	setDuration(&f.reset, int64(v.ResetAfter))
	return &f.reset
}

// retryAfter is nil when allowed.
func (f *figures) retryAfter(v *engine.Verdict) *durationpb.Duration {
	if v.Allowed {
		return nil
	}
	setDuration(&f.retry, int64(v.RetryAfter))
	return &f.retry
}

func setDuration(d *durationpb.Duration, nanoseconds int64) {
	d.Seconds, d.Nanos = nanoseconds/1e9, int32(nanoseconds%1e9)
}

func checked(v *engine.Verdict, r *penstockv1.CheckRequest) *penstockv1.CheckResponse {
	all := &struct {
		answer  penstockv1.CheckResponse
		figures figures
	}{}
	a := &all.answer
	a.Allowed = v.Allowed
	a.Limit, a.Remaining = all.figures.budget(v)
	a.ResetAfter, a.RetryAfter = all.figures.resetAfter(v), all.figures.retryAfter(v)
	a.Mode, a.Reason = mode(v.Mode), reason(v.Reason)
	a.Policy, a.LimitName = binding(v)
	a.Id = r.GetId()
	a.OnStoreFailure = onStoreFailure(v)
	if r.GetHttp() {
		a.Http = httpAnswer(v)
	}
	return a
}

func peeked(v *engine.Verdict) *penstockv1.PeekResponse {
	all := &struct {
		answer  penstockv1.PeekResponse
		figures figures
	}{}
	a := &all.answer
	a.Allowed = v.Allowed
	a.Limit, a.Remaining = all.figures.budget(v)
	a.ResetAfter, a.RetryAfter = all.figures.resetAfter(v), all.figures.retryAfter(v)
	a.Mode, a.Reason = mode(v.Mode), reason(v.Reason)
	a.Policy, a.LimitName = binding(v)
	return a
}

func refunded(v *engine.Verdict, id string) *penstockv1.RefundResponse {
	var f figures
	a := &penstockv1.RefundResponse{Refunded: changed(v), ResetAfter: f.resetAfter(v), Id: id}
	a.Limit, a.Remaining = f.budget(v)
	a.Policy, a.LimitName = binding(v)
	return a
}

func credited(v *engine.Verdict, id string) *penstockv1.CreditResponse {
	var f figures
	a := &penstockv1.CreditResponse{Id: id}
	a.Limit, a.Remaining = f.budget(v)
	a.Policy, a.LimitName = binding(v)
	return a
}

func reset(v *engine.Verdict) *penstockv1.ResetResponse {
	var f figures
	a := &penstockv1.ResetResponse{}
	a.Limit, a.Remaining = f.budget(v)
	a.Policy, a.LimitName = binding(v)
	return a
}

func acquired(v *engine.Verdict, r *penstockv1.AcquireSlotRequest, id string) *penstockv1.AcquireSlotResponse {
	all := &struct {
		answer  penstockv1.AcquireSlotResponse
		figures figures
	}{}
	a := &all.answer
	a.Allowed = v.Allowed
	a.Limit, a.Remaining = all.figures.budget(v)
	a.ResetAfter, a.RetryAfter = all.figures.resetAfter(v), all.figures.retryAfter(v)
	a.Mode, a.Reason = mode(v.Mode), reason(v.Reason)
	a.Policy, a.LimitName = binding(v)
	if v.Mode != engine.Unmatched {
		a.SlotId = id
	}
	a.OnStoreFailure = onStoreFailure(v)
	a.Ttl = slotTTL(v, r.GetTtl())
	if r.GetHttp() {
		a.Http = httpAnswer(v)
	}
	return a
}

// slotTTL is how long a slot is held for which that much was asked; nil when it is not held, or nobody knows.
func slotTTL(v *engine.Verdict, asked *durationpb.Duration) *durationpb.Duration {
	if !v.Allowed || v.Binding == nil {
		return nil
	}
	most := time.Duration(v.Binding.SlotTTLMs) * time.Millisecond
	if asked == nil {
		return durationpb.New(most)
	}
	return durationpb.New(min(asked.AsDuration(), most))
}

// onStoreFailure is how requests that nobody can decide are answered. What only looks on never denies. LocalShare is told as
// Allow: it takes knowing what was counted, which who asks us does not.
func onStoreFailure(v *engine.Verdict) penstockv1.FailureMode {
	switch {
	case v.Policy == nil:
		return penstockv1.FailureMode_FAILURE_MODE_UNSPECIFIED
	case v.Policy.OnStoreFailure == policy.FailureDeny && v.Policy.ShadowPercent < 100:
		return penstockv1.FailureMode_FAILURE_MODE_DENY
	default:
		return penstockv1.FailureMode_FAILURE_MODE_ALLOW
	}
}

// httpAnswer is what penstockd's own doors would tell an HTTP client.
func httpAnswer(v *engine.Verdict) *penstockv1.HTTPAnswer {
	a := &penstockv1.HTTPAnswer{Status: int32(answers.Status(v))}
	set := func(name, value string) {
		a.Headers = append(a.Headers, &penstockv1.HTTPHeader{Name: name, Value: value})
	}
	answers.Headers(set, v)
	if !v.Allowed {
		set("Content-Type", answers.ProblemContentType)
		a.Body = answers.Denial(v, nil).JSON()
	}
	return a
}

func released(v *engine.Verdict, id string) *penstockv1.ReleaseSlotResponse {
	var f figures
	a := &penstockv1.ReleaseSlotResponse{Released: changed(v), SlotId: id}
	a.Limit, a.Remaining = f.budget(v)
	a.Policy, a.LimitName = binding(v)
	return a
}

// changed tells whether there was what should be given back.
func changed(v *engine.Verdict) bool {
	return v.Mode != engine.Unmatched && v.Reason != limit.ReasonAbsent
}

// binding names the policy and its limit, as far as they are known.
func binding(v *engine.Verdict) (policyName, limitName string) {
	if v.Policy != nil {
		policyName = v.Policy.Name
	}
	if v.Binding != nil {
		limitName = v.Binding.Name
	}
	return policyName, limitName
}

func mode(m engine.Mode) penstockv1.Mode {
	switch m {
	case engine.Enforced:
		return penstockv1.Mode_MODE_ENFORCED
	case engine.Shadow:
		return penstockv1.Mode_MODE_SHADOW
	case engine.Cached:
		return penstockv1.Mode_MODE_CACHED
	case engine.Degraded:
		return penstockv1.Mode_MODE_DEGRADED
	default:
		return penstockv1.Mode_MODE_UNMATCHED
	}
}

func reason(r string) penstockv1.Reason {
	switch r {
	case limit.ReasonOK:
		return penstockv1.Reason_REASON_OK
	case limit.ReasonLimit:
		return penstockv1.Reason_REASON_LIMIT
	case limit.ReasonPenalty:
		return penstockv1.Reason_REASON_PENALTY
	case limit.ReasonBlocked:
		return penstockv1.Reason_REASON_BLOCKED
	case limit.ReasonShadow:
		return penstockv1.Reason_REASON_SHADOW
	case limit.ReasonAbsent:
		return penstockv1.Reason_REASON_ABSENT
	default:
		return penstockv1.Reason_REASON_UNSPECIFIED
	}
}
