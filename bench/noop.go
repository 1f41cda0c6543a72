package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// noopServer answers every check as the others answer an allowed one, and counts nothing: what gRPC and the load
// itself cost, so the most that any server could reach here.
type noopServer struct {
	rlsv3.UnimplementedRateLimitServiceServer
	response *rlsv3.RateLimitResponse
}

// newNoopServer prepares the one answer.
func newNoopServer() *noopServer {
	return &noopServer{response: &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK,
		Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{{
			Code: rlsv3.RateLimitResponse_OK,
			CurrentLimit: &rlsv3.RateLimitResponse_RateLimit{
				RequestsPerUnit: loadLimit, Unit: rlsv3.RateLimitResponse_RateLimit_DAY,
			},
			LimitRemaining:     loadLimit - 1,
			DurationUntilReset: durationpb.New(12 * time.Hour),
		}},
	}}
}

// ShouldRateLimit implements the service.
func (s *noopServer) ShouldRateLimit(context.Context, *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return s.response, nil
}

// serveNoop serves until SIGTERM: checks on the first of two addresses with a comma between, and on the second what every Go
// program tells Prometheus of itself.
func serveNoop(addresses string) error {
	address, metricsAddress, _ := strings.Cut(addresses, ",")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("no-op server: %w", err)
	}
	metricsListener, err := net.Listen("tcp", metricsAddress)
	if err != nil {
		return fmt.Errorf("no-op server: %w", err)
	}
	metrics := http.Server{Handler: promhttp.Handler(), ReadHeaderTimeout: time.Second}
	go func() { _ = metrics.Serve(metricsListener) }()
	server := grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(server, newNoopServer())
	go func() {
		<-ctx.Done()
		_ = metrics.Close()
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		return fmt.Errorf("no-op server: %w", err)
	}
	return nil
}
