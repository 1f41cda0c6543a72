package extauthz

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
)

// limiter answers every charge of a policy with the row told for it.
type limiter struct {
	engine.Limiter // the rest is not asked for

	rows  map[string]limit.Row
	err   error
	asked []limit.Charge
}

func (s *limiter) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	if s.err != nil {
		return nil, s.err
	}
	var rows []limit.Row
	for _, c := range charges {
		c.Values = slices.Clone(c.Values)
		s.asked = append(s.asked, c)
		rows = append(rows, s.rows[c.Policy.Name])
	}
	return rows, nil
}

func (s *limiter) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

// values are those of the one charge that was asked for.
func (s *limiter) values(t *testing.T) []string {
	t.Helper()
	if len(s.asked) != 1 {
		t.Fatalf("%d charges, want one", len(s.asked))
	}
	return s.asked[0].Values
}

var perMinute = policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}

// policyOf counts by those attributes, in the domain shop.
func policyOf(name string, keys ...string) policy.RateLimit {
	r := policy.RateLimit{Name: "shop/" + name, Domain: "shop", OnStoreFailure: policy.FailureAllow, Limits: []policy.Limit{perMinute}}
	for _, key := range keys {
		r.Descriptors = append(r.Descriptors, policy.Descriptor{Key: key})
	}
	return r
}

var (
	has42Left = limit.Row{Allowed: true, Limit: 100, Remaining: 42, Reset: 1001 * time.Millisecond, LimitName: "default", Reason: limit.ReasonOK}
	isSpent   = limit.Row{Limit: 100, Reset: time.Minute, RetryAfter: 1500 * time.Millisecond, LimitName: "default", Reason: limit.ReasonLimit}
	wouldDeny = limit.Row{Allowed: true, Limit: 100, Reset: time.Minute, LimitName: "default", Reason: limit.ReasonShadow}
)

func engineOf(t testing.TB, limiter engine.Limiter, policies ...policy.RateLimit) *engine.Engine {
	t.Helper()
	eng := engine.New(engine.Options{Limiter: limiter})
	if policies == nil {
		return eng
	}
	for i := range policies {
		policies[i] = policies[i].Sealed()
	}
	set := policy.NewSet(policies)
	if err := set.Validate(); err != nil {
		t.Fatal(err)
	}
	eng.Use(set)
	return eng
}

// dial serves the door over a real gRPC connection.
func dial(t testing.TB, eng Engine, options Options) authv3.AuthorizationClient {
	t.Helper()
	if options.Callers == nil {
		options.Callers = callers.Everybody()
	}
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, New(eng, options))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///door", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

// request is one of a browser to a path of the shop, with those context extensions: name, value, name, value…
func request(extensions ...string) *authv3.CheckRequest {
	r := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: peer("192.0.2.7"),
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Host: "shop.example", Path: "/things?x=1", Protocol: "HTTP/1.1",
			Headers: map[string]string{":method": "GET", ":authority": "shop.example", ":path": "/things?x=1", "user-agent": "curl"},
		}},
		ContextExtensions: map[string]string{},
	}}
	for i := 0; i < len(extensions); i += 2 {
		r.Attributes.ContextExtensions[extensions[i]] = extensions[i+1]
	}
	return r
}

func peer(address string) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
		SocketAddress: &corev3.SocketAddress{Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711}},
	}}}
}

func withHeader(r *authv3.CheckRequest, name, value string) *authv3.CheckRequest {
	r.GetAttributes().GetRequest().GetHttp().GetHeaders()[name] = value
	return r
}

