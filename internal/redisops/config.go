package redisops

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Defaults of a Config; the RedisStore kind has the same.
const (
	DefaultDialTimeout    = time.Second
	DefaultCommandTimeout = 10 * time.Millisecond
	DefaultMinBackoff     = 50 * time.Millisecond
	DefaultMaxBackoff     = 2 * time.Second
	DefaultMaxConnections = 64
	DefaultMaxReplyBytes  = 64 << 20
	DefaultProtocol       = 2
)

// ErrMisconfigured tells that the store cannot be reached as it is configured; what wraps it says what to mend. Its class is
// Configuration.
var ErrMisconfigured = errors.New("misconfigured")

// Config says how a store is reached. Zero values stand for the defaults.
type Config struct {
	// Topology is how the servers belong together; empty is Standalone.
	Topology policy.Topology
	// Addresses are host:port: of the server (Standalone, exactly one), of the sentinels (Sentinel), of some of the nodes
	// (Cluster), of all servers (Independent).
	Addresses []string
	// MasterName is how the sentinels call the primary; only for Sentinel.
	MasterName string
	// Username of the ACL user; empty is the user "default".
	Username string
	// Password, empty for a server that asks for none.
	Password string
	// SentinelUsername and SentinelPassword are for the sentinels; they are not asked for those of the servers.
	SentinelUsername, SentinelPassword string
	// DB is the number of the database; a Cluster has 0 only.
	DB int
	// TLS is nil for connections without it.
	TLS *TLS
	// Protocol is the version of RESP: 2 or 3.
	Protocol int
	// DialTimeout bounds the opening of a connection, and one batch of commands on the wire.
	DialTimeout time.Duration
	// CommandTimeout is how long a caller waits for a decision.
	CommandTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pauses between attempts to reach the server again; never on the decision path.
	MinBackoff, MaxBackoff time.Duration
	// MaxConnections is the most connections that are open at a time to each server, but for subscriptions.
	MaxConnections int
	// MaxReplyBytes is how many bytes of replies are read, at most, on one connection between two writes to it; what
	// answers at an address need not be a Redis.
	MaxReplyBytes int
}

// TLS says how connections are encrypted. Versions under 1.2 are refused.
type TLS struct {
	// ServerName is whom the certificates must be for; empty is the host of each address.
	ServerName string
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool
	// CA has the certificates of those that are trusted, PEM; empty is the system's.
	CA []byte
	// ClientCert and ClientKey, PEM, show who we are; both or none.
	ClientCert, ClientKey []byte
}

// Secrets are what the Secrets of a store hold.
type Secrets struct {
	Username, Password                 string
	SentinelUsername, SentinelPassword string
	// CA, ClientCert and ClientKey are PEM; they count only for a store with TLS.
	CA, ClientCert, ClientKey []byte
}

// ConfigFor gives the configuration of a compiled store with what its Secrets hold.
func ConfigFor(store policy.RedisStore, secrets Secrets) Config {
	cfg := Config{
		Topology:         store.Topology,
		Addresses:        store.Addresses,
		MasterName:       store.MasterName,
		Username:         secrets.Username,
		Password:         secrets.Password,
		SentinelUsername: secrets.SentinelUsername,
		SentinelPassword: secrets.SentinelPassword,
		DialTimeout:      store.DialTimeout,
		CommandTimeout:   store.CommandTimeout,
		MinBackoff:       store.MinBackoff,
		MaxBackoff:       store.MaxBackoff,
	}
	if store.TLS != nil {
		cfg.TLS = &TLS{
			ServerName:         store.TLS.ServerName,
			InsecureSkipVerify: store.TLS.InsecureSkipVerify,
			CA:                 secrets.CA,
			ClientCert:         secrets.ClientCert,
			ClientKey:          secrets.ClientKey,
		}
	}
	return cfg.WithDefaults()
}

// WithDefaults gives the configuration with its zero values filled in.
func (c Config) WithDefaults() Config {
	if c.Topology == "" {
		c.Topology = policy.TopologyStandalone
	}
	setDefault(&c.Protocol, DefaultProtocol)
	setDefault(&c.DialTimeout, DefaultDialTimeout)
	setDefault(&c.CommandTimeout, DefaultCommandTimeout)
	setDefault(&c.MinBackoff, DefaultMinBackoff)
	setDefault(&c.MaxBackoff, max(DefaultMaxBackoff, c.MinBackoff))
	setDefault(&c.MaxConnections, DefaultMaxConnections)
	setDefault(&c.MaxReplyBytes, DefaultMaxReplyBytes)
	return c
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// validate tells what is wrong, by the names of the fields.
func (c *Config) validate() error {
	wrong := func(field, problem string) error { return fmt.Errorf("%w: %s: %s", ErrMisconfigured, field, problem) }
	switch c.Topology {
	case policy.TopologyStandalone, policy.TopologySentinel, policy.TopologyCluster, policy.TopologyIndependent:
	default:
		return wrong("topology", fmt.Sprintf("%q; want Standalone, Sentinel, Cluster or Independent", c.Topology))
	}
	switch {
	case len(c.Addresses) == 0:
		return wrong("addresses", "none; want host:port")
	case len(c.Addresses) > 1 && c.Topology == policy.TopologyStandalone:
		return wrong("addresses", fmt.Sprintf("%d; topology Standalone takes exactly one, so name another topology, or one address", len(c.Addresses)))
	}
	for i, address := range c.Addresses {
		if !isHostPort(address) {
			return wrong("addresses", fmt.Sprintf("%q; want host:port with a port from 1 to 65535, such as redis:6379 or [::1]:6379", address))
		}
		if slices.Contains(c.Addresses[:i], address) {
			return wrong("addresses", fmt.Sprintf("%q is there twice; remove one", address))
		}
	}
	switch {
	case c.Topology == policy.TopologySentinel && c.MasterName == "":
		return wrong("masterName", "empty; topology Sentinel wants the name that the sentinels have for the primary")
	case c.Topology != policy.TopologySentinel && (c.MasterName != "" || c.SentinelUsername != "" || c.SentinelPassword != ""):
		return wrong("masterName", "the name of the primary and the credentials of sentinels are for topology Sentinel; remove them, or name that topology")
	case c.Username != "" && c.Password == "", c.SentinelUsername != "" && c.SentinelPassword == "":
		return wrong("password", "a user without one; give the password of the user")
	case c.DB < 0:
		return wrong("db", "want 0 or more")
	case c.DB != 0 && c.Topology == policy.TopologyCluster:
		return wrong("db", fmt.Sprintf("%d; a Cluster has database 0 only", c.DB))
	case c.Protocol != 2 && c.Protocol != 3:
		return wrong("protocol", fmt.Sprintf("%d; want 2 or 3", c.Protocol))
	case min(c.DialTimeout, c.CommandTimeout, c.MinBackoff, c.MaxBackoff) < 0:
		return wrong("timeouts and backoffs", "want more than 0")
	case c.MinBackoff > c.MaxBackoff:
		return wrong("minBackoff", "longer than maxBackoff; lower it, or raise maxBackoff")
	case min(c.MaxConnections, c.MaxReplyBytes) < 0:
		return wrong("maxConnections and maxReplyBytes", "want more than 0")
	}
	return nil
}

func isHostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}
