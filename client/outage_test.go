package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// slow is a transport on which nothing comes back.
type slow struct{}

func (slow) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// wire is a transport to a penstockd that answers by the verdicts of shop/denies and shop/allows, and that can be away.
type wire struct {
	away  atomic.Bool
	hangs atomic.Bool
	sent  atomic.Int64
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.sent.Add(1)
	switch {
	case w.hangs.Load():
		return slow{}.RoundTrip(r)
	case w.away.Load():
		return nil, errors.New("connection reset by peer")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var asked penstockv1.CheckRequest
	if err := proto.Unmarshal(body, &asked); err != nil {
		return nil, err
	}
	answer := &penstockv1.CheckResponse{Allowed: true, Mode: penstockv1.Mode_MODE_ENFORCED, OnStoreFailure: penstockv1.FailureMode_FAILURE_MODE_ALLOW}
	if asked.GetPolicy() == "denies" {
		answer.OnStoreFailure = penstockv1.FailureMode_FAILURE_MODE_DENY
	}
	text, err := proto.Marshal(answer)
	if err != nil {
		return nil, err
	}
	recorder := httptest.NewRecorder()
	recorder.Header().Set("Content-Type", "application/proto")
	_, _ = recorder.Write(text)
	return recorder.Result(), nil
}

func (w *wire) check(t *testing.T, r *Remote, name string) Verdict {
	t.Helper()
	v, err := r.Check(t.Context(), Request{Policy: "shop/" + name, HTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhilePenstockdIsAwayEachPolicyAnswersAsItSaidBefore(t *testing.T) {
	for name, unseen := range map[FailureMode]bool{Allow: true, Deny: false} {
		t.Run(string(name), func(t *testing.T) {
			w, log := &wire{}, &lines{}
			r := newRemote(t, "http://penstockd", Options{Transport: w, OnFailure: name, Logger: log.logger()})
			w.check(t, r, "denies")
			w.check(t, r, "allows")
			w.away.Store(true)
			for policy, want := range map[string]bool{"denies": false, "allows": true, "unseen": unseen} {
				v := w.check(t, r, policy)
				if v.Allowed != want || v.Mode != Degraded || v.Degraded != CauseService || v.Known || v.HTTP.Header.Get(degradedHeader) != "service" {
					t.Errorf("%s: %+v, want allowed %t", policy, v, want)
				}
				wantStatus, wantRetry := http.StatusOK, time.Duration(0)
				if !want {
					wantStatus, wantRetry = http.StatusTooManyRequests, time.Second
				}
				if v.HTTP.Status != wantStatus || v.RetryAfter != wantRetry || (v.HTTP.Header.Get("Retry-After") == "1") == want || (len(v.HTTP.Body) > 0) == want {
					t.Errorf("%s: tells %+v", policy, v.HTTP)
				}
			}
			if n := strings.Count(log.String(), "cannot be asked"); n != 1 {
				t.Errorf("%d lines, want 1:\n%s", n, log)
			}
			w.away.Store(false)
			if v := w.check(t, r, "denies"); !v.Allowed || v.Mode != Enforced {
				t.Errorf("when it is back: %+v", v)
			}
		})
	}
}

func TestADeadPenstockdDoesNotCostEveryRequestTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, log := &wire{}, &lines{}
		w.hangs.Store(true)
		r := newRemote(t, "http://penstockd", Options{Transport: w, Timeout: DefaultTimeout, Logger: log.logger()})
		begin := time.Now()
		for range 100 {
			if v := w.check(t, r, "allows"); v.Degraded != CauseService {
				t.Fatalf("%+v", v)
			}
		}
		if waited := time.Since(begin); waited != mostFailures*DefaultTimeout || w.sent.Load() != mostFailures {
			t.Errorf("waited %s for %d calls, want %s for %d", waited, w.sent.Load(), mostFailures*DefaultTimeout, mostFailures)
		}

		// After a while one request at a time finds out, and the others do not wait for it.
		time.Sleep(probePause + 1)
		probe := make(chan struct{})
		go func() { defer close(probe); w.check(t, r, "allows") }()
		synctest.Wait()
		begin = time.Now()
		w.check(t, r, "allows")
		if waited := time.Since(begin); waited != 0 || w.sent.Load() != mostFailures+1 {
			t.Errorf("waited %s beside the probe, after %d calls", waited, w.sent.Load())
		}
		<-probe

		w.hangs.Store(false)
		time.Sleep(engine.TransitionHold)
		if v := w.check(t, r, "allows"); v.Mode != Enforced {
			t.Errorf("when it is back: %+v", v)
		}
		if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "penstockd answers again") {
			t.Errorf("want one line for each transition:\n%s", text)
		}
	})
}

