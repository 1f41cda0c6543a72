package rls

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// store answers every charge of a policy with the row told for it.
type store struct {
	engine.Limiter // the rest is not asked for

	rows  map[string]limit.Row
	err   error
	costs []int64

	mu       sync.Mutex
	own      []limit.Charge
	refunded []limit.Charge
}

func (s *store) Decide(_ context.Context, charges []limit.Charge) ([]limit.Row, error) {
	if s.err != nil {
		return nil, s.err
	}
	var rows []limit.Row
	for _, c := range charges {
		s.costs = append(s.costs, c.Cost)
		if c.Unpublished {
			s.own = append(s.own, c)
		}
		rows = append(rows, s.rows[c.Policy.Name])
	}
	return rows, nil
}

func (s *store) Refund(_ context.Context, c limit.Charge) (limit.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refunded = append(s.refunded, c)
	return s.rows[c.Policy.Name], s.err
}

func (s *store) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

func policyOf(name, key string, l policy.Limit) policy.RateLimit {
	l.Name = "default"
	r := policy.RateLimit{
		Name: "shop/" + name, Domain: "shop", OnStoreFailure: policy.FailureAllow,
		Descriptors: []policy.Descriptor{{Key: key}}, Limits: []policy.Limit{l}, TimeZones: map[string][][2]int64{},
	}
	for _, zone := range r.CalendarZones() {
		r.TimeZones[zone] = [][2]int64{{0, 0}}
	}
	return r.Sealed()
}

var perMinute = policy.Limit{Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}

// dial serves the door with these policies over a real gRPC connection, which is none over loopback.
func dial(t testing.TB, st *store, policies ...policy.RateLimit) ratelimitv3.RateLimitServiceClient {
	t.Helper()
	return dialDoor(t, New(engineOf(t, st, policies...), Options{Callers: callers.Everybody()}))
}

// engineOf gives an engine of these policies, or without a set.
func engineOf(t testing.TB, st engine.Limiter, policies ...policy.RateLimit) *engine.Engine {
	t.Helper()
	eng := engine.New(engine.Options{Limiter: st})
	if policies != nil {
		set := policy.NewSet(policies)
		if err := set.Validate(); err != nil {
			t.Fatal(err)
		}
		eng.Use(set)
	}
	return eng
}

func dialDoor(t testing.TB, door *Server) ratelimitv3.RateLimitServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	ratelimitv3.RegisterRateLimitServiceServer(server, door)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///door", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return ratelimitv3.NewRateLimitServiceClient(conn)
}

