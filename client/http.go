package client

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/felixge/httpsnoop"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/answers"
)

// Middleware spends from the budget of a policy, "<namespace>/<name>", before a request reaches the handler. The policy's
// descriptors and expressions see these attributes of the request:
//
//	remote_address  the address of the client, without port; see WithTrustedProxies
//	method          the method
//	path            the path, without query
//	host            the Host header in lower case, without port
//	header.<name>   a header, its name in lower case, several values joined by ","; see WithHeaders
//
// and those of WithSubject. What the policy's response says is told to the client: headers, and on a denial a status (429) and
// a body. X-Penstock-Degraded tells that nobody could decide, so that the policy's onStoreFailure did. Where an error keeps
// the limit from being checked, the request is answered with 500, and does not reach the handler.
func Middleware(limiter Limiter, policy string, options ...HTTPOption) func(http.Handler) http.Handler {
	m := newHTTPLimit(limiter, policy, options)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.charge(w, r, next) })
	}
}

// ConcurrencyMiddleware holds a slot of a policy of algorithm Concurrency for as long as a request is with the handler: also
// when that takes longer than the slot's time to live, and not longer when its client has gone. It has the attributes and
// answers of Middleware.
func ConcurrencyMiddleware(limiter Limiter, policy string, options ...HTTPOption) func(http.Handler) http.Handler {
	m := newHTTPLimit(limiter, policy, options)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.hold(w, r, next) })
	}
}

// httpLimit is a policy in front of a handler.
type httpLimit struct {
	guard
	httpOptions
}

func newHTTPLimit(limiter Limiter, policy string, options []HTTPOption) *httpLimit {
	m := &httpLimit{}
	for _, o := range options {
		o.applyHTTP(&m.httpOptions)
	}
	m.guard = guard{limiter: limiter, policy: policy, log: logger(m.httpOptions.log)}
	return m
}

// charge is Middleware for one request.
func (m *httpLimit) charge(w http.ResponseWriter, r *http.Request, next http.Handler) {
	request := m.request(r)
	v, err := m.limiter.Check(r.Context(), request)
	if !m.admit(w, r, &v, err) {
		return
	}
	if m.refund == nil || v.Mode == Unmatched {
		next.ServeHTTP(w, r)
		return
	}
	status := &observed{code: http.StatusOK}
	defer func() {
		if m.refund(status.result()) {
			m.giveBack(r.Context(), request)
		}
	}()
	next.ServeHTTP(status.observe(w), r)
	status.returned = true
}

// request is what is asked about r.
func (m *httpLimit) request(r *http.Request) Request {
	subject, lookup := m.about(r, m.refund != nil)
	request := Request{Policy: m.policy, Subject: subject, Lookup: lookup, HTTP: true}
	if m.cost != nil {
		request.Cost = m.cost(r)
	}
	if m.id != nil {
		request.ID = m.id(r)
	}
	if m.refund != nil && request.ID == "" {
		request.ID = rand.Text()
	}
	return request
}

// about gives the attributes of r. What is asked about again after the handler has had the request has to be as it was.
func (m *httpLimit) about(r *http.Request, again bool) (map[string]string, func(string) (string, bool)) {
	var own map[string]string
	if m.subject != nil {
		own = m.subject(r)
	}
	a := ofRequest(r)
	if again {
		a.values = r.Header.Clone().Values
	}
	return a.subject(&m.common, own), a.lookup()
}

// hold is ConcurrencyMiddleware for one request.
func (m *httpLimit) hold(w http.ResponseWriter, r *http.Request, next http.Handler) {
	subject, lookup := m.about(r, true)
	slot, held, err := m.acquire(r.Context(), SlotRequest{
		Policy: m.policy, Subject: subject, Lookup: lookup, HTTP: true, TTL: m.slotTTL,
	})
	if !m.admit(w, r, &slot.Verdict, err) {
		return
	}
	defer held.release()
	next.ServeHTTP(w, r)
}

