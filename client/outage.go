package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// degradedHeader tells an HTTP client that nobody could decide, and what could not be asked.
const degradedHeader = "X-Penstock-Degraded"

const (
	// mostFailures in a row tell that penstockd is away.
	mostFailures = 5
	// probePause is how long it is not asked then, before one request at a time is to find out whether it is back.
	probePause = time.Second
	// degradedRetry is what is told of a denial for want of penstockd: nobody knows how long that lasts.
	degradedRetry = time.Second
)

// Reasons of an ErrorInfo that tell what the code does not.
const (
	reasonNoPolicies       = "NO_POLICIES"
	reasonStoreUnavailable = "STORE_UNAVAILABLE"
	reasonUnknownOutcome   = "UNKNOWN_OUTCOME"
	reasonStoreRefuses     = "STORE_REFUSES"
	reasonTooLong          = "VALUE_TOO_LONG"
)

// errRedirected is no outage: it does not end by itself.
var errRedirected = errors.New("the URL of penstockd answers with a redirection, which is not followed; want the URL that it leads to")

// outage tells that penstockd did not answer.
type outage struct {
	cause error
	// unsent tells that penstockd certainly did not do what it was asked for.
	unsent bool
	// own tells that the caller left too little time, which says nothing about penstockd.
	own bool
}

// Error tells why.
func (o *outage) Error() string { return "penstockd cannot be asked: " + o.cause.Error() }

// newBreaker keeps a penstockd that is away from costing every request the whole timeout.
func newBreaker() *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     probePause,
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= mostFailures },
		// Any answer shows that it is there.
		IsSuccessful: func(err error) bool { _, out := errors.AsType[*outage](err); return !out },
		IsExcluded: func(err error) bool {
			o, out := errors.AsType[*outage](err)
			return out && o.own || errors.Is(err, context.Canceled)
		},
	})
}

// watch makes a call unless penstockd is known to be away, and tells the log when that begins and ends.
func (o *outages) watch(ask func() error) error {
	_, err := o.breaker.Execute(func() (struct{}, error) { return struct{}{}, ask() })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return &outage{cause: errors.New("it did not answer a moment ago"), unsent: true}
	}
	out, is := errors.AsType[*outage](err)
	switch {
	case is && !out.own:
		if o.trouble.Failed(o.now()) {
			o.log.Warn("penstockd cannot be asked; what policies say of failure decides", "error", out.cause.Error())
		}
	case err == nil && o.trouble.Succeeded(o.now()):
		o.log.Info("penstockd answers again; policies are enforced")
	}
	return err
}

// remember keeps what a policy says of failure. One of a newer penstockd that is not known here is not remembered.
func (o *outages) remember(policyName string, mode penstockv1.FailureMode) {
	var said FailureMode
	switch mode {
	case penstockv1.FailureMode_FAILURE_MODE_ALLOW:
		said = Allow
	case penstockv1.FailureMode_FAILURE_MODE_DENY:
		said = Deny
	default:
		return
	}
	if before, known := o.seen.Load(policyName); !known || before != said {
		o.seen.Store(policyName, said)
	}
}

// verdict is the answer of a policy while penstockd cannot be asked.
func (o *outages) verdict(policyName, id string, http bool) Verdict {
	mode := o.unseen
	if said, known := o.seen.Load(policyName); known {
		mode = said.(FailureMode)
	}
	return undecided(policyName, id, mode, CauseService, http)
}

// undecided is the verdict of a policy that nobody could ask about.
func undecided(policyName, id string, mode FailureMode, cause Cause, http bool) Verdict {
	v := Verdict{Allowed: mode != Deny, Mode: Degraded, Degraded: cause, Policy: policyName, ID: id}
	if !v.Allowed {
		v.RetryAfter = degradedRetry
	}
	if http {
		v.HTTP = answerOf(&engine.Verdict{
			Allowed: v.Allowed, Mode: engine.Degraded, RetryAfter: v.RetryAfter,
			Policy: &policy.RateLimit{Name: policyName}, Name: policyName,
		})
		v.HTTP.Header.Set(degradedHeader, string(cause))
	}
	return v
}

