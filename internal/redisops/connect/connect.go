// Package connect is the settings by which a program is told how Redis is reached: flags, variables, and the files behind
// them, which hold what must be in no argument and may change while the program runs.
package connect

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// Settings say how Redis is reached. Zero values are the defaults.
type Settings struct {
	// URL is redis://[user[:password]@]host[:port][,host[:port]…][/db], or rediss:// for TLS. Required.
	URL string
	// Topology is one of policy.Topology, in any case; empty is Standalone.
	Topology string
	// MasterName is what the sentinels call the primary; of Sentinel only.
	MasterName string
	// UsernameFile and PasswordFile hold the credentials; they go before those of the URL, and before Username and Password.
	UsernameFile, PasswordFile string
	// Username and Password go before those of the URL. They have no flags, and the password has a variable: arguments can be
	// read by everybody on the machine.
	Username, Password string
	// SentinelUsername and SentinelPassword are those of the sentinels, in place of which files may hold them.
	SentinelUsername, SentinelUsernameFile, SentinelPassword, SentinelPasswordFile string
	// TLSCA, TLSCert and TLSKey are files in PEM: the CAs of the servers (none: those of the system), and the certificate to
	// show to them.
	TLSCA, TLSCert, TLSKey string
	// TLSServerName is the name that the servers' certificates have; empty is the host of each address.
	TLSServerName string
	// TLSInsecureSkipVerify takes any certificate.
	TLSInsecureSkipVerify bool
	// Protocol is the version of RESP, 2 or 3; 0 is 2.
	Protocol int
	// These are as of redisops.Config.
	CommandTimeout, DialTimeout, MinBackoff, MaxBackoff time.Duration
	MaxConnections                                      int

	// Naming gives how messages call the setting of a flag; nil is --<flag>.
	Naming func(flag string) string

	// timed tells that the flags of AddTimeouts are there, so that 0 was asked for.
	timed bool
	// variables is the prefix of those that FromEnvironment looked at, for messages.
	variables string
}

// Names of flags that messages speak of.
const (
	flagURL                  = "redis"
	flagTopology             = "redis-topology"
	flagMasterName           = "redis-master-name"
	flagUsernameFile         = "redis-username-file"
	flagPasswordFile         = "redis-password-file"
	flagSentinelUsername     = "redis-sentinel-username"
	flagSentinelUsernameFile = "redis-sentinel-username-file"
	// SentinelPassword has no flag: for Naming alone.
	flagSentinelPassword     = "redis-sentinel-password"
	flagSentinelPasswordFile = "redis-sentinel-password-file"
	flagTLSCA                = "redis-tls-ca"
	flagTLSCert              = "redis-tls-cert"
	flagTLSKey               = "redis-tls-key"
	flagTLSServerName        = "redis-tls-server-name"
	flagTLSSkipVerify        = "redis-tls-insecure-skip-verify"
	flagProtocol             = "redis-protocol"
)

// Variables of FromEnvironment, behind the prefix of the program.
const (
	PasswordVariable         = "REDIS_PASSWORD"
	SentinelPasswordVariable = "REDIS_SENTINEL_PASSWORD"
)

// AddFlags adds the flags that say where the servers are, and what is shown to them. prefix is that of the program's
// variables, for the help ("PENSTOCKD_").
func (s *Settings) AddFlags(f *pflag.FlagSet, prefix string) {
	f.StringVar(&s.URL, flagURL, s.URL, "`URL` of the servers: redis://[user[:password]@]host[:port][,host[:port]...][/db], or rediss:// for TLS")
	f.StringVar(&s.Topology, flagTopology, string(policy.TopologyStandalone), "Standalone, Sentinel (the hosts are sentinels), Cluster or Independent")
	f.StringVar(&s.MasterName, flagMasterName, "", "what the sentinels call the primary; of Sentinel only")
	f.StringVar(&s.UsernameFile, flagUsernameFile, "", "a file that holds the user")
	f.StringVar(&s.PasswordFile, flagPasswordFile, "", "a file that holds the password; or set "+prefix+PasswordVariable)
	f.StringVar(&s.SentinelUsername, flagSentinelUsername, "", "the user at the sentinels")
	f.StringVar(&s.SentinelUsernameFile, flagSentinelUsernameFile, "", "a file that holds it")
	f.StringVar(&s.SentinelPasswordFile, flagSentinelPasswordFile, "", "a file that holds the password at the sentinels; or set "+prefix+SentinelPasswordVariable)
	f.StringVar(&s.TLSCA, flagTLSCA, "", "a file with the CAs of the servers, for rediss://; none are those of the system")
	f.StringVar(&s.TLSCert, flagTLSCert, "", "a file with the certificate to show to the servers, and its chain")
	f.StringVar(&s.TLSKey, flagTLSKey, "", "a file with its key")
	f.StringVar(&s.TLSServerName, flagTLSServerName, "", "the name in the servers' certificates; none is the host of each")
	f.BoolVar(&s.TLSInsecureSkipVerify, flagTLSSkipVerify, false, "take any certificate of a server: whoever is in between can read and change all")
	f.IntVar(&s.Protocol, flagProtocol, 2, "the version of Redis' protocol, RESP: 2 or 3")
}

