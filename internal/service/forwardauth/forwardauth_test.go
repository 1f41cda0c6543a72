package forwardauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
)

// door answers as it is told, and looks up the attributes of its keys as a policy would.
type door struct {
	verdict engine.Verdict
	err     error

	keys []string
	// unknownDomain is what it says of every domain.
	unknownDomain bool

	name   string
	cost   int64
	values []string
}

func (d *door) DecidePolicy(_ context.Context, _ engine.Door, call engine.Call) (engine.Verdict, error) {
	d.name, d.cost = call.Policy, call.Cost
	d.look(call.Lookup)
	return d.verdict, d.err
}

func (d *door) DecideAttributes(_ context.Context, _ engine.Door, domain string, lookup func(string) (string, bool), cost int64) (engine.Result, error) {
	d.name, d.cost = "domain "+domain, cost
	d.look(lookup)
	result := engine.Result{Allowed: d.verdict.Allowed, UnknownDomain: d.unknownDomain, Verdicts: []engine.Verdict{d.verdict}}
	if !result.Allowed {
		result.Violated = []string{d.verdict.Name, "shop/per-key/day"}
	}
	return result, d.err
}

// unproxied is the door of everybody, behind no proxy.
func unproxied(d *door) *Handler { return New(d, Options{Callers: callers.Everybody()}) }

func (d *door) look(lookup func(string) (string, bool)) {
	for _, key := range d.keys {
		if value, found := lookup(key); found {
			d.values = append(d.values, value)
		} else {
			d.values = append(d.values, "(none)")
		}
	}
}

var (
	api    = &policy.RateLimit{Name: "shop/api"}
	minute = &policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}
)

// responding is api with that response.
func responding(r policy.Response) *policy.RateLimit {
	return &policy.RateLimit{Name: "shop/api", Response: &r}
}

// golden are the headers and the body of an answer as text, but for the length, which must be that of the body.
func golden(t *testing.T, response *http.Response, body string) string {
	t.Helper()
	if length := response.Header.Get("Content-Length"); body != "" && length != strconv.Itoa(len(body)) {
		t.Errorf("Content-Length is %q, want %d", length, len(body))
	}
	response.Header.Del("Content-Length")
	var lines []string
	for name, values := range response.Header {
		lines = append(lines, name+": "+strings.Join(values, "|"))
	}
	slices.Sort(lines)
	return strings.TrimSpace(response.Status + "\n" + strings.Join(lines, "\n") + "\n" + body)
}

