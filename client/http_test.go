package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/forwardauth"
)

// Each policy is exhausted by its own subject at each door, and the answers have to be the same but for the time left.
func TestTheMiddlewareTellsWhatTheForwardAuthDoorTells(t *testing.T) {
	redis := startRedis(t)
	eng := startEngine(t, redis.Addr)
	penstockd := httptest.NewServer(doorOf(eng))
	defer penstockd.Close()
	door := forwardauth.New(eng, forwardauth.Options{Callers: callers.Everybody()})
	ours := map[string]string{"remote": "192.0.2.1", "direct": "192.0.2.2"}
	for name, limiter := range map[string]Limiter{"remote": newRemote(t, penstockd.URL, Options{}), "direct": newDirect(t, redis.Addr)} {
		for _, policy := range []string{"shop/two", "shop/many", "shop/own-words", "shop/balance"} {
			t.Run(name+" "+policy, func(t *testing.T) {
				handler := &ok{}
				behind := Middleware(limiter, policy)(handler)
				served := 0
				for range 4 {
					asked := get(door, from(ours[name]+"1"), func(r *http.Request) { r.URL.Path = "/auth/" + policy })
					got := get(behind, from(ours[name]+"2"))
					if want := text(asked); text(got) != want {
						t.Errorf("told\n%s\nwant\n%s", text(got), want)
					}
					if asked.Code == http.StatusOK {
						served++
					}
				}
				if handler.served != served {
					t.Errorf("%d requests reached the handler, want %d", handler.served, served)
				}
			})
		}
	}
}

// text is an answer. How long a window has still to go may differ by the second in which it was asked.
func text(w *httptest.ResponseRecorder) string {
	var headers []string
	for name, values := range w.Header() {
		if name == "Content-Length" { // net/http adds it for small answers
			continue
		}
		for _, v := range values {
			headers = append(headers, name+": "+v)
		}
	}
	slices.Sort(headers)
	return strings.NewReplacer("59", "60", "58", "60").Replace(fmt.Sprintf("%d\n%s\n%s", w.Code, strings.Join(headers, "\n"), w.Body))
}

func TestHeadersAreSetBeforeTheHandlerRuns(t *testing.T) {
	f := &fake{verdict: admitted}
	f.verdict.HTTP = &HTTPAnswer{Status: 200, Header: http.Header{"Ratelimit": {`"two";r=1;t=60`}}}
	var seen string
	get(Middleware(f, "shop/two")(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { seen = w.Header().Get("RateLimit") })))
	if seen != `"two";r=1;t=60` {
		t.Errorf("the handler saw %q", seen)
	}
}

func TestTheAttributesOfARequest(t *testing.T) {
	f := &fake{verdict: admitted}
	handler := Middleware(f, "shop/two",
		WithHeaders("X-API-Key", "x-none", "Host"),
		WithTrustedProxies(netip.MustParsePrefix("10.0.0.1/8"), netip.Prefix{}),
		WithSubject(func(r *http.Request) map[string]string { return map[string]string{"user": "u-" + r.Method} }),
		WithCost(func(*http.Request) int64 { return 7 }),
		WithID(func(r *http.Request) string { return r.Header.Get("Idempotency-Key") }),
	)(&ok{})
	get(handler, from("10.1.2.3"), func(r *http.Request) {
		r.Host, r.Method, r.URL.Path, r.URL.RawQuery = "Shop.Example:8080", http.MethodPut, "/v1/orders", "secret=1"
		r.Header = http.Header{
			"X-Forwarded-For": {"203.0.113.9, 192.0.2.7, 10.9.9.9"}, "X-Api-Key": {"a", "b"}, "X-Team": {"blue"}, "Idempotency-Key": {"order-1"},
		}
	})
	got := f.requests[0]
	want := map[string]string{
		"remote_address": "192.0.2.7", "method": "PUT", "path": "/v1/orders", "host": "shop.example", "header.x-api-key": "a,b",
		"header.host": "shop.example", "user": "u-PUT",
	}
	if len(got.Subject) != len(want) || got.Policy != "shop/two" || got.Cost != 7 || got.ID != "order-1" || !got.HTTP {
		t.Errorf("asked %+v", got)
	}
	for key, value := range want {
		if got.Subject[key] != value {
			t.Errorf("%s is %q, want %q", key, got.Subject[key], value)
		}
	}
	for key, value := range map[string]string{"header.x-team": "blue", "header.x-none": "", "header.X-Team": "", "x-team": "", "header.host": "shop.example"} {
		for range 2 {
			if text, found := got.Lookup(key); text != value || found != (value != "") {
				t.Errorf("looked up %s: %q, %t", key, text, found)
			}
		}
	}
}

