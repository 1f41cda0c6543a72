package service

import (
	"runtime"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/penstock-dev/penstock/internal/service/bytewise"
	"github.com/penstock-dev/penstock/internal/service/extauthz"
	"github.com/penstock-dev/penstock/internal/service/rls"
)

// Bounds of the gRPC server.
const (
	// maxMessageBytes is above what the bounds of a request add up to (16 × 16 × 2 × 256 bytes), and enough that a value
	// of 1 MB is denied by its name and not refused as a message, which Envoy would let pass.
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

// served are the names that health speaks of: the services, and what envoyproxy/ratelimit calls itself, for those who have
// probed that.
var served = []string{"", "ratelimit", ratelimitv3.RateLimitService_ServiceDesc.ServiceName, authv3.Authorization_ServiceDesc.ServiceName}

func (s *Service) newGRPCServer(envoy *rls.Server, recovery *recovery) (*grpc.Server, *health.Server) {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(bytewise.Codec()),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderListBytes),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.InTapHandle(receive),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: maxConnectionAge, MaxConnectionAgeGrace: maxConnectionAgeGrace,
			Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.NumStreamWorkers(streamWorkers()),
	}
	if s.cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.cfg.TLS)))
	}
	// Only what there is to do is in the chain: each link costs an allocation for every call.
	unary, stream := []grpc.UnaryServerInterceptor{recovery.unary}, []grpc.StreamServerInterceptor{recovery.stream, received}
	if s.cfg.Tracing != nil { // outside of recovery, so that it sees what a panic is answered with
		unary = []grpc.UnaryServerInterceptor{s.cfg.Tracing.Unary(), recovery.unary}
	}
	if s.cfg.Callers.Authenticates() {
		unary, stream = append(unary, s.cfg.Callers.Unary), append(stream, s.cfg.Callers.Stream)
	}
	options = append(options, grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(stream...))

	server := grpc.NewServer(options...)
	ratelimitv3.RegisterRateLimitServiceServer(server, envoy)
	authv3.RegisterAuthorizationServer(server, extauthz.New(s.engine, extauthz.Options{
		Callers: s.cfg.Callers, Proxies: s.cfg.Proxies, DefaultDomain: s.cfg.DefaultDomain, Strict: s.cfg.Strict,
	}))
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
