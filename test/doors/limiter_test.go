package doors

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/penstock-dev/penstock/client"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// attributes are the subject of a question as a map.
func (q *question) attributes() map[string]string {
	attributes := map[string]string{}
	for _, e := range q.subject {
		attributes[e.Key] = e.Value
	}
	return attributes
}

func checkRequest(q *question) *penstockv1.CheckRequest {
	namespace, name, _ := strings.Cut(q.policy(), "/")
	r := &penstockv1.CheckRequest{Namespace: namespace, Policy: name, Subject: q.attributes(), Http: true}
	if q.cost != unsaid {
		r.Cost = &q.cost
	}
	return r
}

// askAPIJSON asks as curl does, by JSON that nobody generated.
func askAPIJSON(t *testing.T, w *world, q *question) told {
	namespace, name, _ := strings.Cut(q.policy(), "/")
	request := map[string]any{"namespace": namespace, "policy": name, "subject": q.attributes(), "http": true}
	if q.cost != unsaid {
		request["cost"] = strconv.FormatInt(q.cost, 10)
	}
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	response := w.send(t, http.MethodPost, penstockv1connect.LimiterServiceCheckProcedure, "application/json", body)
	if response.status != http.StatusOK {
		var failure struct{ Code string }
		if err := json.Unmarshal(response.body, &failure); err != nil {
			t.Fatalf("%d %s: %v", response.status, response.body, err)
		}
		if failure.Code == connect.CodeInvalidArgument.String() {
			return told{refused: true}
		}
		return told{failure: string(response.body)}
	}
	var answer penstockv1.CheckResponse
	if err := protojson.Unmarshal(response.body, &answer); err != nil {
		t.Fatalf("%s: %v", response.body, err)
	}
	return ofCheck(&answer, nil)
}

func askAPIConnect(t *testing.T, w *world, q *question) told { return askConnect(t, w, q) }

func askAPIGRPCWeb(t *testing.T, w *world, q *question) told {
	return askConnect(t, w, q, connect.WithGRPCWeb())
}

func askConnect(t *testing.T, w *world, q *question, options ...connect.ClientOption) told {
	service := penstockv1connect.NewLimiterServiceClient(w.http, "http://"+w.process.HTTP, options...)
	return ofCheck(service.Check(t.Context(), checkRequest(q)))
}

// askAPIGRPC asks by the library of gRPC itself.
func askAPIGRPC(t *testing.T, w *world, q *question) told {
	var answer penstockv1.CheckResponse
	if err := w.onHTTP.Invoke(t.Context(), penstockv1connect.LimiterServiceCheckProcedure, checkRequest(q), &answer); err != nil {
		return failed(err)
	}
	return ofCheck(&answer, nil)
}

func ofCheck(answer *penstockv1.CheckResponse, err error) told {
	switch {
	case connect.CodeOf(err) == connect.CodeInvalidArgument:
		return told{refused: true}
	case err != nil:
		return told{failure: err.Error()}
	}
	got := told{
		allowed: answer.GetAllowed(), known: true, timed: true, retry: answer.GetRetryAfter().AsDuration(),
		mode:   strings.ToLower(strings.TrimPrefix(answer.GetMode().String(), "MODE_")),
		status: int(answer.GetHttp().GetStatus()), header: http.Header{},
	}
	if reason := strings.ToLower(strings.TrimPrefix(answer.GetReason().String(), "REASON_")); reason != "unspecified" {
		got.reason = reason
	}
	if answer.Limit != nil {
		got.figures = []figure{{reported(answer.GetPolicy(), answer.GetLimitName()), answer.GetLimit(), answer.GetRemaining()}}
	}
	for _, h := range answer.GetHttp().GetHeaders() {
		got.header.Add(h.GetName(), h.GetValue())
	}
	if !got.allowed {
		got.body = answer.GetHttp().GetBody()
	}
	return got
}

// reported is the name that a limit has in headers, and its own behind it also where the policy has only one.
func reported(policy, limit string) string {
	_, name, _ := strings.Cut(policy, "/")
	if limit != "" {
		name += "/" + limit
	}
	return name
}

func askRemote(t *testing.T, w *world, q *question) told { return askLimiter(t, w.remote, q) }

func askDirect(t *testing.T, w *world, q *question) told { return askLimiter(t, w.direct, q) }

func askLimiter(t *testing.T, limiter client.Limiter, q *question) told {
	v, err := limiter.Check(t.Context(), client.Request{Policy: q.policy(), Subject: q.attributes(), Cost: max(q.cost, 0), HTTP: true})
	switch {
	case errors.Is(err, client.ErrValueTooLong):
		return told{refused: true}
	case err != nil:
		return told{failure: err.Error()}
	}
	got := told{
		allowed: v.Allowed, known: true, timed: true, retry: v.RetryAfter, mode: string(v.Mode), reason: string(v.Reason),
		status: v.HTTP.Status, header: v.HTTP.Header,
	}
	if v.Known {
		got.figures = []figure{{reported(v.Policy, v.LimitName), v.Limit, v.Remaining}}
	}
	if !v.Allowed {
		got.body = v.HTTP.Body
	}
	return got
}

func askMiddlewareRemote(t *testing.T, w *world, q *question) told {
	return askMiddleware(t, w.remote, q)
}

func askMiddlewareDirect(t *testing.T, w *world, q *question) told {
	return askMiddleware(t, w.direct, q)
}

// askMiddleware is the request of a client to a program with a limit in front, behind a proxy.
func askMiddleware(t *testing.T, limiter client.Limiter, q *question) told {
	method := q.attribute("method")
	if method == "" {
		method = http.MethodGet
	}
	r := httptest.NewRequestWithContext(t.Context(), method, target(q), http.NoBody)
	r.RemoteAddr = "127.0.0.1:40000"
	if host := q.attribute("host"); host != "" {
		r.Host = host
	}
	if address := q.attribute("remote_address"); address != "" {
		r.Header.Set("X-Forwarded-For", address)
	}
	var names []string
	q.headers(func(name, value string) {
		r.Header.Set(name, value)
		names = append(names, name)
	})
	options := []client.HTTPOption{
		client.WithHeaders(names...), client.WithTrustedProxies(netip.MustParsePrefix("127.0.0.1/32")),
		client.WithCost(func(*http.Request) int64 { return max(q.cost, 0) }),
	}
	passed := false
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true })
	recorder := httptest.NewRecorder()
	client.Middleware(limiter, q.policy(), options...)(next).ServeHTTP(recorder, r)
	got := ofAuth(reply{recorder.Code, recorder.Header(), slices.Clone(recorder.Body.Bytes())})
	if got.allowed != passed {
		t.Errorf("status %d, and the handler was asked: %t", recorder.Code, passed)
	}
	return got
}

// milliseconds is a duration in a reply of Redis.
func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
