package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/service"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles"
)

// variablePrefix is that of the environment variables of all settings.
const variablePrefix = "PENSTOCKD_"

// config is what the command line and the environment say.
type config struct {
	redis    connect.Settings // how Redis is reached; Load reads the files
	snapshot string           // a file for the last good set; empty is none
	replica  string           // the name of this process among those on the same Redis
	service  service.Config
	tls      tlsfiles.Config // without a CertFile there is no TLS
	callers  callers.Config
	tracing  bool
	policies *policy.Set // nil: from Redis
	// denyCache is whether what Redis denied is denied again for a moment without asking it.
	denyCache bool
	logLevel  slog.Level
}

// settings are the flags as they were given.
type settings struct {
	policiesFile, logLevel string
	trustedProxies         []string
	cfg                    config
}

// group is flags that belong together in the help.
type group struct {
	title string
	flags *pflag.FlagSet
}

func (s *settings) groups() []group {
	add := func(title string, declare func(*pflag.FlagSet)) group {
		flags := pflag.NewFlagSet(title, pflag.ContinueOnError)
		flags.SortFlags = false
		declare(flags)
		return group{title, flags}
	}
	redis, svc := &s.cfg.redis, &s.cfg.service
	return []group{
		add("Redis", func(f *pflag.FlagSet) {
			redis.AddFlags(f, variablePrefix)
			redis.AddTimeouts(f)
			f.StringVar(&s.cfg.replica, "replica", "", "the name of this process, unlike that of all others on the same Redis; none is the host's name with something random")
		}),
		add("Policies", func(f *pflag.FlagSet) {
			f.StringVar(&s.policiesFile, "policies", "", "a compiled policy set to enforce, instead of the one that is published in Redis")
			f.StringVar(&s.cfg.snapshot, "snapshot", "", "a file that keeps the last published set, for a start while Redis is gone")
			f.BoolVar(&s.cfg.denyCache, "deny-cache", true, "deny what Redis has just denied, for at most 1s, without asking it again")
		}),
		add("Doors", func(f *pflag.FlagSet) {
			f.StringVar(&svc.HTTP, "http", ":8080", `address of forward-auth, /json, LimiterService, /healthz and /readyz; "" closes it`)
			f.StringVar(&svc.GRPC, "grpc", ":8081", `address of Envoy's services (Rate Limit Service, ext_authz), health and reflection; "" closes it`)
			f.StringVar(&svc.Metrics, "metrics", ":9090", `address of /metrics and /debug; "" closes it`)
			f.StringSliceVar(&s.trustedProxies, "trusted-proxies", nil, "addresses or networks (10.0.0.0/8) whose X-Forwarded-* headers are believed")
			f.StringVar(&svc.DefaultDomain, "default-domain", "", "the domain at /auth and ext_authz of requests that name none")
			f.BoolVar(&svc.Strict, "strict", false, "refuse requests for a domain without policies, in place of letting them pass")
			f.IntVar(&svc.MaxConnections, "max-client-connections", service.DefaultMaxConnections, "most connections of callers at a time, for each port")
		}),
		add("TLS and callers", func(f *pflag.FlagSet) {
			f.StringVar(&s.cfg.tls.CertFile, "tls-cert", "", "a file with the certificate of every port, and its chain; none is no TLS")
			f.StringVar(&s.cfg.tls.KeyFile, "tls-key", "", "a file with its key")
			f.StringVar(&s.cfg.tls.ClientCAFile, "tls-client-ca", "", "a file with the CAs of callers' certificates")
			f.StringVar(&s.cfg.callers.Mode, "auth", callers.None, "how callers prove who they are: none, mtls or bearer")
			f.StringVar(&s.cfg.callers.File, "auth-callers", "", "a file that names callers and what each may touch")
			f.StringVar(&s.cfg.callers.JWKS, "auth-jwks", "", "the keys of ServiceAccount tokens: a file, or an https URL such as https://kubernetes.default.svc/openid/v1/jwks")
			f.StringVar(&s.cfg.callers.JWKSCAFile, "auth-jwks-ca", "", "a file with the CAs of that URL; none are those of the system")
			f.StringVar(&s.cfg.callers.JWKSTokenFile, "auth-jwks-token-file", "", "a file with the token to show at that URL")
			f.StringVar(&s.cfg.callers.Issuer, "auth-issuer", "", "the issuer that ServiceAccount tokens must have")
			f.StringVar(&s.cfg.callers.Audience, "auth-audience", callers.DefaultAudience, "the audience that they must have")
		}),
		add("Process", func(f *pflag.FlagSet) {
			f.DurationVar(&svc.LameDuck, "lame-duck", 5*time.Second, "how long to go on serving after SIGTERM while load balancers turn away")
			f.DurationVar(&svc.Drain, "drain", service.DefaultDrain, "how long requests under way may take to end after that")
			f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
			f.BoolVar(&s.cfg.tracing, "tracing", false, "send traces by OTLP, as the variables OTEL_… say")
			f.BoolVar(&svc.Pprof, "pprof", false, "serve /debug/pprof/ on the metrics port, to this host only")
		}),
	}
}

