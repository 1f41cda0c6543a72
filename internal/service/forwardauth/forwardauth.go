// Package forwardauth is the door for proxies that ask before they forward: Traefik ForwardAuth, Caddy forward_auth, nginx
// auth_request, HTTP ext_authz of Envoy and the like. A request to
//
//	/auth/<namespace>/<policy>[/<path>]
//
// by any method spends from the budget of that policy, for the subject that the attributes of the request name:
//
//	remote_address  the address of the client
//	method          the method
//	path            the path without query, percent-encoded bytes decoded (see origin.Path)
//	host            the host in lower case, without port
//	header.<name>   a header, its name in lower case; several of one name are joined by ","
//
// They are those of this request itself: the path is what follows the policy, / when nothing does, and the address that of
// the peer. A peer among the trusted proxies is believed what it says of another: X-Forwarded-For (see origin.Proxies),
// X-Forwarded-Method, X-Forwarded-Host, and X-Forwarded-Uri where no path follows the policy. Of several lines of one of
// these the last counts, which is the nearest proxy's; an empty one says nothing.
//
// A request to /auth spends from the budgets of all policies together that apply to it. Their domain is that of the query,
// /auth?domain=shop, which a proxy's client has no part in; else the default one; else, where there is no default, that of the
// header X-Penstock-Domain, which a proxy may pass on as its client sent it.
//
// It answers 200 or, on a denial, the status of the policy (429) with a body of application/problem+json. A policy of
// which an attribute is missing, or does not fit its pattern, does not apply: 200, nothing charged. An attribute of more
// than 256 bytes that a policy applies to is refused: 400. A policy that counts slots is no matter of this door, which could
// not release them: 409. A caller that may not use the policy or the domain gets 403, whether there is such a one or not.
//
// For nginx, which passes on 2xx, 401 and 403 only and takes all else for an error, ?nginx=1 makes 403 of a denial of any
// status and of every other 4xx; the header X-Penstock-Status is then the status that it would have been. Behind a path the
// query is not looked at: it is the client's.
//
// The headers and bodies are those of package answers. When Redis cannot be asked, there are no figures, and
// X-Penstock-Degraded: store tells that onStoreFailure decided.
package forwardauth

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/answers"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
)

const (
	// Prefix is where the door is for one policy.
	Prefix = "/auth/"
	// Path is where it is for all policies of a domain.
	Path = "/auth"
)

const (
	// domainHeader names the domain at Path. The proxy has to set it, whatever its client sent.
	domainHeader = "X-Penstock-Domain"
	// statusHeader is the status that the answer would have but for nginx.
	statusHeader = "X-Penstock-Status"
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

// Options are what the door knows of its surroundings.
type Options struct {
	// Callers tells who asks, of a request that passed callers.Directory.Handler.
	Callers Callers
	// Proxies are believed what they say of the requests that they ask about.
	Proxies origin.Proxies
	// DefaultDomain is that of requests to Path that name none; empty is none.
	DefaultDomain string
	// Strict refuses a domain that no policy answers for. Else it is allowed.
	Strict bool
}

// Handler is the door.
type Handler struct {
	engine  Engine
	options Options
}

// New makes the door, to be served at Path and under Prefix.
func New(eng Engine, options Options) *Handler { return &Handler{engine: eng, options: options} }

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == Path {
		h.serveDomain(w, r)
		return
	}
	path := r.URL.Path
	if strings.Contains(r.RequestURI, "#") {
		path = origin.Path(r.RequestURI) // net/http takes a fragment for a part of the path
	}
	name, behind, ok := split(path)
	to := answer{w: w, nginx: behind == "" && asksForNginx(r)}
	if !ok {
		to.problem(answers.Problem{Status: http.StatusNotFound, Detail: "want the path /auth/<namespace>/<policy>, or /auth"})
		return
	}
	if !h.options.Callers.Of(r.Context()).MayUsePolicy(name) {
		to.forbidden()
		return
	}
	verdict, err := h.engine.DecidePolicy(r.Context(), engine.DoorForwardAuth, engine.Call{
		Policy: name, Lookup: newAttributes(r, h.options.Proxies, behind).lookup, Cost: engine.PolicyCost,
	})
	if err != nil {
		to.problem(failure(err))
		return
	}
	to.verdict(&verdict, nil)
}