// headersOf gives headers, as name, value, name, value…
func headersOf(pairs ...string) []*corev3.HeaderValue {
	var out []*corev3.HeaderValue
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &corev3.HeaderValue{Key: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func descriptor(entries ...string) *ratelimitcommonv3.RateLimitDescriptor {
	d := &ratelimitcommonv3.RateLimitDescriptor{}
	for i := 0; i < len(entries); i += 2 {
		d.Entries = append(d.Entries, &ratelimitcommonv3.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
	}
	return d
}

func request(descriptors ...*ratelimitcommonv3.RateLimitDescriptor) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: "shop", Descriptors: descriptors}
}

func TestOneStatusForEachDescriptorInOrder(t *testing.T) {
	st := &store{rows: map[string]limit.Row{
		"shop/user": {Allowed: true, Limit: 100, Remaining: 57, Reset: 1500 * time.Millisecond, LimitName: "default"},
		"shop/path": {Limit: 10, Reset: time.Minute, RetryAfter: time.Second, LimitName: "default"},
	}}
	client := dial(t, st, policyOf("user", "user", perMinute), policyOf("path", "path", policy.Limit{Algorithm: policy.FixedWindow, Requests: 10, WindowMs: 1000}))
	got, err := client.ShouldRateLimit(t.Context(), request(descriptor("user", "bob"), descriptor("nobody", "cares"), descriptor("path", "/")))
	if err != nil {
		t.Fatal(err)
	}
	want := &ratelimitv3.RateLimitResponse{
		OverallCode: ratelimitv3.RateLimitResponse_OVER_LIMIT,
		Statuses: []*ratelimitv3.RateLimitResponse_DescriptorStatus{
			{
				Code:               ratelimitv3.RateLimitResponse_OK,
				CurrentLimit:       &ratelimitv3.RateLimitResponse_RateLimit{Name: "shop/user", RequestsPerUnit: 100, Unit: ratelimitv3.RateLimitResponse_RateLimit_MINUTE},
				LimitRemaining:     57,
				DurationUntilReset: &durationpb.Duration{Seconds: 2},
			},
			{Code: ratelimitv3.RateLimitResponse_OK},
			{
				Code:               ratelimitv3.RateLimitResponse_OVER_LIMIT,
				CurrentLimit:       &ratelimitv3.RateLimitResponse_RateLimit{Name: "shop/path", RequestsPerUnit: 10, Unit: ratelimitv3.RateLimitResponse_RateLimit_SECOND},
				DurationUntilReset: &durationpb.Duration{Seconds: 60},
			},
		},
		ResponseHeadersToAdd: headersOf(
			"ratelimit-policy", `"path";q=10;w=1`, "ratelimit", `"path";r=0;t=1`, "retry-after", "1", "content-type", "application/problem+json",
		),
		RawBody: got.GetRawBody(),
	}
	if !strings.Contains(string(got.GetRawBody()), `"violated-policies":["path"]`) {
		t.Errorf("the body is %s", got.GetRawBody())
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

func TestTheLimitIsToldInEnvoysUnits(t *testing.T) {
	bucket := policy.Limit{Algorithm: policy.TokenBucket, Requests: 5, Burst: 50, WindowMs: 1000, TickUs: policy.TickFor(1000)}
	month := policy.Limit{
		Algorithm: policy.FixedWindow, Requests: 10, WindowMs: policy.CalendarWindow(policy.CalendarMonth).Milliseconds(),
		Calendar: policy.CalendarMonth, TimeZone: "UTC",
	}
	fixed := func(requests, windowMs int64) policy.Limit {
		return policy.Limit{Algorithm: policy.FixedWindow, Requests: requests, WindowMs: windowMs}
	}
	for name, test := range map[string]struct {
		limit        policy.Limit
		rowLimit     int64
		remaining    int64
		wantRequests uint32
		wantUnit     ratelimitv3.RateLimitResponse_RateLimit_Unit
		wantLeft     uint32
	}{
		"second":                     {fixed(10, 1000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_SECOND, 1},
		"minute":                     {fixed(10, 60_000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_MINUTE, 1},
		"hour":                       {fixed(10, 3_600_000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_HOUR, 1},
		"day":                        {fixed(10, 86_400_000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_DAY, 1},
		"week":                       {fixed(10, 7*86_400_000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_WEEK, 1},
		"month of 30 days":           {fixed(10, 30*86_400_000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_MONTH, 1},
		"month of the calendar":      {month, 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_MONTH, 1},
		"a balance has no unit":      {policy.Limit{Algorithm: policy.Balance, Requests: 10}, 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN, 1},
		"a window between the units": {fixed(10, 90_000), 10, 1, 10, ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN, 1},
		"more than 32 bits":          {fixed(1<<40, 60_000), 1 << 40, 1 << 39, math.MaxUint32, ratelimitv3.RateLimitResponse_RateLimit_MINUTE, math.MaxUint32},
		"the limit that Redis has":   {fixed(10, 60_000), 20, 15, 20, ratelimitv3.RateLimitResponse_RateLimit_MINUTE, 15},
		"a bucket tells its rate":    {bucket, 50, 49, 5, ratelimitv3.RateLimitResponse_RateLimit_SECOND, 49},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: test.rowLimit, Remaining: test.remaining, LimitName: "default"}}}
			got, err := dial(t, st, policyOf("user", "user", test.limit)).ShouldRateLimit(t.Context(), request(descriptor("user", "bob")))
			if err != nil {
				t.Fatal(err)
			}
			s := got.GetStatuses()[0]
			if s.GetCurrentLimit().GetRequestsPerUnit() != test.wantRequests || s.GetCurrentLimit().GetUnit() != test.wantUnit || s.GetLimitRemaining() != test.wantLeft {
				t.Errorf("%v, want %d per %v and %d left", s, test.wantRequests, test.wantUnit, test.wantLeft)
			}
		})
	}
}

func TestUnlimitedHasNoLimitAndAllLeft(t *testing.T) {
	st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: -1}}}
	got, err := dial(t, st, policyOf("user", "user", perMinute)).ShouldRateLimit(t.Context(), request(descriptor("user", "bob")))
	if err != nil || got.GetStatuses()[0].GetCurrentLimit() != nil || got.GetStatuses()[0].GetLimitRemaining() != math.MaxUint32 {
		t.Errorf("%v, %v; want no limit and 4294967295 left", got, err)
	}
}

func TestHitsAreChargedAsEnvoyRatelimitDoes(t *testing.T) {
	own := func(hits uint64) *ratelimitcommonv3.RateLimitDescriptor {
		d := descriptor("user", "bob")
		d.HitsAddend = wrapperspb.UInt64(hits)
		return d
	}
	dear := policyOf("user", "user", perMinute)
	dear.Cost = 3
	dear = dear.Sealed()
	for name, test := range map[string]struct {
		hits       uint32
		descriptor *ratelimitcommonv3.RateLimitDescriptor
		want       int64
	}{
		"none is the policy's":              {0, descriptor("user", "bob"), 3},
		"one said is one":                   {1, descriptor("user", "bob"), 1},
		"the request's":                     {7, descriptor("user", "bob"), 7},
		"the most a request can say":        {math.MaxUint32, descriptor("user", "bob"), math.MaxUint32},
		"the descriptor's own":              {7, own(3), 3},
		"the descriptor's 0 is only a look": {7, own(0), 0},
		"the most a descriptor may say":     {0, own(policy.MaxInteger), policy.MaxInteger},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{}
			r := request(test.descriptor)
			r.HitsAddend = test.hits
			if _, err := dial(t, st, dear).ShouldRateLimit(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if len(st.costs) != 1 || st.costs[0] != test.want {
				t.Errorf("charged %v, want %d", st.costs, test.want)
			}
		})
	}
}

