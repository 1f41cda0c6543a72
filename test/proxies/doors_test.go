package proxies

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// protected is a backend behind a proxy that asks penstockd.
type protected struct {
	*backend
	url string
}

// protect starts a backend and the proxy.
func (p proxy) protect(t *testing.T, penstockd string, change ...string) protected {
	t.Helper()
	b := startBackend(t)
	return protected{b, "http://" + p.start(t, site{penstockd: penstockd, backend: b.address, change: change})}
}

// allDoors runs a test with each proxy, asking about the policy and about the domain. Both have the same limit.
func allDoors(t *testing.T, test func(t *testing.T, p proxy, site protected)) {
	penstockd := startPenstockd(t).HTTP
	for name, p := range proxies {
		for door, change := range map[string]func(t *testing.T) []string{
			"policy": unchanged,
			"domain": func(t *testing.T) []string {
				t.Helper()
				domain := strings.TrimSpace(block(t, p.page, "domain"))
				if strings.HasPrefix(p.policyURL, "rewrite") {
					domain = replace(t, domain, "uri", "rewrite")
				}
				return []string{p.policyURL, domain}
			},
		} {
			t.Run(name+" by "+door, func(t *testing.T) {
				test(t, p, p.protect(t, penstockd, change(t)...))
			})
		}
	}
}

// spend makes the requests of a budget, which all have to reach the backend.
func spend(t *testing.T, request func() answer) {
	t.Helper()
	for i := range budget {
		if got := request(); got.status != http.StatusOK || got.body != "from the backend" {
			t.Fatalf("request %d: %d %q, want the backend's answer", i+1, got.status, got.body)
		}
	}
}

// wantDenied makes a request that has to be denied.
func wantDenied(t *testing.T, request func() answer) answer {
	t.Helper()
	got := request()
	if got.status != http.StatusTooManyRequests {
		t.Fatalf("%d %q, want 429", got.status, got.body)
	}
	return got
}

func TestTheRequestBeyondTheLimitGetsTheDenialAndNotTheBackend(t *testing.T) {
	allDoors(t, func(t *testing.T, p proxy, site protected) {
		client := newClient()
		left := budget
		request := func() answer { return get(t, client, site.url+"/v1/orders?page=1") }
		spend(t, func() answer {
			got := request()
			left--
			wantFigures(t, p, got, left)
			if got.header.Get("X-Backend") != "yes" {
				t.Errorf("headers %v lack the backend's", got.header)
			}
			return got
		})
		denied := wantDenied(t, request)
		wantProblem(t, p, denied)
		want := slices.Repeat([]string{`GET /v1/orders?page=1 ""`}, budget)
		if got := site.requests(); !slices.Equal(got, want) {
			t.Errorf("the backend saw %v, want %v", got, want)
		}
		if got := get(t, newClient(), site.url); got.status != http.StatusOK {
			t.Errorf("another client gets %d, want 200", got.status)
		}
	})
}

// wantFigures tells how much is left, where the proxy passes it on.
func wantFigures(t *testing.T, p proxy, got answer, left int) {
	t.Helper()
	figures, policy := got.header.Values("Ratelimit"), got.header.Values("Ratelimit-Policy")
	if !p.figures {
		if len(figures)+len(policy) > 0 {
			t.Errorf("RateLimit %q and RateLimit-Policy %q of an allowed request, and the page says that there are none", figures, policy)
		}
		return
	}
	if len(figures) != 1 || !strings.HasPrefix(figures[0], `"api-per-ip";r=`+strconv.Itoa(left)+";t=") {
		t.Errorf("RateLimit is %q with %d left", figures, left)
	}
	if !slices.Equal(policy, []string{`"api-per-ip";q=5;w=60`}) {
		t.Errorf("RateLimit-Policy is %q", policy)
	}
}

func wantProblem(t *testing.T, p proxy, got answer) {
	t.Helper()
	if seconds, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("Retry-After is %q, want 1 to 60", got.header.Values("Retry-After"))
	}
	p.figures = true // those of a denial are always there
	wantFigures(t, p, got, 0)
	if !slices.Equal(got.header.Values("Content-Type"), []string{"application/problem+json"}) {
		t.Errorf("Content-Type is %q", got.header.Values("Content-Type"))
	}
	var problem struct {
		Type, Title, Policy string
		Status, RetryAfter  int
	}
	if err := json.Unmarshal([]byte(got.body), &problem); err != nil {
		t.Fatalf("%q: %v", got.body, err)
	}
	if problem.Type != "https://iana.org/assignments/http-problem-types#quota-exceeded" || problem.Title == "" || problem.Status != 429 {
		t.Errorf("body %q", got.body)
	}
	if !p.plainBody && (problem.Policy != pagePolicy || problem.RetryAfter < 1) {
		t.Errorf("body %q lacks the policy or retryAfter", got.body)
	}
}

func TestNothingThatAClientSaysGivesItAnotherBudget(t *testing.T) {
	allDoors(t, func(t *testing.T, _ proxy, site protected) {
		client := newClient()
		n := 0
		lying := func() answer {
			n++
			forged := "198.51.100." + strconv.Itoa(n)
			return ask(t, client, http.MethodGet, site.url+"/?domain=forged&nginx=1", http.Header{
				"X-Forwarded-For": {forged}, "X-Forwarded-Uri": {"/" + forged}, "X-Forwarded-Method": {"PUT"}, "X-Forwarded-Host": {forged},
				"X-Real-Ip": {forged}, "Forwarded": {"for=" + forged}, "X-Penstock-Domain": {"forged"}, "X-Penstock-Authorization": {"Bearer forged"},
			}, "")
		}
		spend(t, lying)
		wantDenied(t, lying)
		if got := len(site.requests()); got != budget {
			t.Errorf("%d requests reached the backend, want %d", got, budget)
		}
	})
}

