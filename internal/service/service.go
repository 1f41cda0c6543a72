package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/debug"
	"github.com/penstock-dev/penstock/internal/service/origin"
	"github.com/penstock-dev/penstock/internal/service/rls"
	"github.com/penstock-dev/penstock/internal/service/topdenied"
	"github.com/penstock-dev/penstock/internal/service/tracing"
)

// Defaults of a Config.
const (
	// DefaultDrain is how long requests that are under way may take to end.
	DefaultDrain = 20 * time.Second
	// DefaultMaxConnections is how many connections of callers there may be for each port.
	DefaultMaxConnections = 10_000
)

// Config says where to listen, whom to answer, and how to end. An empty address leaves that port closed.
type Config struct {
	// HTTP is the address of the HTTP doors and of /healthz and /readyz.
	HTTP string
	// GRPC is the address of the gRPC doors, health and reflection.
	GRPC string
	// Metrics is the address of /metrics and /debug (and again /healthz and /readyz), apart from what callers reach.
	Metrics string
	// TLS is how every port is served; nil is without TLS.
	TLS *tls.Config
	// MaxConnections bounds the connections of each port: the next one waits until another ends. 0 is
	// DefaultMaxConnections.
	MaxConnections int
	// Callers tells who may ask for what; nil is everybody.
	Callers *callers.Directory
	// Proxies are believed what they say of the requests that they ask about; the zero value is none.
	Proxies origin.Proxies
	// DefaultDomain is that of requests at /auth and ext_authz that name none; empty is none.
	DefaultDomain string
	// Strict refuses requests for a domain that no policy answers for.
	Strict bool
	// Denials is what /debug/top shows; nil is a page without any.
	Denials debug.Denials
	// Pprof serves profiles under /debug/pprof/, to this host only.
	Pprof bool
	// Tracing makes spans of requests; nil makes none.
	Tracing *tracing.Tracing
	// LameDuck is how long to go on serving after readiness was withdrawn, so that load balancers see it first. 0 is not
	// at all.
	LameDuck time.Duration
	// Drain bounds how long requests that are under way may take to end after that; 0 is DefaultDrain.
	Drain time.Duration
	// WhyNotReady tells, while there is no policy set, what stands in the way, or ""; nil knows nothing. It is shown to
	// whoever asks /readyz.
	WhyNotReady func() string
	// Trouble tells what is wrong with Redis while there is a policy set, or ""; nil knows nothing. It is shown to whoever
	// asks /readyz, which says yes all the same: by what the policies say for that case, requests are answered.
	Trouble func() string
}

// Addresses are where a Service listens, as host:port; empty where it does not.
type Addresses struct {
	HTTP, GRPC, Metrics string
}

// Service is the doors around an engine.
type Service struct {
	cfg    Config
	engine *engine.Engine
	log    *slog.Logger

	http, grpc, metrics net.Listener
	httpServer          *http.Server
	metricsServer       *http.Server
	grpcServer          *grpc.Server
	health              *health.Server
	draining            atomic.Bool
	// pause is time.Sleep.
	pause func(time.Duration)
}

// New opens the ports and makes the servers; Run serves. The metrics of the service go into the registry, where those of
// the engine should be too. It fails when a port cannot be opened, and then leaves none open.
func New(cfg Config, eng *engine.Engine, registry *prometheus.Registry, log *slog.Logger) (*Service, error) {
	if cfg.Drain == 0 {
		cfg.Drain = DefaultDrain
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	if cfg.Callers == nil {
		cfg.Callers = callers.Everybody()
	}
	if cfg.Denials == nil {
		cfg.Denials = topdenied.New(nil)
	}
	s := &Service{cfg: cfg, engine: eng, log: log, pause: time.Sleep}
	for _, port := range []struct {
		name, address string
		listener      *net.Listener
	}{
		{"http", cfg.HTTP, &s.http}, {"grpc", cfg.GRPC, &s.grpc}, {"metrics", cfg.Metrics, &s.metrics},
	} {
		if port.address == "" {
			continue
		}
		listener, err := net.Listen("tcp", port.address)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("opening the %s port: %w", port.name, err)
		}
		*port.listener = netutil.LimitListener(listener, cfg.MaxConnections)
	}
	recovery := newRecovery(registry, log)
	envoy := rls.New(eng, rls.Options{Callers: cfg.Callers, Strict: cfg.Strict, Registerer: registry, Logger: log})
	s.httpServer = s.newDoorServer(s.doors(envoy, recovery))
	s.metricsServer = s.newHTTPServer(recovery.handler(s.observability(registry)))
	s.grpcServer, s.health = s.newGRPCServer(envoy, recovery)
	return s, nil
}

