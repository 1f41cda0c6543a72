package service

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstock-dev/penstock/internal/service/api"
	"github.com/penstock-dev/penstock/internal/service/debug"
	"github.com/penstock-dev/penstock/internal/service/forwardauth"
	"github.com/penstock-dev/penstock/internal/service/rls"
)

// Bounds of a request over HTTP: what a slow or hostile client can hold, and for how long.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// maxHeaderBytes leaves room for what proxies pass on: the headers of the original request, cookies among them.
	maxHeaderBytes = 64 << 10
	maxBodyBytes   = 64 << 10
)

func (s *Service) newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		TLSConfig:         s.cfg.TLS.Clone(), // a server changes its own
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// What the server says of its clients (a broken handshake, a bad request line) is for whoever debugs one.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// newDoorServer makes the server of the doors. It speaks HTTP/2 too, also without TLS to clients that begin with it, as those
// of gRPC do, and its connections do not last for ever.
func (s *Service) newDoorServer(handler http.Handler) *http.Server {
	aging := aging{age: maxConnectionAge, now: time.Now}
	server := withHTTP2(s.newHTTPServer(aging.handler(handler)))
	server.ConnContext = aging.begin
	return server
}

func withHTTP2(server *http.Server) *http.Server {
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	server.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams: maxConcurrentStreams,
		SendPingTimeout:      keepaliveTime,
		PingTimeout:          keepaliveTimeout,
		WriteByteTimeout:     writeTimeout,
	}
	return server
}

// doors is what callers reach. No http.ServeMux: it redirects a path that is not clean, and behind /auth/ stands the path
// of somebody else's request.
func (s *Service) doors(envoy *rls.Server, recovery *recovery) http.Handler {
	callers := s.cfg.Callers
	// traced is outside of recovery, so that it sees what a panic is answered with.
	traced := func(door string, next http.Handler) http.Handler {
		next = recovery.handler(next)
		if s.cfg.Tracing != nil {
			next = s.cfg.Tracing.Handler(door, next)
		}
		return next
	}
	auth := traced("forwardauth", callers.Handler(bounded(forwardauth.New(s.engine, forwardauth.Options{
		Callers: callers, Proxies: s.cfg.Proxies, DefaultDomain: s.cfg.DefaultDomain, Strict: s.cfg.Strict,
	}))))
	limiter := traced("api", callers.RPCHandler(api.New(s.engine, callers)))
	asJSON := traced("json", callers.DirectHandler(envoy.JSON()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, api.Prefix):
			limiter.ServeHTTP(w, r)
		case r.URL.Path == forwardauth.Path || strings.HasPrefix(r.URL.Path, forwardauth.Prefix):
			auth.ServeHTTP(w, r)
		case r.URL.Path == rls.JSONPath:
			asJSON.ServeHTTP(w, r)
		case r.URL.Path == "/healthz":
			s.healthz(w, r)
		case r.URL.Path == "/readyz":
			s.readyz(w, r)
		default:
			http.NotFound(w, r)
		}
	})
}

// observability is for those who run penstockd.
func (s *Service) observability(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", s.healthz)
	mux.HandleFunc("/readyz", s.readyz)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle(debug.Prefix, debug.New(s.cfg.Denials, s.cfg.Pprof))
	return mux
}

// healthz answers as long as the process does: what is wrong with Redis is not mended by a restart.
func (s *Service) healthz(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "ok\n")
}

func (s *Service) readyz(w http.ResponseWriter, _ *http.Request) {
	if reason := s.notReady(); reason != "" {
		http.Error(w, "not ready: "+reason, http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
	if s.cfg.Trouble != nil {
		if trouble := s.cfg.Trouble(); trouble != "" {
			_, _ = io.WriteString(w, "degraded: "+trouble+"\n")
		}
	}
}

// bounded reads the body away, which no door here needs, and refuses one that is too large.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBodyBytes)); err != nil {
				http.Error(w, "the body is larger than 64 KiB, or cannot be read; this door needs none", http.StatusRequestEntityTooLarge)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