func TestAnUnknownDomainIsAllowedWithoutLimit(t *testing.T) {
	r := request(descriptor("user", "bob"), descriptor("user", "alice"))
	r.Domain = "elsewhere"
	got, err := dial(t, &store{}, policyOf("user", "user", perMinute)).ShouldRateLimit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK, Statuses: []*ratelimitv3.RateLimitResponse_DescriptorStatus{
		{Code: ratelimitv3.RateLimitResponse_OK}, {Code: ratelimitv3.RateLimitResponse_OK},
	}}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestADegradedAnswerSaysSoAndInventsNoFigures(t *testing.T) {
	deny := policyOf("path", "path", perMinute)
	deny.OnStoreFailure = policy.FailureDeny
	client := dial(t, &store{err: errors.New("gone")}, policyOf("user", "user", perMinute), deny.Sealed())
	for name, test := range map[string]struct {
		key  string
		want ratelimitv3.RateLimitResponse_Code
	}{
		"Allow": {"user", ratelimitv3.RateLimitResponse_OK},
		"Deny":  {"path", ratelimitv3.RateLimitResponse_OVER_LIMIT},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := client.ShouldRateLimit(t.Context(), request(descriptor(test.key, "x")))
			if err != nil {
				t.Fatal(err)
			}
			if got.GetOverallCode() != test.want || got.GetStatuses()[0].GetCurrentLimit() != nil {
				t.Errorf("%v, want %v without a limit", got, test.want)
			}
			headers := got.GetResponseHeadersToAdd()
			if len(headers) == 0 || headers[0].GetKey() != "x-penstock-degraded" || headers[0].GetValue() != "store" ||
				slices.ContainsFunc(headers, func(h *corev3.HeaderValue) bool { return strings.HasPrefix(h.GetKey(), "ratelimit") }) {
				t.Errorf("headers %v, want x-penstock-degraded: store and no figures", headers)
			}
		})
	}
}

type refused string

func (r refused) Error() string { return string(r) }
func (refused) RedisError()     {}