// AddTimeouts adds the flags of how long and how much.
func (s *Settings) AddTimeouts(f *pflag.FlagSet) {
	s.timed = true
	f.DurationVar(&s.CommandTimeout, "command-timeout", redisops.DefaultCommandTimeout, "how long a caller waits for a decision")
	f.DurationVar(&s.DialTimeout, "dial-timeout", redisops.DefaultDialTimeout, "bounds opening a connection, and one batch on the wire")
	f.DurationVar(&s.MinBackoff, "min-backoff", redisops.DefaultMinBackoff, "shortest pause before trying to reach a server again")
	f.DurationVar(&s.MaxBackoff, "max-backoff", redisops.DefaultMaxBackoff, "longest pause before trying to reach a server again")
	f.IntVar(&s.MaxConnections, "max-connections", redisops.DefaultMaxConnections, "most connections at a time, to each server")
}

// FromEnvironment sets what has a variable and no flag, where the variable is set. The prefix is that of the program.
func (s *Settings) FromEnvironment(prefix string, env func(string) (string, bool)) {
	s.variables = prefix
	for _, secret := range []struct {
		variable string
		setting  *string
	}{{PasswordVariable, &s.Password}, {SentinelPasswordVariable, &s.SentinelPassword}} {
		if value, set := env(prefix + secret.variable); set {
			*secret.setting = value
		}
	}
}

// Load makes the configuration of the settings and of what the files hold now. It may be called again, concurrently too,
// for what they hold then. Errors name the setting and the remedy, and never hold a secret.
func (s *Settings) Load() (redisops.Config, error) {
	cfg, err := s.fixed()
	if err != nil {
		return redisops.Config{}, err
	}
	secrets, err := agreed(s.read)
	if err != nil {
		return redisops.Config{}, err
	}
	setIf(&cfg.Username, s.Username)
	setIf(&cfg.Username, secrets.Username)
	setIf(&cfg.Password, s.Password)
	setIf(&cfg.Password, secrets.Password)
	cfg.SentinelUsername, cfg.SentinelPassword = s.SentinelUsername, s.SentinelPassword
	setIf(&cfg.SentinelUsername, secrets.SentinelUsername)
	setIf(&cfg.SentinelPassword, secrets.SentinelPassword)
	if err := s.checkUsers(cfg); err != nil {
		return redisops.Config{}, err
	}
	if cfg.TLS != nil {
		if err := s.checkPEM(secrets); err != nil {
			return redisops.Config{}, err
		}
		cfg.TLS.CA, cfg.TLS.ClientCert, cfg.TLS.ClientKey = secrets.CA, secrets.ClientCert, secrets.ClientKey
	}
	return cfg.WithDefaults(), nil
}

func setIf(to *string, value string) {
	if value != "" {
		*to = value
	}
}

// fixed is what needs no file.
func (s *Settings) fixed() (redisops.Config, error) {
	if s.URL == "" {
		return redisops.Config{}, fmt.Errorf("%s is missing; give the server as redis://host:port", s.name(flagURL))
	}
	cfg, err := redisops.ParseURL(s.URL)
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", s.name(flagURL), err)
	}
	if cfg.Topology, err = s.topology(); err != nil {
		return cfg, err
	}
	cfg.MasterName, cfg.Protocol = s.MasterName, s.Protocol
	cfg.CommandTimeout, cfg.DialTimeout = s.CommandTimeout, s.DialTimeout
	cfg.MinBackoff, cfg.MaxBackoff, cfg.MaxConnections = s.MinBackoff, s.MaxBackoff, s.MaxConnections
	if cfg.TLS != nil {
		cfg.TLS.ServerName, cfg.TLS.InsecureSkipVerify = s.TLSServerName, s.TLSInsecureSkipVerify
	}
	for _, check := range []func(redisops.Config) error{s.checkServers, s.checkSentinel, s.checkTLS, s.checkTimeouts} {
		if err := check(cfg); err != nil {
			return cfg, err
		}
	}
	if s.Protocol != 0 && s.Protocol != 2 && s.Protocol != 3 {
		return cfg, fmt.Errorf("%s is %d; give 2 or 3", s.name(flagProtocol), s.Protocol)
	}
	return cfg, nil
}

