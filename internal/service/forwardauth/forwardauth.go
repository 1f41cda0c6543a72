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
// It answers 200 or, on a denial, 429 with a body of application/problem+json. A policy of which an attribute is missing,
// or does not fit its pattern, does not apply: 200, nothing charged. An attribute of more than 256 bytes that a policy
// applies to is refused: 400.
//
// Headers, each an integer:
//
//	X-RateLimit-Limit      requests that may pass in a window (of a TokenBucket: its burst)
//	X-RateLimit-Remaining  what is left
//	X-RateLimit-Reset      seconds until the limit is whole again
//	Retry-After            on a denial: seconds until the request can pass, at least 1
//
// Reset is a length of time and not a point in it, because the only clock of a decision is that of Redis: a point in time
// would be wrong by what the clocks differ. When Redis cannot be asked, there are no figures, and X-Penstock-Degraded:
// store tells that onStoreFailure decided.
package forwardauth

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/penstock-dev/penstock/internal/engine"
)

// Prefix is where the door is.
const Prefix = "/auth/"

// Engine decides; engine.Engine does.
type Engine interface {
	DecidePolicy(ctx context.Context, door engine.Door, name string, lookup func(key string) (string, bool), cost int64) (engine.Verdict, error)
}

// Handler is the door.
type Handler struct {
	engine Engine
}

// New makes the door, to be served under Prefix.
func New(eng Engine) *Handler { return &Handler{engine: eng} }

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, path, ok := split(r.URL.Path)
	if !ok {
		writeProblem(w, problem{Status: http.StatusNotFound, Detail: "want the path /auth/<namespace>/<policy>"})
		return
	}
	attributes := attributes{request: r, path: path}
	verdict, err := h.engine.DecidePolicy(r.Context(), engine.DoorForwardAuth, name, attributes.lookup, 1)
	if err != nil {
		writeProblem(w, failure(err))
		return
	}
	writeVerdict(w, &verdict)
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
	// The names are canonical, so they need not go through Header.Set.
	header := w.Header()
	if v.Mode == engine.Degraded {
		header["X-Penstock-Degraded"] = []string{"store"}
	}
	if v.Known && v.Limit >= 0 {
		header["X-Ratelimit-Limit"] = integer(v.Limit)
		header["X-Ratelimit-Remaining"] = integer(v.Remaining)
		header["X-Ratelimit-Reset"] = integer(v.ResetAfterSeconds())
	}
	if v.Allowed {
		w.WriteHeader(http.StatusOK)
		return
	}
	seconds := v.RetryAfterSeconds()
	header["Retry-After"] = integer(seconds)
	detail := "rate limit " + v.Name + " is exhausted; retry after " + strconv.FormatInt(seconds, 10) + " s"
	if v.Mode == engine.Degraded && !v.Known {
		detail = "rate limit " + v.Name + " cannot be checked now; retry after " + strconv.FormatInt(seconds, 10) + " s"
	}
	writeProblem(w, problem{Status: http.StatusTooManyRequests, Detail: detail, Policy: v.Policy.Name, RetryAfter: seconds})
}

func integer(n int64) []string { return []string{strconv.FormatInt(n, 10)} }
