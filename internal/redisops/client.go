package redisops

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

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
)

// Config says how a store is reached. Zero values stand for the defaults.
type Config struct {
	// Addresses are host:port; exactly one for a standalone server.
	Addresses []string
	// Username of the ACL user; empty is the user "default".
	Username string
	// Password, empty for a server that asks for none.
	Password string
	// DB is the number of the database.
	DB int
	// DialTimeout bounds the opening of a connection, and one batch of commands on the wire.
	DialTimeout time.Duration
	// CommandTimeout is how long a caller waits for a decision.
	CommandTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pauses between attempts to reach the server again; never on the decision path.
	MinBackoff, MaxBackoff time.Duration
	// MaxConnections is the most connections that are open at a time, but for subscriptions.
	MaxConnections int
	// MaxReplyBytes is how many bytes of replies are read, at most, on one connection between two writes to it; what
	// answers at an address need not be a Redis.
	MaxReplyBytes int
}

// ConfigFor gives the configuration of a compiled store with the credentials from its Secret.
func ConfigFor(store policy.RedisStore, username, password string) Config {
	return Config{
		Addresses:      store.Addresses,
		Username:       username,
		Password:       password,
		DialTimeout:    store.DialTimeout,
		CommandTimeout: store.CommandTimeout,
		MinBackoff:     store.MinBackoff,
		MaxBackoff:     store.MaxBackoff,
	}.WithDefaults()
}

// WithDefaults gives the configuration with its zero values filled in.
func (c Config) WithDefaults() Config {
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

// NewClient gives a client that sends each command once: it never retries by itself, since go-redis retries after lost
// replies too, and a command that ran would run again. Its I/O is bounded by DialTimeout, and by the deadline of a
// context that is shorter; so contexts of requests must not reach it (see Caller). It opens no connection yet. The
// caller closes it.
func NewClient(cfg Config) redis.UniversalClient {
	cfg = cfg.WithDefaults()
	options := &redis.Options{
		Username: cfg.Username,
		Password: cfg.Password,
		DB:       cfg.DB,

		MaxRetries:            -1,
		DialerRetries:         1,
		ContextTimeoutEnabled: true,
		DialTimeout:           cfg.DialTimeout,
		ReadTimeout:           cfg.DialTimeout,
		WriteTimeout:          cfg.DialTimeout,

		PoolSize:       cfg.MaxConnections,
		MaxActiveConns: cfg.MaxConnections,
		PoolTimeout:    cfg.DialTimeout,
		// In turns, and for ever: what a Caller has opened ahead is to be there when it is needed.
		PoolFIFO:        true,
		ConnMaxIdleTime: -1,
		// go-redis would open a second pool for pipelines: a second bound to add up, and a second dial whenever the first
		// one fails.
		PipelinePoolSize: -1,

		OnConnect: proveConnected,

		// RESP2 has all that the functions answer. RESP3 brings pushes, which nobody here reads but every batch looks for.
		Protocol: 2,
		// CLIENT SETINFO would have to be in the ACL of every user, and breaks ACL SETUSER on 7.0.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if len(cfg.Addresses) == 1 {
		options.Addr = cfg.Addresses[0]
	}
	dial := redis.NewDialer(options)
	options.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		if len(cfg.Addresses) != 1 { // else go-redis would go to localhost
			return nil, fmt.Errorf("%w: %d addresses of the store, want exactly one", ErrNotExecuted, len(cfg.Addresses))
		}
		connection, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return metered(connection, cfg.MaxReplyBytes)
	}
	return redis.NewClient(options)
}

func metered(connection net.Conn, maxReplyBytes int) (net.Conn, error) {
	plain, is := connection.(socket)
	if !is {
		_ = connection.Close()
		return nil, fmt.Errorf("%w: a %T has no socket", ErrNotExecuted, connection)
	}
	return &meteredConn{socket: plain, meter: newReplyMeter(maxReplyBytes)}, nil
}

// proveConnected makes the opening of a connection fail where the server does not serve it. A server with too many clients
// says so in its reply to HELLO, which go-redis takes for a server without that command, and closes; the first batch would
// then be written to a closed connection and its outcome be unknown.
func proveConnected(ctx context.Context, connection *redis.Conn) error {
	err := connection.Ping(ctx).Err()
	if Classify(err) == UnknownOutcome {
		return fmt.Errorf("%w: first PING on a new connection: %w", ErrNotExecuted, err)
	}
	return nil
}
