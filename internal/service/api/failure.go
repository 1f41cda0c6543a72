package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/engine"
)

// errorDomain is that of every ErrorInfo.
const errorDomain = "penstock.dev"

// Reasons of an ErrorInfo: what a program may tell apart. They are a part of the API.
const (
	reasonUnknownPolicy      = "UNKNOWN_POLICY"
	reasonWrongOperation     = "WRONG_OPERATION"
	reasonForbidden          = "FORBIDDEN"
	reasonAdministrativeOnly = "ADMINISTRATIVE_ONLY"
	reasonNoPolicies         = "NO_POLICIES"
	reasonStoreUnavailable   = "STORE_UNAVAILABLE"
	reasonUnknownOutcome     = "UNKNOWN_OUTCOME"
	reasonStoreRefuses       = "STORE_REFUSES"
)

// reasonTooLong is that of a violation: the value is of a user, and not of the caller.
const reasonTooLong = "VALUE_TOO_LONG"

// failure is how the engine's error is told. Of errors that it does not know it tells nothing, since they may hold what
// is of the inside.
func failure(err error) error {
	var (
		tooLong  *engine.ValueTooLongError
		missing  *engine.MissingAttributeError
		argument *engine.ArgumentError
	)
	switch {
	case errors.As(err, &tooLong):
		return violated("subject", "the value of "+tooLong.Error(), reasonTooLong)
	case errors.As(err, &missing):
		return violation("subject", "lacks "+missing.Key+", a descriptor of the policy, or has a value that the policy is not for")
	case errors.As(err, &argument):
		return violation(argument.Field, argument.Problem)
	case errors.Is(err, engine.ErrNoSet):
		return coded(connect.CodeUnavailable, reasonNoPolicies, engine.ErrNoSet.Error())
	case errors.Is(err, engine.ErrUnknownPolicy):
		return coded(connect.CodeNotFound, reasonUnknownPolicy,
			"no RateLimit of that namespace and name is in force; check namespace, policy and the RateLimit's Ready condition")
	case errors.Is(err, engine.ErrWrongOperation):
		return coded(connect.CodeFailedPrecondition, reasonWrongOperation, err.Error())
	case errors.Is(err, engine.ErrConfiguration):
		return coded(connect.CodeInternal, reasonStoreRefuses, engine.ErrConfiguration.Error())
	case errors.Is(err, engine.ErrUnknownOutcome):
		// Not Unavailable, which clients take for leave to repeat what may have been done.
		return coded(connect.CodeDeadlineExceeded, reasonUnknownOutcome,
			"redis did not answer in time, and the change may have been made; with an id the same call again is safe")
	case errors.Is(err, engine.ErrStoreUnavailable):
		return coded(connect.CodeUnavailable, reasonStoreUnavailable, "redis cannot be asked, and nothing was changed; try again")
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, errors.New("the caller has gone"))
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the caller's deadline has passed"))
	default:
		return connect.NewError(connect.CodeInternal, errors.New("deciding failed"))
	}
}

// violation tells what is wrong with a field of the request, and what is wanted.
func violation(field, problem string) error { return violated(field, problem, "") }

func violated(field, problem, reason string) error {
	return withDetail(connect.NewError(connect.CodeInvalidArgument, errors.New(field+": "+problem)), &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: problem, Reason: reason}},
	})
}

func coded(code connect.Code, reason, text string) error {
	return withDetail(connect.NewError(code, errors.New(text)), &errdetails.ErrorInfo{Reason: reason, Domain: errorDomain})
}

func withDetail(err *connect.Error, message proto.Message) error {
	if detail, failed := connect.NewErrorDetail(message); failed == nil {
		err.AddDetail(detail)
	}
	return err
}

// compressionRefused is told before anything of the message is read. Connect's own text would repeat the name of the
// compression, and has no remedy.
func compressionRefused() error {
	return connect.NewError(connect.CodeUnimplemented, errors.New(
		"messages are taken uncompressed only: leave out Content-Encoding and Grpc-Encoding, or set them to "+identity))
}

// forbidden has one text for policies that there are and that there are not.
func forbidden() error {
	return coded(connect.CodePermissionDenied, reasonForbidden,
		"this caller may not use policies of that namespace; the one who runs penstockd grants namespaces to callers")
}

func administrativeOnly() error {
	return coded(connect.CodePermissionDenied, reasonAdministrativeOnly,
		"this call is administrative: make it as a caller who is granted that or, while callers are not authenticated, "+
			"on penstockd's own host, in Kubernetes through kubectl port-forward")
}
