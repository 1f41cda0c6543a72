package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// DefaultTimeout is how long a call to penstockd may take. penstockd itself waits 10 ms for Redis, unless it is told
// otherwise; the rest is for the network, and for opening a connection now and then.
const DefaultTimeout = 100 * time.Millisecond

const (
	// tokenHeader leaves Authorization to whatever stands between us and penstockd.
	tokenHeader = "X-Penstock-Authorization"
	// maxRequestBytes is what penstockd takes. More is not sent: what stands in between may answer as if it were away.
	maxRequestBytes = 64 << 10
	// maxAnswerBytes bounds what is read of an answer.
	maxAnswerBytes = 64 << 10
	// idleConnections is how many connections stay open between bursts.
	idleConnections = 64
	idleTimeout     = 90 * time.Second
	// dialTimeout bounds the opening of a connection, which goes on when the call that wanted it has timed out.
	dialTimeout = 5 * time.Second
	pingTimeout = 2 * time.Second
)

// Options of a Remote. Zero values are the defaults.
type Options struct {
	// Timeout is how long a call may take; 0 is DefaultTimeout. What takes longer is answered as if penstockd were away.
	Timeout time.Duration
	// TLS is for a penstockd at https: its authority, and the certificate of this program where penstockd asks for one
	// (GetClientCertificate reads it anew). nil trusts the system's authorities. Not together with Transport.
	TLS *tls.Config
	// Token gives the bearer token that tells penstockd who asks; nil is none.
	Token TokenSource
	// OnFailure is how to answer while penstockd cannot be asked, for policies of which it never told their own
	// onStoreFailure; empty is Allow.
	OnFailure FailureMode
	// HTTP2 has a penstockd at http spoken to by HTTP/2, on one connection: nothing that knows HTTP/1.1 only may stand in
	// between. At https it is agreed on in any case.
	HTTP2 bool
	// Transport sends the calls in the place of the one that is made by TLS and HTTP2, such as one that traces them.
	Transport http.RoundTripper
	// Logger gets a line when penstockd cannot be asked any more, and one when it can again; nil is slog.Default().
	Logger *slog.Logger
}

// Remote is the Limiter that asks penstockd.
type Remote struct {
	service   penstockv1connect.LimiterServiceClient
	transport http.RoundTripper
	timeout   time.Duration
	token     TokenSource
	outages   outages
}

var _ Limiter = (*Remote)(nil)

// New makes a Limiter that asks the penstockd at a URL such as http://penstockd:8080. It fails when the URL or the options
// are wrong, and does not ask yet.
func New(baseURL string, opts Options) (*Remote, error) {
	if err := checkURL(baseURL); err != nil {
		return nil, err
	}
	if opts.Transport != nil && (opts.TLS != nil || opts.HTTP2) {
		return nil, errors.New("options: want either Transport, or TLS and HTTP2")
	}
	if opts.Timeout < 0 {
		return nil, fmt.Errorf("options: Timeout %s, want at least 0", opts.Timeout)
	}
	onFailure, err := failureMode(opts.OnFailure)
	if err != nil {
		return nil, err
	}
	r := &Remote{transport: opts.Transport, timeout: opts.Timeout, token: opts.Token}
	if r.timeout == 0 {
		r.timeout = DefaultTimeout
	}
	if r.transport == nil {
		r.transport = newTransport(opts.TLS, opts.HTTP2)
	}
	r.outages = outages{unseen: onFailure, log: logger(opts.Logger), breaker: newBreaker(), now: time.Now}
	// A redirection would carry the token elsewhere, and turns a call into a GET.
	refuse := func(*http.Request, []*http.Request) error { return errRedirected }
	r.service = penstockv1connect.NewLimiterServiceClient(&http.Client{Transport: r.transport, CheckRedirect: refuse}, baseURL,
		connect.WithReadMaxBytes(maxAnswerBytes))
	return r, nil
}

func checkURL(baseURL string) error {
	u, err := url.Parse(baseURL)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		// Not the error, which quotes the URL and with it a password.
		return errors.New("the URL of penstockd: want http://HOST:PORT or https://HOST:PORT")
	case u.User != nil:
		return errors.New("the URL of penstockd: want no user and password; a token goes into Options.Token")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("the URL of penstockd: want nothing after ? or #")
	default:
		return nil
	}
}

