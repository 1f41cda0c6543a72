package forwardauth

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
)

var seen = []string{"remote_address", "method", "host", "path"}

// behind is the door of everybody, with proxies of 10.0.0.0/8.
func behind(t testing.TB, eng Engine) *Handler {
	t.Helper()
	proxies, err := origin.ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	return New(eng, Options{Callers: callers.Everybody(), Proxies: proxies})
}

// The requests are those that the proxies send about PUT https://shop.example/v1/a%2Fb?page=2 of 203.0.113.7.
func TestEveryProxyIsUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		method, target string
		header         http.Header
		host           string
	}{
		"Traefik ForwardAuth": {"GET", "/auth/shop/api", http.Header{
			"X-Forwarded-Method": {"PUT"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"shop.example"},
			"X-Forwarded-Uri": {"/v1/a%2Fb?page=2"}, "X-Forwarded-For": {"203.0.113.7"},
		}, "penstockd:8080"},
		"Caddy forward_auth": {"GET", "/auth/shop/api", http.Header{
			"X-Forwarded-Method": {"PUT"}, "X-Forwarded-Uri": {"/v1/a%2Fb?page=2"}, "X-Forwarded-Host": {"shop.example"},
			"X-Forwarded-Proto": {"https"}, "X-Forwarded-For": {"203.0.113.7"},
		}, "shop.example"},
		"nginx auth_request": {"GET", "/auth/shop/api?nginx=1", http.Header{
			"X-Forwarded-Method": {"PUT"}, "X-Forwarded-Uri": {"/v1/a%2Fb?page=2"}, "X-Forwarded-For": {"203.0.113.7"},
		}, "shop.example"},
		"Envoy ext_authz over HTTP": {"PUT", "/auth/shop/api/v1/a%2Fb?page=2", http.Header{
			"X-Forwarded-For": {"203.0.113.7"},
		}, "shop.example"},
		"Envoy that passes on what the client says": {"PUT", "/auth/shop/api/v1/a%2Fb?nginx=1", http.Header{
			"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Uri": {"/free"},
		}, "shop.example"},
		"HEAD, by whatever asks so": {"HEAD", "/auth/shop/api", http.Header{
			"X-Forwarded-Method": {"PUT"}, "X-Forwarded-Uri": {"https://shop.example/v1/a%2Fb?page=2"}, "X-Forwarded-For": {"203.0.113.7:5000"},
		}, "Shop.Example.:443"},
		"all policies of a domain": {"GET", "/auth", http.Header{
			"X-Forwarded-Method": {"PUT"}, "X-Forwarded-Host": {"Shop.Example:443"}, "X-Forwarded-Uri": {"/v1/a%2Fb?page=2"},
			"X-Forwarded-For": {"203.0.113.7"}, "X-Penstock-Domain": {"shop"},
		}, "penstockd:8080"},
		"what the client has sent, before what the proxy says": {"GET", "/auth/shop/api", http.Header{
			"X-Forwarded-Method": {"GET", "PUT"}, "X-Forwarded-Host": {"evil.example", "evil.example, shop.example"},
			"X-Forwarded-Uri": {"/free", "/v1/a%2Fb"}, "X-Forwarded-For": {"10.0.0.9, 1.1.1.1", "203.0.113.7"},
		}, "penstockd:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &door{verdict: engine.Verdict{Allowed: true}, keys: seen}
			r := httptest.NewRequest(test.method, test.target, strings.NewReader("a body is harmless"))
			r.Header, r.Host, r.RemoteAddr = test.header, test.host, "10.0.0.1:4711"
			w := httptest.NewRecorder()
			behind(t, d).ServeHTTP(w, r)
			if want := []string{"203.0.113.7", "PUT", "shop.example", "/v1/a/b"}; w.Code != http.StatusOK || !slices.Equal(d.values, want) {
				t.Errorf("%d, saw %q, want %q", w.Code, d.values, want)
			}
		})
	}
}

