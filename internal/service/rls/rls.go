// Package rls is the door for Envoy: the Rate Limit Service v3, in the place of envoyproxy/ratelimit, and its JSON form.
//
// Where the two differ, it is on purpose: budgets of all descriptors are charged together or not at all; a bad request is
// InvalidArgument and not Unknown; a Redis that does not answer is no error of the call: onStoreFailure of the policy
// decides, and the response header x-penstock-degraded says so; a limit that a descriptor brings along is believed of those
// callers only that may set limits, and has counters of its own.
//
// A value of more than 256 bytes by which a policy would count is denied: it cannot be limited, and Envoy lets pass what is
// answered by an error. An end user could thus switch all limits off by a long path.
package rls

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// Engine decides; engine.Engine does.
type Engine interface {
	Decide(ctx context.Context, door engine.Door, request *engine.Request) (engine.Result, error)
}

// Callers tells who asks; callers.Directory does.
type Callers interface {
	Of(ctx context.Context) callers.Caller
}

// Options of a Server.
type Options struct {
	// Callers is required.
	Callers Callers
	// Strict refuses the domains that no policy answers for.
	Strict bool
	// Registerer gets the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer
	// Logger gets one line when limits of requests are ignored for the first time; nil discards.
	Logger *slog.Logger
}

// Server is the door.
type Server struct {
	ratelimitv3.UnimplementedRateLimitServiceServer

	engine  Engine
	callers Callers
	strict  bool
	log     *slog.Logger

	ignoredLimits prometheus.Counter
	unknownFields prometheus.Counter
	toldIgnored   sync.Once
}

// New makes the door.
func New(eng Engine, opts Options) *Server {
	s := &Server{engine: eng, callers: opts.Callers, strict: opts.Strict, log: opts.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ignoredLimits = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "penstock_ignored_limit_overrides_total",
		Help: "Descriptors whose own limit was ignored, since their caller may not set limits; the policies applied.",
	})
	s.unknownFields = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "penstock_unknown_fields_total",
		Help: "Requests of the Rate Limit Service with fields that this version does not know, which were ignored.",
	})
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(s.ignoredLimits, s.unknownFields)
	}
	return s
}

// ShouldRateLimit answers with one status for each descriptor, in order. Where a value is too long for a policy that applies,
// all of them are OVER_LIMIT and without figures, nothing is charged or given back, and the body says which key it is.
//
// Errors: InvalidArgument names what is wrong with the request and the bound; PermissionDenied: the caller may not ask about
// the domain; Unavailable: no policy set is loaded; Internal: Redis refuses the credentials or rights of penstockd, or the
// charges, which is no outage that could allow; Canceled: the caller has gone.
func (s *Server) ShouldRateLimit(ctx context.Context, request *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	return s.answer(ctx, engine.DoorRLS, request)
}

// answer decides a request that came in at that door.
func (s *Server) answer(ctx context.Context, door engine.Door, request *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	if err := validate(request); err != nil {
		return nil, err
	}
	caller := s.callers.Of(ctx)
	if !caller.MayUseDomain(request.GetDomain()) {
		return nil, status.Error(codes.PermissionDenied, forbiddenDomain)
	}
	if hasUnknownFields(request) {
		s.unknownFields.Inc()
	}
	r := engine.NewRequest(request.GetDomain())
	defer r.Release()
	if err := s.fill(r, request, caller); err != nil {
		return nil, err
	}
	result, err := s.engine.Decide(ctx, door, r)
	if err != nil {
		if tooLong, is := errors.AsType[*engine.ValueTooLongError](err); is && door == engine.DoorRLS {
			return refusal(tooLong, len(request.GetDescriptors())), nil
		}
		return nil, asStatus(err)
	}
	if s.strict && result.UnknownDomain {
		return nil, invalid("domain: no policy answers for it; check the spelling, and spec.domain of the RateLimits")
	}
	return response(&result, door), nil
}

// forbiddenDomain is told of a domain whether there is one of the name or not: who may not use it shall not find out.
const forbiddenDomain = "this caller may not use the domain, or there is none of that name"

// fill makes the request of the engine.
func (s *Server) fill(r *engine.Request, request *ratelimitv3.RateLimitRequest, caller callers.Caller) error {
	hits := int64(request.GetHitsAddend())
	if hits == 0 { // which is how the protocol says nothing
		hits = engine.PolicyCost
	}
	for i, descriptor := range request.GetDescriptors() {
		cost := hits
		if own := descriptor.GetHitsAddend(); own != nil {
			cost = int64(min(own.GetValue(), policy.MaxInteger)) // validate has refused more
		}
		r.Descriptor(cost)
		for _, entry := range descriptor.GetEntries() {
			r.Entry(entry.GetKey(), entry.GetValue())
		}
		if descriptor.GetIsNegativeHits() {
			r.GiveBack()
		}
		own := descriptor.GetLimit()
		switch {
		case own == nil:
		case !caller.MayOverrideLimits():
			// An error would make Envoy let the request pass.
			s.ignoreLimit()
		default:
			window, err := windowOf(own.GetUnit(), i)
			if err != nil {
				return err
			}
			r.Limit(int64(own.GetRequestsPerUnit()), window)
		}
	}
	return nil
}

// ignoreLimit notes that a descriptor's own limit is ignored.
func (s *Server) ignoreLimit() {
	s.ignoredLimits.Inc()
	s.toldIgnored.Do(func() {
		s.log.Warn("limits that requests bring along are ignored, since their caller may not set limits; the policies apply. Let the caller, or take the limits out of its configuration",
			"metric", "penstock_ignored_limit_overrides_total")
	})
}

// ofValue tells which value is too long, and never what it is.
func ofValue(tooLong *engine.ValueTooLongError) string { return "the value of " + tooLong.Error() }

func asStatus(err error) error {
	var tooLong *engine.ValueTooLongError
	switch {
	case errors.As(err, &tooLong):
		return status.Error(codes.InvalidArgument, ofValue(tooLong))
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