var topologies = []policy.Topology{
	policy.TopologyStandalone, policy.TopologySentinel, policy.TopologyCluster, policy.TopologyIndependent,
}

func (s *Settings) topology() (policy.Topology, error) {
	if s.Topology == "" {
		return policy.TopologyStandalone, nil
	}
	at := slices.IndexFunc(topologies, func(t policy.Topology) bool { return strings.EqualFold(string(t), s.Topology) })
	if at < 0 {
		return "", fmt.Errorf("%s is %q; give Standalone, Sentinel, Cluster or Independent", s.name(flagTopology), s.Topology)
	}
	return topologies[at], nil
}

func (s *Settings) checkServers(cfg redisops.Config) error {
	if n := len(cfg.Addresses); cfg.Topology == policy.TopologyStandalone && n != 1 {
		return fmt.Errorf("%s names %d servers; Standalone has one: give that one, or %s",
			s.name(flagURL), n, s.name(flagTopology))
	}
	for i, address := range cfg.Addresses {
		if slices.Contains(cfg.Addresses[:i], address) {
			return fmt.Errorf("%s names %s twice; leave one away", s.name(flagURL), address)
		}
	}
	if cfg.Topology == policy.TopologyCluster && cfg.DB != 0 {
		return fmt.Errorf("%s names database %d; a Cluster has database 0 only: leave /%d away", s.name(flagURL), cfg.DB, cfg.DB)
	}
	return nil
}

func (s *Settings) checkSentinel(cfg redisops.Config) error {
	if cfg.Topology == policy.TopologySentinel {
		if s.MasterName == "" {
			return fmt.Errorf("%s is missing; give what the sentinels call the primary (SENTINEL MASTERS tells)", s.name(flagMasterName))
		}
		if s.SentinelUsername != "" && s.SentinelUsernameFile != "" {
			return fmt.Errorf("%s and %s are both set; give one", s.name(flagSentinelUsername), s.name(flagSentinelUsernameFile))
		}
		return nil
	}
	password := s.name(flagSentinelPassword)
	if s.variables != "" {
		password = s.variables + SentinelPasswordVariable
	}
	for _, setting := range []struct{ name, value string }{
		{s.name(flagMasterName), s.MasterName}, {s.name(flagSentinelUsername), s.SentinelUsername},
		{s.name(flagSentinelUsernameFile), s.SentinelUsernameFile}, {s.name(flagSentinelPasswordFile), s.SentinelPasswordFile},
		{password, s.SentinelPassword},
	} {
		if setting.value != "" {
			return fmt.Errorf("%s is for Sentinel and %s is %s; give Sentinel there, or leave it away",
				setting.name, s.name(flagTopology), cfg.Topology)
		}
	}
	return nil
}

// checkUsers sees that who has a name has a password: Redis takes no user without one.
func (s *Settings) checkUsers(cfg redisops.Config) error {
	for _, user := range []struct{ at, name, password, flag string }{
		{"Redis", cfg.Username, cfg.Password, flagPasswordFile},
		{"the sentinels", cfg.SentinelUsername, cfg.SentinelPassword, flagSentinelPasswordFile},
	} {
		if user.name != "" && user.password == "" {
			return fmt.Errorf("%s is missing; give the password of the user at %s (any, where it has none)", s.name(user.flag), user.at)
		}
	}
	return nil
}

