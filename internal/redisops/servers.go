package redisops

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Servers are the servers of one store, and the connections to them.
type Servers struct {
	cfg Config
	tls *tls.Config
	// client is Client.
	client redis.UniversalClient

	// Of Standalone none; of Sentinel, Cluster and Independent the one that is not nil.
	sentinels   *sentinels
	cluster     *redis.ClusterClient
	independent []*redis.Client

	// located is the primary that was dialled last, of Sentinel.
	located atomic.Pointer[string]
	follow  sync.Once
	closing context.Context
	close   context.CancelFunc

	mu sync.Mutex
	// endpoints are those of all clients but of sentinels, by address.
	endpoints map[string]*endpoint
	// replicas are clients for the replicas, of Sentinel, by address.
	replicas map[string]*redis.Client
	closed   bool
}

// Node is one server of a store.
type Node struct {
	// Address is host:port.
	Address string
	// Primary tells that it takes writes.
	Primary bool
	// Client goes to this server only, but for Sentinel's primary: that one goes to whichever is it. It belongs to the Servers.
	Client *redis.Client
}

func compareNodes(a, b Node) int {
	if a.Primary != b.Primary {
		if a.Primary {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Address, b.Address)
}

// primaryAddress stands for an address until the sentinels have told one.
const primaryAddress = "primary"

// Open gives the servers of that configuration. It opens no connection yet: they may be away. The error, ErrMisconfigured,
// tells what is wrong with the configuration. The caller closes the servers.
func Open(cfg Config) (*Servers, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	secured, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	s := &Servers{cfg: cfg, tls: secured, endpoints: make(map[string]*endpoint), replicas: make(map[string]*redis.Client)}
	s.closing, s.close = context.WithCancel(context.Background())
	switch cfg.Topology {
	case policy.TopologySentinel:
		s.sentinels = newSentinels(cfg, func(cfg Config, address string) *redis.Client {
			return newClient(cfg, s.newEndpoint(cfg, address))
		})
		s.client = s.newPrimary()
	case policy.TopologyCluster:
		s.cluster = newCluster(cfg, s.newNode)
		s.client = s.cluster
	case policy.TopologyIndependent:
		for _, address := range cfg.Addresses {
			s.independent = append(s.independent, s.newNode(address))
		}
		s.client = s.independent[0]
	default:
		s.client = s.newNode(cfg.Addresses[0])
	}
	return s, nil
}

func (s *Servers) newEndpoint(cfg Config, address string) *endpoint {
	return &endpoint{
		address: address, dialTimeout: cfg.DialTimeout, maxReplyBytes: cfg.MaxReplyBytes, protocol: cfg.Protocol, tls: s.tls,
	}
}

// newNode gives a client for one server. A node of a cluster may come back at its address, and then has its endpoint again.
func (s *Servers) newNode(address string) *redis.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endpoints[address] == nil {
		s.endpoints[address] = s.newEndpoint(s.cfg, address)
	}
	return newClient(s.cfg, s.endpoints[address])
}

// newPrimary gives a client for the server that the sentinels tell.
func (s *Servers) newPrimary() *redis.Client {
	e := s.newEndpoint(s.cfg, primaryAddress)
	e.wantPrimary = true
	e.locate = func(ctx context.Context) (string, error) {
		s.follow.Do(func() { go s.followPrimary() })
		address, err := s.sentinels.primary(ctx)
		if err == nil {
			s.moveTo(e, address)
		}
		return address, err
	}
	s.endpoints[e.address] = e
	return newClient(s.cfg, e)
}

// followPrimary finds out that another server has become the primary, also where the former one goes on as if nothing had
// happened, cut off from the sentinels and not from us.
func (s *Servers) followPrimary() {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.closing.Done():
			return
		}
		if address, err := s.sentinels.primary(s.closing); err == nil {
			s.moveTo(s.endpoints[primaryAddress], address)
		}
	}
}

// moveTo has connections to a former primary not used any more.
func (s *Servers) moveTo(e *endpoint, address string) {
	if former := s.located.Swap(&address); former != nil && *former != address {
		e.drop()
	}
}

// Config gives the configuration, with its defaults filled in.
func (s *Servers) Config() Config { return s.cfg }

// Close breaks all connections.
func (s *Servers) Close() error {
	s.close()
	errs := []error{s.client.Close()}
	for _, client := range s.independent[min(1, len(s.independent)):] {
		errs = append(errs, client.Close())
	}
	if s.sentinels != nil {
		s.sentinels.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, client := range s.replicas {
		errs = append(errs, client.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing the connections to redis: %w", err)
	}
	return nil
}

// Client gives a client for documents and subscriptions: it goes to the primary (Sentinel), to the node of the key (Cluster),
// to the first server (Independent). It never sends a command again by itself that may have run. Its I/O is bounded by
// DialTimeout, and by the deadline of a context that is shorter; so contexts of requests must not reach it (see Caller). It
// belongs to the Servers.
func (s *Servers) Client() redis.UniversalClient { return s.client }

// Primaries gives the servers that take writes, as of now: of a Cluster all primaries with slots (those known before, when
// no node answers), of Independent all servers. The error is for Classify.
func (s *Servers) Primaries(ctx context.Context) ([]Node, error) { return s.nodes(ctx, false) }

// Nodes gives the servers as Primaries, and the replicas of Sentinel and Cluster that those take for reachable.
func (s *Servers) Nodes(ctx context.Context) ([]Node, error) { return s.nodes(ctx, true) }

func (s *Servers) nodes(ctx context.Context, all bool) ([]Node, error) {
	switch s.cfg.Topology {
	case policy.TopologySentinel:
		return s.sentinelNodes(ctx, all)
	case policy.TopologyCluster:
		nodes, err := clusterNodes(ctx, s.cluster, all)
		if err != nil {
			return nil, fmt.Errorf("asking the cluster for its nodes: %w", err)
		}
		return nodes, nil
	case policy.TopologyIndependent:
		nodes := make([]Node, len(s.independent))
		for i, client := range s.independent {
			nodes[i] = Node{Address: s.cfg.Addresses[i], Primary: true, Client: client}
		}
		return nodes, nil
	default:
		return []Node{{Address: s.cfg.Addresses[0], Primary: true, Client: s.client.(*redis.Client)}}, nil
	}
}

func (s *Servers) sentinelNodes(ctx context.Context, all bool) ([]Node, error) {
	address, err := s.sentinels.primary(ctx)
	if err != nil {
		return nil, err
	}
	s.moveTo(s.endpoints[primaryAddress], address)
	nodes := []Node{{Address: address, Primary: true, Client: s.client.(*redis.Client)}}
	if !all {
		return nodes, nil
	}
	addresses, err := s.sentinels.replicas(ctx)
	if err != nil {
		return nil, err
	}
	for _, replica := range addresses {
		if replica == address {
			continue
		}
		client, err := s.replica(replica)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, Node{Address: replica, Client: client})
	}
	return nodes, nil
}

func (s *Servers) replica(address string) (*redis.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%w: %w", ErrNotExecuted, redis.ErrClosed)
	}
	if s.replicas[address] == nil {
		s.replicas[address] = newClient(s.cfg, s.newEndpoint(s.cfg, address))
	}
	return s.replicas[address], nil
}

// dropIdle has the connections of that client which stand now not used for anything new; those on the wire end as they would.
func (s *Servers) dropIdle(client *redis.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.endpoints[client.Options().Addr]; e != nil {
		e.drop()
	}
}
