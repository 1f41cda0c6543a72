package main

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// inTurn answers enforced, degraded, and with an error.
type inTurn struct {
	rlsv3.UnimplementedRateLimitServiceServer
	asked atomic.Int64
}

func (s *inTurn) ShouldRateLimit(context.Context, *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	response := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}
	switch s.asked.Add(1) % 3 {
	case 1:
		response.ResponseHeadersToAdd = []*corev3.HeaderValue{{Key: degradedHeader, Value: "store"}}
	case 2:
		return nil, status.Error(codes.Unavailable, "broken")
	}
	return response, nil
}

func TestEachAnswerIsRecordedAsWhatItWas(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), &inTurn{}
	rlsv3.RegisterRateLimitServiceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	a, err := connect(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()

	load := startLoad(t.Context(), a, questions(10), 8, 100)
	for deadline := time.Now().Add(20 * time.Second); service.asked.Load() < 300; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("asked %d times", service.asked.Load())
		}
	}
	got := load.finish()
	n := int(service.asked.Load())
	if len(got.answers) != n || count(got.answers, failed) != (n+1)/3 || count(got.answers, degraded) != (n+2)/3 {
		t.Errorf("asked %d times; recorded %d answers, %d failed, %d degraded", n, len(got.answers), count(got.answers, failed), count(got.answers, degraded))
	}
	if status.Code(got.firstError) != codes.Unavailable {
		t.Errorf("the error is %v", got.firstError)
	}
	last := time.Duration(0)
	for _, a := range got.answers {
		if a.sent < last || a.latency <= 0 {
			t.Fatalf("%+v is not in order", a)
		}
		last = a.sent
	}
}