func TestACallerInAHurrySaysNothingAboutPenstockd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, log := &wire{}, &lines{}
		w.hangs.Store(true)
		r := newRemote(t, "http://penstockd", Options{Transport: w, Timeout: DefaultTimeout, OnFailure: Deny, Logger: log.logger()})
		for range 2 * mostFailures {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if v, err := r.Check(ctx, Request{Policy: "shop/allows"}); err != nil || v.Allowed || v.Mode != Degraded {
				t.Errorf("%+v, %v, want it answered by OnFailure", v, err)
			}
			cancel()
			gone, leave := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, leave)
			if _, err := r.Check(gone, Request{Policy: "shop/allows"}); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want %v", err, context.Canceled)
			}
		}
		if w.sent.Load() != 4*mostFailures || log.String() != "" {
			t.Errorf("%d calls were sent, want all; log:\n%s", w.sent.Load(), log)
		}
	})
}

// respond is a transport that answers with that status, kind and body.
type respond struct {
	status     int
	kind, body string
}

func (a respond) RoundTrip(*http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	recorder.Header().Set("Content-Type", a.kind)
	recorder.WriteHeader(a.status)
	_, _ = recorder.WriteString(a.body)
	return recorder.Result(), nil
}

func TestOnlyAnOutageIsAnsweredByThePolicy(t *testing.T) {
	coded := func(code string) string { return `{"code":"` + code + `","message":"why"}` }
	for name, test := range map[string]struct {
		status     int
		kind, body string
		want       error // nil: answered by the policy
	}{
		"no credentials":           {401, "text/plain", "no credentials", ErrUnauthenticated},
		"a caller without rights":  {403, "text/plain", "nothing is granted", ErrForbidden},
		"of another namespace":     {403, "application/json", coded("permission_denied"), ErrForbidden},
		"an unknown policy":        {404, "application/json", coded("not_found"), ErrUnknownPolicy},
		"a wrong operation":        {400, "application/json", coded("failed_precondition"), ErrWrongOperation},
		"a request of 70 KB":       {429, "application/json", coded("resource_exhausted"), ErrValueTooLong},
		"something inside":         {500, "application/json", coded("internal"), errOther},
		"another service":          {404, "text/html", "<h1>Not Found</h1>", errOther},
		"keys that are not loaded": {503, "text/plain", "try again", nil},
		"a proxy without upstream": {502, "text/html", "<h1>Bad Gateway</h1>", nil},
		"no policies yet":          {503, "application/json", coded("unavailable"), nil},
		"too late":                 {504, "application/json", coded("deadline_exceeded"), nil},
		"an answer cut short":      {200, "application/proto", "\x12", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemote(t, "http://penstockd", Options{Transport: respond{test.status, test.kind, test.body}, Logger: (&lines{}).logger()})
			v, err := r.Check(t.Context(), Request{Policy: "shop/two"})
			switch {
			case test.want == nil:
				if err != nil || v.Degraded != CauseService {
					t.Errorf("%+v, %v, want it answered by the policy", v, err)
				}
			case err == nil, !errors.Is(test.want, errOther) && !errors.Is(err, test.want):
				t.Errorf("%+v, %v, want %v", v, err, test.want)
			}
		})
	}
}

var errOther = errors.New("any error")

// None of these ends by itself, so none may be answered as an outage is, which by default allows.
func TestAMistakeIsNoOutage(t *testing.T) {
	ca, other := tlstest.NewCA(t), tlstest.NewCA(t)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.TLS = &tls.Config{ //nolint:gosec // by TLS 1.3 the refusal may come when the connection is already given up
		Certificates: []tls.Certificate{ca.Issue(t, "127.0.0.1").Certificate(t)},
		ClientCAs:    ca.Pool(), ClientAuth: tls.VerifyClientCertIfGiven,
		MaxVersion: tls.VersionTLS12,
	}
	secure.StartTLS()
	defer secure.Close()
	as := func(pair tlstest.Pair) *tls.Config {
		certificate := pair.Certificate(t)
		return &tls.Config{RootCAs: ca.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &certificate, nil
		}}
	}
	moved := httptest.NewServer(http.RedirectHandler("https://127.0.0.1:1/", http.StatusMovedPermanently))
	defer moved.Close()
	for name, test := range map[string]struct {
		url  string
		opts Options
		want error
	}{
		"a token with a line break":      {moved.URL, Options{Token: Token("hunter2\n")}, ErrUnauthenticated},
		"a redirection":                  {moved.URL, Options{}, errRedirected},
		"a certificate of another CA":    {secure.URL, Options{TLS: as(other.Issue(t, "me"))}, ErrUnauthenticated},
		"a certificate that has expired": {secure.URL, Options{TLS: as(ca.IssueUntil(t, time.Now().Add(-time.Minute), "me"))}, ErrUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemote(t, test.url, test.opts)
			for range 2 * mostFailures {
				if v, err := r.Check(t.Context(), of("shop/two", "a")); !errors.Is(err, test.want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%+v, %v, want %v", v, err, test.want)
				}
			}
		})
	}
}

