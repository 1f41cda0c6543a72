package doors

import (
	"net/http"
	"net/url"
	"strconv"
	"testing"
)

func askAuthPolicy(t *testing.T, w *world, q *question) told {
	return ofAuth(w.do(t, authRequest(t, w, q, "/auth/"+q.policy())))
}

func askAuthDomain(t *testing.T, w *world, q *question) told {
	return ofAuth(w.do(t, authRequest(t, w, q, "/auth?domain="+url.QueryEscape(q.domain()))))
}

func askAuthDomainHeader(t *testing.T, w *world, q *question) told {
	r := authRequest(t, w, q, "/auth")
	r.Header.Set("X-Penstock-Domain", q.domain())
	return ofAuth(w.do(t, r))
}

func askAuthNginxPolicy(t *testing.T, w *world, q *question) told {
	return ofAuth(unwrap(t, w.do(t, authRequest(t, w, q, "/auth/"+q.policy()+"?nginx=1"))))
}

func askAuthNginxDomain(t *testing.T, w *world, q *question) told {
	return ofAuth(unwrap(t, w.do(t, authRequest(t, w, q, "/auth?nginx=1&domain="+url.QueryEscape(q.domain())))))
}

// unwrap gives the answer its real status, which nginx would not pass on.
func unwrap(t *testing.T, a reply) reply {
	t.Helper()
	if a.status == http.StatusOK {
		return a
	}
	status, err := strconv.Atoi(a.header.Get("X-Penstock-Status"))
	if a.status != http.StatusForbidden || err != nil {
		t.Errorf("status %d with X-Penstock-Status %q, want 403 with another", a.status, a.header.Get("X-Penstock-Status"))
	}
	a.status = status
	return a
}

// authRequest is the request of a trusted proxy, which asks by GET and says what its client asked for.
func authRequest(t *testing.T, w *world, q *question, path string) *http.Request {
	t.Helper()
	r := newRequest(t, http.MethodGet, "http://"+w.process.HTTP+path)
	r.Header.Set("X-Forwarded-Uri", target(q))
	for name, key := range map[string]string{"X-Forwarded-For": "remote_address", "X-Forwarded-Method": "method", "X-Forwarded-Host": "host"} {
		if value := q.attribute(key); value != "" {
			r.Header.Set(name, value)
		}
	}
	q.headers(func(name, value string) { r.Header.Set(name, value) })
	return r
}

// askAuthEnvoy asks as Envoy's filter does over HTTP: by the request of its client, with a prefix before the path.
func askAuthEnvoy(t *testing.T, w *world, q *question) told {
	method := q.attribute("method")
	if method == "" {
		method = http.MethodGet
	}
	r := newRequest(t, method, "http://"+w.process.HTTP+"/auth/"+q.policy()+target(q))
	if host := q.attribute("host"); host != "" {
		r.Host = host
	}
	if address := q.attribute("remote_address"); address != "" {
		r.Header.Set("X-Forwarded-For", address)
	}
	q.headers(func(name, value string) { r.Header.Set(name, value) })
	return ofAuth(w.do(t, r))
}

func newRequest(t *testing.T, method, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ofAuth gives what an answer over HTTP tells: to the client whose request it was about.
func ofAuth(a reply) told {
	switch {
	case a.status == http.StatusOK:
		return told{allowed: true, status: a.status, header: a.header}
	case a.status == http.StatusBadRequest:
		return told{refused: true}
	default:
		return told{status: a.status, header: a.header, body: a.body, retry: retryAfter(a.header)}
	}
}
