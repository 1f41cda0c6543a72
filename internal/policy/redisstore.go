package policy

import "time"

// Topology is how the servers of a store belong together.
type Topology string

// The topologies.
const (
	// TopologyStandalone is one server.
	TopologyStandalone Topology = "Standalone"
	// TopologySentinel is one primary with replicas, and sentinels that tell which is which.
	TopologySentinel Topology = "Sentinel"
	// TopologyCluster is a Redis Cluster.
	TopologyCluster Topology = "Cluster"
	// TopologyIndependent is several servers that know nothing of each other. They hold locks, not rate limits.
	TopologyIndependent Topology = "Independent"
)

// RedisStore is a compiled RedisStore: how its servers are reached. It holds no credentials.
type RedisStore struct {
	Topology Topology
	// Addresses are host:port: of the server (Standalone), of the sentinels (Sentinel), of some of the nodes (Cluster), of
	// all servers (Independent).
	Addresses []string
	// MasterName is how the sentinels call the primary; only for Sentinel.
	MasterName string
	// TLS is nil for connections without it.
	TLS *RedisStoreTLS
	// DialTimeout bounds the opening of a connection and one batch on the wire.
	DialTimeout time.Duration
	// CommandTimeout is how long a caller waits for a decision.
	CommandTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pauses between attempts to reach the servers again.
	MinBackoff, MaxBackoff time.Duration
}

// RedisStoreTLS is how certificates of servers are checked.
type RedisStoreTLS struct {
	// ServerName is whom the certificates must be for; empty is the host of each address.
	ServerName string
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool
}