func failureMode(m FailureMode) (FailureMode, error) {
	switch m {
	case "":
		return Allow, nil
	case Allow, Deny:
		return m, nil
	default:
		return "", fmt.Errorf("options: OnFailure %q, want %s or %s", m, Allow, Deny)
	}
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.Default()
	}
	return l
}

func newTransport(config *tls.Config, http2 bool) http.RoundTripper {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     config.Clone(),
		TLSHandshakeTimeout: dialTimeout,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		MaxIdleConns:        idleConnections,
		MaxIdleConnsPerHost: idleConnections,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true, // penstockd has none
		Protocols:           new(http.Protocols),
		// A connection whose other end has vanished would else be used until TCP gives up, a quarter of an hour later.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingTimeout, PingTimeout: pingTimeout},
	}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(true)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	return transport
}

// Close closes the connections that are idle. Calls that are under way end by themselves.
func (r *Remote) Close() error {
	if idle, has := r.transport.(interface{ CloseIdleConnections() }); has {
		idle.CloseIdleConnections()
	}
	return nil
}

// Check asks penstockd; see Limiter.
func (r *Remote) Check(ctx context.Context, request Request) (Verdict, error) {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return Verdict{}, err
	}
	answer, err := call(ctx, r, r.service.Check, &penstockv1.CheckRequest{
		Namespace: at.namespace, Policy: at.name, Subject: at.subject, Cost: costOf(request.Cost), Id: request.ID, Http: request.HTTP,
	})
	if _, out := errors.AsType[*outage](err); out {
		return r.outages.verdict(request.Policy, request.ID, request.HTTP), nil
	}
	if err != nil {
		return Verdict{}, err
	}
	r.outages.remember(request.Policy, answer.GetOnStoreFailure())
	v := verdictOf(answer)
	v.ID = answer.GetId()
	v.HTTP = httpAnswerOf(answer.GetHttp(), &v, request.HTTP)
	return v, nil
}

// Peek asks penstockd; see Limiter.
func (r *Remote) Peek(ctx context.Context, request Request) (Verdict, error) {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return Verdict{}, err
	}
	answer, err := call(ctx, r, r.service.Peek, &penstockv1.PeekRequest{
		Namespace: at.namespace, Policy: at.name, Subject: at.subject, Cost: costOf(request.Cost),
	})
	if _, out := errors.AsType[*outage](err); out {
		return r.outages.verdict(request.Policy, "", false), nil
	}
	if err != nil {
		return Verdict{}, err
	}
	return verdictOf(answer), nil
}

// Refund asks penstockd; see Limiter.
func (r *Remote) Refund(ctx context.Context, request Request) (bool, error) {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return false, err
	}
	answer, err := call(ctx, r, r.service.Refund, &penstockv1.RefundRequest{
		Namespace: at.namespace, Policy: at.name, Subject: at.subject, Cost: costOf(request.Cost), Id: request.ID,
	})
	return answer.GetRefunded(), told(err)
}

// Credit asks penstockd; see Limiter.
func (r *Remote) Credit(ctx context.Context, request Request) (int64, error) {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return 0, err
	}
	answer, err := call(ctx, r, r.service.Credit, &penstockv1.CreditRequest{
		Namespace: at.namespace, Policy: at.name, Subject: at.subject, Amount: request.Cost, Id: request.ID,
	})
	return answer.GetRemaining(), told(err)
}

// Reset asks penstockd; see Limiter.
func (r *Remote) Reset(ctx context.Context, request Request) error {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return err
	}
	_, err = call(ctx, r, r.service.Reset, &penstockv1.ResetRequest{Namespace: at.namespace, Policy: at.name, Subject: at.subject})
	return told(err)
}

