package service

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	servicestore "github.com/penstock-dev/penstock/internal/service/store"
)

// asSent is the codec of a client that sends bytes as they are, as Envoy does.
type asSent struct{ encoding.CodecV2 }

func (asSent) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

// placeholder stands where tests put other bytes, of as many.
const placeholder = "~~~~"

// oddDoors ask by a path of four bytes behind a slash, and give whether the request may pass.
var oddDoors = map[string]func(t *testing.T, r *running, odd string) bool{
	"RLS": func(t *testing.T, r *running, odd string) bool {
		var answer ratelimitv3.RateLimitResponse
		r.invoke(t, ratelimitv3.RateLimitService_ShouldRateLimit_FullMethodName, odd, &ratelimitv3.RateLimitRequest{
			Domain: "shop",
			Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{
				{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "agent", Value: placeholder}}}, // which no policy is about
				{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "path", Value: "/" + placeholder}}},
			},
		}, &answer)
		return answer.GetOverallCode() == ratelimitv3.RateLimitResponse_OK
	},
	"ext_authz": func(t *testing.T, r *running, odd string) bool {
		var answer authv3.CheckResponse
		r.invoke(t, authv3.Authorization_Check_FullMethodName, odd, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			ContextExtensions: map[string]string{"penstock-domain": "shop"},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: "GET", Path: "/" + placeholder, Headers: map[string]string{":path": "/" + placeholder, "agent": placeholder},
			}},
		}}, &answer)
		return answer.GetStatus().GetCode() == int32(codes.OK)
	},
}

// invoke calls the method with those bytes in the place of each placeholder.
func (r *running) invoke(t *testing.T, method, odd string, request, answer proto.Message) {
	t.Helper()
	data, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	sent := []byte(strings.ReplaceAll(string(data), placeholder, odd))
	if err := r.conn.Invoke(t.Context(), method, sent, answer, grpc.ForceCodecV2(asSent{encoding.GetCodecV2("proto")})); err != nil {
		t.Fatalf("%q: %v", odd, err)
	}
}

// Fault 43: no byte of an end user's may be answered by an error, which Envoy lets pass, nor be another's.
func TestNoByteSwitchesALimitOff(t *testing.T) {
	server := redistest.Start(t)
	opened, err := servicestore.Open(servicestore.Options{Load: servicestore.Always(redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: time.Second}), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	opened.UseScripts()
	for name, passes := range oddDoors {
		t.Run(name, func(t *testing.T) {
			r := start(t, Config{}, func(charges []limit.Charge) ([]limit.Row, error) { return opened.Decide(context.Background(), charges) })
			r.engine.Use(policy.NewSet([]policy.RateLimit{policy.RateLimit{
				Name: "shop/" + strings.ReplaceAll(strings.ToLower(name), "_", "-"), Domain: "shop", OnStoreFailure: policy.FailureDeny,
				Descriptors: []policy.Descriptor{{Key: "path"}},
				Limits:      []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 2, WindowMs: 3_600_000}},
			}.Sealed()}))
			for _, odd := range []string{"abcd", "\xff\xff\xff\xff", "\xff\xff\xff\xfe", "a\xc3(b", "\xed\xa0\x80x", "\uFFFDx", "a\x00\r\n", "\x80\x80\x80\x80"} {
				var got []bool
				for range 4 {
					got = append(got, passes(t, r, odd))
				}
				if !slices.Equal(got, []bool{true, true, false, false}) {
					t.Errorf("%q: passed %v, want two of four", odd, got)
				}
			}
			if log := r.log.String(); strings.Contains(log, `\ufffd`) || strings.Contains(log, "\uFFFD") || strings.Contains(log, "abcd") {
				t.Errorf("the log tells of values: %s", log)
			}
		})
	}
}
