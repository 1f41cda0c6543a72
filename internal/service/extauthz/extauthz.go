// Package extauthz is the door for Envoy's external authorization, and for what is made of Envoy: the service
// envoy.service.auth.v3.Authorization. It decides by the attributes of the request that Envoy asks about:
//
//	remote_address  the address that the client connected to Envoy from, without port; what X-Forwarded-For says, when that
//	                is a trusted proxy; empty when there is none (a socket of the host), as one subject for all
//	method          the method
//	path            the path without query, unescaped
//	host            the host in lower case, without port
//	header.<name>   a header, its name in lower case; several of one name are joined by ","
//
// Which policies apply, the configuration of Envoy says, by the first of these that is there and not empty:
//
//	context_extensions penstock-policy   one policy, "<namespace>/<policy>"
//	context_extensions penstock-domain   all policies of a domain that apply, together
//	gRPC metadata x-penstock-domain      the same
//	Options.DefaultDomain                the same
//
// Denied is RESOURCE_EXHAUSTED with QuotaFailure and RetryInfo, and for Envoy's client the policy's status (429), the headers
// that the policy asks for, and a body of application/problem+json. What the client asked by gRPC gets the same error as a
// gRPC status with those details, since Envoy would make it UNAVAILABLE.
//
// A value of more than 256 bytes, which cannot be limited, is denied too, with 400: an error would let it pass where
// failure_mode_allow is set. What is wrong with the configuration, or with penstockd, is an error of the call, and then that
// setting of Envoy's decides. A Redis that does not answer is no error: onStoreFailure of the policy decides, and the header
// x-penstock-degraded says so.
//
// There is no dynamic metadata: it would cost more than all else of an answer, and access logs have the same figures from
// the response headers.
package extauthz

import (
	"context"
	"errors"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
)

// Where the configuration of Envoy names what applies.
const (
	policyExtension = "penstock-policy"
	domainExtension = "penstock-domain"
	domainMetadata  = "x-penstock-domain"
)

// Bounds of names. What goes beyond them is refused before any work is done for it.
const (
	maxDomainBytes = 256
	// maxPolicyBytes is a namespace, a slash and a name.
	maxPolicyBytes = 63 + 1 + 253
)

// Engine decides; engine.Engine does.
type Engine interface {
	DecidePolicy(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	DecideAttributes(ctx context.Context, door engine.Door, domain string, lookup func(key string) (string, bool), cost int64) (engine.Result, error)
}

// Callers tells who asks; callers.Directory does.
type Callers interface {
	Of(ctx context.Context) callers.Caller
}

// Options of a Server.
type Options struct {
	// Callers is required.
	Callers Callers
	// Proxies are believed what they say in X-Forwarded-For. The zero value is none.
	Proxies origin.Proxies
	// DefaultDomain applies where Envoy names neither policy nor domain; empty is none, and then that is an error.
	DefaultDomain string
	// Strict makes a domain that no policy answers for an error. Else it is allowed.
	Strict bool
}

// Server is the door.
type Server struct {
	authv3.UnimplementedAuthorizationServer

	engine  Engine
	options Options
}

// New makes the door.
func New(eng Engine, options Options) *Server { return &Server{engine: eng, options: options} }

// Check answers for one request, or for one connection.
//
// Errors: InvalidArgument names what is wrong with the configuration of Envoy; PermissionDenied: the caller may not use
// that policy or domain, whether there is one or not; NotFound: no policy of that name is in force; FailedPrecondition: it
// counts what is under way; Unavailable: no policy set is loaded; Internal: Redis refuses the credentials or rights of
// penstockd, or the charges, which is no outage that could allow; Canceled: the caller has gone.
func (s *Server) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if request.GetAttributes() == nil {
		return nil, status.Error(codes.InvalidArgument, "attributes: missing; they are what policies are about")
	}
	asked := &attributes{context: request.GetAttributes(), proxies: &s.options.Proxies}
	if name := asked.context.GetContextExtensions()[policyExtension]; name != "" {
		return s.checkPolicy(ctx, name, asked)
	}
	domain, err := s.domain(ctx, asked.context)
	if err != nil {
		return nil, err
	}
	return s.checkDomain(ctx, domain, asked)
}