func TestWhatIsNoDecisionIsAnError(t *testing.T) {
	for name, test := range map[string]struct {
		policies []policy.RateLimit
		err      error
		want     codes.Code
	}{
		"no policy set":    {nil, nil, codes.Unavailable},
		"redis refuses us": {[]policy.RateLimit{policyOf("user", "user", perMinute)}, refused("NOPERM this user has no permissions"), codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dial(t, &store{err: test.err}, test.policies...).ShouldRateLimit(t.Context(), request(descriptor("user", "bob")))
			if status.Code(err) != test.want {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestARequestBeyondTheBoundsIsRefusedByNameBeforeAnyWork(t *testing.T) {
	long := strings.Repeat("x", 257)
	times := func(n int, d *ratelimitcommonv3.RateLimitDescriptor) []*ratelimitcommonv3.RateLimitDescriptor {
		var all []*ratelimitcommonv3.RateLimitDescriptor
		for range n {
			all = append(all, d)
		}
		return all
	}
	manyEntries := descriptor("user", "bob")
	for range 16 {
		manyEntries.Entries = append(manyEntries.Entries, manyEntries.Entries[0])
	}
	hits := descriptor("user", "bob")
	hits.HitsAddend = wrapperspb.UInt64(policy.MaxInteger + 1)
	for name, test := range map[string]struct {
		request  *ratelimitv3.RateLimitRequest
		wantCode codes.Code
		want     string
	}{
		"no domain":            {&ratelimitv3.RateLimitRequest{Descriptors: times(1, descriptor("user", "bob"))}, codes.InvalidArgument, "domain: 0 bytes, want 1 to 256"},
		"a long domain":        {&ratelimitv3.RateLimitRequest{Domain: long, Descriptors: times(1, descriptor("user", "bob"))}, codes.InvalidArgument, "domain: 257 bytes, want 1 to 256"},
		"no descriptors":       {request(), codes.InvalidArgument, "descriptors: 0, want 1 to 16"},
		"1,000 descriptors":    {request(times(1000, descriptor("user", "bob"))...), codes.InvalidArgument, "descriptors: 1000, want 1 to 16"},
		"17 entries":           {request(descriptor("user", "bob"), manyEntries), codes.InvalidArgument, "descriptors[1].entries: 17, want at most 16"},
		"a long key":           {request(descriptor(long, "bob")), codes.InvalidArgument, "descriptors[0].entries[0].key: 257 bytes, want at most 256"},
		"hits beyond counting": {request(hits), codes.InvalidArgument, "descriptors[0].hits_addend: 9007199254740992, want at most 9007199254740991"},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{}
			_, err := dial(t, st, policyOf("user", "user", perMinute)).ShouldRateLimit(t.Context(), test.request)
			if status.Code(err) != test.wantCode || status.Convert(err).Message() != test.want {
				t.Errorf("%v, want %v: %s", err, test.wantCode, test.want)
			}
			if len(st.costs) != 0 {
				t.Error("redis was asked")
			}
		})
	}
}

// Fault 44: what cannot be limited must not pass, and Envoy lets pass what is answered by an error.
func TestAValueTooLongForAPolicyIsDeniedAndNotAnError(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, test := range map[string]struct {
		descriptors []*ratelimitcommonv3.RateLimitDescriptor
		want        string
	}{
		"a byte too many":        {[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", strings.Repeat("x", 257))}, "user: 257"},
		"1 MB":                   {[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", strings.Repeat("x", 1_000_000))}, "user: 1000000"},
		"by bytes, not letters":  {[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", strings.Repeat("é", 129))}, "user: 258"},
		"beside others":          {[]*ratelimitcommonv3.RateLimitDescriptor{descriptor("user", "bob"), descriptor("nobody", "cares"), descriptor("path", long)}, "path: 300"},
		"what gives back":        {[]*ratelimitcommonv3.RateLimitDescriptor{returning("path", long)}, "path: 300"},
		"beside what gives back": {[]*ratelimitcommonv3.RateLimitDescriptor{returning("path", "/"), descriptor("user", long)}, "user: 300"},
		"in what gives back":     {[]*ratelimitcommonv3.RateLimitDescriptor{returning("path", long), descriptor("user", "bob")}, "path: 300"},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 100, LimitName: "default"}}}
			got, err := dial(t, st, policyOf("user", "user", perMinute), policyOf("path", "path", perMinute)).ShouldRateLimit(t.Context(), request(test.descriptors...))
			if err != nil {
				t.Fatal(err)
			}
			want := &ratelimitv3.RateLimitResponse{
				OverallCode: ratelimitv3.RateLimitResponse_OVER_LIMIT, ResponseHeadersToAdd: headersOf("content-type", "application/problem+json"),
				RawBody: []byte(`{"title":"Bad Request","status":400,"detail":"the value of ` + test.want + " bytes, want at most 256\"}\n"),
			}
			for range test.descriptors {
				want.Statuses = append(want.Statuses, &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_OVER_LIMIT})
			}
			if !proto.Equal(got, want) {
				t.Errorf("got\n%v\nwant\n%v", got, want)
			}
			if len(st.costs)+len(st.refunded) != 0 {
				t.Errorf("charged %v, gave back %v", st.costs, st.refunded)
			}
		})
	}
}

func TestALongValueThatNoPolicyCountsByDoesNotMatter(t *testing.T) {
	long := strings.Repeat("x", 300)
	st := &store{rows: map[string]limit.Row{"shop/user": {Limit: 100, LimitName: "default"}}}
	client := dial(t, st, policyOf("user", "user", perMinute))
	got, err := client.ShouldRateLimit(t.Context(), request(descriptor("path", long)))
	if err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("alone: %v, %v; want OK", got, err)
	}
	got, err = client.ShouldRateLimit(t.Context(), request(descriptor("user", "bob"), descriptor("path", long)))
	if err != nil || got.GetStatuses()[0].GetCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || got.GetStatuses()[1].GetCode() != ratelimitv3.RateLimitResponse_OK || len(st.costs) != 1 {
		t.Errorf("beside a denial: %v, %v; want that denial", got, err)
	}
}

func TestARequestAtTheBoundsIsDecided(t *testing.T) {
	full := strings.Repeat("x", 256)
	d := descriptor(full, full)
	for range 15 {
		d.Entries = append(d.Entries, d.Entries[0])
	}
	r := &ratelimitv3.RateLimitRequest{Domain: full}
	for range 16 {
		r.Descriptors = append(r.Descriptors, d)
	}
	if got, err := dial(t, &store{}, policyOf("user", "user", perMinute)).ShouldRateLimit(t.Context(), r); err != nil || len(got.GetStatuses()) != 16 {
		t.Errorf("%v, %v; want 16 statuses", got, err)
	}
}

// nested is an unknown field that holds itself to that depth: as messages, which are bytes to whoever does not know them,
// or as groups, which have to be gone through to find their end.
func nested(depth int, groups bool) []byte {
	const number = 1000
	if groups {
		begin, end := protowire.AppendTag(nil, number, protowire.StartGroupType), protowire.AppendTag(nil, number, protowire.EndGroupType)
		return append(bytes.Repeat(begin, depth), bytes.Repeat(end, depth)...)
	}
	var field []byte
	for range depth {
		field = protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), field)
	}
	return field
}