func TestAnUntrustedPeerIsNotBelieved(t *testing.T) {
	for name, test := range map[string]struct{ peer, want string }{
		"IPv4":         {"192.0.2.1:4711", "192.0.2.1"},
		"IPv6":         {"[2001:db8::1]:4711", "2001:db8::1"},
		"IPv4 in IPv6": {"[::ffff:192.0.2.1]:4711", "192.0.2.1"},
		"Unix socket":  {"@", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: admitted}
			get(Middleware(f, "shop/two")(&ok{}), func(r *http.Request) {
				r.RemoteAddr = test.peer
				r.Header.Set("X-Forwarded-For", "203.0.113.9")
			})
			if got := f.requests[0].Subject["remote_address"]; got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestAHeaderThatIsNotListedIsFoundByADirect(t *testing.T) {
	limiter := newDirect(t, startRedis(t).Addr)
	handler := Middleware(limiter, "shop/by-key")(&ok{})
	key := func(r *http.Request) { r.Header.Set("X-Api-Key", "k") }
	if first, second := get(handler, key), get(handler, key); first.Code != http.StatusOK || second.Code != http.StatusTooManyRequests {
		t.Errorf("%d and %d, want 200 and 429", first.Code, second.Code)
	}
}

func TestAConditionSeesTheRequest(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			handler := Middleware(limiter, "shop/posts")(&ok{})
			post := func(r *http.Request) {
				r.Method = http.MethodPost
				r.RemoteAddr = "192.0.2.1:1"
				r.Header.Set("X-Form", name)
			}
			if name == "remote" { // the budget is one
				post = func(r *http.Request) { r.Method = http.MethodPost; r.RemoteAddr = "192.0.2.2:1" }
			}
			for i, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
				if got := get(handler, post); got.Code != want {
					t.Errorf("POST %d: %d, want %d", i, got.Code, want)
				}
				if got := get(handler); got.Code != http.StatusOK {
					t.Errorf("GET %d: %d, want 200", i, got.Code)
				}
			}
		})
	}
}

func TestAValueThatIsTooLongToCountByIsTheClientsError(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			log, handler := &lines{}, &ok{}
			long := func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("secret", 100) }
			w := get(Middleware(limiter, "shop/by-path", WithLogger(log.logger()))(handler), long)
			if w.Code != http.StatusBadRequest || handler.served != 0 || !strings.Contains(w.Body.String(), "path") || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if log.String() != "" {
				t.Errorf("logged what a client can bring about at will:\n%s", log)
			}
			if w := get(Middleware(limiter, "shop/many")(handler), long); w.Code != http.StatusOK {
				t.Errorf("where the policy does not look at it: %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestWhatIsNoOutageDoesNotPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, handler := &lines{}, &ok{}
		f := &fake{err: fmt.Errorf("%w: check it", ErrUnknownPolicy)}
		limited := Middleware(f, "shop/none", WithLogger(log.logger()))(handler)
		for range 3 {
			if w := get(limited); w.Code != http.StatusInternalServerError || w.Header().Get("Content-Type") != "application/problem+json" || strings.Contains(w.Body.String(), "check it") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
		if handler.served != 0 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "check it") {
			t.Errorf("%d served; log:\n%s", handler.served, log)
		}
		f.answer(admitted, nil)
		time.Sleep(engine.TransitionHold)
		if get(limited); handler.served != 1 || strings.Count(log.String(), "\n") != 2 {
			t.Errorf("%d served; log:\n%s", handler.served, log)
		}

		f.answer(Verdict{}, ErrForbidden)
		own := Middleware(f, "shop/none", WithLogger(log.logger()), WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, ErrForbidden) {
				w.WriteHeader(http.StatusTeapot)
			}
		}))(handler)
		if w := get(own); w.Code != http.StatusTeapot {
			t.Errorf("the own handler: %d", w.Code)
		}
	})
}

