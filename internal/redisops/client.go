package redisops

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// newClient gives a client for the endpoint that sends each command once: it never retries by itself, since go-redis
// retries after lost replies too, and a command that ran would run again. Its I/O is bounded by DialTimeout, and by the
// deadline of a context that is shorter; so contexts of requests must not reach it (see Caller). It opens no connection
// yet. The caller closes it.
func newClient(cfg Config, to *endpoint) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:      to.address,
		Username:  cfg.Username,
		Password:  cfg.Password,
		DB:        cfg.DB,
		Dialer:    to.dial,
		OnConnect: to.proveConnected,

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

		Protocol: cfg.Protocol,
		// CLIENT SETINFO would have to be in the ACL of every user, and breaks ACL SETUSER on 7.0.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// proveConnected makes the opening of a connection fail where the server does not serve it. A server with too many clients
// says so in its reply to HELLO, which go-redis takes for a server without that command, and closes; the first batch would
// then be written to a closed connection and its outcome be unknown.
func (e *endpoint) proveConnected(ctx context.Context, connection *redis.Conn) error {
	err := connection.Ping(ctx).Err()
	if Classify(err) == UnknownOutcome {
		return fmt.Errorf("%w: first PING on a new connection: %w", ErrNotExecuted, err)
	}
	if e.wantPrimary {
		return provePrimary(ctx, connection, e.protocol)
	}
	return nil
}