func TestAnswersToTheLetter(t *testing.T) {
	for name, test := range map[string]struct {
		door door
		want string
	}{
		"allowed": {
			door{verdict: engine.Verdict{Allowed: true, Mode: engine.Enforced, Known: true, Limit: 100, Remaining: 42, ResetAfter: 1001 * time.Millisecond, Policy: api, Binding: minute, Name: "shop/api"}},
			`200 OK
Ratelimit-Policy: "api";q=100;w=60
Ratelimit: "api";r=42;t=2`,
		},
		"denied": {
			door{verdict: engine.Verdict{Mode: engine.Enforced, Known: true, Limit: 100, ResetAfter: time.Minute, RetryAfter: time.Millisecond, Policy: api, Binding: minute, Name: "shop/api/day"}},
			`429 Too Many Requests
Content-Type: application/problem+json
Ratelimit-Policy: "api/day";q=100;w=60
Ratelimit: "api/day";r=0;t=1
Retry-After: 1
{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,"detail":"rate limit shop/api/day is exhausted; retry after 1 s","policy":"shop/api","violated-policies":["api/day"],"retryAfter":1}`,
		},
		"denied, in the policy's own words": {
			door{verdict: engine.Verdict{
				Mode: engine.Enforced, Known: true, Limit: 100, ResetAfter: time.Minute, RetryAfter: time.Second, Name: "shop/api",
				Policy: responding(policy.Response{
					Status: 503, Headers: []string{policy.HeaderLegacy}, Type: "https://shop.example/limits", Title: "Slow down", Detail: "See our terms.",
				}),
			}},
			`503 Service Unavailable
Content-Type: application/problem+json
X-Ratelimit-Limit: 100
X-Ratelimit-Remaining: 0
X-Ratelimit-Reset: 60
{"type":"https://shop.example/limits","title":"Slow down","status":503,"detail":"See our terms.","policy":"shop/api","violated-policies":["api"],"retryAfter":1}`,
		},
		"denied with a status that has no text": {
			door{verdict: engine.Verdict{
				Mode: engine.Enforced, Known: true, Limit: 100, RetryAfter: time.Second, Name: "shop/api",
				Policy: responding(policy.Response{Status: 499, Headers: []string{}}),
			}},
			"499 " + `
Content-Type: application/problem+json
{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":499,"detail":"rate limit shop/api is exhausted; retry after 1 s","policy":"shop/api","violated-policies":["api"],"retryAfter":1}`,
		},
		"allowed by a policy with a response": {
			door{verdict: engine.Verdict{Allowed: true, Mode: engine.Enforced, Known: true, Limit: 100, Name: "shop/api", Policy: responding(policy.Response{Status: 503, Headers: []string{}})}},
			`200 OK`,
		},
		"a policy that counts slots": {
			door{err: fmt.Errorf("%w: use slots", engine.ErrWrongOperation)},
			`409 Conflict
Content-Type: application/problem+json
{"title":"Conflict","status":409,"detail":"the RateLimit counts what is under way, and this door cannot tell when a request ends; use AcquireSlot and ReleaseSlot of the LimiterService"}`,
		},
		"no policy applies": {
			door{verdict: engine.Verdict{Allowed: true}},
			`200 OK`,
		},
		"unlimited": {
			door{verdict: engine.Verdict{Allowed: true, Mode: engine.Enforced, Known: true, Limit: -1, Policy: api, Name: "shop/api"}},
			`200 OK`,
		},
		"degraded and allowed": {
			door{verdict: engine.Verdict{Allowed: true, Mode: engine.Degraded, Policy: api, Name: "shop/api"}},
			`200 OK
X-Penstock-Degraded: store`,
		},
		"degraded and denied": {
			door{verdict: engine.Verdict{Mode: engine.Degraded, RetryAfter: time.Second, Policy: api, Name: "shop/api"}},
			`429 Too Many Requests
Content-Type: application/problem+json
Retry-After: 1
X-Penstock-Degraded: store
{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporary Reduced Capacity","status":429,"detail":"rate limit shop/api cannot be checked now; retry after 1 s","policy":"shop/api","violated-policies":["api"],"retryAfter":1}`,
		},
		"unknown policy": {
			door{err: engine.ErrUnknownPolicy},
			`404 Not Found
Content-Type: application/problem+json
{"title":"Not Found","status":404,"detail":"no RateLimit of that namespace and name is in force; check the path /auth/<namespace>/<policy> and the RateLimit's Ready condition"}`,
		},
		"no policy set": {
			door{err: engine.ErrNoSet},
			`503 Service Unavailable
Content-Type: application/problem+json
{"title":"Service Unavailable","status":503,"detail":"no policy set is loaded yet"}`,
		},
		"redis refuses us": {
			door{err: engine.ErrConfiguration},
			`500 Internal Server Error
Content-Type: application/problem+json
{"title":"Internal Server Error","status":500,"detail":"redis refuses the credentials or rights of penstockd; check its user, password and ACL"}`,
		},
		"a long attribute": {
			door{err: &engine.ValueTooLongError{Key: "header.x-api-key", Bytes: 257}},
			`400 Bad Request
Content-Type: application/problem+json
{"title":"Bad Request","status":400,"detail":"attribute header.x-api-key: 257 bytes, want at most 256"}`,
		},
		"something else": {
			door{err: errors.New("secret of the inside")},
			`500 Internal Server Error
Content-Type: application/problem+json
{"title":"Internal Server Error","status":500,"detail":"deciding failed"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			unproxied(&test.door).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil))
			if got := golden(t, w.Result(), w.Body.String()); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestAnyMethodIsAnswered(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
		t.Run(method, func(t *testing.T) {
			d := &door{verdict: engine.Verdict{Allowed: true}, keys: []string{"method"}}
			w := httptest.NewRecorder()
			unproxied(d).ServeHTTP(w, httptest.NewRequest(method, "/auth/shop/api", nil))
			if w.Code != http.StatusOK || d.values[0] != method {
				t.Errorf("%d with method %q", w.Code, d.values[0])
			}
		})
	}
}

func TestThePathNamesThePolicyAndWhatFollowsIsThePath(t *testing.T) {
	for target, want := range map[string]struct{ name, path string }{
		"/auth/shop/api":                 {"shop/api", "/"},
		"/auth/shop/api/":                {"shop/api", "/"},
		"/auth/shop/api?x=1":             {"shop/api", "/"},
		"/auth/shop/api/v1/things?x=1":   {"shop/api", "/v1/things"},
		"/auth/shop/api//double/../dots": {"shop/api", "//double/../dots"},
		"/auth/shop/api/a%2Fb":           {"shop/api", "/a/b"},
		"/auth/shop/api.v1":              {"shop/api.v1", "/"},
		"/auth/shop":                     {},
		"/auth/shop/":                    {},
		"/auth/":                         {},
		"/auth//api":                     {},
	} {
		t.Run(target, func(t *testing.T) {
			d := &door{verdict: engine.Verdict{Allowed: true}, keys: []string{"path"}}
			w := httptest.NewRecorder()
			unproxied(d).ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
			if want.name == "" {
				if w.Code != http.StatusNotFound || d.name != "" {
					t.Errorf("%d for policy %q, want 404 for none", w.Code, d.name)
				}
				return
			}
			if d.name != want.name || d.values[0] != want.path {
				t.Errorf("policy %q, path %q; want %q, %q", d.name, d.values[0], want.name, want.path)
			}
		})
	}
}

func TestAttributesAreWhatTheRequestItselfShows(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*http.Request)
		key    string
		want   string
	}{
		"address without port":           {func(r *http.Request) { r.RemoteAddr = "192.0.2.7:4711" }, "remote_address", "192.0.2.7"},
		"address of IPv6":                {func(r *http.Request) { r.RemoteAddr = "[2001:db8::1]:4711" }, "remote_address", "2001:db8::1"},
		"address of IPv4 in IPv6":        {func(r *http.Request) { r.RemoteAddr = "[::ffff:192.0.2.7]:4711" }, "remote_address", "192.0.2.7"},
		"address with a zone":            {func(r *http.Request) { r.RemoteAddr = "[fe80::7%eth0]:4711" }, "remote_address", "fe80::7"},
		"no address, of a Unix socket":   {func(r *http.Request) { r.RemoteAddr = "@" }, "remote_address", ""},
		"host":                           {func(r *http.Request) { r.Host = "Shop.Example:8443" }, "host", "shop.example"},
		"host without port":              {func(r *http.Request) { r.Host = "shop.example" }, "host", "shop.example"},
		"host as a full name":            {func(r *http.Request) { r.Host = "shop.example." }, "host", "shop.example"},
		"host of IPv6":                   {func(r *http.Request) { r.Host = "[2001:db8::1]" }, "host", "2001:db8::1"},
		"host as header":                 {func(r *http.Request) { r.Host = "shop.example" }, "header.host", "shop.example"},
		"a header":                       {func(r *http.Request) { r.Header.Set("X-API-Key", "k1") }, "header.x-api-key", "k1"},
		"a header that is not there":     {func(*http.Request) {}, "header.x-api-key", "(none)"},
		"an empty header":                {func(r *http.Request) { r.Header.Set("X-Api-Key", "") }, "header.x-api-key", ""},
		"several headers of one name":    {func(r *http.Request) { r.Header.Add("X-Team", "a"); r.Header.Add("X-Team", "b") }, "header.x-team", "a,b"},
		"a header's name in upper case":  {func(r *http.Request) { r.Header.Set("X-Team", "a") }, "header.X-Team", "(none)"},
		"an attribute that HTTP has not": {func(*http.Request) {}, "namespace", "(none)"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &door{keys: []string{test.key}, verdict: engine.Verdict{Allowed: true}}
			r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
			test.change(r)
			unproxied(d).ServeHTTP(httptest.NewRecorder(), r)
			if d.values[0] != test.want {
				t.Errorf("%s is %q, want %q", test.key, d.values[0], test.want)
			}
		})
	}
}

// Conditions look up in loops, and nobody shall make them slow by a header that is long or there many times.
func TestWhatIsLookedUpAgainIsNotMadeAgain(t *testing.T) {
	repeated := make([]string, 1500)
	for i := range repeated {
		repeated[i] = "a"
	}
	r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
	r.Header = http.Header{"Accept": repeated, "User-Agent": {"curl"}}
	for name, test := range map[string]struct {
		host, key string
		want      string
	}{
		"a header of many values": {"shop.example", "header.accept", strings.Join(repeated, ",")},
		"a header of one":         {"shop.example", "header.user-agent", "curl"},
		"a long host":             {strings.Repeat("A", 60_000) + ":8443", "host", strings.Repeat("a", 60_000)},
		"a host that is none":     {":8443", "host", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.Clone(t.Context())
			r.Host = test.host
			a := newAttributes(r, origin.Proxies{}, "")
			if got, found := a.lookup(test.key); !found || got != test.want {
				t.Fatalf("%d bytes, %v; want %d", len(got), found, len(test.want))
			}
			if got := testing.AllocsPerRun(100, func() { a.lookup(test.key) }); got != 0 {
				t.Errorf("%v allocations to look it up again, want none", got)
			}
			if got, _ := a.lookup(test.key); got != test.want {
				t.Errorf("%d bytes, want the same as before", len(got))
			}
		})
	}
}

func TestRepeatedHeadersAreNotTakenForEachOther(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
	r.Header = http.Header{"X-Team": {"a", "b"}, "X-User": {"c", "d"}}
	a := newAttributes(r, origin.Proxies{}, "")
	for range 2 {
		team, _ := a.lookup("header.x-team")
		user, _ := a.lookup("header.x-user")
		if team != "a,b" || user != "c,d" {
			t.Errorf("%q and %q, want a,b and c,d", team, user)
		}
	}
}

func TestNothingOfARequestComesBackInAnAnswer(t *testing.T) {
	const evil = "evil\r\nSet-Cookie: a=b"
	for name, d := range map[string]*door{
		"denied":  {verdict: engine.Verdict{Mode: engine.Enforced, Known: true, Limit: 1, RetryAfter: time.Second, Policy: api, Name: "shop/api"}},
		"unknown": {err: engine.ErrUnknownPolicy},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
			r.URL.Path = "/auth/" + evil + "/" + evil
			r.Host, r.Method, r.RemoteAddr = evil, evil, evil
			r.Header["X-Team"] = []string{evil}
			w := httptest.NewRecorder()
			unproxied(d).ServeHTTP(w, r)
			if text := golden(t, w.Result(), w.Body.String()); strings.Contains(text, "evil") {
				t.Errorf("the answer repeats the request:\n%s", text)
			}
			for name := range w.Header() {
				if name != textproto.CanonicalMIMEHeaderKey(name) {
					t.Errorf("header %q is not in its canonical form", name)
				}
			}
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("body %q is no JSON", w.Body)
			}
		})
	}
}

func TestAllPoliciesOfADomainAnswerAtThePathOfNone(t *testing.T) {
	denied := engine.Verdict{Mode: engine.Enforced, Known: true, Limit: 100, RetryAfter: time.Second, Policy: api, Binding: minute, Name: "shop/api"}
	for name, test := range map[string]struct {
		domain     string
		byDefault  string
		door       door
		wantAsked  string
		wantValues []string
		want       string
	}{
		"allowed": {
			"shop", "", door{verdict: engine.Verdict{Allowed: true}, keys: []string{"method", "path"}}, "domain shop", []string{"PUT", "/"}, `200 OK`,
		},
		"denied": {
			"shop", "", door{verdict: denied}, "domain shop", nil, `429 Too Many Requests
Content-Type: application/problem+json
Ratelimit-Policy: "api";q=100;w=60
Ratelimit: "api";r=0;t=1
Retry-After: 1
{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,"detail":"rate limit shop/api is exhausted; retry after 1 s","policy":"shop/api","violated-policies":["api","per-key/day"],"retryAfter":1}`,
		},
		"the default domain, whatever a client says": {
			"shop", "elsewhere", door{verdict: engine.Verdict{Allowed: true}}, "domain elsewhere", nil, `200 OK`,
		},
		"no domain": {
			"", "", door{}, "", nil, `400 Bad Request
Content-Type: application/problem+json
{"title":"Bad Request","status":400,"detail":"want the domain whose policies apply, as in /auth?domain=shop or in the header X-Penstock-Domain"}`,
		},
		"redis refuses us": {
			"shop", "", door{err: engine.ErrConfiguration}, "domain shop", nil, `500 Internal Server Error
Content-Type: application/problem+json
{"title":"Internal Server Error","status":500,"detail":"redis refuses the credentials or rights of penstockd; check its user, password and ACL"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPut, "/auth", nil)
			if test.domain != "" {
				r.Header.Set("X-Penstock-Domain", test.domain)
			}
			w := httptest.NewRecorder()
			New(&test.door, Options{Callers: callers.Everybody(), DefaultDomain: test.byDefault}).ServeHTTP(w, r)
			if got := golden(t, w.Result(), w.Body.String()); got != test.want {
				t.Errorf("answered\n%s\nwant\n%s", got, test.want)
			}
			if test.door.name != test.wantAsked || !slices.Equal(test.door.values, test.wantValues) {
				t.Errorf("asked %q about %q, want %q about %q", test.door.name, test.door.values, test.wantAsked, test.wantValues)
			}
		})
	}
}