// classify gives the error of a call for that of connect: an *outage, or one of the package. ctx is the caller's, which
// left less time than calls have when it was hurried.
func classify(ctx context.Context, err error, hurried bool) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("the caller has gone: %w", context.Canceled)
	}
	if errors.Is(err, errRedirected) {
		return fmt.Errorf("asking penstockd: %w", errRedirected)
	}
	failure, is := errors.AsType[*connect.Error](err)
	if !is {
		return &outage{cause: err}
	}
	if _, reset := errors.AsType[http2.StreamError](failure); reset {
		// The code says how it was reset, and nothing about the request.
		return &outage{cause: failure}
	}
	unreadable := failure.Code() == connect.CodeInvalidArgument || failure.Code() == connect.CodeResourceExhausted
	if unreadable && !connect.IsWireError(failure) {
		// It is not the request that is meant, but an answer that cannot be read.
		return &outage{cause: failure}
	}
	if refusesCertificate(failure) {
		return fmt.Errorf("%w: %w", ErrUnauthenticated, failure)
	}
	reason, violation := details(failure)
	switch failure.Code() {
	case connect.CodeInvalidArgument:
		return invalid(failure, violation)
	case connect.CodeResourceExhausted:
		return tooLarge()
	case connect.CodeNotFound:
		return fmt.Errorf("%w: %s", ErrUnknownPolicy, failure.Message())
	case connect.CodeFailedPrecondition:
		return fmt.Errorf("%w: %s", ErrWrongOperation, failure.Message())
	case connect.CodeUnauthenticated:
		return fmt.Errorf("%w: %s", ErrUnauthenticated, failure.Message())
	case connect.CodePermissionDenied:
		return fmt.Errorf("%w: %s", ErrForbidden, failure.Message())
	}
	switch reason {
	case reasonStoreRefuses:
		return fmt.Errorf("%w: %s", ErrRefused, failure.Message())
	case reasonStoreUnavailable:
		return fmt.Errorf("%w: %s", ErrUnavailable, failure.Message())
	case reasonUnknownOutcome:
		return fmt.Errorf("%w: %s", ErrUnknownOutcome, failure.Message())
	}
	if slices.Contains(outageCodes, failure.Code()) {
		late := hurried && failure.Code() == connect.CodeDeadlineExceeded
		return &outage{cause: failure, unsent: reason == reasonNoPolicies || undialled(failure), own: late}
	}
	return fmt.Errorf("asking penstockd: %w", failure)
}

// outageCodes are those of what did not come to penstockd or did not come back. It never says UNKNOWN itself, and CANCELED
// only to who has gone.
var outageCodes = []connect.Code{connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeUnknown, connect.CodeCanceled}

// undialled tells whether there was no connection to send anything on.
func undialled(err error) bool {
	operation, is := errors.AsType[*net.OpError](err)
	return is && operation.Op == "dial"
}

// refusesCertificate tells whether penstockd ended the handshake of TLS for the certificate of this program. The alert has no
// type of its own in crypto/tls; all that are about a certificate name it. By TLS 1.3 it comes after the request was sent, and
// is lost when that fails first: then it looks as if penstockd were away.
func refusesCertificate(err error) bool {
	alert, is := errors.AsType[*net.OpError](err)
	return is && alert.Op == "remote error" && strings.Contains(alert.Error(), "certificate")
}

// told is the error of a call that is no decision.
func told(err error) error {
	out, is := errors.AsType[*outage](err)
	switch {
	case !is:
		return err
	case out.unsent:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}

// details gives what the details of an error say, as far as they say something.
func details(failure *connect.Error) (reason string, violation *errdetails.BadRequest_FieldViolation) {
	for _, detail := range failure.Details() {
		value, err := detail.Value()
		if err != nil {
			continue
		}
		switch value := value.(type) {
		case *errdetails.ErrorInfo:
			reason = value.GetReason()
		case *errdetails.BadRequest:
			if all := value.GetFieldViolations(); len(all) > 0 {
				violation = all[0]
			}
		}
	}
	return reason, violation
}

func invalid(failure *connect.Error, violation *errdetails.BadRequest_FieldViolation) error {
	if violation == nil {
		return &ArgumentError{Field: "request", Problem: failure.Message()}
	}
	argument := &ArgumentError{Field: violation.GetField(), Problem: violation.GetDescription()}
	if violation.GetReason() == reasonTooLong {
		return tooLong(argument)
	}
	return argument
}

func tooLarge() error {
	return tooLong(&ArgumentError{Field: "subject", Problem: "the request has more bytes than penstockd takes"})
}

func tooLong(argument *ArgumentError) error { return fmt.Errorf("%w: %w", ErrValueTooLong, argument) }
