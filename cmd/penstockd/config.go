package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/service"
	"github.com/penstock-dev/penstock/internal/service/callers"
	"github.com/penstock-dev/penstock/internal/service/origin"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles"
)

// passwordVariable is the one setting without a flag: arguments can be read by everybody on the machine.
const passwordVariable = "PENSTOCKD_REDIS_PASSWORD"

// config is what the command line and the environment say.
type config struct {
	redis    redisops.Config
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
	redisURL, passwordFile, policiesFile, logLevel string
	trustedProxies                                 []string
	cfg                                            config
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
			f.StringVar(&s.redisURL, "redis", "", "the server, as redis://[user[:password]@]host:port[/db] (required)")
			f.StringVar(&s.passwordFile, "redis-password-file", "", "a file that holds the password; or set "+passwordVariable)
			f.DurationVar(&redis.CommandTimeout, "command-timeout", redisops.DefaultCommandTimeout, "how long a caller waits for a decision")
			f.DurationVar(&redis.DialTimeout, "dial-timeout", redisops.DefaultDialTimeout, "bounds opening a connection, and one batch on the wire")
			f.DurationVar(&redis.MinBackoff, "min-backoff", redisops.DefaultMinBackoff, "shortest pause before trying to reach the server again")
			f.DurationVar(&redis.MaxBackoff, "max-backoff", redisops.DefaultMaxBackoff, "longest pause before trying to reach the server again")
			f.IntVar(&redis.MaxConnections, "max-connections", redisops.DefaultMaxConnections, "most connections at a time")
		}),
		add("Policies", func(f *pflag.FlagSet) {
			f.StringVar(&s.policiesFile, "policies", "", "a compiled policy set to enforce, instead of the one that is published in Redis")
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
	return "PENSTOCKD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// finish checks the settings and makes the configuration of them.
func (s *settings) finish(env func(string) (string, bool)) (config, error) {
	cfg := s.cfg
	if s.redisURL == "" {
		return cfg, errors.New("--redis is missing; give the server as redis://host:port")
	}
	server, err := redisops.ParseURL(s.redisURL)
	if err != nil {
		return cfg, fmt.Errorf("--redis: %w", err)
	}
	cfg.redis.Addresses, cfg.redis.Username, cfg.redis.Password, cfg.redis.DB = server.Addresses, server.Username, server.Password, server.DB
	if password, set := env(passwordVariable); set {
		cfg.redis.Password = password
	}
	if s.passwordFile != "" {
		content, err := os.ReadFile(s.passwordFile)
		if err != nil {
			return cfg, fmt.Errorf("--redis-password-file: %w", err)
		}
		// Editors and `kubectl create secret --from-file` leave a newline behind.
		cfg.redis.Password = strings.TrimRight(string(content), "\r\n")
	}
	for _, d := range []struct {
		name    string
		least   time.Duration
		setting time.Duration
	}{
		{"command-timeout", time.Millisecond, cfg.redis.CommandTimeout}, {"dial-timeout", time.Millisecond, cfg.redis.DialTimeout},
		{"min-backoff", time.Millisecond, cfg.redis.MinBackoff}, {"max-backoff", cfg.redis.MinBackoff, cfg.redis.MaxBackoff},
		{"lame-duck", 0, cfg.service.LameDuck}, {"drain", time.Millisecond, cfg.service.Drain},
	} {
		if d.setting < d.least {
			return cfg, fmt.Errorf("--%s is %v; give at least %v", d.name, d.setting, d.least)
		}
	}
	if n := cfg.redis.MaxConnections; n < 1 {
		return cfg, fmt.Errorf("--max-connections is %d; give at least 1", n)
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
	if s.policiesFile != "" {
		if cfg.policies, err = readPolicies(s.policiesFile); err != nil {
			return cfg, fmt.Errorf("--policies: %w", err)
		}
	}
	return cfg, nil
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
