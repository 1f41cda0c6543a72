// Package forwardauth is the door for proxies that ask before they forward: Traefik ForwardAuth, Caddy forward_auth, HTTP
// ext_authz of Envoy and the like. A request to
//
//	/auth/<namespace>/<policy>[/<path>]
//
// by any method spends from the budget of that policy, for the subject that the attributes of the request name:
//
//	remote_address  the address of the peer, without port
//	method          the method
//	path            what follows the policy in the path, without query; / when nothing does
//	host            the Host header in lower case, without port
//	header.<name>   a header, its name in lower case; several of one name are joined by ", "
//
// A request to /auth spends from the budgets of all policies together that apply to it, of the domain that the header
// X-Penstock-Domain names. There the path is /.
//
// It answers 200 or, on a denial, the status of the policy (429) with a body of application/problem+json. A policy of
// which an attribute is missing, or does not fit its pattern, does not apply: 200, nothing charged. An attribute of more
// than 256 bytes that a policy applies to is refused: 400. A policy that counts slots is no matter of this door, which could
// not release them: 409.
//
// The headers are those that the policy asks for; see package headers. When Redis cannot be asked, there are no figures,
// and X-Penstock-Degraded: store tells that onStoreFailure decided.
package forwardauth

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/headers"
)

const (
	// Prefix is where the door is for one policy.
	Prefix = "/auth/"
	// Path is where it is for all policies of a domain.
	Path = "/auth"
)

// domainHeader names the domain at Path. The proxy has to set it, whatever its client sent.
const domainHeader = "X-Penstock-Domain"

// Engine decides; engine.Engine does.
type Engine interface {
	DecidePolicy(ctx context.Context, door engine.Door, call engine.Call) (engine.Verdict, error)
	DecideAttributes(ctx context.Context, door engine.Door, domain string, lookup func(key string) (string, bool), cost int64) (engine.Result, error)
}

// Handler is the door.
type Handler struct {
	engine Engine
}

// New makes the door, to be served at Path and under Prefix.
func New(eng Engine) *Handler { return &Handler{engine: eng} }

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == Path {
		h.serveDomain(w, r)
		return
	}
	name, path, ok := split(r.URL.Path)
	if !ok {
		writeProblem(w, problem{Status: http.StatusNotFound, Detail: "want the path /auth/<namespace>/<policy>, or /auth"})
		return
	}
	attributes := attributes{request: r, path: path}
	verdict, err := h.engine.DecidePolicy(r.Context(), engine.DoorForwardAuth,
		engine.Call{Policy: name, Lookup: attributes.lookup, Cost: engine.PolicyCost})
	if err != nil {
		writeProblem(w, failure(err))
		return
	}
	writeVerdict(w, &verdict)
}

// serveDomain answers for all policies of a domain.
func (h *Handler) serveDomain(w http.ResponseWriter, r *http.Request) {
	domain := r.Header.Get(domainHeader)
	if domain == "" {
		writeProblem(w, problem{Status: http.StatusBadRequest, Detail: "want the header " + domainHeader + ", which names the domain whose policies apply"})
		return
	}
	attributes := attributes{request: r, path: "/"}
	result, err := h.engine.DecideAttributes(r.Context(), engine.DoorForwardAuth, domain, attributes.lookup, engine.PolicyCost)
	if err != nil {
		writeProblem(w, failure(err))
		return
	}
	writeVerdict(w, &result.Verdicts[0])
}

// split takes /auth/<namespace>/<policy>[/<path>] apart.
func split(path string) (name, rest string, ok bool) {
	path, found := strings.CutPrefix(path, Prefix)
	namespace, tail, _ := strings.Cut(path, "/")
	policy, _, more := strings.Cut(tail, "/")
	if !found || namespace == "" || policy == "" {
		return "", "", false
	}
	name, rest = path[:len(namespace)+1+len(policy)], "/"
	if more {
		rest = path[len(name):]
	}
	return name, rest, true
}

func failure(err error) problem {
	var tooLong *engine.ValueTooLongError
	switch {
	case errors.As(err, &tooLong):
		return problem{Status: http.StatusBadRequest, Detail: "attribute " + tooLong.Error()}
	case errors.Is(err, engine.ErrUnknownPolicy):
		return problem{Status: http.StatusNotFound, Detail: "no RateLimit of that namespace and name is in force; check the path /auth/<namespace>/<policy> and the RateLimit's Ready condition"}
	case errors.Is(err, engine.ErrWrongOperation):
		return problem{Status: http.StatusConflict, Detail: "the RateLimit counts what is under way, and this door cannot tell when a request ends; use AcquireSlot and ReleaseSlot of the LimiterService"}
	case errors.Is(err, engine.ErrNoSet):
		return problem{Status: http.StatusServiceUnavailable, Detail: engine.ErrNoSet.Error()}
	case errors.Is(err, engine.ErrConfiguration):
		return problem{Status: http.StatusInternalServerError, Detail: engine.ErrConfiguration.Error()}
	case errors.Is(err, context.Canceled):
		return problem{Status: http.StatusServiceUnavailable, Detail: "the caller has gone"}
	default:
		return problem{Status: http.StatusInternalServerError, Detail: "deciding failed"}
	}
}

func writeVerdict(w http.ResponseWriter, v *engine.Verdict) {
	if v.Mode == engine.Degraded {
		w.Header()["X-Penstock-Degraded"] = []string{"store"}
	}
	headers.Add(w.Header(), v)
	if v.Allowed {
		w.WriteHeader(http.StatusOK)
		return
	}
	writeProblem(w, denial(v))
}

// denial is the body of a denial, with what the policy has in the place of ours.
func denial(v *engine.Verdict) problem {
	p := problem{Status: http.StatusTooManyRequests, Policy: v.Policy.Name, RetryAfter: v.RetryAfterSeconds()}
	p.Detail = "rate limit " + v.Name + " is exhausted; retry after " + strconv.FormatInt(p.RetryAfter, 10) + " s"
	if v.Mode == engine.Degraded && !v.Known {
		p.Detail = "rate limit " + v.Name + " cannot be checked now; retry after " + strconv.FormatInt(p.RetryAfter, 10) + " s"
	}
	if own := v.Policy.Response; own != nil {
		p.Type, p.Title = own.Type, own.Title
		p.Status, p.Detail = cmp.Or(own.Status, p.Status), cmp.Or(own.Detail, p.Detail)
	}
	return p
}