// AcquireSlot asks penstockd; see Limiter.
func (r *Remote) AcquireSlot(ctx context.Context, request SlotRequest) (Slot, error) {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return Slot{}, err
	}
	id := request.ID
	if id == "" {
		// Made here, so that a slot of which no answer came can be given back.
		id = rand.Text()
	}
	var ttl *durationpb.Duration
	if request.TTL != 0 {
		ttl = durationpb.New(request.TTL)
	}
	answer, err := call(ctx, r, r.service.AcquireSlot, &penstockv1.AcquireSlotRequest{
		Namespace: at.namespace, Policy: at.name, Subject: at.subject, SlotId: id, Ttl: ttl, Http: request.HTTP,
	})
	if _, out := errors.AsType[*outage](err); out {
		return Slot{Verdict: r.outages.verdict(request.Policy, "", request.HTTP), SlotID: id}, nil
	}
	if err != nil {
		return Slot{}, err
	}
	r.outages.remember(request.Policy, answer.GetOnStoreFailure())
	slot := Slot{Verdict: verdictOf(answer), SlotID: id, TTL: answer.GetTtl().AsDuration()}
	slot.HTTP = httpAnswerOf(answer.GetHttp(), &slot.Verdict, request.HTTP)
	return slot, nil
}

// ReleaseSlot asks penstockd; see Limiter.
func (r *Remote) ReleaseSlot(ctx context.Context, request SlotRequest) (bool, error) {
	at, err := addressOf(request.Policy, request.Subject)
	if err != nil {
		return false, err
	}
	answer, err := call(ctx, r, r.service.ReleaseSlot, &penstockv1.ReleaseSlotRequest{
		Namespace: at.namespace, Policy: at.name, Subject: at.subject, SlotId: request.ID,
	})
	return answer.GetReleased(), told(err)
}

// call makes one call, within the timeout, unless penstockd is known to be away. It is never made twice: penstockd may have
// done what it did not answer. It fails with an *outage, or with an error of the package or of the context.
func call[Q, A any, M message[Q]](ctx context.Context, r *Remote, method func(context.Context, *Q) (*A, error), request M) (*A, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if proto.Size(request) > maxRequestBytes {
		return nil, tooLarge()
	}
	with, err := r.authorized(ctx)
	if err != nil {
		return nil, err
	}
	var answer *A
	err = r.outages.watch(func() error {
		deadline, hurried := ctx.Deadline()
		hurried = hurried && time.Until(deadline) < r.timeout
		within, cancel := context.WithTimeout(with, r.timeout)
		defer cancel()
		var failed error
		answer, failed = method(within, request)
		return classify(ctx, failed, hurried)
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// message is a request of penstockd.
type message[Q any] interface {
	*Q
	proto.Message
}

// authorized gives the context for a call with the token.
func (r *Remote) authorized(ctx context.Context) (context.Context, error) {
	ctx, info := connect.NewClientContext(ctx)
	if r.token == nil {
		return ctx, nil
	}
	token, err := r.token(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	if !httpguts.ValidHeaderFieldValue(token) {
		// Else it would look like a penstockd that is away. The token itself is not for an error.
		return nil, fmt.Errorf("%w: the token has a line break, or another byte that no header can have", ErrUnauthenticated)
	}
	info.RequestHeader().Set(tokenHeader, "Bearer "+token)
	return ctx, nil
}

// address is the policy and the subject of a request as penstockd takes them.
type address struct {
	namespace, name string
	subject         map[string]string
}

func addressOf(policy string, subject map[string]string) (address, error) {
	namespace, name, found := strings.Cut(policy, "/")
	if !found {
		return address{}, &ArgumentError{Field: "policy", Problem: "want <namespace>/<name> of a RateLimit"}
	}
	return address{namespace: namespace, name: name, subject: inUTF8(subject)}, nil
}

// inUTF8 gives the subject in UTF-8, as all text of a message has to be.
func inUTF8(subject map[string]string) map[string]string {
	valid := true
	for key, value := range subject {
		valid = valid && utf8.ValidString(key) && utf8.ValidString(value)
	}
	if valid {
		return subject
	}
	changed := make(map[string]string, len(subject))
	for key, value := range subject {
		changed[strings.ToValidUTF8(key, "\uFFFD")] = strings.ToValidUTF8(value, "\uFFFD")
	}
	return changed
}

// costOf gives the cost as the field has it: absent is the policy's.
func costOf(cost int64) *int64 {
	if cost == 0 {
		return nil
	}
	return &cost
}

// outages is what is known of a penstockd that cannot be asked.
type outages struct {
	// seen has the FailureMode of each policy that penstockd answered for; unseen is that of the others.
	seen   sync.Map
	unseen FailureMode

	breaker *gobreaker.CircuitBreaker[struct{}]
	log     *slog.Logger
	now     func() time.Time
	trouble engine.Transition
}