// admit tells the client of the verdict, and whether the request may pass.
func (m *httpLimit) admit(w http.ResponseWriter, r *http.Request, v *Verdict, err error) bool {
	m.note(r.Context(), err)
	if err != nil {
		m.fail(w, r, err)
		return false
	}
	if v.HTTP == nil {
		v.HTTP = plainAnswer(v)
	}
	for name, values := range v.HTTP.Header {
		if v.Allowed || m.denied == nil || name != "Content-Type" {
			w.Header()[name] = values
		}
	}
	switch {
	case v.Allowed:
		return true
	case m.denied != nil:
		m.denied(w, r, *v)
	default:
		w.WriteHeader(denialStatus(v.HTTP.Status))
		_, _ = w.Write(v.HTTP.Body)
	}
	return false
}

func (m *httpLimit) fail(w http.ResponseWriter, r *http.Request, err error) {
	argument, _ := errors.AsType[*ArgumentError](err)
	switch {
	case m.failed != nil:
		m.failed(w, r, err)
	case errors.Is(err, ErrValueTooLong) && argument != nil:
		answers.Problem{Status: http.StatusBadRequest, Detail: argument.Error()}.Write(w)
	default:
		answers.Problem{Status: http.StatusInternalServerError, Detail: "the rate limit cannot be checked"}.Write(w)
	}
}

// observed is the status that a handler answers with.
type observed struct {
	code     int
	written  bool
	returned bool
}

// result is the status; a handler that did not return has panicked.
func (o *observed) result() int {
	if !o.returned {
		return http.StatusInternalServerError
	}
	return o.code
}

// observe gives the ResponseWriter for the handler, which can all that w can.
func (o *observed) observe(w http.ResponseWriter) http.ResponseWriter {
	return httpsnoop.Wrap(w, httpsnoop.Hooks{
		WriteHeader: func(next httpsnoop.WriteHeaderFunc) httpsnoop.WriteHeaderFunc {
			return func(code int) {
				if !o.written && (code >= http.StatusOK || code == http.StatusSwitchingProtocols) {
					o.code, o.written = code, true
				}
				next(code)
			}
		},
		Flush: func(next httpsnoop.FlushFunc) httpsnoop.FlushFunc {
			return func() {
				o.written = true
				next()
			}
		},
		ReadFrom: func(next httpsnoop.ReadFromFunc) httpsnoop.ReadFromFunc {
			return func(body io.Reader) (int64, error) {
				o.written = true
				return next(body)
			}
		},
		Write: func(next httpsnoop.WriteFunc) httpsnoop.WriteFunc {
			return func(body []byte) (int, error) {
				o.written = true
				return next(body)
			}
		},
	})
}

// guard is a policy that is asked about what a program serves.
type guard struct {
	limiter Limiter
	policy  string
	log     *slog.Logger

	failing, forgetful engine.Transition
}

// note tells the log when requests begin to fail, and when that is over. What one request brings about by its values or by
// its end is no trouble of ours.
func (g *guard) note(ctx context.Context, err error) {
	switch {
	case err == nil:
		if g.failing.Succeeded(time.Now()) {
			g.log.Info("the rate limit can be checked again", "policy", g.policy)
		}
	case errors.Is(err, ErrValueTooLong), ctx.Err() != nil:
	case g.failing.Failed(time.Now()):
		g.log.Error("the rate limit cannot be checked; its requests are answered with an error", "policy", g.policy, "error", err.Error())
	}
}

// giveBack refunds a request that was charged, or releases a slot, also when the client has gone. The limiter bounds how long
// it takes.
func (g *guard) giveBack(ctx context.Context, request Request) {
	_, err := g.limiter.Refund(context.WithoutCancel(ctx), request)
	g.noteGivenBack(err)
}

// noteGivenBack tells the log when giving back begins to fail: what was charged then stays so until time refills it, and
// slots until their time to live has passed.
func (g *guard) noteGivenBack(err error) {
	switch {
	case err == nil:
		if g.forgetful.Succeeded(time.Now()) {
			g.log.Info("what was charged can be given back again", "policy", g.policy)
		}
	case g.forgetful.Failed(time.Now()):
		g.log.Warn("what was charged cannot be given back", "policy", g.policy, "error", err.Error())
	}
}
