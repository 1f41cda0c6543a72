package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/client/config"
)

// serviceAccountNamespace is where Kubernetes tells a pod its namespace.
const serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// config is what the command line and the environment say.
type config struct {
	metricsAddress    string
	metricsCertDir    string
	probeAddress      string
	leaderElect       bool
	operatorNamespace string
	logLevel          slog.Level
	version           bool
}

// parse reads arguments. --help prints to stdout and gives pflag.ErrHelp.
func parse(args []string, env func(string) string, stdout io.Writer) (config, error) {
	var cfg config
	var logLevel string
	flags := pflag.NewFlagSet("operator", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(stdout)
	flags.StringVar(&cfg.metricsAddress, "metrics-bind-address", ":8443",
		"address of /metrics, served by TLS to those whose token may get it; 0 closes it")
	flags.StringVar(&cfg.metricsCertDir, "metrics-cert-dir", "", "directory with tls.crt and tls.key for /metrics; without it the certificate is self-signed")
	flags.StringVar(&cfg.probeAddress, "health-probe-bind-address", ":8082", "address of /healthz and /readyz; 0 closes it")
	flags.BoolVar(&cfg.leaderElect, "leader-elect", false, "work only while holding the lease penstock-operator in the operator's namespace; needed with more than one replica")
	flags.StringVar(&cfg.operatorNamespace, "operator-namespace", "",
		"namespace of the lease, and of the RedisStore default that serves namespaces without one (default: $POD_NAMESPACE, else that of the service account)")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	flags.BoolVar(&cfg.version, "version", false, "print the version and exit")
	kubeconfig := flag.NewFlagSet("kubeconfig", flag.ContinueOnError)
	ctrlconfig.RegisterFlags(kubeconfig)
	flags.AddGoFlagSet(kubeconfig)

	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if flags.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q; all settings are flags", flags.Arg(0))
	}
	if err := cfg.logLevel.UnmarshalText([]byte(logLevel)); err != nil {
		return config{}, fmt.Errorf("--log-level %q: want debug, info, warn or error", logLevel)
	}
	if cfg.version {
		return cfg, nil
	}
	var err error
	cfg.operatorNamespace, err = operatorNamespace(cfg.operatorNamespace, env("POD_NAMESPACE"), serviceAccountNamespace)
	return cfg, err
}

// operatorNamespace gives the first that is set: the flag, the environment, the file of the service account.
func operatorNamespace(given, pod, file string) (string, error) {
	if given != "" {
		return given, nil
	}
	if pod != "" {
		return pod, nil
	}
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", errors.New("--operator-namespace is not set, and this is not a pod that could tell it; set it, or $POD_NAMESPACE")
	}
	if err != nil {
		return "", fmt.Errorf("--operator-namespace is not set, and cannot be read from the service account: %w", err)
	}
	return strings.TrimSpace(string(content)), nil
}