// serveDomain answers for all policies of a domain.
func (h *Handler) serveDomain(w http.ResponseWriter, r *http.Request) {
	to := answer{w: w, nginx: asksForNginx(r)}
	domain := cmp.Or(inQuery(r, "domain"), h.options.DefaultDomain, last(r.Header[domainHeader]))
	if domain == "" {
		to.problem(answers.Problem{Status: http.StatusBadRequest, Detail: "want the domain whose policies apply, as in /auth?domain=shop or in the header " + domainHeader})
		return
	}
	if !h.options.Callers.Of(r.Context()).MayUseDomain(domain) {
		to.forbidden()
		return
	}
	lookup := newAttributes(r, h.options.Proxies, "").lookup
	result, err := h.engine.DecideAttributes(r.Context(), engine.DoorForwardAuth, domain, lookup, engine.PolicyCost)
	if err != nil {
		to.problem(failure(err))
		return
	}
	if result.UnknownDomain && h.options.Strict {
		to.problem(answers.Problem{Status: http.StatusBadRequest, Detail: "no RateLimit is in force that answers for the domain, and --strict refuses such requests"})
		return
	}
	to.verdict(&result.Verdicts[0], result.Violated)
}

// split takes /auth/<namespace>/<policy>[/<path>] apart; behind is the path with its slash, and empty when there is none.
func split(path string) (name, behind string, ok bool) {
	path, found := strings.CutPrefix(path, Prefix)
	namespace, tail, _ := strings.Cut(path, "/")
	policy, _, _ := strings.Cut(tail, "/")
	if !found || namespace == "" || policy == "" {
		return "", "", false
	}
	name = path[:len(namespace)+1+len(policy)]
	return name, path[len(name):], true
}

// last gives the last line of a header. One that a proxy adds to its client's is behind that.
func last(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

func asksForNginx(r *http.Request) bool { return inQuery(r, "nginx") == "1" }

func inQuery(r *http.Request, name string) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return r.URL.Query().Get(name)
}

func failure(err error) answers.Problem {
	var tooLong *engine.ValueTooLongError
	switch {
	case errors.As(err, &tooLong):
		return answers.Problem{Status: http.StatusBadRequest, Detail: "attribute " + tooLong.Error()}
	case errors.Is(err, engine.ErrUnknownPolicy):
		return answers.Problem{Status: http.StatusNotFound, Detail: "no RateLimit of that namespace and name is in force; check the path /auth/<namespace>/<policy> and the RateLimit's Ready condition"}
	case errors.Is(err, engine.ErrWrongOperation):
		return answers.Problem{Status: http.StatusConflict, Detail: "the RateLimit counts what is under way, and this door cannot tell when a request ends; use AcquireSlot and ReleaseSlot of the LimiterService"}
	case errors.Is(err, engine.ErrNoSet):
		return answers.Problem{Status: http.StatusServiceUnavailable, Detail: engine.ErrNoSet.Error()}
	case errors.Is(err, engine.ErrConfiguration):
		return answers.Problem{Status: http.StatusInternalServerError, Detail: engine.ErrConfiguration.Error()}
	case errors.Is(err, context.Canceled):
		return answers.Problem{Status: http.StatusServiceUnavailable, Detail: "the caller has gone"}
	default:
		return answers.Problem{Status: http.StatusInternalServerError, Detail: "deciding failed"}
	}
}

// answer is one answer to a proxy.
type answer struct {
	w http.ResponseWriter
	// nginx tells that it passes on no other refusal than 403.
	nginx bool
}

func (a answer) verdict(v *engine.Verdict, violated []string) {
	answers.Set(a.w.Header(), v)
	if v.Allowed {
		a.w.WriteHeader(http.StatusOK)
		return
	}
	a.refuse(answers.Denial(v, violated))
}

// forbidden says the same of what there is and of what there is not.
func (a answer) forbidden() {
	a.problem(answers.Problem{Status: http.StatusForbidden, Detail: "the caller may not use this RateLimit or domain, or there is none"})
}

// problem is an answer without a verdict.
func (a answer) problem(p answers.Problem) {
	if p.Status >= http.StatusInternalServerError {
		p.Write(a.w)
		return
	}
	a.refuse(p)
}

// refuse answers what shall keep a request from passing.
func (a answer) refuse(p answers.Problem) {
	if !a.nginx {
		p.Write(a.w)
		return
	}
	a.w.Header()[statusHeader] = []string{strconv.Itoa(p.Status)}
	p.WriteAs(a.w, http.StatusForbidden)
}
