package rls

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
)

// limited gives a descriptor that brings a limit along.
func limited(requests uint32, unit typev3.RateLimitUnit, entries ...string) *ratelimitcommonv3.RateLimitDescriptor {
	d := descriptor(entries...)
	d.Limit = &ratelimitcommonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: requests, Unit: unit}
	return d
}

// returning gives a descriptor that gives back.
func returning(entries ...string) *ratelimitcommonv3.RateLimitDescriptor {
	d := descriptor(entries...)
	d.IsNegativeHits = true
	return d
}

func TestALimitOfTheRequestIsToldInItsOwnUnit(t *testing.T) {
	for name, test := range map[string]struct {
		unit       typev3.RateLimitUnit
		wantWindow time.Duration
		want       ratelimitv3.RateLimitResponse_RateLimit_Unit
	}{
		"second": {typev3.RateLimitUnit_SECOND, time.Second, ratelimitv3.RateLimitResponse_RateLimit_SECOND},
		"minute": {typev3.RateLimitUnit_MINUTE, time.Minute, ratelimitv3.RateLimitResponse_RateLimit_MINUTE},
		"hour":   {typev3.RateLimitUnit_HOUR, time.Hour, ratelimitv3.RateLimitResponse_RateLimit_HOUR},
		"day":    {typev3.RateLimitUnit_DAY, 24 * time.Hour, ratelimitv3.RateLimitResponse_RateLimit_DAY},
		"month":  {typev3.RateLimitUnit_MONTH, 30 * 24 * time.Hour, ratelimitv3.RateLimitResponse_RateLimit_MONTH},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 7, Remaining: 3, Reset: time.Second, LimitName: "override"}}}
			door := New(engineOf(t, st, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody()})
			got, err := door.ShouldRateLimit(peer.NewContext(t.Context(), local), request(limited(7, test.unit, "user", "bob")))
			if err != nil {
				t.Fatal(err)
			}
			if len(st.own) != 1 || st.own[0].Policy.Limits[0].Requests != 7 || st.own[0].Policy.Limits[0].WindowMs != test.wantWindow.Milliseconds() {
				t.Fatalf("charged %+v", st.own)
			}
			current := got.GetStatuses()[0].GetCurrentLimit()
			if current.GetUnit() != test.want || current.GetRequestsPerUnit() != 7 || current.GetName() != "shop/user" {
				t.Errorf("%v, want 7 per %v", current, test.want)
			}
		})
	}
}

func TestALimitOfTheRequestWithoutAWindowOfOursIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		unit typev3.RateLimitUnit
		want string
	}{
		"YEAR":    {typev3.RateLimitUnit_YEAR, "descriptors[1].limit.unit: YEAR is longer than the longest window, 744 hours; want SECOND, MINUTE, HOUR, DAY or MONTH"},
		"none":    {typev3.RateLimitUnit_UNKNOWN, "descriptors[1].limit.unit: want SECOND, MINUTE, HOUR, DAY or MONTH"},
		"unknown": {99, "descriptors[1].limit.unit: want SECOND, MINUTE, HOUR, DAY or MONTH"},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{}
			door := New(engineOf(t, st, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody()})
			r := request(descriptor("user", "bob"), limited(7, test.unit, "user", "bob"))
			_, err := door.ShouldRateLimit(peer.NewContext(t.Context(), local), r)
			if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != test.want || len(st.costs) != 0 {
				t.Errorf("%v, charged %v", err, st.costs)
			}
			// Whose limits are ignored, can have none that is wrong.
			if _, err := door.ShouldRateLimit(t.Context(), r); err != nil {
				t.Errorf("of a caller that may set no limits: %v", err)
			}
		})
	}
}

