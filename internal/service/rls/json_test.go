package rls

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// post sends a body to the JSON door.
func post(t *testing.T, door *Server, body io.Reader) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	// As curl sends it that is told nothing else.
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, JSONPath, body)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	door.JSON().ServeHTTP(w, r)
	return w
}

const ofBob = `{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "bob"}]}]}`

func TestJSONIsAnsweredAsEnvoyRatelimitDoes(t *testing.T) {
	for name, test := range map[string]struct {
		row        limit.Row
		wantStatus int
		want       string
		wantRetry  string
	}{
		"OK": {
			limit.Row{Allowed: true, Limit: 100, Remaining: 57, Reset: 1500 * time.Millisecond, LimitName: "default"}, http.StatusOK,
			`{"overallCode":"OK","statuses":[{"code":"OK","currentLimit":{"name":"shop/user","requestsPerUnit":100,"unit":"MINUTE"},"limitRemaining":57,"durationUntilReset":"2s"}],` +
				`"responseHeadersToAdd":[{"key":"ratelimit-policy","value":"\"user\";q=100;w=60"},{"key":"ratelimit","value":"\"user\";r=57;t=2"}]}`, "",
		},
		"OVER_LIMIT": {
			limit.Row{Limit: 100, Reset: time.Minute, RetryAfter: time.Second, LimitName: "default"}, http.StatusTooManyRequests,
			`{"overallCode":"OVER_LIMIT","statuses":[{"code":"OVER_LIMIT","currentLimit":{"name":"shop/user","requestsPerUnit":100,"unit":"MINUTE"},"durationUntilReset":"60s"}],` +
				`"responseHeadersToAdd":[{"key":"ratelimit-policy","value":"\"user\";q=100;w=60"},{"key":"ratelimit","value":"\"user\";r=0;t=1"},{"key":"retry-after","value":"1"}]}`, "1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": test.row}}
			w := post(t, New(engineOf(t, st, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody()}), strings.NewReader(ofBob))
			if w.Code != test.wantStatus || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			// ProtoJSON has spaces where it likes.
			if got := strings.ReplaceAll(strings.ReplaceAll(w.Body.String(), ", ", ","), `": `, `":`); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if got := w.Header().Get("RateLimit-Policy"); got != `"user";q=100;w=60` || w.Header().Get("Retry-After") != test.wantRetry {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
}

func TestJSONThatIsNoDecisionHasAStatusThatSaysWhy(t *testing.T) {
	refusing := &store{err: refused("NOPERM this user has no permissions")}
	everybody := Options{Callers: callers.Everybody()}
	for name, test := range map[string]struct {
		door *Server
		body string
		want int
		text string
	}{
		"no JSON":               {nil, `secret`, http.StatusBadRequest, "line 1:1: not the JSON of a envoy.service.ratelimit.v3.RateLimitRequest\n"},
		"an unknown field":      {nil, `{"secret":1}`, http.StatusBadRequest, "line 1:2: unknown field; the fields of RateLimitRequest are domain, descriptors, hitsAddend\n"},
		"no domain":             {nil, `{"descriptors":[{}]}`, http.StatusBadRequest, "domain: 0 bytes, want 1 to 256\n"},
		"no descriptors":        {nil, `{"domain":"shop"}`, http.StatusBadRequest, "descriptors: 0, want 1 to 16\n"},
		"64 KiB and a byte":     {nil, ofBob + strings.Repeat(" ", 64<<10+1-len(ofBob)), http.StatusRequestEntityTooLarge, "the body is larger than 64 KiB\n"},
		"a long value":          {nil, strings.Replace(ofBob, "bob", strings.Repeat("x", 257), 1), http.StatusBadRequest, "the value of user: 257 bytes, want at most 256\n"},
		"one that is not used":  {nil, strings.NewReplacer("bob", strings.Repeat("x", 257), "user", "path").Replace(ofBob), http.StatusOK, ""},
		"64 KiB":                {nil, ofBob + strings.Repeat(" ", 64<<10-len(ofBob)), http.StatusOK, ""},
		"a forbidden domain":    {New(engineOf(t, &store{}), Options{Callers: nobody{}}), ofBob, http.StatusForbidden, forbiddenDomain + "\n"},
		"no policy set":         {New(engineOf(t, &store{}), everybody), ofBob, http.StatusInternalServerError, engine.ErrNoSet.Error() + "\n"},
		"redis refuses us":      {New(engineOf(t, refusing, policyOf("user", "user", perMinute)), everybody), ofBob, http.StatusInternalServerError, engine.ErrConfiguration.Error() + "\n"},
		"a strict door":         {New(engineOf(t, &store{}, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody(), Strict: true}), strings.Replace(ofBob, "shop", "elsewhere", 1), http.StatusBadRequest, "domain: no policy answers for it; check the spelling, and spec.domain of the RateLimits\n"},
		"a domain of no policy": {nil, strings.Replace(ofBob, "shop", "elsewhere", 1), http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			door := test.door
			if door == nil {
				st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 100, LimitName: "default"}}}
				door = New(engineOf(t, st, policyOf("user", "user", perMinute)), everybody)
			}
			w := post(t, door, strings.NewReader(test.body))
			if w.Code != test.want || test.text != "" && w.Body.String() != test.text {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, test.want, test.text)
			}
		})
	}
}