func (s *Settings) checkTLS(cfg redisops.Config) error {
	if cfg.TLS == nil {
		for _, setting := range []struct {
			flag string
			set  bool
		}{
			{flagTLSCA, s.TLSCA != ""}, {flagTLSCert, s.TLSCert != ""}, {flagTLSKey, s.TLSKey != ""},
			{flagTLSServerName, s.TLSServerName != ""}, {flagTLSSkipVerify, s.TLSInsecureSkipVerify},
		} {
			if setting.set {
				return fmt.Errorf("%s is for TLS and %s is redis://; write rediss:// there, or leave it away", s.name(setting.flag), s.name(flagURL))
			}
		}
		return nil
	}
	switch {
	case s.TLSCert != "" && s.TLSKey == "":
		return fmt.Errorf("%s is missing; give the file of the key to %s", s.name(flagTLSKey), s.name(flagTLSCert))
	case s.TLSKey != "" && s.TLSCert == "":
		return fmt.Errorf("%s is missing; give the file of the certificate to %s", s.name(flagTLSCert), s.name(flagTLSKey))
	}
	return nil
}

func (s *Settings) checkTimeouts(redisops.Config) error {
	if !s.timed {
		return nil
	}
	for _, d := range []struct {
		flag           string
		least, setting time.Duration
	}{
		{"command-timeout", time.Millisecond, s.CommandTimeout}, {"dial-timeout", time.Millisecond, s.DialTimeout},
		{"min-backoff", time.Millisecond, s.MinBackoff}, {"max-backoff", s.MinBackoff, s.MaxBackoff},
	} {
		if d.setting < d.least {
			return fmt.Errorf("%s is %v; give at least %v", s.name(d.flag), d.setting, d.least)
		}
	}
	if s.MaxConnections < 1 {
		return fmt.Errorf("%s is %d; give at least 1", s.name("max-connections"), s.MaxConnections)
	}
	return nil
}

// read reads the files.
func (s *Settings) read() (redisops.Secrets, error) {
	var secrets redisops.Secrets
	for _, file := range []struct {
		flag, path string
		to         *string
	}{
		{flagUsernameFile, s.UsernameFile, &secrets.Username}, {flagPasswordFile, s.PasswordFile, &secrets.Password},
		{flagSentinelUsernameFile, s.SentinelUsernameFile, &secrets.SentinelUsername},
		{flagSentinelPasswordFile, s.SentinelPasswordFile, &secrets.SentinelPassword},
	} {
		content, err := s.file(file.flag, file.path)
		if err != nil {
			return secrets, err
		}
		// Editors and `kubectl create secret --from-file` leave a newline behind.
		*file.to = strings.TrimRight(string(content), "\r\n")
		if file.path != "" && *file.to == "" {
			return secrets, fmt.Errorf("%s: %s is empty; write it there, or leave the setting away", s.name(file.flag), file.path)
		}
	}
	for _, file := range []struct {
		flag, path string
		to         *[]byte
	}{
		{flagTLSCA, s.TLSCA, &secrets.CA}, {flagTLSCert, s.TLSCert, &secrets.ClientCert}, {flagTLSKey, s.TLSKey, &secrets.ClientKey},
	} {
		content, err := s.file(file.flag, file.path)
		if err != nil {
			return secrets, err
		}
		*file.to = content
	}
	return secrets, nil
}

func (s *Settings) file(flag, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(flag), err)
	}
	return content, nil
}

// agreed reads until two readings agree: of a mount that is swapped in between, one reading can hold a user or certificate
// of before and a password or key of after.
func agreed(read func() (redisops.Secrets, error)) (redisops.Secrets, error) {
	last, err := read()
	for range 3 {
		next, failed := read()
		if err == nil && failed == nil && reflect.DeepEqual(next, last) {
			return next, nil
		}
		last, err = next, failed
	}
	return last, err
}

// checkPEM says which file it is that cannot be used.
func (s *Settings) checkPEM(secrets redisops.Secrets) error {
	if s.TLSCA != "" && !x509.NewCertPool().AppendCertsFromPEM(secrets.CA) {
		return fmt.Errorf("%s: %s has no certificate in PEM; give the CAs of the servers", s.name(flagTLSCA), s.TLSCA)
	}
	if s.TLSCert == "" {
		return nil
	}
	if _, err := tls.X509KeyPair(secrets.ClientCert, secrets.ClientKey); err != nil {
		return fmt.Errorf("%s %s and %s %s are no pair of certificate and key in PEM: %w",
			s.name(flagTLSCert), s.TLSCert, s.name(flagTLSKey), s.TLSKey, err)
	}
	return nil
}

func (s *Settings) name(flag string) string {
	if s.Naming != nil {
		return s.Naming(flag)
	}
	return "--" + flag
}
