package policy

import "time"

// RedisStore is a compiled RedisStore: how its servers are reached. It holds no credentials.
type RedisStore struct {
	// Topology is Standalone.
	Topology string
	// Addresses are host:port.
	Addresses []string
	// DialTimeout bounds the opening of a connection and one batch on the wire.
	DialTimeout time.Duration
	// CommandTimeout is how long a caller waits for a decision.
	CommandTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pauses between attempts to reach the servers again.
	MinBackoff, MaxBackoff time.Duration
}