// parse reads arguments, and for what they do not say the environment. --help prints to stdout and gives pflag.ErrHelp.
func parse(args []string, env func(string) (string, bool), stdout io.Writer) (config, error) {
	var s settings
	groups := s.groups()
	flags := pflag.NewFlagSet("penstockd", pflag.ContinueOnError)
	flags.Usage = func() {}
	for _, g := range groups {
		flags.AddFlagSet(g.flags)
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			printHelp(stdout, groups)
		}
		return config{}, err
	}
	if flags.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q; all settings are flags", flags.Arg(0))
	}
	if err := fromEnvironment(flags, env); err != nil {
		return config{}, err
	}
	return s.finish(env)
}

// fromEnvironment sets the flags that were not given from PENSTOCKD_<NAME>.
func fromEnvironment(flags *pflag.FlagSet, env func(string) (string, bool)) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		value, set := env(variable(f.Name))
		if f.Changed || !set || failed != nil {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("environment variable %s: %w", variable(f.Name), err)
		}
	})
	return failed
}

func variable(flag string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// finish checks the settings and makes the configuration of them.
func (s *settings) finish(env func(string) (string, bool)) (config, error) {
	cfg := s.cfg
	cfg.redis.FromEnvironment(variablePrefix, env)
	redis, err := cfg.redis.Load()
	if err != nil {
		return cfg, err
	}
	if cfg.replica == "" {
		cfg.replica = newReplica()
	}
	for _, d := range []struct {
		name    string
		least   time.Duration
		setting time.Duration
	}{
		{"lame-duck", 0, cfg.service.LameDuck}, {"drain", time.Millisecond, cfg.service.Drain},
	} {
		if d.setting < d.least {
			return cfg, fmt.Errorf("--%s is %v; give at least %v", d.name, d.setting, d.least)
		}
	}
	if n := cfg.service.MaxConnections; n < 1 {
		return cfg, fmt.Errorf("--max-client-connections is %d; give at least 1", n)
	}
	if cfg.service.Proxies, err = origin.ParseProxies(s.trustedProxies); err != nil {
		return cfg, fmt.Errorf("--trusted-proxies: %w", err)
	}
	if cfg.tls.CertFile == "" && (cfg.tls.KeyFile != "" || cfg.tls.ClientCAFile != "") {
		return cfg, errors.New("--tls-cert is missing; give the file of the certificate to --tls-key, too")
	}
	if err := cfg.callers.Validate(); err != nil {
		return cfg, err
	}
	if cfg.callers.Mode == callers.MTLS && cfg.tls.ClientCAFile == "" {
		return cfg, errors.New("--tls-client-ca is missing; --auth=mtls needs the CAs of callers' certificates, with --tls-cert and --tls-key")
	}
	if err := cfg.logLevel.UnmarshalText([]byte(s.logLevel)); err != nil {
		return cfg, fmt.Errorf("--log-level is %q; give debug, info, warn or error", s.logLevel)
	}
	if s.policiesFile != "" && cfg.snapshot != "" {
		return cfg, errors.New("--snapshot is for policies that are published in Redis, and --policies has others; leave one away")
	}
	if s.policiesFile != "" && redis.Topology == policy.TopologyIndependent {
		return cfg, errors.New("--policies has rate limits, which Independent servers do not hold; give another --redis-topology, or leave --policies away")
	}
	if s.policiesFile != "" {
		if cfg.policies, err = readPolicies(s.policiesFile); err != nil {
			return cfg, fmt.Errorf("--policies: %w", err)
		}
	}
	return cfg, nil
}

// newReplica makes a name for this process: in Kubernetes the host's name is that of the Pod, and its container may start again.
func newReplica() string {
	host, err := os.Hostname()
	if err != nil {
		host = "penstockd"
	}
	return host + "-" + strings.ToLower(rand.Text()[:8])
}

func printHelp(out io.Writer, groups []group) {
	_, _ = fmt.Fprint(out, `penstockd enforces the rate limits that are published in one Redis.

Usage: penstockd --redis redis://host:port [flags]

Each flag is also an environment variable: --lame-duck is PENSTOCKD_LAME_DUCK. A flag wins.
`)
	for _, g := range groups {
		_, _ = fmt.Fprintf(out, "\n%s:\n%s", g.title, g.flags.FlagUsages())
	}
}