// checkPolicy answers for one policy.
func (s *Server) checkPolicy(ctx context.Context, name string, asked *attributes) (*authv3.CheckResponse, error) {
	if !isPolicy(name) {
		return nil, status.Errorf(codes.InvalidArgument,
			"context_extensions[%s]: want <namespace>/<name> of a RateLimit, at most %d bytes", policyExtension, maxPolicyBytes)
	}
	if !s.options.Callers.Of(ctx).MayUsePolicy(name) {
		return nil, errForbidden
	}
	verdict, err := s.engine.DecidePolicy(ctx, engine.DoorExtAuthz,
		engine.Call{Policy: name, Lookup: asked.lookup, Cost: engine.PolicyCost})
	if err != nil {
		return failed(err, asked.isGRPC())
	}
	return answer(&verdict, nil, asked), nil
}

// checkDomain answers for all policies of a domain.
func (s *Server) checkDomain(ctx context.Context, domain string, asked *attributes) (*authv3.CheckResponse, error) {
	if !s.options.Callers.Of(ctx).MayUseDomain(domain) {
		return nil, errForbidden
	}
	result, err := s.engine.DecideAttributes(ctx, engine.DoorExtAuthz, domain, asked.lookup, engine.PolicyCost)
	if err != nil {
		return failed(err, asked.isGRPC())
	}
	if result.UnknownDomain && s.options.Strict {
		return nil, status.Error(codes.InvalidArgument, "domain: no RateLimit in force is of the domain that was asked about")
	}
	return answer(&result.Verdicts[0], result.Violated, asked), nil
}

// domain is the one that Envoy names, else the default.
func (s *Server) domain(ctx context.Context, request *authv3.AttributeContext) (string, error) {
	domain, field := request.GetContextExtensions()[domainExtension], "context_extensions["+domainExtension+"]"
	if domain == "" {
		values := metadata.ValueFromIncomingContext(ctx, domainMetadata)
		if len(values) > 1 {
			return "", status.Errorf(codes.InvalidArgument, "metadata %s: %d values, want one", domainMetadata, len(values))
		}
		domain, field = strings.Join(values, ""), "metadata "+domainMetadata
	}
	if domain == "" {
		domain, field = s.options.DefaultDomain, "the default domain"
	}
	switch n := len(domain); {
	case n == 0:
		return "", status.Errorf(codes.InvalidArgument, "context_extensions: want %s or %s, or metadata %s, or a --default-domain of penstockd",
			policyExtension, domainExtension, domainMetadata)
	case n > maxDomainBytes:
		return "", status.Errorf(codes.InvalidArgument, "%s: %d bytes, want at most %d", field, n, maxDomainBytes)
	default:
		return domain, nil
	}
}

// isPolicy tells whether it could be the name of a policy.
func isPolicy(name string) bool {
	namespace, policy, found := strings.Cut(name, "/")
	return found && namespace != "" && policy != "" && !strings.Contains(policy, "/") && len(name) <= maxPolicyBytes
}

// errForbidden is the same for what is there and for what is not, so that nobody learns which it is.
var errForbidden = status.Error(codes.PermissionDenied, "this caller may not use the policy or domain, or there is none of that name")

// failed is how the engine's error is told.
func failed(err error, grpc bool) (*authv3.CheckResponse, error) {
	var tooLong *engine.ValueTooLongError
	switch {
	case errors.As(err, &tooLong):
		return refused("attribute "+tooLong.Error(), grpc), nil
	case errors.Is(err, engine.ErrUnknownPolicy):
		return nil, status.Errorf(codes.NotFound,
			"context_extensions[%s]: no RateLimit of that namespace and name is in force; check the name and the RateLimit's Ready condition", policyExtension)
	case errors.Is(err, engine.ErrWrongOperation):
		return nil, status.Error(codes.FailedPrecondition,
			"the RateLimit counts what is under way, and Envoy does not tell when a request ends; use AcquireSlot and ReleaseSlot of the LimiterService")
	case errors.Is(err, engine.ErrNoSet):
		return nil, status.Error(codes.Unavailable, engine.ErrNoSet.Error())
	case errors.Is(err, engine.ErrConfiguration):
		return nil, status.Error(codes.Internal, engine.ErrConfiguration.Error())
	case errors.Is(err, context.Canceled):
		return nil, status.Error(codes.Canceled, "the caller has gone")
	default:
		return nil, status.Error(codes.Internal, "deciding failed")
	}
}
