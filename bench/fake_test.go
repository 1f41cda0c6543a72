package main

import (
	"context"
	"net"
	"sync"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeServer counts in memory by the limits of the bench, with the faults that a test asks for.
type fakeServer struct {
	rlsv3.UnimplementedRateLimitServiceServer
	// counted is called before a request about this key and value is counted; false drops the count.
	counted func(key, value string) bool
	// failing makes every call fail.
	failing bool
	// denying makes the next calls be denied without being counted, as by onStoreFailure.
	denying int

	mu       sync.Mutex
	asked    int64
	counters map[string]int64
}

func (s *fakeServer) ShouldRateLimit(_ context.Context, request *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.failing {
		return nil, status.Error(codes.Internal, "out of order")
	}
	if s.denying > 0 {
		s.denying--
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT}, nil
	}
	entry := request.GetDescriptors()[0].GetEntries()[0]
	limit := map[string]int64{loadKey: loadLimit, probeKey: probeLimit}[entry.GetKey()]
	id := entry.GetKey() + "=" + entry.GetValue()
	if s.counted == nil || s.counted(entry.GetKey(), entry.GetValue()) {
		s.counters[id]++
	}
	code := rlsv3.RateLimitResponse_OK
	if s.counters[id] > limit {
		code = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	return &rlsv3.RateLimitResponse{OverallCode: code, Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{{
		Code:           code,
		CurrentLimit:   &rlsv3.RateLimitResponse_RateLimit{RequestsPerUnit: uint32(limit)},
		LimitRemaining: uint32(max(0, limit-s.counters[id])),
	}}}, nil
}

func (s *fakeServer) total() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// serve gives a target for the server, without a process.
func (s *fakeServer) serve(t *testing.T) *target {
	t.Helper()
	s.counters = map[string]int64{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	fake := &target{name: "fake", role: roleOurs}
	if err := fake.connect(listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fake.disconnect()
		server.Stop()
	})
	return fake
}