// Addresses tells where the service listens, with the ports that were chosen for ":0".
func (s *Service) Addresses() Addresses {
	return Addresses{HTTP: address(s.http), GRPC: address(s.grpc), Metrics: address(s.metrics)}
}

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

func (s *Service) close() {
	for _, l := range []net.Listener{s.http, s.grpc, s.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Run serves until the context ends, and then drains: readiness is withdrawn, LameDuck passes, new requests are refused,
// those under way get Drain to end, and what is left is cut off. It is ready once the engine has a policy set. Run is
// called once; it fails when a server fails.
func (s *Service) Run(ctx context.Context) error {
	failed := make(chan error, 3)
	s.serve("http", s.http, s.overHTTP(s.httpServer), failed)
	s.serve("metrics", s.metrics, s.overHTTP(s.metricsServer), failed)
	s.serve("grpc", s.grpc, s.grpcServer.Serve, failed)
	s.log.Info("listening", "http", address(s.http), "grpc", address(s.grpc), "metrics", address(s.metrics), "tls", s.cfg.TLS != nil)

	ready := s.engine.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			s.setServing()
			s.log.Info("ready")
		case err := <-failed:
			s.stop()
			return err
		case <-ctx.Done():
			s.drain()
			return nil
		}
	}
}

// overHTTP serves with TLS if there is any.
func (s *Service) overHTTP(server *http.Server) func(net.Listener) error {
	if s.cfg.TLS == nil {
		return server.Serve
	}
	return func(listener net.Listener) error { return server.ServeTLS(listener, "", "") }
}

func (s *Service) serve(name string, listener net.Listener, serve func(net.Listener) error, failed chan<- error) {
	if listener == nil {
		return
	}
	go func() {
		if err := serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			failed <- fmt.Errorf("serving %s: %w", name, err)
		}
	}()
}

// drain ends the service without refusing what is on its way to it.
func (s *Service) drain() {
	s.log.Info("draining", "lameDuck", s.cfg.LameDuck.String(), "drain", s.cfg.Drain.String())
	s.draining.Store(true)
	s.health.Shutdown()
	// Callers over HTTP open their next connection elsewhere; those over gRPC are told to by GracefulStop.
	s.httpServer.SetKeepAlivesEnabled(false)
	s.pause(s.cfg.LameDuck)

	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Drain)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		s.grpcServer.GracefulStop()
		close(ended)
	}()
	if err := s.httpServer.Shutdown(ctx); err != nil {
		s.log.Warn("requests over HTTP were cut off", "after", s.cfg.Drain.String())
	}
	select {
	case <-ended:
	case <-ctx.Done():
		s.log.Warn("calls over gRPC were cut off", "after", s.cfg.Drain.String())
	}
	s.stop()
	s.log.Info("stopped")
}

// stop cuts everything off.
func (s *Service) stop() {
	s.grpcServer.Stop()
	_ = s.httpServer.Close()
	_ = s.metricsServer.Close()
	s.close()
}

// notReady tells why no request should be sent here, or "".
func (s *Service) notReady() string {
	switch {
	case s.draining.Load():
		return "shutting down"
	case s.engine.Set() == nil:
		if s.cfg.WhyNotReady != nil {
			if why := s.cfg.WhyNotReady(); why != "" {
				return engine.ErrNoSet.Error() + ": " + why
			}
		}
		return engine.ErrNoSet.Error()
	default:
		return ""
	}
}