func TestNobodyElseIsBelieved(t *testing.T) {
	d := &door{verdict: engine.Verdict{Allowed: true}, keys: seen}
	r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
	r.RemoteAddr, r.Host = "203.0.113.7:4711", "shop.example"
	r.Header = http.Header{
		"X-Forwarded-Method": {"PUT"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Uri": {"/free"}, "X-Forwarded-For": {"10.0.0.1"},
	}
	behind(t, d).ServeHTTP(httptest.NewRecorder(), r)
	if want := []string{"203.0.113.7", "GET", "shop.example", "/"}; !slices.Equal(d.values, want) {
		t.Errorf("saw %q, want %q", d.values, want)
	}
}

func TestWhatATrustedProxyDoesNotSayIsOfTheRequestItself(t *testing.T) {
	for name, header := range map[string]http.Header{
		"nothing": {},
		"empty":   {"X-Forwarded-Method": {""}, "X-Forwarded-Host": {" , "}, "X-Forwarded-Uri": {""}, "X-Forwarded-For": {""}},
		"garbage": {"X-Forwarded-Uri": {"?"}, "X-Forwarded-For": {"unknown"}},
		"no line": {"X-Forwarded-Method": {}, "X-Forwarded-Host": {}, "X-Forwarded-Uri": {}, "X-Forwarded-For": {}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &door{verdict: engine.Verdict{Allowed: true}, keys: seen}
			r := httptest.NewRequest(http.MethodPost, "/auth/shop/api", nil)
			r.Header, r.Host, r.RemoteAddr = header, "shop.example", "10.0.0.1:4711"
			behind(t, d).ServeHTTP(httptest.NewRecorder(), r)
			if want := []string{"10.0.0.1", "POST", "shop.example", "/"}; !slices.Equal(d.values, want) {
				t.Errorf("saw %q, want %q", d.values, want)
			}
		})
	}
}

func TestThePathIsThatOfTheForwardedTarget(t *testing.T) {
	for target, want := range map[string]string{
		"/v1?a=b":                 "/v1",
		"/%761/th%69ngs":          "/v1/things",
		"http://shop.example/v1":  "/v1",
		"https://shop.example":    "/",
		"v1":                      "/v1",
		"*":                       "/*",
		"/%zz":                    "/%zz",
		"\xff\x00":                "/\xff\x00",
		strings.Repeat("/a", 500): strings.Repeat("/a", 500),
	} {
		d := &door{verdict: engine.Verdict{Allowed: true}, keys: []string{"path"}}
		r := httptest.NewRequest(http.MethodGet, "/auth/shop/api", nil)
		r.RemoteAddr = "10.0.0.1:4711"
		r.Header["X-Forwarded-Uri"] = []string{target}
		behind(t, d).ServeHTTP(httptest.NewRecorder(), r)
		if d.values[0] != want {
			t.Errorf("%q is path %q, want %q", target, d.values[0], want)
		}
	}
}

