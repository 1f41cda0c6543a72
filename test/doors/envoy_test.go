package doors

import (
	"bytes"
	"context"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// rateLimitRequest is what an Envoy sends that is configured for the policies: a descriptor for each tuple of keys that the
// subject has. To where it has none of them, it sends the subject.
func rateLimitRequest(q *question) *ratelimitv3.RateLimitRequest {
	r := &ratelimitv3.RateLimitRequest{Domain: q.domain()}
	var tuples [][]redisops.Entry
	for i := range q.policies {
		entries, found := q.entries(&q.policies[i])
		known := slices.ContainsFunc(tuples, func(t []redisops.Entry) bool { return slices.Equal(t, entries) })
		if found && !known && len(entries) > 0 {
			tuples = append(tuples, entries)
		}
	}
	if len(tuples) == 0 {
		tuples = [][]redisops.Entry{q.subject}
	}
	for _, entries := range tuples {
		d := &ratelimitcommonv3.RateLimitDescriptor{}
		for _, e := range entries {
			d.Entries = append(d.Entries, &ratelimitcommonv3.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
		}
		if q.cost != unsaid {
			d.HitsAddend = wrapperspb.UInt64(uint64(q.cost))
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	return r
}

func askRLS(t *testing.T, w *world, q *question) told {
	answer, err := ratelimitv3.NewRateLimitServiceClient(w.grpc).ShouldRateLimit(t.Context(), rateLimitRequest(q))
	if err != nil {
		return failed(err)
	}
	if bytes.Contains(answer.GetRawBody(), []byte(`"status":400`)) { // an error would let the request pass
		return told{refused: answer.GetOverallCode() == ratelimitv3.RateLimitResponse_OVER_LIMIT}
	}
	got := ofRateLimit(answer)
	got.header = http.Header{}
	for _, h := range answer.GetResponseHeadersToAdd() {
		got.header.Add(h.GetKey(), h.GetValue())
	}
	if !got.allowed {
		got.body = answer.GetRawBody()
	}
	got.retry = retryAfter(got.header)
	return got
}

func askJSON(t *testing.T, w *world, q *question) told {
	body, err := protojson.Marshal(rateLimitRequest(q))
	if err != nil {
		t.Fatal(err)
	}
	response := w.send(t, http.MethodPost, "/json", "application/json", body)
	if response.status == http.StatusBadRequest {
		return told{refused: true}
	}
	var answer ratelimitv3.RateLimitResponse
	if err := protojson.Unmarshal(response.body, &answer); err != nil {
		t.Fatalf("%d %q: %v", response.status, response.body, err)
	}
	got := ofRateLimit(&answer)
	if code := map[bool]int{true: http.StatusOK, false: http.StatusTooManyRequests}[got.allowed]; response.status != code {
		t.Errorf("status %d, want %d", response.status, code)
	}
	got.header, got.retry = response.header, retryAfter(response.header)
	return got
}

// ofRateLimit gives what the statuses of descriptors tell.
func ofRateLimit(answer *ratelimitv3.RateLimitResponse) told {
	got := told{allowed: answer.GetOverallCode() == ratelimitv3.RateLimitResponse_OK, known: true, most: math.MaxUint32, rates: true}
	for _, s := range answer.GetStatuses() {
		_, name, _ := strings.Cut(s.GetCurrentLimit().GetName(), "/")
		switch {
		case s.GetCurrentLimit() != nil:
			got.figures = append(got.figures, figure{name, int64(s.GetCurrentLimit().GetRequestsPerUnit()), int64(s.GetLimitRemaining())})
		case s.GetDurationUntilReset() != nil: // unlimited, so without a name
			got.figures = append(got.figures, figure{"api", -1, int64(s.GetLimitRemaining())})
		}
		if s.GetCode() == ratelimitv3.RateLimitResponse_OVER_LIMIT {
			got.violated = append(got.violated, name)
		}
	}
	return got
}

// failed gives what an error of gRPC tells.
func failed(err error) told {
	if status.Code(err) == codes.InvalidArgument {
		return told{refused: true}
	}
	return told{failure: err.Error()}
}

// retryAfter is what a header says; 0 when it says nothing.
func retryAfter(header http.Header) time.Duration {
	seconds, _ := strconv.Atoi(header.Get("Retry-After")) // compare looks at it
	return time.Duration(seconds) * time.Second
}

// reply is an answer over HTTP.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send sends a body to penstockd.
func (w *world) send(t *testing.T, method, path, contentType string, body []byte) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.process.HTTP+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	return w.do(t, r)
}

func (w *world) do(t *testing.T, r *http.Request) reply {
	t.Helper()
	response, err := w.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, body}
}

func askExtAuthzPolicy(t *testing.T, w *world, q *question) told {
	return askExtAuthz(t.Context(), w, q, map[string]string{"penstock-policy": q.policy()})
}

func askExtAuthzDomain(t *testing.T, w *world, q *question) told {
	return askExtAuthz(t.Context(), w, q, map[string]string{"penstock-domain": q.domain()})
}

func askExtAuthzMetadata(t *testing.T, w *world, q *question) told {
	return askExtAuthz(metadata.AppendToOutgoingContext(t.Context(), "x-penstock-domain", q.domain()), w, q, nil)
}

// askExtAuthz asks as Envoy's filter does.
func askExtAuthz(ctx context.Context, w *world, q *question, extensions map[string]string) told {
	address := q.attribute("remote_address")
	if address == "" {
		address = "192.0.2.200"
	}
	request := &authv3.AttributeContext_HttpRequest{
		Method: q.attribute("method"), Host: q.attribute("host"), Path: target(q), Headers: map[string]string{},
	}
	q.headers(func(name, value string) { request.Headers[name] = value })
	answer, err := authv3.NewAuthorizationClient(w.grpc).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: address},
		}}},
		Request: &authv3.AttributeContext_Request{Http: request}, ContextExtensions: extensions,
	}})
	if err != nil {
		return told{failure: err.Error()}
	}
	return ofExtAuthz(answer)
}

func ofExtAuthz(answer *authv3.CheckResponse) told {
	got := told{header: http.Header{}, timed: true}
	options := answer.GetOkResponse().GetResponseHeadersToAdd()
	switch codes.Code(answer.GetStatus().GetCode()) {
	case codes.OK:
		got.allowed = true
	case codes.InvalidArgument:
		if answer.GetDeniedResponse().GetStatus().GetCode() == http.StatusBadRequest {
			return told{refused: true}
		}
		fallthrough
	default:
		denied := answer.GetDeniedResponse()
		options, got.status, got.body = denied.GetHeaders(), int(denied.GetStatus().GetCode()), []byte(denied.GetBody())
	}
	for _, o := range options {
		got.header.Add(o.GetHeader().GetKey(), o.GetHeader().GetValue())
	}
	for _, detail := range answer.GetStatus().GetDetails() {
		message, err := detail.UnmarshalNew()
		if err != nil {
			return told{failure: err.Error()}
		}
		switch m := message.(type) {
		case *errdetails.RetryInfo:
			got.retry = m.GetRetryDelay().AsDuration()
		case *errdetails.QuotaFailure:
			for _, v := range m.GetViolations() {
				_, name, _ := strings.Cut(v.GetSubject(), "/")
				got.violated = append(got.violated, name)
			}
		}
	}
	return got
}

// target is what a client writes into the first line of its request: the path, as it has to be encoded, and a query.
func target(q *question) string {
	path := q.attribute("path")
	if path == "" {
		path = "/"
	}
	return (&url.URL{Path: path}).EscapedPath() + "?page=1"
}
