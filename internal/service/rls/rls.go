// Package rls is the door for Envoy: the Rate Limit Service v3, in the place of envoyproxy/ratelimit.
//
// Where the two differ, it is on purpose: budgets of all descriptors are charged together or not at all; a bad request is
// InvalidArgument and not Unknown; a Redis that does not answer is no error of the call: onStoreFailure of the policy
// decides, and the response header x-penstock-degraded says so.
package rls

import (
	"context"
	"errors"
	"math"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
)

// Engine decides; engine.Engine does.
type Engine interface {
	Decide(ctx context.Context, door engine.Door, request *engine.Request) (engine.Result, error)
}

// Server is the door.
type Server struct {
	ratelimitv3.UnimplementedRateLimitServiceServer

	engine Engine
}

// New makes the door.
func New(eng Engine) *Server { return &Server{engine: eng} }

// ShouldRateLimit answers with one status for each descriptor, in order.
//
// Errors: InvalidArgument names what is wrong with the request and the bound; Unimplemented is a feature that is not
// there yet; Unavailable: no policy set is loaded; Internal: Redis refuses the credentials or rights of penstockd, or the
// charges, which is no outage that could allow; Canceled: the caller has gone.
func (s *Server) ShouldRateLimit(ctx context.Context, request *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	if err := validate(request); err != nil {
		return nil, err
	}
	r := engine.NewRequest(request.GetDomain())
	defer r.Release()
	hits := int64(request.GetHitsAddend())
	if hits == 0 { // which is how the protocol says nothing
		hits = engine.PolicyCost
	}
	for _, descriptor := range request.GetDescriptors() {
		cost := hits
		if own := descriptor.GetHitsAddend(); own != nil {
			cost = int64(min(own.GetValue(), policy.MaxInteger)) // validate has refused more
		}
		r.Descriptor(cost)
		for _, entry := range descriptor.GetEntries() {
			r.Entry(entry.GetKey(), entry.GetValue())
		}
	}
	result, err := s.engine.Decide(ctx, engine.DoorRLS, r)
	if err != nil {
		return nil, asStatus(err)
	}
	return response(&result), nil
}

func asStatus(err error) error {
	var tooLong *engine.ValueTooLongError
	switch {
	case errors.As(err, &tooLong):
		return status.Error(codes.InvalidArgument, "the value of "+tooLong.Error())
	case errors.Is(err, engine.ErrNoSet):
		return status.Error(codes.Unavailable, engine.ErrNoSet.Error())
	case errors.Is(err, engine.ErrConfiguration):
		return status.Error(codes.Internal, engine.ErrConfiguration.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller has gone")
	default:
		return status.Error(codes.Internal, "deciding failed")
	}
}

// single is all that a response with one status is made of, so that it costs one allocation.
type single struct {
	response ratelimitv3.RateLimitResponse
	statuses [1]*ratelimitv3.RateLimitResponse_DescriptorStatus
	status   answer
}

// answer is a status and what it points to.
type answer struct {
	status ratelimitv3.RateLimitResponse_DescriptorStatus
	limit  ratelimitv3.RateLimitResponse_RateLimit
	reset  durationpb.Duration
}

func response(result *engine.Result) *ratelimitv3.RateLimitResponse {
	var out *ratelimitv3.RateLimitResponse
	if len(result.Verdicts) == 1 {
		all := &single{}
		all.statuses[0] = all.status.fill(&result.Verdicts[0])
		out = &all.response
		out.Statuses = all.statuses[:]
	} else {
		answers := make([]answer, len(result.Verdicts))
		out = &ratelimitv3.RateLimitResponse{Statuses: make([]*ratelimitv3.RateLimitResponse_DescriptorStatus, len(answers))}
		for i := range answers {
			out.Statuses[i] = answers[i].fill(&result.Verdicts[i])
		}
	}
	out.OverallCode = code(result.Allowed)
	if result.Degraded {
		out.ResponseHeadersToAdd = []*corev3.HeaderValue{{Key: "x-penstock-degraded", Value: "store"}}
	}
	return out
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