func TestNginxGetsNoStatusThatItTakesForAnError(t *testing.T) {
	denied := engine.Verdict{Mode: engine.Enforced, Known: true, Limit: 100, RetryAfter: time.Second, Policy: api, Name: "shop/api"}
	busy := denied
	busy.Policy = responding(policy.Response{Status: http.StatusServiceUnavailable})
	for name, test := range map[string]struct {
		door       door
		target     string
		domain     string
		wantStatus int
		wantReal   string
	}{
		"allowed":                         {door{verdict: engine.Verdict{Allowed: true}}, "/auth/shop/api?nginx=1", "", 200, ""},
		"denied":                          {door{verdict: denied}, "/auth/shop/api?nginx=1", "", 403, "429"},
		"denied with 503":                 {door{verdict: busy}, "/auth/shop/api?nginx=1", "", 403, "503"},
		"denied by a domain":              {door{verdict: denied}, "/auth?nginx=1", "shop", 403, "429"},
		"unknown":                         {door{err: engine.ErrUnknownPolicy}, "/auth/shop/api?nginx=1", "", 403, "404"},
		"no policy in the path":           {door{}, "/auth/shop?nginx=1", "", 403, "404"},
		"no domain":                       {door{}, "/auth?nginx=1", "", 403, "400"},
		"a long attribute":                {door{err: &engine.ValueTooLongError{Key: "path", Bytes: 257}}, "/auth/shop/api?nginx=1", "", 403, "400"},
		"a policy that counts slots":      {door{err: engine.ErrWrongOperation}, "/auth/shop/api?nginx=1", "", 403, "409"},
		"an error of ours":                {door{err: engine.ErrConfiguration}, "/auth/shop/api?nginx=1", "", 500, ""},
		"no policy set":                   {door{err: engine.ErrNoSet}, "/auth?nginx=1", "shop", 503, ""},
		"not nginx":                       {door{verdict: denied}, "/auth/shop/api", "", 429, ""},
		"another value":                   {door{verdict: denied}, "/auth/shop/api?nginx=0", "", 429, ""},
		"among others":                    {door{verdict: denied}, "/auth/shop/api?a=b&nginx=1&c", "", 403, "429"},
		"a query that is none":            {door{verdict: denied}, "/auth/shop/api?%zz;&&=", "", 429, ""},
		"the query of the client, behind": {door{verdict: denied}, "/auth/shop/api/v1?nginx=1", "", 429, ""},
		"the same at its root":            {door{verdict: denied}, "/auth/shop/api/?nginx=1", "", 429, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, test.target, nil)
			if test.domain != "" {
				r.Header.Set("X-Penstock-Domain", test.domain)
			}
			w := httptest.NewRecorder()
			unproxied(&test.door).ServeHTTP(w, r)
			if got := w.Header().Get("X-Penstock-Status"); w.Code != test.wantStatus || got != test.wantReal {
				t.Errorf("%d in the place of %q, want %d of %q", w.Code, got, test.wantStatus, test.wantReal)
			}
			if test.wantReal == "429" && w.Header().Get("Retry-After") != "1" {
				t.Error("a denial without Retry-After")
			}
		})
	}
}

// nobody may touch nothing.
type nobody struct{}

func (nobody) Of(context.Context) callers.Caller { return callers.Caller{} }

func TestWhoMayNotTouchLearnsNothing(t *testing.T) {
	const want = `403 Forbidden
Content-Type: application/problem+json
{"title":"Forbidden","status":403,"detail":"the caller may not use this RateLimit or domain, or there is none"}`
	for name, d := range map[string]*door{
		"there is such a policy": {verdict: engine.Verdict{Allowed: true}},
		"there is none":          {err: engine.ErrUnknownPolicy},
	} {
		for _, target := range []string{"/auth/shop/api", "/auth/shop/api/v1", "/auth"} {
			t.Run(name+" "+target, func(t *testing.T) {
				w := httptest.NewRecorder()
				New(d, Options{Callers: nobody{}, DefaultDomain: "shop"}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
				if got := golden(t, w.Result(), w.Body.String()); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				if d.name != "" {
					t.Errorf("asked the engine for %s", d.name)
				}
			})
		}
	}
}

// Whatever comes over a connection, a header that a policy counts by holds no byte that ends a line.
func TestHeadersAreWholeLines(t *testing.T) {
	values := make(chan string, 1)
	d := &door{verdict: engine.Verdict{Allowed: true}, keys: []string{"header.x-team"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		unproxied(d).ServeHTTP(w, r)
		values <- d.values[len(d.values)-1]
	}))
	defer server.Close()
	for name, test := range map[string]struct {
		line       string
		wantStatus int
		want       string
	}{
		"a NUL":                {"X-Team: a\x00b", http.StatusBadRequest, ""},
		"a carriage return":    {"X-Team: a\rb", http.StatusBadRequest, ""},
		"another control byte": {"X-Team: a\x1bb", http.StatusBadRequest, ""},
		"a folded line":        {"X-Team: a\r\n b", http.StatusOK, "a b"},
		"no UTF-8":             {"X-Team: a\xff\xfeb", http.StatusOK, "a\xff\xfeb"},
		"composed":             {"X-Team: caf\u00e9", http.StatusOK, "caf\u00e9"},
		"decomposed":           {"X-Team: cafe\u0301", http.StatusOK, "cafe\u0301"},
		"separators":           {"X-Team: a|b:c/d=e,f", http.StatusOK, "a|b:c/d=e,f"},
		"spaces around":        {"X-Team: \t a \t", http.StatusOK, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = connection.Close() }()
			if _, err := fmt.Fprintf(connection, "GET /auth/shop/api HTTP/1.1\r\nHost: penstockd\r\nConnection: close\r\n%s\r\n\r\n", test.line); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if response.StatusCode != test.wantStatus {
				t.Fatalf("status %d, want %d", response.StatusCode, test.wantStatus)
			}
			if test.wantStatus != http.StatusOK {
				return
			}
			if got := <-values; got != test.want {
				t.Errorf("counts by %q, want %q", got, test.want)
			}
		})
	}
}

