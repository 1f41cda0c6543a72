// Command operator watches the kinds of penstock.dev, compiles them, and publishes them into the Redis of their store.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(ctrl.SetupSignalHandler(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program; it gives the exit code: 0, 1 for what failed, 2 for a wrong command line.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, env, stdout)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "operator: %v\nSee operator --help.\n", err)
		return 2
	case cfg.version:
		_, _ = fmt.Fprintln(stdout, version)
		return 0
	}
	log := logr.FromSlogHandler(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: cfg.logLevel}))
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	redis.SetLogger(redisLog{log.WithName("redis")})
	if err := manage(ctx, cfg); err != nil {
		log.Error(err, "the operator ends")
		return 1
	}
	return 0
}

// manage runs the controllers until ctx ends.
func manage(ctx context.Context, cfg config) error {
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find a cluster: %w; use --kubeconfig or $KUBECONFIG outside of one", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1.AddToScheme(scheme)); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme: scheme,
		Metrics: metricsserver.Options{
			BindAddress: cfg.metricsAddress, CertDir: cfg.metricsCertDir,
			SecureServing: true, FilterProvider: filters.WithAuthenticationAndAuthorization,
			// Scrapers do without HTTP/2, and so without its rapid resets.
			TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
		},
		HealthProbeBindAddress:  cfg.probeAddress,
		LeaderElection:          cfg.leaderElect,
		LeaderElectionID:        "penstock-operator",
		LeaderElectionNamespace: cfg.operatorNamespace,
		// The process ends when the manager does, so the next leader need not wait for the lease to run out.
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := controllers.Setup(mgr, cfg.operatorNamespace); err != nil {
		return err
	}
	// Also a replica that waits for the lease is healthy and ready.
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return err
	}
	return mgr.Start(ctx)
}