func TestClientsBehindATrustedProxyHaveBudgetsOfTheirOwn(t *testing.T) {
	allDoors(t, func(t *testing.T, _ proxy, site protected) {
		behind := func(forwardedFor string) func() answer {
			return func() answer {
				return ask(t, edge, http.MethodGet, site.url, http.Header{"X-Forwarded-For": {forwardedFor}}, "")
			}
		}
		// The edge appends whom it got the request from, so what is left of that is the client's own word.
		one, other := newClient(), newClient()
		spend(t, behind(one))
		wantDenied(t, behind(one))
		wantDenied(t, behind("198.51.100.1, "+one))
		spend(t, behind("198.51.100.1, "+other))
		wantDenied(t, behind(other))
		wantDenied(t, func() answer { return get(t, one, site.url) })
	})
}

func TestMethodHostAndPathAreThoseOfTheClientsRequest(t *testing.T) {
	penstockd := startPenstockd(t).HTTP
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) {
			site := p.protect(t, penstockd, pagePolicy, "paths/api-per-path")
			client := newClient()
			request := func(method, host, target string) func() answer {
				return func() answer {
					return ask(t, client, method, site.url+target, http.Header{"Host": {host}}, "")
				}
			}
			spend(t, request("GET", "shop.example", "/a?x=1"))
			wantDenied(t, request("GET", "shop.example:8080", "/a?x=2"))
			for _, other := range []func() answer{
				request("PUT", "shop.example", "/a"), request("GET", "other.example", "/a"), request("GET", "shop.example", "/b/../c"),
				request("GET", "shop.example", "/"),
			} {
				if got := other(); got.status != http.StatusOK {
					t.Errorf("%d %q, want 200 for a subject of its own", got.status, got.body)
				}
			}
		})
	}
}

func TestTheBackendGetsTheBodyOfTheRequest(t *testing.T) {
	penstockd := startPenstockd(t).HTTP
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) {
			site := p.protect(t, penstockd)
			got := ask(t, newClient(), http.MethodPost, site.url+"/orders", http.Header{"Content-Type": {"text/plain"}}, "two of them")
			if want := []string{`POST /orders "two of them"`}; got.status != http.StatusOK || !slices.Equal(site.requests(), want) {
				t.Errorf("%d, and the backend saw %v; want %v", got.status, site.requests(), want)
			}
		})
	}
}

func TestAnAnswerOfTheBackendIsNotTakenForADenial(t *testing.T) {
	penstockd := startPenstockd(t).HTTP
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) {
			site := p.protect(t, penstockd)
			if got := get(t, newClient(), site.url+"/forbidden"); got.status != http.StatusForbidden || got.body != "from the backend" {
				t.Errorf("%d %q, want 403 of the backend", got.status, got.body)
			}
		})
	}
}

func TestAPolicysOwnStatusIsWhatThePageSays(t *testing.T) {
	penstockd := startPenstockd(t).HTTP
	for name, p := range proxies {
		t.Run(name, func(t *testing.T) {
			site := p.protect(t, penstockd, append(p.status(t), pagePolicy, "busy/api-per-ip")...)
			client := newClient()
			spend(t, func() answer { return get(t, client, site.url) })
			if got := get(t, client, site.url); got.status != p.ownStatus {
				t.Errorf("%d %q, want %d", got.status, got.body, p.ownStatus)
			}
		})
	}
}

func TestWhatNginxItselfForbidsIsNotTakenForADenial(t *testing.T) {
	client := newClient()
	site := proxies["nginx"].protect(t, startPenstockd(t).HTTP, "auth_request /_penstock;", "deny "+client+"; auth_request /_penstock;")
	if got := get(t, client, site.url); got.status != http.StatusForbidden || strings.Contains(got.body, "problem") {
		t.Errorf("%d %q, want 403 of nginx", got.status, got.body)
	}
}

func TestTheMiddlewareOfKubernetesIsThatOfTheFile(t *testing.T) {
	type middleware struct {
		ForwardAuth map[string]any `json:"forwardAuth"`
	}
	var file struct {
		HTTP struct {
			Middlewares map[string]middleware `json:"middlewares"`
		} `json:"http"`
	}
	var object struct {
		Kind string     `json:"kind"`
		Spec middleware `json:"spec"`
	}
	first, _, _ := strings.Cut(block(t, "traefik.md", "kubernetes"), "---\n")
	if err := errors.Join(yaml.Unmarshal([]byte(block(t, "traefik.md", "config")), &file), yaml.Unmarshal([]byte(first), &object)); err != nil {
		t.Fatal(err)
	}
	want := file.HTTP.Middlewares["rate-limit"].ForwardAuth
	want["address"] = "http://penstockd.penstock-system.svc:8080/auth/" + pagePolicy
	if object.Kind != "Middleware" || !maps.Equal(object.Spec.ForwardAuth, want) {
		t.Errorf("%s %v, want %v", object.Kind, object.Spec.ForwardAuth, want)
	}
}