// wantText compares a response with its prototext.
func wantText(t *testing.T, got *authv3.CheckResponse, text string) {
	t.Helper()
	want := &authv3.CheckResponse{}
	if err := prototext.Unmarshal([]byte(text), want); err != nil {
		t.Fatalf("the text of the test: %v", err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("answered\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}

func TestAnswersToTheLetter(t *testing.T) {
	ownWords := policyOf("words", "path")
	ownWords.Response = &policy.Response{
		Status: 503, Headers: []string{policy.HeaderLegacy}, Type: "https://shop.example/limits", Title: "Slow down", Detail: "See our terms.",
	}
	closed := policyOf("closed", "path")
	closed.OnStoreFailure = policy.FailureDeny
	shadow := policyOf("shadow", "path")
	shadow.ShadowPercent = 100
	silent := policyOf("silent", "path")
	silent.Response = &policy.Response{Headers: []string{}}
	elsewhere := func(name string) policy.RateLimit {
		r := policyOf(name, "remote_address")
		r.Domain = "all"
		return r
	}
	policies := []policy.RateLimit{
		policyOf("api", "remote_address"), policyOf("key", "header.x-api-key"), ownWords, closed, shadow, silent,
		elsewhere("one"), elsewhere("two"), elsewhere("three"),
	}
	const allowedWithoutHeaders = `status {} ok_response {}`
	for name, test := range map[string]struct {
		rows    map[string]limit.Row
		err     error
		request *authv3.CheckRequest
		want    string
	}{
		"allowed": {
			rows:    map[string]limit.Row{"shop/api": has42Left},
			request: request("penstock-policy", "shop/api"),
			want: `
status {}
ok_response {
  response_headers_to_add { header { key: "ratelimit-policy" value: "\"api\";q=100;w=60" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  response_headers_to_add { header { key: "ratelimit" value: "\"api\";r=42;t=2" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
}`,
		},
		"denied": {
			rows:    map[string]limit.Row{"shop/api": isSpent},
			request: request("penstock-policy", "shop/api"),
			want: `
status {
  code: 8
  message: "rate limit shop/api is exhausted; retry after 2 s"
  details { [type.googleapis.com/google.rpc.QuotaFailure] { violations { subject: "shop/api" description: "the rate limit denied the request" } } }
  details { [type.googleapis.com/google.rpc.RetryInfo] { retry_delay { seconds: 1 nanos: 500000000 } } }
}
denied_response {
  status { code: TooManyRequests }
  headers { header { key: "ratelimit-policy" value: "\"api\";q=100;w=60" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "ratelimit" value: "\"api\";r=0;t=2" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "retry-after" value: "2" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "content-type" value: "application/problem+json" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: '{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,'
        '"detail":"rate limit shop/api is exhausted; retry after 2 s","policy":"shop/api","violated-policies":["api"],"retryAfter":2}\n'
}`,
		},
		"denied to a gRPC client": {
			rows:    map[string]limit.Row{"shop/api": isSpent},
			request: withHeader(request("penstock-policy", "shop/api"), "content-type", "application/grpc+proto"),
			want: `
status {
  code: 8
  message: "rate limit shop/api is exhausted; retry after 2 s"
  details { [type.googleapis.com/google.rpc.QuotaFailure] { violations { subject: "shop/api" description: "the rate limit denied the request" } } }
  details { [type.googleapis.com/google.rpc.RetryInfo] { retry_delay { seconds: 1 nanos: 500000000 } } }
}
denied_response {
  status { code: TooManyRequests }
  headers { header { key: "ratelimit-policy" value: "\"api\";q=100;w=60" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "ratelimit" value: "\"api\";r=0;t=2" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "retry-after" value: "2" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "grpc-status" value: "8" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "grpc-status-details-bin" value: "BASE64" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: "rate limit shop/api is exhausted; retry after 2 s"
}`,
		},
		"denied in the policy's own words": {
			rows:    map[string]limit.Row{"shop/words": isSpent},
			request: request("penstock-policy", "shop/words"),
			want: `
status {
  code: 8
  message: "See our terms."
  details { [type.googleapis.com/google.rpc.QuotaFailure] { violations { subject: "shop/words" description: "the rate limit denied the request" } } }
  details { [type.googleapis.com/google.rpc.RetryInfo] { retry_delay { seconds: 1 nanos: 500000000 } } }
}
denied_response {
  status { code: ServiceUnavailable }
  headers { header { key: "x-ratelimit-limit" value: "100" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "x-ratelimit-remaining" value: "0" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "x-ratelimit-reset" value: "60" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "content-type" value: "application/problem+json" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: '{"type":"https://shop.example/limits","title":"Slow down","status":503,"detail":"See our terms.","policy":"shop/words",'
        '"violated-policies":["words"],"retryAfter":2}\n'
}`,
		},
		"denied by several of a domain": {
			rows: map[string]limit.Row{
				"shop/one": isSpent, "shop/two": has42Left,
				"shop/three": {Limit: 100, Reset: time.Hour, RetryAfter: time.Hour, LimitName: "default", Reason: limit.ReasonLimit},
			},
			request: request("penstock-domain", "all"),
			want: `
status {
  code: 8
  message: "rate limit shop/three is exhausted; retry after 3600 s"
  details { [type.googleapis.com/google.rpc.QuotaFailure] {
    violations { subject: "shop/one" description: "the rate limit denied the request" }
    violations { subject: "shop/three" description: "the rate limit denied the request" }
  } }
  details { [type.googleapis.com/google.rpc.RetryInfo] { retry_delay { seconds: 3600 } } }
}
denied_response {
  status { code: TooManyRequests }
  headers { header { key: "ratelimit-policy" value: "\"three\";q=100;w=60" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "ratelimit" value: "\"three\";r=0;t=3600" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "retry-after" value: "3600" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "content-type" value: "application/problem+json" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: '{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota Exceeded","status":429,'
        '"detail":"rate limit shop/three is exhausted; retry after 3600 s","policy":"shop/three","violated-policies":["one","three"],"retryAfter":3600}\n'
}`,
		},
		"the tightest of several of a domain": {
			rows: map[string]limit.Row{
				"shop/one": has42Left, "shop/two": {Allowed: true, Limit: 100, Remaining: 7, LimitName: "default"}, "shop/three": has42Left,
			},
			request: request("penstock-domain", "all"),
			want: `
status {}
ok_response {
  response_headers_to_add { header { key: "ratelimit-policy" value: "\"two\";q=100;w=60" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  response_headers_to_add { header { key: "ratelimit" value: "\"two\";r=7;t=0" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
}`,
		},
		"degraded and allowed": {
			err:     errors.New("gone"),
			request: request("penstock-policy", "shop/api"),
			want: `
status {}
ok_response {
  response_headers_to_add { header { key: "x-penstock-degraded" value: "store" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
}`,
		},
		"degraded and denied": {
			err:     errors.New("gone"),
			request: request("penstock-policy", "shop/closed"),
			want: `
status {
  code: 8
  message: "rate limit shop/closed cannot be checked now; retry after 1 s"
  details { [type.googleapis.com/google.rpc.QuotaFailure] { violations { subject: "shop/closed" description: "the rate limit denied the request" } } }
  details { [type.googleapis.com/google.rpc.RetryInfo] { retry_delay { seconds: 1 } } }
}
denied_response {
  status { code: TooManyRequests }
  headers { header { key: "x-penstock-degraded" value: "store" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "retry-after" value: "1" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  headers { header { key: "content-type" value: "application/problem+json" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: '{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Temporary Reduced Capacity","status":429,'
        '"detail":"rate limit shop/closed cannot be checked now; retry after 1 s","policy":"shop/closed","violated-policies":["closed"],"retryAfter":1}\n'
}`,
		},
		"an attribute that is not there": {request: request("penstock-policy", "shop/key"), want: allowedWithoutHeaders},
		"a domain that nobody knows":     {request: request("penstock-domain", "nobody's"), want: allowedWithoutHeaders},
		"shadow":                         {rows: map[string]limit.Row{"shop/shadow": wouldDeny}, request: request("penstock-policy", "shop/shadow"), want: allowedWithoutHeaders},
		"unlimited":                      {rows: map[string]limit.Row{"shop/api": {Allowed: true, Limit: -1}}, request: request("penstock-policy", "shop/api"), want: allowedWithoutHeaders},
		"no headers asked for":           {rows: map[string]limit.Row{"shop/silent": has42Left}, request: request("penstock-policy", "shop/silent"), want: allowedWithoutHeaders},
		"a value that cannot be limited": {
			request: withHeader(request("penstock-policy", "shop/key"), "x-api-key", strings.Repeat("k", 257)),
			want: `
status { code: 3 message: "attribute header.x-api-key: 257 bytes, want at most 256" }
denied_response {
  status { code: BadRequest }
  headers { header { key: "content-type" value: "application/problem+json" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: '{"title":"Bad Request","status":400,"detail":"attribute header.x-api-key: 257 bytes, want at most 256"}\n'
}`,
		},
		"a value that cannot be limited, of a gRPC client": {
			request: withHeader(withHeader(request("penstock-domain", "shop"), "x-api-key", strings.Repeat("k", 257)), "content-type", "application/grpc"),
			want: `
status { code: 3 message: "attribute header.x-api-key: 257 bytes, want at most 256" }
denied_response {
  status { code: BadRequest }
  headers { header { key: "grpc-status" value: "3" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
  body: "attribute header.x-api-key: 257 bytes, want at most 256"
}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, engineOf(t, &limiter{rows: test.rows, err: test.err}, slices.Clone(policies)...), Options{})
			got, err := client.Check(t.Context(), test.request)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range got.GetDeniedResponse().GetHeaders() {
				if h.GetHeader().GetKey() == "grpc-status-details-bin" {
					wantEncoded(t, h.GetHeader().GetValue(), got.GetStatus())
					h.Header.Value = "BASE64"
				}
			}
			wantText(t, got, test.want)
		})
	}
}

// wantEncoded decodes the details of a gRPC status as clients of gRPC do.
func wantEncoded(t *testing.T, encoded string, want *rpcstatus.Status) {
	t.Helper()
	bytes, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	got := &rpcstatus.Status{}
	if err := proto.Unmarshal(bytes, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("details %v, %v; want %v", got, err, want)
	}
}

func TestTheConfigurationOfEnvoySaysWhatApplies(t *testing.T) {
	for name, test := range map[string]struct {
		extensions []string
		metadata   []string
		byDefault  string
		want       string
	}{
		"a policy":                           {[]string{"penstock-policy", "shop/api", "penstock-domain", "a"}, []string{"b"}, "c", "policy shop/api"},
		"a domain":                           {[]string{"penstock-domain", "a"}, []string{"b"}, "c", "domain a"},
		"metadata":                           {nil, []string{"b"}, "c", "domain b"},
		"the default":                        {nil, nil, "c", "domain c"},
		"a route that takes its policy back": {[]string{"penstock-policy", "", "penstock-domain", "a"}, nil, "c", "domain a"},
		"a route that takes its domain back": {[]string{"penstock-domain", ""}, []string{""}, "c", "domain c"},
		"the longest names":                  {[]string{"penstock-policy", strings.Repeat("n", 63) + "/" + strings.Repeat("p", 253)}, nil, "", "policy " + strings.Repeat("n", 63) + "/" + strings.Repeat("p", 253)},
		"the longest domain":                 {[]string{"penstock-domain", strings.Repeat("d", 256)}, nil, "", "domain " + strings.Repeat("d", 256)},
	} {
		t.Run(name, func(t *testing.T) {
			d := &door{verdict: engine.Verdict{Allowed: true}}
			ctx := t.Context()
			for _, value := range test.metadata {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-penstock-domain", value)
			}
			if _, err := dial(t, d, Options{DefaultDomain: test.byDefault}).Check(ctx, request(test.extensions...)); err != nil {
				t.Fatal(err)
			}
			if d.asked != test.want || d.cost != engine.PolicyCost {
				t.Errorf("asked for %s at cost %d, want %s at the policy's", d.asked, d.cost, test.want)
			}
		})
	}
}

// A client could send it, to get out of the policy that the route asks for.
func TestHeadersOfTheRequestDoNotSayWhatApplies(t *testing.T) {
	d := &door{verdict: engine.Verdict{Allowed: true}}
	r := request("penstock-domain", "shop")
	for _, name := range []string{"x-penstock-domain", "penstock-domain", "penstock-policy"} {
		withHeader(r, name, "elsewhere/open")
	}
	if _, err := dial(t, d, Options{}).Check(t.Context(), r); err != nil || d.asked != "domain shop" {
		t.Errorf("asked for %s, %v; want domain shop", d.asked, err)
	}
}

// door answers as it is told, and looks up the attributes of its keys as a policy would.
type door struct {
	verdict engine.Verdict
	err     error
	keys    []string

	asked  string
	cost   int64
	values []string
}

func (d *door) DecidePolicy(_ context.Context, at engine.Door, call engine.Call) (engine.Verdict, error) {
	if at != engine.DoorExtAuthz {
		return engine.Verdict{}, errors.New("at another door")
	}
	d.asked, d.cost = "policy "+call.Policy, call.Cost
	d.look(call.Lookup)
	return d.verdict, d.err
}

func (d *door) DecideAttributes(_ context.Context, at engine.Door, domain string, lookup func(string) (string, bool), cost int64) (engine.Result, error) {
	if at != engine.DoorExtAuthz {
		return engine.Result{}, errors.New("at another door")
	}
	d.asked, d.cost = "domain "+domain, cost
	d.look(lookup)
	return engine.Result{Allowed: d.verdict.Allowed, Verdicts: []engine.Verdict{d.verdict}}, d.err
}

func (d *door) look(lookup func(string) (string, bool)) {
	for _, key := range d.keys {
		if value, found := lookup(key); found {
			d.values = append(d.values, value)
		} else {
			d.values = append(d.values, "(none)")
		}
	}
}

func TestWhatIsWrongWithTheConfigurationIsAnError(t *testing.T) {
	long := strings.Repeat("x", 257)
	slots := policyOf("slots", "remote_address")
	slots.Limits = []policy.Limit{{Name: "default", Algorithm: policy.Concurrency, Requests: 10, SlotTTLMs: 60_000}}
	inForce := []policy.RateLimit{policyOf("api", "remote_address"), slots}
	for name, test := range map[string]struct {
		policies []policy.RateLimit
		err      error
		options  Options
		metadata []string
		request  *authv3.CheckRequest
		wantCode codes.Code
		want     string
	}{
		"nothing named": {
			request: request(), wantCode: codes.InvalidArgument,
			want: "context_extensions: want penstock-policy or penstock-domain, or metadata x-penstock-domain, or a --default-domain of penstockd",
		},
		"no attributes":              {request: &authv3.CheckRequest{}, wantCode: codes.InvalidArgument, want: "attributes: missing; they are what policies are about"},
		"a policy without namespace": {request: request("penstock-policy", "api"), wantCode: codes.InvalidArgument, want: "context_extensions[penstock-policy]: want <namespace>/<name> of a RateLimit, at most 317 bytes"},
		"a policy without name":      {request: request("penstock-policy", "shop/"), wantCode: codes.InvalidArgument, want: "context_extensions[penstock-policy]: want <namespace>/<name> of a RateLimit, at most 317 bytes"},
		"a policy with a path":       {request: request("penstock-policy", "shop/api/v1"), wantCode: codes.InvalidArgument, want: "context_extensions[penstock-policy]: want <namespace>/<name> of a RateLimit, at most 317 bytes"},
		"a long policy":              {request: request("penstock-policy", "shop/"+strings.Repeat("p", 313)), wantCode: codes.InvalidArgument, want: "context_extensions[penstock-policy]: want <namespace>/<name> of a RateLimit, at most 317 bytes"},
		"a long domain":              {request: request("penstock-domain", long), wantCode: codes.InvalidArgument, want: "context_extensions[penstock-domain]: 257 bytes, want at most 256"},
		"a long domain in metadata":  {metadata: []string{long}, request: request(), wantCode: codes.InvalidArgument, want: "metadata x-penstock-domain: 257 bytes, want at most 256"},
		"two domains in metadata":    {metadata: []string{"a", "b"}, request: request(), wantCode: codes.InvalidArgument, want: "metadata x-penstock-domain: 2 values, want one"},
		"a long default":             {options: Options{DefaultDomain: long}, request: request(), wantCode: codes.InvalidArgument, want: "the default domain: 257 bytes, want at most 256"},
		"an unknown policy": {
			request: request("penstock-policy", "shop/none"), wantCode: codes.NotFound,
			want: "context_extensions[penstock-policy]: no RateLimit of that namespace and name is in force; check the name and the RateLimit's Ready condition",
		},
		"an unknown domain where that is strict": {
			options: Options{Strict: true}, request: request("penstock-domain", "none"), wantCode: codes.InvalidArgument,
			want: "domain: no RateLimit in force is of the domain that was asked about",
		},
		"a policy that counts slots": {
			request: request("penstock-policy", "shop/slots"), wantCode: codes.FailedPrecondition,
			want: "the RateLimit counts what is under way, and Envoy does not tell when a request ends; use AcquireSlot and ReleaseSlot of the LimiterService",
		},
		"no policy set":    {policies: []policy.RateLimit{}, request: request("penstock-domain", "shop"), wantCode: codes.Unavailable, want: "no policy set is loaded yet"},
		"redis refuses us": {err: refusal("NOPERM this user has no permissions"), request: request("penstock-policy", "shop/api"), wantCode: codes.Internal, want: "redis refuses the credentials or rights of penstockd; check its user, password and ACL"},
	} {
		t.Run(name, func(t *testing.T) {
			st := &limiter{err: test.err}
			policies := slices.Clone(inForce)
			if test.policies != nil {
				policies = nil
			}
			ctx := t.Context()
			for _, value := range test.metadata {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-penstock-domain", value)
			}
			_, err := dial(t, engineOf(t, st, policies...), test.options).Check(ctx, test.request)
			if status.Code(err) != test.wantCode || status.Convert(err).Message() != test.want {
				t.Errorf("%v, want %v: %s", err, test.wantCode, test.want)
			}
			if len(st.asked) > 0 {
				t.Error("something was charged")
			}
		})
	}
}

type refusal string

func (r refusal) Error() string { return string(r) }
func (refusal) RedisError()     {}

func TestErrorsOfTheInsideAreNotTold(t *testing.T) {
	for name, test := range map[string]struct {
		err      error
		wantCode codes.Code
		want     string
	}{
		"something else":      {errors.New("secret of the inside"), codes.Internal, "deciding failed"},
		"the caller has gone": {fmt.Errorf("asking: %w", context.Canceled), codes.Canceled, "the caller has gone"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, extension := range []string{"penstock-policy", "penstock-domain"} {
				_, err := dial(t, &door{err: test.err}, Options{}).Check(t.Context(), request(extension, "shop/api"))
				if status.Code(err) != test.wantCode || status.Convert(err).Message() != test.want {
					t.Errorf("%s: %v, want %v: %s", extension, err, test.wantCode, test.want)
				}
			}
		})
	}
}

func TestAttributesAreWhatEnvoyTellsOfTheRequest(t *testing.T) {
	proxies, err := origin.ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	type http = authv3.AttributeContext_HttpRequest
	for name, test := range map[string]struct {
		change func(a *authv3.AttributeContext, r *http)
		key    string
		want   string
	}{
		"address":                 {func(*authv3.AttributeContext, *http) {}, "remote_address", "192.0.2.7"},
		"address of IPv6":         {func(a *authv3.AttributeContext, _ *http) { a.Source = peer("2001:DB8::1") }, "remote_address", "2001:db8::1"},
		"address of IPv4 in IPv6": {func(a *authv3.AttributeContext, _ *http) { a.Source = peer("::ffff:192.0.2.7") }, "remote_address", "192.0.2.7"},
		"forwarded by a stranger": {func(_ *authv3.AttributeContext, r *http) { r.Headers["x-forwarded-for"] = "203.0.113.1" }, "remote_address", "192.0.2.7"},
		"forwarded by trusted proxies": {func(a *authv3.AttributeContext, r *http) {
			a.Source = peer("10.0.0.1")
			r.Headers["x-forwarded-for"] = "198.51.100.1, 203.0.113.1,10.0.0.2"
		}, "remote_address", "203.0.113.1"},
		"forwarded in several raw lines": {func(a *authv3.AttributeContext, r *http) {
			a.Source = peer("10.0.0.1")
			r.HeaderMap = raw("x-forwarded-for", "198.51.100.1", "x-forwarded-for", "203.0.113.1")
		}, "remote_address", "203.0.113.1"},
		"forwarded by nobody":  {func(a *authv3.AttributeContext, _ *http) { a.Source = peer("10.0.0.1") }, "remote_address", "10.0.0.1"},
		"a socket of the host": {func(a *authv3.AttributeContext, _ *http) { a.Source = pipe("/run/envoy.sock") }, "remote_address", ""},
		"a socket of the host, forwarded": {func(a *authv3.AttributeContext, r *http) {
			a.Source = pipe("@")
			r.Headers["x-forwarded-for"] = "203.0.113.1"
		}, "remote_address", ""},
		"no source":                        {func(a *authv3.AttributeContext, _ *http) { a.Source = nil }, "remote_address", ""},
		"an address that is none":          {func(a *authv3.AttributeContext, _ *http) { a.Source = peer("client.example") }, "remote_address", ""},
		"the address of a connection":      {func(a *authv3.AttributeContext, _ *http) { a.Request = nil }, "remote_address", "192.0.2.7"},
		"a connection has no method":       {func(a *authv3.AttributeContext, _ *http) { a.Request = nil }, "method", "(none)"},
		"a connection has no host":         {func(a *authv3.AttributeContext, _ *http) { a.Request = nil }, "host", "(none)"},
		"a connection has no headers":      {func(a *authv3.AttributeContext, _ *http) { a.Request = nil }, "header.user-agent", "(none)"},
		"method":                           {func(_ *authv3.AttributeContext, r *http) { r.Method = "PURGE" }, "method", "PURGE"},
		"path without query":               {func(_ *authv3.AttributeContext, r *http) { r.Path = "/a/b?c=/d" }, "path", "/a/b"},
		"path unescaped":                   {func(_ *authv3.AttributeContext, r *http) { r.Path = "/%6Cogin?x=%41" }, "path", "/login"},
		"path with an escape that is none": {func(_ *authv3.AttributeContext, r *http) { r.Path = "/%6Cogin%zz%4" }, "path", "/login%zz%4"},
		"no path":                          {func(_ *authv3.AttributeContext, r *http) { r.Path = "" }, "path", "/"},
		"host":                             {func(_ *authv3.AttributeContext, r *http) { r.Host = "Shop.Example:8443" }, "host", "shop.example"},
		"host of IPv6":                     {func(_ *authv3.AttributeContext, r *http) { r.Host = "[2001:db8::1]:443" }, "host", "2001:db8::1"},
		"host as header":                   {func(_ *authv3.AttributeContext, r *http) { r.Host = "shop.example:80" }, "header.host", "shop.example"},
		"a header":                         {func(_ *authv3.AttributeContext, r *http) { r.Headers["x-api-key"] = "k1" }, "header.x-api-key", "k1"},
		"a header that is not there":       {func(*authv3.AttributeContext, *http) {}, "header.x-api-key", "(none)"},
		"an empty header":                  {func(_ *authv3.AttributeContext, r *http) { r.Headers["x-api-key"] = "" }, "header.x-api-key", ""},
		"a header's name in upper case":    {func(_ *authv3.AttributeContext, r *http) { r.Headers["x-team"] = "a" }, "header.X-Team", "(none)"},
		"a pseudo header":                  {func(*authv3.AttributeContext, *http) {}, "header.:path", "(none)"},
		"a raw header":                     {func(_ *authv3.AttributeContext, r *http) { r.HeaderMap = raw("x-team", "a") }, "header.x-team", "a"},
		"a raw header that is no UTF-8":    {func(_ *authv3.AttributeContext, r *http) { r.HeaderMap = raw("x-team", "a\xff\x00b") }, "header.x-team", "a\xff\x00b"},
		"an empty raw header":              {func(_ *authv3.AttributeContext, r *http) { r.HeaderMap = raw("x-team", "") }, "header.x-team", ""},
		"raw headers of one name": {func(_ *authv3.AttributeContext, r *http) {
			r.HeaderMap = raw("x-team", "a", "accept", "*/*", "x-team", "b", "x-team", "c")
		}, "header.x-team", "a,b,c"},
		"a raw header that is not there": {func(_ *authv3.AttributeContext, r *http) { r.HeaderMap = raw("x-team", "a") }, "header.user-agent", "(none)"},
		"a raw pseudo header":            {func(_ *authv3.AttributeContext, r *http) { r.HeaderMap = raw(":path", "/") }, "header.:path", "(none)"},
		"a header map that is not raw": {func(_ *authv3.AttributeContext, r *http) {
			r.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-team", Value: "a"}}}
		}, "header.x-team", "a"},
		"an attribute that HTTP has not":    {func(*authv3.AttributeContext, *http) {}, "namespace", "(none)"},
		"who it is for is not an attribute": {func(a *authv3.AttributeContext, _ *http) { a.Source.Principal = "spiffe://a" }, "principal", "(none)"},
		"nor is what Envoy adds":            {func(*authv3.AttributeContext, *http) {}, "penstock-policy", "(none)"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &door{keys: []string{test.key, test.key}, verdict: engine.Verdict{Allowed: true}}
			r := request("penstock-policy", "shop/api")
			test.change(r.GetAttributes(), r.GetAttributes().GetRequest().GetHttp())
			if _, err := dial(t, d, Options{Proxies: proxies}).Check(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if d.values[0] != test.want || d.values[1] != test.want {
				t.Errorf("%s is %q, want %q", test.key, d.values, test.want)
			}
		})
	}
}

// raw are headers as encode_raw_headers has them: name, value, name, value…
func raw(pairs ...string) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return m
}

func pipe(path string) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}}
}

func TestBytesThatAreNoTextAreCountedAsTheyAre(t *testing.T) {
	st := &limiter{rows: map[string]limit.Row{"shop/key": has42Left}}
	client := dial(t, engineOf(t, st, policyOf("key", "header.x-api-key")), Options{})
	var keys []string
	for _, value := range []string{"a\xff", "a\xfe", "a!"} {
		st.asked = nil
		r := request("penstock-domain", "shop")
		r.Attributes.Request.Http.Headers, r.Attributes.Request.Http.HeaderMap = nil, raw("x-api-key", value)
		if _, err := client.Check(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got := st.values(t); !slices.Equal(got, []string{value}) {
			t.Errorf("counted by %q, want %q", got, value)
		}
		keys = append(keys, st.asked[0].Key)
	}
	if keys[0] == keys[1] || keys[1] == keys[2] || keys[0] == keys[2] {
		t.Errorf("keys %q, want one for each", keys)
	}
}

// Conditions look up in loops, and nobody shall make them slow by a header that is long or there many times.
func TestWhatIsLookedUpAgainIsNotMadeAgain(t *testing.T) {
	var many []string
	for range 100_000 {
		many = append(many, "accept", "a")
	}
	proxies, err := origin.ParseProxies([]string{"192.0.2.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	r := request()
	http := r.Attributes.Request.Http
	http.Host, http.Path = strings.Repeat("A", 60_000)+":8443", "/"+strings.Repeat("%41", 20_000)
	http.HeaderMap = raw(append(many, "x-forwarded-for", strings.Repeat("203.0.113.1,", 5000)+"203.0.113.1", "user-agent", "curl")...)
	asked := &attributes{context: r.GetAttributes(), proxies: &proxies}
	for key, want := range map[string]string{
		"header.accept":     strings.TrimSuffix(strings.Repeat("a,", 100_000), ","),
		"header.user-agent": "curl",
		"host":              strings.Repeat("a", 60_000),
		"path":              "/" + strings.Repeat("A", 20_000),
		"remote_address":    "203.0.113.1",
	} {
		t.Run(key, func(t *testing.T) {
			if got, found := asked.lookup(key); !found || got != want {
				t.Fatalf("%d bytes, %v; want %d", len(got), found, len(want))
			}
			if got := testing.AllocsPerRun(100, func() { asked.lookup(key) }); got != 0 {
				t.Errorf("%v allocations to look it up again, want none", got)
			}
			if got, _ := asked.lookup(key); got != want {
				t.Errorf("%d bytes, want the same as before", len(got))
			}
		})
	}
}

func TestGRPCIsToldApartAsEnvoyDoes(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc+": true,
		"": false, "application/json": false, "application/grpc-web": false, "application/grpc; charset=utf-8": false, "Application/grpc": false,
	} {
		r := withHeader(request(), "content-type", kind)
		if got := (&attributes{context: r.GetAttributes()}).isGRPC(); got != want {
			t.Errorf("%q: %v, want %v", kind, got, want)
		}
	}
}

func TestNothingOfARequestComesBackInAnAnswer(t *testing.T) {
	const evil = "evil\r\nset-cookie: a=b"
	everything := func(extension, value string) *authv3.CheckRequest {
		r := request(extension, value)
		http := r.Attributes.Request.Http
		http.Method, http.Host, http.Path = evil, evil, "/"+evil
		http.HeaderMap = raw("x-api-key", evil, "content-type", "application/grpc+"+evil, evil, evil)
		r.Attributes.Source = peer(evil)
		r.Attributes.ContextExtensions[evil] = evil
		return r
	}
	tooLong := everything("penstock-policy", "shop/key")
	tooLong.Attributes.Request.Http.HeaderMap = raw("x-api-key", strings.Repeat(evil, 20))
	for name, r := range map[string]*authv3.CheckRequest{
		"denied":            everything("penstock-policy", "shop/key"),
		"too long":          tooLong,
		"an unknown policy": everything("penstock-policy", evil+"/"+evil),
		"no policy at all":  everything("penstock-policy", evil),
		"an unknown domain": everything("penstock-domain", evil),
	} {
		t.Run(name, func(t *testing.T) {
			st := &limiter{rows: map[string]limit.Row{"shop/key": isSpent}}
			got, err := dial(t, engineOf(t, st, policyOf("key", "header.x-api-key")), Options{Strict: true}).Check(t.Context(), r)
			if text := prototext.Format(got) + fmt.Sprint(err); strings.Contains(text, "evil") {
				t.Errorf("the answer repeats the request:\n%s", text)
			}
		})
	}
}

// An answer that could not be sent would be an error, and could let the request pass.
func TestTheNameOfAnAttributeMayBeNoUTF8(t *testing.T) {
	pointing := policyOf("pointing", "remote_address")
	pointing.When = []string{`request.descriptors[request.header["x-points-at"]] == "a"`}
	for _, kind := range []string{"text/html", "application/grpc"} {
		r := request("penstock-policy", "shop/pointing")
		r.Attributes.Request.Http.HeaderMap = raw("x-points-at", "header.x-\xff", "x-\xff", strings.Repeat("a", 257), "content-type", kind)
		// Envoy would refuse the name of such a header, and gRPC sends none: so asked is the door itself.
		door := New(engineOf(t, &limiter{}, pointing), Options{Callers: callers.Everybody()})
		got, err := door.Check(t.Context(), r)
		if err != nil || got.GetDeniedResponse().GetStatus().GetCode() != typev3.StatusCode_BadRequest {
			t.Fatalf("%s: %v, %v; want 400", kind, got, err)
		}
		if _, err := proto.Marshal(got); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// The header must not be what makes the client lose the answer.
func TestDetailsThatAreTooManyForAHeaderAreLeftOut(t *testing.T) {
	var violated []string
	for i := range 100 {
		violated = append(violated, fmt.Sprintf("shop/%0250d", i))
	}
	v := &engine.Verdict{Mode: engine.Enforced, Known: true, RetryAfter: time.Second, Name: violated[0], Policy: &policy.RateLimit{Name: violated[0]}}
	response := denied(v, violated, true)
	var names []string
	for _, h := range response.GetDeniedResponse().GetHeaders() {
		names = append(names, h.GetHeader().GetKey())
	}
	if slices.Contains(names, "grpc-status-details-bin") || !slices.Contains(names, "grpc-status") {
		t.Errorf("headers %q, want grpc-status without its details", names)
	}
	if len(response.GetStatus().GetDetails()) != 2 {
		t.Errorf("%d details for Envoy, want all", len(response.GetStatus().GetDetails()))
	}
}

func TestARequestOfAnySizeIsDecidedOrRefusedByName(t *testing.T) {
	long := strings.Repeat("x", 900_000)
	body := withHeader(request("penstock-domain", "shop"), "x-api-key", "k1")
	body.Attributes.Request.Http.Body = long
	crowd := request("penstock-domain", "shop")
	crowd.Attributes.Request.Http.HeaderMap = raw("x-api-key", "k1")
	for range 50_000 {
		crowd.Attributes.Request.Http.HeaderMap.Headers = append(crowd.Attributes.Request.Http.HeaderMap.Headers, &corev3.HeaderValue{Key: "x-other", RawValue: []byte("1")})
	}
	unknown := withHeader(request("penstock-domain", "shop"), "x-api-key", "k1")
	unknown.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7))
	for name, test := range map[string]struct {
		request *authv3.CheckRequest
		want    typev3.StatusCode
	}{
		"a long body":             {body, 0},
		"50,000 headers":          {crowd, 0},
		"an unknown field":        {unknown, 0},
		"a value of 0.9 MB":       {withHeader(request("penstock-domain", "shop"), "x-api-key", long), typev3.StatusCode_BadRequest},
		"another header's 0.9 MB": {withHeader(withHeader(request("penstock-domain", "shop"), "x-api-key", "k1"), "x-other", long), 0},
	} {
		t.Run(name, func(t *testing.T) {
			st := &limiter{rows: map[string]limit.Row{"shop/key": has42Left}}
			got, err := dial(t, engineOf(t, st, policyOf("key", "header.x-api-key")), Options{}).Check(t.Context(), test.request)
			if err != nil || got.GetDeniedResponse().GetStatus().GetCode() != test.want {
				t.Fatalf("%v, %v; want %v", got, err, test.want)
			}
			if test.want == 0 && !slices.Equal(st.values(t), []string{"k1"}) {
				t.Errorf("counted by %d values, want k1", len(st.asked))
			}
		})
	}
}

func TestMetadataMayNestAndEndlessNestingIsRefused(t *testing.T) {
	st := &limiter{rows: map[string]limit.Row{"shop/key": has42Left}}
	client := dial(t, engineOf(t, st, policyOf("key", "header.x-api-key")), Options{})
	for _, test := range []struct {
		depth int
		want  codes.Code
	}{{100, codes.OK}, {5000, codes.Internal}, {1, codes.OK}} { // Internal is how gRPC calls what cannot be decoded
		deep := &structpb.Value{}
		for range test.depth {
			deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
		}
		r := withHeader(request("penstock-domain", "shop"), "x-api-key", "k1")
		r.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"f": {Fields: map[string]*structpb.Value{"f": deep}}}}
		if got, err := client.Check(t.Context(), r); status.Code(err) != test.want {
			t.Errorf("%d lists in each other: %v, %v; want %v", test.depth, got, err, test.want)
		}
	}
}

// strangers may touch nothing.
type strangers struct{}

func (strangers) Of(context.Context) callers.Caller { return callers.Caller{} }

func TestACallerWithoutRightsIsToldTheSameOfWhatIsThereAndOfWhatIsNot(t *testing.T) {
	for name, test := range map[string]struct {
		policies []policy.RateLimit
		request  *authv3.CheckRequest
		options  Options
	}{
		"a policy":              {[]policy.RateLimit{policyOf("api", "remote_address")}, request("penstock-policy", "shop/api"), Options{}},
		"a policy that is not":  {[]policy.RateLimit{policyOf("api", "remote_address")}, request("penstock-policy", "shop/none"), Options{}},
		"a domain":              {[]policy.RateLimit{policyOf("api", "remote_address")}, request("penstock-domain", "shop"), Options{}},
		"a domain that is not":  {[]policy.RateLimit{policyOf("api", "remote_address")}, request("penstock-domain", "none"), Options{Strict: true}},
		"the default domain":    {[]policy.RateLimit{policyOf("api", "remote_address")}, request(), Options{DefaultDomain: "shop"}},
		"before there is a set": {nil, request("penstock-policy", "shop/api"), Options{}},
		"a value that is too long": {
			[]policy.RateLimit{policyOf("api", "header.x-api-key")},
			withHeader(request("penstock-policy", "shop/api"), "x-api-key", strings.Repeat("k", 257)), Options{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := &limiter{}
			test.options.Callers = strangers{}
			_, err := dial(t, engineOf(t, st, test.policies...), test.options).Check(t.Context(), test.request)
			if status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != "this caller may not use the policy or domain, or there is none of that name" {
				t.Errorf("%v, want PermissionDenied with one text for all", err)
			}
			if len(st.asked) > 0 {
				t.Error("something was charged")
			}
		})
	}
}

// FuzzCheck: whatever bytes come in, the answer allows, or denies with a status and a reason, or is an error of a known
// code, and no header of it holds what would begin another.
func FuzzCheck(f *testing.F) {
	seeds := []*authv3.CheckRequest{
		request("penstock-policy", "shop/key"), request("penstock-domain", "shop"), request(), {},
		withHeader(withHeader(request("penstock-domain", "shop"), "x-api-key", "k1"), "content-type", "application/grpc"),
		withHeader(request("penstock-policy", "shop/key"), "x-api-key", strings.Repeat("x", 300)),
	}
	rawSeed := request("penstock-domain", "shop")
	rawSeed.Attributes.Request.Http.HeaderMap = raw("x-api-key", "\xff", "x-api-key", "\x00", "x-forwarded-for", "192.0.2.1")
	for _, r := range append(seeds, rawSeed) {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	st := &limiter{rows: map[string]limit.Row{"shop/key": isSpent, "shop/path": has42Left}}
	proxies, err := origin.ParseProxies([]string{"0.0.0.0/0"})
	if err != nil {
		f.Fatal(err)
	}
	server := New(engineOf(f, st, policyOf("key", "header.x-api-key"), policyOf("path", "path", "host", "remote_address")),
		Options{Callers: callers.Everybody(), Proxies: proxies})
	known := []codes.Code{codes.InvalidArgument, codes.NotFound}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r authv3.CheckRequest
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		st.asked = nil
		got, err := server.Check(t.Context(), &r)
		if err != nil {
			if !slices.Contains(known, status.Code(err)) || len(st.asked) > 0 {
				t.Fatalf("%v after %d charges, want an error of the configuration's before any", err, len(st.asked))
			}
			return
		}
		if _, err := proto.Marshal(got); err != nil {
			t.Fatalf("the answer: %v", err)
		}
		code, denied := codes.Code(got.GetStatus().GetCode()), got.GetDeniedResponse()
		switch {
		case code == codes.OK && got.GetOkResponse() != nil:
		case code == codes.ResourceExhausted && denied.GetStatus().GetCode() == typev3.StatusCode_TooManyRequests:
		case code == codes.InvalidArgument && denied.GetStatus().GetCode() == typev3.StatusCode_BadRequest && len(st.asked) == 0:
		default:
			t.Fatalf("neither allowed nor denied: %v", got)
		}
		for _, h := range append(got.GetOkResponse().GetResponseHeadersToAdd(), denied.GetHeaders()...) {
			for _, text := range []string{h.GetHeader().GetKey(), h.GetHeader().GetValue()} {
				if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }) {
					t.Fatalf("header %q: %q", h.GetHeader().GetKey(), h.GetHeader().GetValue())
				}
			}
		}
		for _, c := range st.asked {
			for _, value := range c.Values {
				if len(value) > engine.MaxValueBytes {
					t.Fatalf("charged by a value of %d bytes", len(value))
				}
			}
		}
	})
}