// Faults 44 and 53. The request's own messages do not nest, so depth can only be in what this version does not know.
func TestUnknownFieldsAreIgnoredAndEndlessNestingIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		unknown []byte
		want    codes.Code
	}{
		"a number":         {protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7), codes.OK},
		"1,000 messages":   {nested(1000, false), codes.OK},
		"100 groups":       {nested(100, true), codes.OK},
		"100,000 groups":   {nested(100_000, true), codes.Internal}, // so gRPC calls what cannot be decoded
		"an endless group": {bytes.Repeat(protowire.AppendTag(nil, 1000, protowire.StartGroupType), 50), codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 100, Remaining: 99, LimitName: "default"}}}
			client := dial(t, st, policyOf("user", "user", perMinute))
			r := request(descriptor("user", "bob"))
			r.ProtoReflect().SetUnknown(test.unknown)
			got, err := client.ShouldRateLimit(t.Context(), r)
			if status.Code(err) != test.want || err == nil && got.GetStatuses()[0].GetLimitRemaining() != 99 {
				t.Errorf("%v, %v; want %v", got, err, test.want)
			}
			if asked := len(st.costs) > 0; asked != (test.want == codes.OK) {
				t.Errorf("redis was asked: %v", asked)
			}
			if _, err := client.ShouldRateLimit(t.Context(), request(descriptor("user", "bob"))); err != nil {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}