func TestADenialCanBeAnsweredInOnesOwnWords(t *testing.T) {
	f := &fake{verdict: refused}
	f.verdict.HTTP = &HTTPAnswer{Status: 429, Header: http.Header{"Retry-After": {"2"}, "Content-Type": {"application/problem+json"}}, Body: []byte("{}")}
	w := get(Middleware(f, "shop/two", WithDenied(func(w http.ResponseWriter, _ *http.Request, v Verdict) {
		http.Error(w, "later: "+v.Policy, v.HTTP.Status)
	}))(&ok{}))
	if w.Code != 429 || w.Header().Get("Retry-After") != "2" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") || w.Body.String() != "later: shop/two\n" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	f = &fake{verdict: refused} // of a limiter that tells nothing
	if w := get(Middleware(f, "shop/two")(&ok{})); w.Code != 429 || w.Header().Get("Retry-After") != "2" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

func TestWhatFailedIsGivenBackOnce(t *testing.T) {
	failed := func(status int) bool { return status >= 500 }
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		verdict Verdict
		want    int
	}{
		"served":             {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, admitted, 0},
		"nothing written":    {func(http.ResponseWriter, *http.Request) {}, admitted, 0},
		"not found":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, admitted, 0},
		"failed":             {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, admitted, 1},
		"a hint first":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(500) }, admitted, 1},
		"a status too late":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nil); w.WriteHeader(500) }, admitted, 0},
		"failed once sent":   {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); w.WriteHeader(500) }, admitted, 0},
		"panicked":           {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, admitted, 1},
		"nothing was spent":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, Verdict{Allowed: true, Mode: Unmatched}, 0},
		"denied in between":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, refused, 0},
		"perhaps was spent":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, Verdict{Allowed: true, Mode: Degraded}, 1},
		"its client is gone": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done(); w.WriteHeader(500) }, admitted, 1},
		"changed the header": {func(w http.ResponseWriter, r *http.Request) { r.Header.Del("X-Api-Key"); w.WriteHeader(500) }, admitted, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: test.verdict}
			func() {
				defer func() { _ = recover() }()
				get(Middleware(f, "shop/two", WithRefund(failed))(test.handler), func(r *http.Request) {
					ctx, cancel := context.WithCancel(r.Context())
					if name == "its client is gone" {
						cancel()
					}
					t.Cleanup(cancel)
					r.Header.Set("X-Api-Key", "k")
					*r = *r.WithContext(ctx)
				})
			}()
			if len(f.refunds) != test.want {
				t.Fatalf("%d refunds, want %d", len(f.refunds), test.want)
			}
			if test.want == 0 {
				return
			}
			got, charged := f.refunds[0], f.requests[0]
			key, _ := got.Lookup("header.x-api-key")
			if got.ID == "" || got.ID != charged.ID || got.Cost != 0 || key != "k" || f.done[0] != nil {
				t.Errorf("refunded %+v (key %q, context %v), charged %+v", got, key, f.done[0], charged)
			}
		})
	}
}

func TestARefundReachesRedis(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			handler := Middleware(limiter, "shop/two", WithRefund(func(status int) bool { return status >= 500 }))(
				http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
			for range 5 {
				if w := get(handler, from("192.0.2.66")); w.Code != 500 {
					t.Errorf("%d, want all to reach the handler", w.Code)
				}
			}
		})
	}
}

