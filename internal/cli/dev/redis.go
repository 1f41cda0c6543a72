package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

const (
	// Embedded is the Options.Redis of a server within this process.
	Embedded = "embedded"
	// commandTimeout is what a decision may wait for. It is far above that of production: a developer's machine is busy
	// with other things, and an answer that is degraded because of it would only confuse.
	commandTimeout = time.Second
	// startTimeout bounds the first questions to a Redis.
	startTimeout = 5 * time.Second
)

// store is the Redis of a session.
type store struct {
	// name is how messages call it. It holds no password.
	name     string
	address  string
	embedded bool
	cfg      redisops.Config
	servers  *redisops.Servers
	client   redis.UniversalClient
	mode     library.Mode
}

// quiet keeps go-redis from writing to standard error what it returns as an error anyway.
type quiet struct{}

// Printf does nothing.
func (quiet) Printf(context.Context, string, ...any) {}

var quietRedis = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

// openStore reaches the Redis that the options name, and finds out what it can do.
func openStore(ctx context.Context, settings connect.Settings) (*store, error) {
	quietRedis()
	s := &store{embedded: settings.URL == "" || settings.URL == Embedded}
	if s.embedded {
		address, err := startEmbedded(ctx)
		if err != nil {
			return nil, err
		}
		s.cfg = redisops.Config{Addresses: []string{address}}
	} else {
		cfg, err := settings.Load()
		if err != nil {
			return nil, &UsageError{err}
		}
		if cfg.Topology == policy.TopologyIndependent {
			return nil, &UsageError{errors.New("--redis-topology is Independent; such servers hold no rate limits: give one of them alone")}
		}
		s.cfg = cfg
	}
	s.cfg.CommandTimeout = commandTimeout
	s.address = strings.Join(s.cfg.Addresses, ",")
	s.name = "Redis at " + s.address
	servers, err := redisops.Open(s.cfg)
	if err != nil {
		return nil, &UsageError{fmt.Errorf("--redis: %w", err)}
	}
	s.servers, s.client = servers, servers.Client()

	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	capabilities, err := library.ProbeAll(ctx, s.servers)
	if err != nil {
		_ = s.servers.Close()
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	s.mode = capabilities.Mode()
	return s, nil
}

// claimable fails when this Redis is somebody else's, as far as it can be told before anything is written.
//
// Functions belong to the server, while the owner stands in one database of it: from another database, publishing would
// replace the library of an owner who is not seen there.
func (s *store) claimable(ctx context.Context, owner string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	present, err := s.client.Get(ctx, policystore.OwnerKey).Result()
	switch {
	case errors.Is(err, redis.Nil):
	case err != nil:
		return fmt.Errorf("%s: reading %s: %w", s.name, policystore.OwnerKey, err)
	case present != owner:
		return s.owned(present)
	default:
		return nil
	}
	if s.mode != library.ModeFunctions {
		return nil
	}
	_, found, err := library.Loaded(ctx, s.client)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if found {
		return fmt.Errorf("%s has the functions of a publisher who is not in database %d of it; functions are shared by all databases, so use another server, or remove them (FUNCTION DELETE %s) if nobody needs them",
			s.name, s.cfg.DB, library.Name)
	}
	return nil
}

func (s *store) owned(owner string) error {
	return fmt.Errorf("%s belongs to %q, and penstock dev takes nothing over: use another server, or --redis %s, or delete %s there if that owner is gone",
		s.name, owner, Embedded, policystore.OwnerKey)
}

var notInOwner = regexp.MustCompile(`[^a-z0-9.-]+`)

// ownerName is who publishes: the same for all sessions on one machine, so that the next one may go on.
func ownerName() string {
	host, err := os.Hostname()
	host = strings.Trim(notInOwner.ReplaceAllString(strings.ToLower(host), "-"), "-.")
	if err != nil || host == "" {
		host = "local"
	}
	return "dev/" + host + "/dev"
}