// outcomes are what an engine can answer.
var outcomes = []door{
	{verdict: engine.Verdict{Allowed: true}},
	{verdict: engine.Verdict{Allowed: true, Mode: engine.Enforced, Known: true, Limit: 100, Remaining: 42, Policy: api, Binding: minute, Name: "shop/api"}},
	{verdict: engine.Verdict{Mode: engine.Enforced, Known: true, Limit: 100, RetryAfter: time.Second, Policy: api, Binding: minute, Name: "shop/api"}},
	{verdict: engine.Verdict{Mode: engine.Degraded, RetryAfter: time.Second, Policy: api, Name: "shop/api"}},
	{err: &engine.ValueTooLongError{Key: "path", Bytes: 257}},
	{err: engine.ErrUnknownPolicy},
	{err: engine.ErrWrongOperation},
	{err: engine.ErrNoSet},
	{err: engine.ErrConfiguration},
	{err: context.Canceled},
	{err: io.ErrUnexpectedEOF},
}

func FuzzServeHTTP(f *testing.F) {
	for i := range outcomes {
		f.Add(uint8(i), "GET", "/auth/shop/api", "nginx=1", "shop.example", "10.0.0.1:1", "/v1?a=b", "203.0.113.7, unknown", "shop")
	}
	f.Add(uint8(1), "PUT", "/auth/shop/api/v1\r\n", "%zz", "[::1", "@", "http://x", ",,,[::1]:9", "")
	f.Add(uint8(2), "", "/auth", ";", "\x00", "[fe80::1%a]:1", "\xff%", "\r\n", "\x00")
	known := []int{200, 400, 403, 404, 409, 429, 500, 503}
	f.Fuzz(func(t *testing.T, outcome uint8, method, path, query, host, peer, uri, forwarded, domain string) {
		d := outcomes[int(outcome)%len(outcomes)]
		d.keys = append([]string{"header.x-forwarded-uri", "header.x-forwarded-for", "header.", "header.host", uri}, seen...)
		r := httptest.NewRequest(http.MethodGet, "/auth", strings.NewReader(uri))
		r.Method, r.Host, r.RemoteAddr = method, host, peer
		r.URL.Path, r.URL.RawQuery = path, query
		r.Header = http.Header{
			"X-Forwarded-Uri": {uri, forwarded}, "X-Forwarded-Method": {method}, "X-Forwarded-Host": {host, uri},
			"X-Forwarded-For": {forwarded, uri}, "X-Penstock-Domain": {domain},
		}
		w := httptest.NewRecorder()
		behind(t, &d).ServeHTTP(w, r)
		if !slices.Contains(known, w.Code) {
			t.Fatalf("status %d", w.Code)
		}
		for name, values := range w.Header() {
			if text := name + strings.Join(values, ""); strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Fatalf("header %q: %q", name, values)
			}
		}
	})
}