// metric gives the value of the only series of a metric.
func metric(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestALimitOfTheRequestIsIgnoredUnlessItsCallerMaySetLimits(t *testing.T) {
	st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 100, Remaining: 99, LimitName: "default"}}}
	registry, log := prometheus.NewRegistry(), &bytes.Buffer{}
	door := New(engineOf(t, st, policyOf("user", "user", perMinute)), Options{
		Callers: callers.Everybody(), Registerer: registry, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	client := dialDoor(t, door)
	for range 2 {
		got, err := client.ShouldRateLimit(t.Context(), request(limited(7, typev3.RateLimitUnit_HOUR, "user", "bob"), limited(7, typev3.RateLimitUnit_HOUR, "a", "b")))
		if err != nil || got.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit() != 100 || got.GetStatuses()[1].GetCurrentLimit() != nil {
			t.Fatalf("%v, %v; want the policy's own limit", got, err)
		}
	}
	if len(st.own) != 0 {
		t.Errorf("charged %+v", st.own)
	}
	if got := metric(t, registry, "penstock_ignored_limit_overrides_total"); got != 4 {
		t.Errorf("counted %v, want 4", got)
	}
	if got := strings.Count(log.String(), "\n"); got != 1 || strings.Contains(log.String(), "bob") {
		t.Errorf("logged %d lines: %s", got, log)
	}
}

func TestHitsAreGivenBackToThePoliciesOfTheDescriptor(t *testing.T) {
	for name, test := range map[string]struct {
		hits uint32
		own  *wrapperspb.UInt64Value
		want int64
	}{
		"so many of the request":         {5, nil, 5},
		"so many of the descriptor":      {5, wrapperspb.UInt64(7), 7},
		"what the policy costs":          {0, nil, 3},
		"nothing, of the descriptor's 0": {5, wrapperspb.UInt64(0), 0},
	} {
		t.Run(name, func(t *testing.T) {
			dear := policyOf("user", "user", perMinute)
			dear.Cost = 3
			st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 100, Remaining: 90, Reset: time.Minute, LimitName: "default"}}}
			r := request(returning("user", "bob"), returning("nobody", "cares"), descriptor("path", "/"))
			r.HitsAddend, r.Descriptors[0].HitsAddend = test.hits, test.own
			got, err := dial(t, st, dear.Sealed(), policyOf("path", "path", perMinute)).ShouldRateLimit(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if len(st.refunded) != 1 || st.refunded[0].Cost != test.want || len(st.costs) != 1 {
				t.Errorf("gave back %+v and charged %v", st.refunded, st.costs)
			}
			first, second := got.GetStatuses()[0], got.GetStatuses()[1]
			if first.GetCode() != ratelimitv3.RateLimitResponse_OK || first.GetLimitRemaining() != 90 || first.GetCurrentLimit().GetName() != "shop/user" {
				t.Errorf("%v", first)
			}
			if second.GetCode() != ratelimitv3.RateLimitResponse_OK || second.GetCurrentLimit() != nil {
				t.Errorf("%v", second)
			}
		})
	}
}

func TestWhatRedisDidNotGiveBackIsSaidToBeDegraded(t *testing.T) {
	st := &store{err: context.DeadlineExceeded}
	got, err := dial(t, st, policyOf("user", "user", perMinute)).ShouldRateLimit(t.Context(), request(returning("user", "bob")))
	if err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || got.GetStatuses()[0].GetCurrentLimit() != nil || golden(got) != "x-penstock-degraded: store" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAStrictDoorRefusesADomainWithoutPolicies(t *testing.T) {
	st := &store{rows: map[string]limit.Row{"shop/user": {Allowed: true, Limit: 100, LimitName: "default"}}}
	client := dialDoor(t, New(engineOf(t, st, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody(), Strict: true}))
	r := request(descriptor("user", "bob"))
	if _, err := client.ShouldRateLimit(t.Context(), r); err != nil {
		t.Errorf("a known domain: %v", err)
	}
	r.Domain = "elsewhere"
	_, err := client.ShouldRateLimit(t.Context(), r)
	if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), "domain: no policy answers for it") {
		t.Errorf("an unknown domain: %v", err)
	}
}

// nobody may touch nothing.
type nobody struct{}

func (nobody) Of(context.Context) callers.Caller { return callers.Caller{} }

// Fault 57.
func TestADomainThatTheCallerMayNotUseIsRefusedAsOneThatThereIsNot(t *testing.T) {
	st := &store{}
	client := dialDoor(t, New(engineOf(t, st, policyOf("user", "user", perMinute)), Options{Callers: nobody{}, Strict: true}))
	var texts []string
	for _, domain := range []string{"shop", "elsewhere"} {
		r := request(descriptor("user", "bob"))
		r.Domain = domain
		_, err := client.ShouldRateLimit(t.Context(), r)
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", domain, err)
		}
		texts = append(texts, status.Convert(err).Message())
	}
	if texts[0] != texts[1] || len(st.costs) != 0 {
		t.Errorf("%q, charged %v; want one text, and redis not asked", texts, st.costs)
	}
}

// Fault 53.
func TestRequestsWithUnknownFieldsAreCounted(t *testing.T) {
	field := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7)
	registry := prometheus.NewRegistry()
	door := New(engineOf(t, &store{}, policyOf("user", "user", perMinute)), Options{Callers: callers.Everybody(), Registerer: registry})
	plain, ofRequest, ofDescriptor := request(descriptor("user", "bob")), request(descriptor("user", "bob")), request(descriptor("user", "bob"))
	ofEntry, ofLimit := request(descriptor("user", "bob")), request(limited(1, typev3.RateLimitUnit_DAY, "user", "bob"))
	ofRequest.ProtoReflect().SetUnknown(field)
	ofDescriptor.GetDescriptors()[0].ProtoReflect().SetUnknown(field)
	ofEntry.GetDescriptors()[0].GetEntries()[0].ProtoReflect().SetUnknown(field)
	ofLimit.GetDescriptors()[0].GetLimit().ProtoReflect().SetUnknown(field)
	for i, r := range []*ratelimitv3.RateLimitRequest{plain, ofRequest, ofDescriptor, ofEntry, ofLimit} {
		if _, err := door.ShouldRateLimit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got := metric(t, registry, "penstock_unknown_fields_total"); got != float64(i) {
			t.Errorf("request %d: counted %v, want %d", i, got, i)
		}
	}
}
