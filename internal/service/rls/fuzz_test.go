package rls

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// local is a peer whose limits are heeded.
var local = &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}

func fuzzSeeds() []*ratelimitv3.RateLimitRequest {
	back, own := descriptor("user", "bob"), descriptor("user", "bob")
	back.IsNegativeHits = true
	own.Limit = &ratelimitcommonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 3, Unit: 2}
	return []*ratelimitv3.RateLimitRequest{
		request(descriptor("user", "bob")), request(), request(descriptor("user", "a"), descriptor("user", "a"), descriptor()),
		request(descriptor("user", strings.Repeat("x", 300))), request(back), request(own, back),
	}
}

func fuzzDoor(f *testing.F) (*store, *Server) {
	st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 5, Remaining: 4, LimitName: "default"}}}
	return st, New(engineOf(f, st, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody()})
}

func (s *store) forget() { s.costs, s.own, s.refunded = nil, nil, nil }

// check fails unless what was charged and given back is within the bounds.
func (s *store) check(t *testing.T) {
	t.Helper()
	for _, c := range append(s.own, s.refunded...) {
		if c.Cost < 0 || c.Cost > policy.MaxInteger {
			t.Fatalf("%d by %s", c.Cost, c.Policy.Name)
		}
		if err := c.Policy.Validate(); err != nil && c.Policy.Domain != "" {
			t.Fatalf("by a policy that is none: %v", err)
		}
	}
	for _, cost := range s.costs {
		if cost < 0 || cost > policy.MaxInteger {
			t.Fatalf("charged %d", cost)
		}
	}
}

// FuzzShouldRateLimit: whatever bytes come in, the answer is one status for each descriptor, or an error that is the
// caller's; and an accepted request keeps the bounds.
func FuzzShouldRateLimit(f *testing.F) {
	for _, r := range fuzzSeeds() {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	st, door := fuzzDoor(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var r ratelimitv3.RateLimitRequest
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		st.forget()
		response, err := door.ShouldRateLimit(peer.NewContext(t.Context(), local), &r)
		if err != nil {
			if c := status.Code(err); c != codes.InvalidArgument {
				t.Fatalf("%v, want an error of the caller's", err)
			}
			if len(st.costs)+len(st.refunded) != 0 {
				t.Fatal("redis was asked for a refused request")
			}
			return
		}
		if len(response.GetStatuses()) != len(r.GetDescriptors()) || len(r.GetDescriptors()) > 16 || r.GetDomain() == "" {
			t.Fatalf("%d statuses for %d descriptors", len(response.GetStatuses()), len(r.GetDescriptors()))
		}
		if bytes.Contains(response.GetRawBody(), []byte(`"status":400`)) && len(st.costs)+len(st.refunded) != 0 {
			t.Fatal("redis was asked for what cannot be limited")
		}
		st.check(t)
	})
}

// FuzzJSON: whatever body comes in, the answer is a response in JSON, or one of the caller's errors.
func FuzzJSON(f *testing.F) {
	for _, r := range fuzzSeeds() {
		seed, err := protojson.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"\ud800"}]}]}`))
	f.Add(bytes.Repeat([]byte("x"), maxJSONBytes+1))
	st, door := fuzzDoor(f)
	handler := callers.Everybody().Handler(door.JSON())
	f.Fuzz(func(t *testing.T, body []byte) {
		st.forget()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, JSONPath, bytes.NewReader(body))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusTooManyRequests:
			if !json.Valid(w.Body.Bytes()) {
				t.Fatalf("answered %q", w.Body)
			}
			st.check(t)
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if len(st.costs)+len(st.refunded) != 0 {
				t.Fatal("redis was asked for a refused request")
			}
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	})
}
