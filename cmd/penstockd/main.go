// Command penstockd is the shared rate limit service: it enforces the policies that are published in one Redis, for
// Envoy, for proxies that ask over HTTP, and for whoever speaks their protocols. It needs no Kubernetes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/store"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles"
	"github.com/penstock-dev/penstock/internal/service/topdenied"
	"github.com/penstock-dev/penstock/internal/service/tracing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	// Whoever asks a second time does not want to wait.
	context.AfterFunc(ctx, stop)
	collectLessOften(os.LookupEnv)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run is the program; it gives the exit code: 0, 1 for what failed, 2 for a wrong command line.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	cfg, err := parse(args, env, stdout)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "penstockd: %v\nSee penstockd --help.\n", err)
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: cfg.logLevel}))
	redis.SetLogger(clientLog{log})
	if err := serve(ctx, cfg, log); err != nil {
		log.Error("penstockd ends", "error", err.Error())
		return 1
	}
	return 0
}

// serve puts the pieces together: the store feeds the engine, and the engine serves the doors.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	registry := service.NewRegistry()
	var eng *engine.Engine
	st, err := store.Open(store.Options{
		Load: cfg.redis.Load, Replica: cfg.replica, Snapshot: cfg.snapshot, Answers: func() { eng.Answers() },
		Registerer: registry, Logger: log,
	})
	if err != nil {
		return err
	}
	defer st.Close()
	denials := topdenied.New(nil)
	options := engine.Options{
		Limiter: st, Reread: st.Reread, ExpressionFailed: st.ExpressionFailed, Logger: log, Registerer: registry,
		NoDenyCache: !cfg.denyCache, Denied: denials.Denied, Replicas: st.Replicas,
	}
	cfg.service.Denials, cfg.service.WhyNotReady, cfg.service.Trouble = denials, st.Why, st.Trouble
	if cfg.tls.CertFile != "" {
		files, err := tlsfiles.New(cfg.tls, log)
		if err != nil {
			return err
		}
		defer files.Close()
		cfg.service.TLS = files.ServerConfig()
	}
	if cfg.service.Callers, err = callers.New(cfg.callers, log, registry); err != nil {
		return err
	}
	if cfg.callers.Mode == callers.Bearer && cfg.tls.CertFile == "" {
		log.Warn("tokens of callers come without TLS, so whoever sees the traffic can use them; give --tls-cert and --tls-key, or have a mesh encrypt it")
	}
	if cfg.tracing {
		if cfg.service.Tracing, err = tracing.Start(ctx, log); err != nil {
			return err
		}
		defer func() { _ = cfg.service.Tracing.Shutdown(context.WithoutCancel(ctx)) }()
		options.Tracer = cfg.service.Tracing.Tracer()
	}
	eng = engine.New(options)
	svc, err := service.New(cfg.service, eng, registry, log)
	if err != nil {
		return err
	}

	// What follows outlives ctx: while the doors drain, decisions go on.
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var followed sync.WaitGroup
	defer followed.Wait()
	defer stop()
	followed.Go(func() { cfg.service.Callers.Run(following) })
	followed.Go(func() {
		if cfg.policies != nil {
			st.Enforce(following, cfg.policies, eng.Use)
			return
		}
		st.Follow(following, eng.Use)
	})
	return svc.Run(ctx)
}

// gcPercent is how much the heap grows between two garbage collections, in percent of what lives.
//
// Little lives here, a few MB of policies and connections, and much is made and dropped with every request. Go's default
// of 100 then collects many times a second under load: at 5,000 checks a second some 10 times and 2 % of the CPU time, against
// twice and less than 1 % with 400. The price is memory: the heap reaches five times what lives in place of twice, there
// 18 MB in place of 7, and tens of MB with many policies.
const gcPercent = 400

// collectLessOften sets gcPercent, unless somebody has set how Go collects.
func collectLessOften(env func(string) (string, bool)) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if value, set := env(name); set && value != "" {
			return
		}
	}
	debug.SetGCPercent(gcPercent)
}

// clientLog takes what go-redis would print by itself. It is for debugging: what matters comes as an error, too, and is
// logged once for each transition.
type clientLog struct{ log *slog.Logger }

func (l clientLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "go-redis", "message", fmt.Sprintf(format, args...))
}

// readPolicies reads a compiled set from a file.
func readPolicies(path string) (*policy.Set, error) {
	document, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return policy.Parse(document)
}