func TestARequestThatPenstockdWouldNotTakeIsNotSent(t *testing.T) {
	w := &wire{}
	w.away.Store(true)
	r := newRemote(t, "http://penstockd", Options{Transport: w, Logger: (&lines{}).logger()})
	for size, want := range map[int]int{100: http.StatusOK, 70_000: http.StatusBadRequest, 900_000: http.StatusBadRequest} {
		answer := get(Middleware(r, "shop/many")(&ok{}), func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("x", size) })
		if answer.Code != want {
			t.Errorf("a path of %d bytes: %d, want %d", size, answer.Code, want)
		}
	}
	if w.sent.Load() != 1 {
		t.Errorf("%d were sent, want 1", w.sent.Load())
	}
}

// The first answer leaves a connection open, on which net/http repeats what it takes for safe to repeat.
func TestAReplyThatIsLostIsChargedOnce(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			door := doorOf(startEngine(t, startRedis(t).Addr))
			var loses atomic.Bool
			var asked atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if loses.Load() {
					door.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				}
				door.ServeHTTP(w, r)
			}))
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(true)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			r := newRemote(t, server.URL, Options{HTTP2: http2, Logger: (&lines{}).logger()})
			request := of("shop/many", "a")
			check := func() Verdict {
				v, err := r.Check(t.Context(), request)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			check()
			loses.Store(true)
			if v := check(); v.Degraded != CauseService {
				t.Errorf("lost: %+v", v)
			}
			loses.Store(false)
			if v := check(); v.Remaining != 997 || asked.Load() != 3 {
				t.Errorf("%d left after %d calls, want 997 after 3", v.Remaining, asked.Load())
			}
		})
	}
}

func TestARefundThatGotNoAnswerMayHaveBeenMade(t *testing.T) {
	away := &wire{}
	away.away.Store(true)
	for name, test := range map[string]struct {
		transport http.RoundTripper
		want      error
	}{
		"reset on the way": {away, ErrUnknownOutcome},
		"no connection":    {nil, ErrUnavailable},
		"no answer":        {slow{}, ErrUnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRemote(t, "http://127.0.0.1:1", Options{Transport: test.transport, Timeout: 200 * time.Millisecond, Logger: (&lines{}).logger()})
			if _, err := r.Refund(t.Context(), of("shop/two", "a")); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestRestartsLoseNoBudget(t *testing.T) {
	redis := startRedis(t)
	door := doorOf(startEngine(t, redis.Addr))
	var away atomic.Bool
	penstockd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			panic(http.ErrAbortHandler) // closes the connection
		}
		door.ServeHTTP(w, r)
	}))
	defer penstockd.Close()
	r := newRemote(t, penstockd.URL, Options{Logger: (&lines{}).logger()})
	request := of("shop/two", "192.0.2.9")
	want := func(allowed bool, mode Mode) {
		t.Helper()
		if v, err := r.Check(t.Context(), request); err != nil || v.Allowed != allowed || v.Mode != mode {
			t.Errorf("%+v, %v, want allowed %t, %s", v, err, allowed, mode)
		}
	}
	want(true, Enforced)
	away.Store(true)
	want(false, Degraded) // as the policy said
	away.Store(false)
	want(true, Enforced)
	want(false, Enforced)
}

func TestTheTokenIsSentAndReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	now := time.Unix(1_700_000_000, 0)
	source := tokenFile(file, func() time.Time { return now })
	if _, err := source(t.Context()); err == nil {
		t.Error("a file that is not there gave a token")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	if token, err := source(t.Context()); token != "one" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	var sent string
	penstockd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get(tokenHeader)
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer penstockd.Close()
	r := newRemote(t, penstockd.URL, Options{Token: source, Logger: (&lines{}).logger()})
	for _, step := range []struct {
		write string
		later time.Duration
		want  string
	}{
		{"two", tokenAge - 1, "one"},
		{"two", 1, "two"},
		{" ", tokenAge, "two"},
		{"three", tokenAge, "three"},
	} {
		write(step.write)
		now = now.Add(step.later)
		_, _ = r.Check(t.Context(), Request{Policy: "shop/two"})
		if sent != "Bearer "+step.want {
			t.Errorf("sent %q, want the token %q", sent, step.want)
		}
	}
	unreadable := newRemote(t, penstockd.URL, Options{Token: TokenFile(file + "-none")})
	if _, err := unreadable.Check(t.Context(), Request{Policy: "shop/two"}); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("%v, want %v", err, ErrUnauthenticated)
	}
	if token, err := Token("four")(t.Context()); token != "four" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
}

func TestEveryModeAndReasonOfPenstockdHasAName(t *testing.T) {
	for number, name := range penstockv1.Mode_name {
		want := Mode(strings.ToLower(strings.TrimPrefix(name, "MODE_")))
		if number == 0 {
			want = ""
		}
		if got := modes[penstockv1.Mode(number)]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for number, name := range penstockv1.Reason_name {
		want := Reason(strings.ToLower(strings.TrimPrefix(name, "REASON_")))
		if number == 0 || number == int32(penstockv1.Reason_REASON_ABSENT) {
			want = "" // of calls without a verdict
		}
		if got := reasons[penstockv1.Reason(number)]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, reason := range []string{limit.ReasonOK, limit.ReasonLimit, limit.ReasonPenalty, limit.ReasonBlocked, limit.ReasonShadow} {
		v := ofEngine(&engine.Verdict{Reason: reason, Policy: &policy.RateLimit{}}, false)
		found := false
		for _, known := range reasons {
			found = found || known == v.Reason
		}
		if !found {
			t.Errorf("the engine's reason %q has no name here", reason)
		}
	}
}

func TestWhatIsNoHeaderAndNoStatusOfADenialIsLeftOut(t *testing.T) {
	told := &penstockv1.HTTPAnswer{Status: 99999, Headers: []*penstockv1.HTTPHeader{
		{Name: "Retry-After", Value: "1"}, {Name: "Bad Name", Value: "1"}, {Name: "Bad", Value: "a\r\nSet-Cookie: b"}, {Name: "", Value: "1"},
	}}
	got := httpAnswerOf(told, &refused, true)
	if got.Status != http.StatusTooManyRequests || len(got.Header) != 1 || got.Header.Get("Retry-After") != "1" {
		t.Errorf("%+v", got)
	}
	if got := httpAnswerOf(told, &admitted, true); got.Status != http.StatusOK {
		t.Errorf("allowed with status %d", got.Status)
	}
	if got := httpAnswerOf(nil, &refused, true); got.Status != http.StatusTooManyRequests || got.Header.Get("Retry-After") != "2" {
		t.Errorf("of an older penstockd: %+v", got)
	}
	if got := httpAnswerOf(told, &refused, false); got != nil {
		t.Errorf("unasked: %+v", got)
	}
}

func TestAnHTTP2PenstockdIsSpokenToByHTTP2(t *testing.T) {
	for name, test := range map[string]struct {
		tls, http2 bool
		want       int
	}{"http": {false, false, 1}, "http with HTTP2": {false, true, 2}, "https": {true, false, 2}} {
		t.Run(name, func(t *testing.T) {
			var major int
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				major = r.ProtoMajor
				_ = connect.NewErrorWriter().Write(w, r, connect.NewError(connect.CodeNotFound, errors.New("none")))
			}))
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(true)
			server.Config.Protocols.SetHTTP2(true)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			opts := Options{HTTP2: test.http2}
			if test.tls {
				server.EnableHTTP2 = true
				server.StartTLS()
				opts.TLS = server.Client().Transport.(*http.Transport).TLSClientConfig
			} else {
				server.Start()
			}
			defer server.Close()
			r := newRemote(t, server.URL, opts)
			if _, err := r.Check(t.Context(), Request{Policy: "shop/two"}); !errors.Is(err, ErrUnknownPolicy) || major != test.want {
				t.Errorf("%v by HTTP/%d, want HTTP/%d", err, major, test.want)
			}
		})
	}
}