// broken is a body that ends before it should.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("secret") }

func TestJSONThatCannotBeReadIsABadRequest(t *testing.T) {
	w := post(t, New(engineOf(t, &store{}), Options{Callers: callers.Everybody()}), broken{})
	if w.Code != http.StatusBadRequest || w.Body.String() != "the body cannot be read\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestJSONIsPosted(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		w := httptest.NewRecorder()
		New(engineOf(t, &store{}), Options{Callers: callers.Everybody()}).JSON().
			ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, JSONPath, strings.NewReader(ofBob)))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
			t.Errorf("%s: %d %v", method, w.Code, w.Header())
		}
	}
}

// Both forms of the door say the same, but for the body that only Envoy can pass on.
func TestJSONAndGRPCAnswerAlike(t *testing.T) {
	st := &store{rows: map[string]limit.Row{
		"shop/user": {Allowed: true, Limit: 100, Remaining: 1, Reset: time.Minute, LimitName: "default"},
		"shop/path": {Limit: 10, RetryAfter: time.Minute, LimitName: "default", Reason: limit.ReasonLimit},
	}}
	eng := engine.New(engine.Options{Limiter: st, NoDenyCache: true})
	eng.Use(policy.NewSet([]policy.RateLimit{policyOf("user", "user", perMinute), policyOf("path", "path", perMinute)}))
	door := New(eng, Options{Callers: callers.Everybody()})
	r := request(descriptor("user", "bob"), descriptor("path", "/"), descriptor("nobody", "cares"))
	byGRPC, err := dialDoor(t, door).ShouldRateLimit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := protojson.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var byJSON ratelimitv3.RateLimitResponse
	if err := protojson.Unmarshal(post(t, door, strings.NewReader(string(body))).Body.Bytes(), &byJSON); err != nil {
		t.Fatal(err)
	}
	byGRPC.RawBody = nil
	last := len(byGRPC.GetResponseHeadersToAdd()) - 1
	if byGRPC.GetResponseHeadersToAdd()[last].GetKey() != "content-type" {
		t.Fatalf("headers %v", byGRPC.GetResponseHeadersToAdd())
	}
	byGRPC.ResponseHeadersToAdd = byGRPC.GetResponseHeadersToAdd()[:last]
	if got, want := protojson.Format(&byJSON), protojson.Format(byGRPC); got != want {
		t.Errorf("by JSON\n%s\nby gRPC\n%s", got, want)
	}
}