func TestTheDomainOfTheQueryOutranksTheHeader(t *testing.T) {
	d := &door{verdict: engine.Verdict{Allowed: true}}
	r := httptest.NewRequest(http.MethodGet, "/auth?nginx=1&domain=shop", nil)
	r.Header.Set("X-Penstock-Domain", "of-the-client")
	w := httptest.NewRecorder()
	New(d, Options{Callers: callers.Everybody(), DefaultDomain: "elsewhere"}).ServeHTTP(w, r)
	if w.Code != http.StatusOK || d.name != "domain shop" {
		t.Errorf("%d, asked %q, want the domain shop", w.Code, d.name)
	}
}

func TestAnUnknownDomainIsRefusedWhereThatIsStrict(t *testing.T) {
	for strict, want := range map[bool]int{false: http.StatusOK, true: http.StatusBadRequest} {
		d := &door{verdict: engine.Verdict{Allowed: true}, unknownDomain: true}
		w := httptest.NewRecorder()
		New(d, Options{Callers: callers.Everybody(), Strict: strict}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/auth?domain=shop", nil))
		if w.Code != want {
			t.Errorf("strict %v: %d, want %d", strict, w.Code, want)
		}
	}
}

func TestWhatARequestCostsIsForThePolicyToSay(t *testing.T) {
	for _, path := range []string{"/auth", "/auth/shop/api"} {
		d := &door{verdict: engine.Verdict{Allowed: true}}
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("X-Penstock-Domain", "shop")
		unproxied(d).ServeHTTP(httptest.NewRecorder(), r)
		if d.cost != engine.PolicyCost {
			t.Errorf("%s: cost %d, want the policy's", path, d.cost)
		}
	}
}

// A client could set it, to get out of the policy that the proxy asks for.
func TestTheHeaderOfTheDomainDoesNotMatterWhereAPolicyIsNamed(t *testing.T) {
	d := &door{verdict: engine.Verdict{Allowed: true}}
	r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
	r.Header.Set("X-Penstock-Domain", "elsewhere")
	unproxied(d).ServeHTTP(httptest.NewRecorder(), r)
	if d.name != "shop/api" {
		t.Errorf("asked %s, want shop/api", d.name)
	}
}

// One that a proxy adds to its client's stands behind it.
func TestOfSeveralDomainsTheLastCounts(t *testing.T) {
	d := &door{verdict: engine.Verdict{Allowed: true}}
	r := httptest.NewRequest(http.MethodGet, "/auth", nil)
	r.Header["X-Penstock-Domain"] = []string{"nowhere", "shop"}
	unproxied(d).ServeHTTP(httptest.NewRecorder(), r)
	if d.name != "domain shop" {
		t.Errorf("asked %s, want domain shop", d.name)
	}
}
