package service

import (
	"runtime"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/rls"
)

// Bounds of the gRPC server.
const (
	// maxMessageBytes is above what the bounds of a request add up to (16 × 16 × 2 × 256 bytes), and enough that a value
	// of 1 MB is refused by its name and not as a message.
	maxMessageBytes      = 1 << 20
	maxHeaderListBytes   = 16 << 10
	maxConcurrentStreams = 1000
	handshakeTimeout     = 5 * time.Second
	// maxConnectionAge makes callers dial again, so that new replicas get load; gRPC spreads it by 10 %.
	maxConnectionAge      = 5 * time.Minute
	maxConnectionAgeGrace = 20 * time.Second
	keepaliveTime         = 30 * time.Second
	keepaliveTimeout      = 10 * time.Second
	// minPing is how often a client may ping before it is cut off.
	minPing = 10 * time.Second
)

// served are the services that health speaks of one by one.
var served = []string{"", ratelimitv3.RateLimitService_ServiceDesc.ServiceName}

func newGRPCServer(eng *engine.Engine, recovery *recovery) (*grpc.Server, *health.Server) {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderListBytes),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionAgeGrace,
			Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.NumStreamWorkers(streamWorkers()),
		grpc.UnaryInterceptor(recovery.unary),
		grpc.StreamInterceptor(recovery.stream),
	)
	ratelimitv3.RegisterRateLimitServiceServer(server, rls.New(eng))
	status := health.NewServer()
	for _, name := range served {
		status.SetServingStatus(name, healthv1.HealthCheckResponse_NOT_SERVING)
	}
	healthv1.RegisterHealthServer(server, status)
	reflection.Register(server)
	return server, status
}

func (s *Service) setServing() {
	for _, name := range served {
		s.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
}

// streamWorkers are the goroutines that stay for calls, so that each finds a stack that has already grown. Calls beyond
// them get goroutines of their own.
func streamWorkers() uint32 {
	return uint32(min(max(64*runtime.GOMAXPROCS(0), 64), 4096))
}
