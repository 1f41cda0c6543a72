package client

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/penstock-dev/penstock/internal/service/origin"
)

// HTTPOption changes a Middleware or a ConcurrencyMiddleware.
type HTTPOption interface{ applyHTTP(*httpOptions) }

// CallOption changes an interceptor of gRPC.
type CallOption interface{ applyCall(*callOptions) }

// Option changes any of them.
type Option interface {
	HTTPOption
	CallOption
}

// common is what is alike for HTTP and gRPC.
type common struct {
	headers []string // in lower case
	trusted []string
	proxies origin.Proxies // that are trusted
	slotTTL time.Duration
	log     *slog.Logger
}

type httpOptions struct {
	common

	subject func(*http.Request) map[string]string
	cost    func(*http.Request) int64
	id      func(*http.Request) string
	refund  func(status int) bool
	denied  func(http.ResponseWriter, *http.Request, Verdict)
	failed  func(http.ResponseWriter, *http.Request, error)
}

type callOptions struct {
	common

	subject func(context.Context, Call) map[string]string
	cost    func(context.Context, Call) int64
	id      func(context.Context, Call) string
	refund  func(codes.Code) bool
}

// Call is what a call over gRPC asks for.
type Call struct {
	// FullMethod is /<package>.<service>/<method>.
	FullMethod string
	// Message is the request of a unary call; nil of a stream, which is asked about when it begins.
	Message any
}

type option func(*common)

func (o option) applyHTTP(to *httpOptions) { o(&to.common) }
func (o option) applyCall(to *callOptions) { o(&to.common) }

type httpOption func(*httpOptions)

func (o httpOption) applyHTTP(to *httpOptions) { o(to) }

type callOption func(*callOptions)

func (o callOption) applyCall(to *callOptions) { o(to) }

// WithHeaders names the headers (of gRPC: metadata) that the policy looks at, as header.<name>. Only these are sent to
// penstockd, since not every header is for it to see; a Direct finds the others by itself.
func WithHeaders(names ...string) Option {
	return option(func(to *common) {
		for _, name := range names {
			to.headers = append(to.headers, strings.ToLower(name))
		}
	})
}

// WithTrustedProxies names the networks of proxies that are believed what X-Forwarded-For says: remote_address is then the
// nearest address that is not of one of them. Without, it is the address of the peer, whatever a header says.
func WithTrustedProxies(networks ...netip.Prefix) Option {
	return option(func(to *common) {
		for _, network := range networks {
			if network.IsValid() {
				to.trusted = append(to.trusted, network.Masked().String())
			}
		}
		// Networks that are valid are read, but for one of IPv6 that holds all of IPv4: nobody is trusted by that.
		to.proxies, _ = origin.ParseProxies(to.trusted)
	})
}

// WithLogger gets a line when requests begin to be answered with an error, since the limit cannot be checked, and one when
// that is over. Without it is slog.Default().
func WithLogger(log *slog.Logger) Option { return option(func(to *common) { to.log = log }) }

// WithSlotTTL is how long a slot is held that nobody holds on to: as long as the request runs it is, so this is for programs
// that crash. Without it is the policy's slotTTL, which is also the most. It is for the concurrency middleware only.
func WithSlotTTL(ttl time.Duration) Option { return option(func(to *common) { to.slotTTL = ttl }) }

// WithSubject adds attributes of a request that only the program knows, such as the user of a session. They go before those
// of the middleware.
func WithSubject(subject func(*http.Request) map[string]string) HTTPOption {
	return httpOption(func(to *httpOptions) { to.subject = subject })
}

// WithCost says how many requests one counts as; 0 leaves it to the policy, as it is without. A slot costs nothing.
func WithCost(cost func(*http.Request) int64) HTTPOption {
	return httpOption(func(to *httpOptions) { to.cost = cost })
}

// WithID names the decision about a request, as of Request.ID, by something that stays the same when the client sends it
// again; empty is none. What a client may choose, it can also choose to be charged once for many requests by.
func WithID(id func(*http.Request) string) HTTPOption {
	return httpOption(func(to *httpOptions) { to.id = id })
}

// WithRefund gives back what a request was charged when it was answered with a status for which refund is true, such as 500
// and above. A handler that panics counts as 500. The decision has a random id then, if WithID gives none, which Redis
// remembers for a minute.
func WithRefund(refund func(status int) bool) HTTPOption {
	return httpOption(func(to *httpOptions) { to.refund = refund })
}

// WithDenied answers requests that are denied, in the place of what the policy's response says. Verdict.HTTP has that; its
// headers are set already.
func WithDenied(answer func(w http.ResponseWriter, r *http.Request, v Verdict)) HTTPOption {
	return httpOption(func(to *httpOptions) { to.denied = answer })
}

// WithErrorHandler answers requests for which the limit cannot be checked, in the place of 500, or 400 for one with a value
// that is too long (ErrValueTooLong). The error is of a Limiter.
func WithErrorHandler(answer func(w http.ResponseWriter, r *http.Request, err error)) HTTPOption {
	return httpOption(func(to *httpOptions) { to.failed = answer })
}

// WithCallSubject is WithSubject for gRPC.
func WithCallSubject(subject func(context.Context, Call) map[string]string) CallOption {
	return callOption(func(to *callOptions) { to.subject = subject })
}

// WithCallCost is WithCost for gRPC.
func WithCallCost(cost func(context.Context, Call) int64) CallOption {
	return callOption(func(to *callOptions) { to.cost = cost })
}

// WithCallID is WithID for gRPC.
func WithCallID(id func(context.Context, Call) string) CallOption {
	return callOption(func(to *callOptions) { to.id = id })
}

// WithCallRefund is WithRefund for gRPC, by the code of the call. A handler that panics counts as Internal.
func WithCallRefund(refund func(codes.Code) bool) CallOption {
	return callOption(func(to *callOptions) { to.refund = refund })
}