// What is given back has the subject that was charged, of which a policy may count by no value that is so long.
func TestARequestWithALongPathIsGivenBack(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			handler := Middleware(limiter, "shop/two", WithRefund(func(status int) bool { return status >= 500 }))(
				http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
			for range 5 {
				w := get(handler, from("192.0.2.67"), func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("x", 300) })
				if w.Code != 500 {
					t.Errorf("%d, want all to reach the handler", w.Code)
				}
			}
		})
	}
}

func TestAFileThatIsCopiedIsNoFailure(t *testing.T) {
	f := &fake{verdict: admitted}
	server := httptest.NewServer(Middleware(f, "shop/two", WithRefund(func(status int) bool { return status >= 500 }))(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("ok"))
			w.WriteHeader(500) // too late
		})))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != 200 || len(f.refunds) != 0 {
		t.Errorf("%d, %d refunds", response.StatusCode, len(f.refunds))
	}
}

func TestATargetWithoutPathHasTheRoot(t *testing.T) {
	for target, want := range map[string]string{"": "/", "*": "/*", "/a": "/a"} {
		f := &fake{verdict: admitted}
		get(Middleware(f, "shop/two")(&ok{}), func(r *http.Request) { r.URL.Path = target })
		if got := f.requests[0].Subject["path"]; got != want {
			t.Errorf("%q has the path %q, want %q", target, got, want)
		}
	}
}

func TestProxiesThatAreNamedOneByOneAreAllTrusted(t *testing.T) {
	f := &fake{verdict: admitted}
	get(Middleware(f, "shop/two", WithTrustedProxies(netip.MustParsePrefix("192.0.2.0/24")), WithTrustedProxies(netip.MustParsePrefix("10.0.0.0/8")))(&ok{}),
		func(r *http.Request) { r.Header.Set("X-Forwarded-For", "203.0.113.9, 10.1.2.3") })
	if got := f.requests[0].Subject["remote_address"]; got != "203.0.113.9" {
		t.Errorf("%q, want the address behind both", got)
	}
}

func TestAHandlerKeepsWhatItsResponseWriterCan(t *testing.T) {
	f := &fake{verdict: admitted}
	server := httptest.NewServer(Middleware(f, "shop/two", WithRefund(func(int) bool { return false }))(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, flushes := w.(http.Flusher)
			_, hijacks := w.(http.Hijacker)
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil || !flushes || !hijacks {
				http.Error(w, fmt.Sprint(flushes, hijacks, err), 500)
			}
		})))
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != 200 {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

func FuzzMiddleware(f *testing.F) {
	f.Add("GET", "/a", "shop.example", "x-api-key", "k", "192.0.2.1:1", int32(429), "Retry-After", "1", true)
	f.Add("\r\n", "/\x00%", "[::1", "host", "\xff\r\nSet-Cookie: a", "@", int32(-1), "Bad\nName", "a\r\nb: c", false)
	f.Add("POST", "*", "", "", "", "", int32(99), ":authority", "\x7f", false)
	f.Fuzz(func(t *testing.T, method, path, host, name, value, peer string, status int32, header, text string, allow bool) {
		remote := &fake{verdict: Verdict{Allowed: allow, Mode: Enforced}}
		remote.verdict.HTTP = httpAnswerOf(toldBy(status, header, text), &remote.verdict, true)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL.Path, r.Host, r.RemoteAddr = method, path, host, peer
		r.Header[http.CanonicalHeaderKey(name)] = []string{value, value}
		r.Header["X-Forwarded-For"] = []string{value, peer}
		w := httptest.NewRecorder()
		Middleware(remote, "shop/two", WithHeaders(name), WithTrustedProxies(netip.MustParsePrefix("192.0.2.0/24")))(&ok{}).ServeHTTP(w, r)
		if (w.Code == http.StatusOK) != allow || w.Code > 599 {
			t.Errorf("status %d, allowed %t", w.Code, allow)
		}
		for name, values := range w.Header() {
			for _, v := range values {
				if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
					t.Errorf("header %q: %q", name, v)
				}
			}
		}
		for _, key := range []string{"header." + name, name, "header.x-forwarded-for"} {
			remote.requests[0].Lookup(key)
		}
		inUTF8(remote.requests[0].Subject)
	})
}
