package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

const (
	// connections is how many the operator opens to one Redis: it does one thing at a time there.
	connections = 4
	// maxReplyBytes is more than the documents and the library of the largest set, and little enough for hostile servers of
	// several stores at a time.
	maxReplyBytes = 16 << 20
	// maxDialTimeout bounds timeouts.dial of a store for the operator, and patience what one reconciliation waits for a
	// Redis in all, so that those that keep silent do not hold up other stores.
	maxDialTimeout = 2 * time.Second
	patience       = 3 * time.Second
)

// Server is what the controller does with the Redis of a store.
type Server interface {
	// Probe finds out what the server is.
	Probe(ctx context.Context) (Facts, error)
	// Published reads the set that the server holds, nil when there is none, or none that can be read.
	Published(ctx context.Context) (*policy.Set, error)
	// Publish makes the server hold the set; see policystore.Publish.
	Publish(ctx context.Context, publication policystore.Publication) (policystore.Result, error)
	// Failures reads what these policies ("<namespace>/<name>") failed with lately; see policystore.ReadFailures.
	Failures(ctx context.Context, policies []string) (map[string]policystore.Failure, error)
	// Close closes the connections.
	Close() error
}

// Facts are what a server is. What it does not permit to ask is empty.
type Facts struct {
	// Engine is redis or valkey, Version its version, Identity its master_replid.
	Engine, Version, Identity string
	// Mode is how the server is made to decide.
	Mode library.Mode
	// Capabilities were found by trial.
	Capabilities []string
	// MaxmemoryPolicy is the server's maxmemory-policy.
	MaxmemoryPolicy string
	// Persistence is None, RDB, AOF or RDB+AOF.
	Persistence string
}

// Dial gives a Server for that configuration, whose DialTimeout is cut to 2 s. It opens no connection yet.
func Dial(config redisops.Config) Server {
	config.MaxConnections = connections
	config.MaxReplyBytes = maxReplyBytes
	config.DialTimeout = min(config.DialTimeout, maxDialTimeout)
	return &redisServer{client: redisops.NewClient(config)}
}

type redisServer struct {
	client redis.UniversalClient
}

func (s *redisServer) Close() error { return s.client.Close() }

func (s *redisServer) Probe(ctx context.Context) (Facts, error) {
	// First what every server permits, so that an outage is not taken for a lack of permission.
	if err := s.client.Ping(ctx).Err(); err != nil {
		return Facts{}, fmt.Errorf("ping: %w", err)
	}
	capabilities, err := library.Probe(ctx, s.client)
	if err != nil {
		return Facts{}, err
	}
	facts := Facts{Mode: capabilities.Mode()}
	if capabilities.Functions {
		facts.Capabilities = append(facts.Capabilities, "functions")
	}
	if capabilities.ScriptFlags {
		facts.Capabilities = append(facts.Capabilities, "script-flags")
	}
	// INFO and CONFIG tell what is nice to know: an ACL may well forbid them.
	if info, err := s.client.Info(ctx).Result(); err == nil {
		facts.describe(parseInfo(info))
	}
	if facts.Persistence != "" {
		save, err := s.client.ConfigGet(ctx, "save").Result()
		facts.Persistence = persistence(facts.Persistence == "AOF", save["save"] != "", err == nil)
	}
	return facts, nil
}

// describe fills in what INFO tells.
func (f *Facts) describe(info map[string]string) {
	f.Engine, f.Version = "redis", info["redis_version"]
	if version := info["valkey_version"]; version != "" {
		f.Engine, f.Version = "valkey", version
	}
	f.Identity = info["master_replid"]
	f.MaxmemoryPolicy = info["maxmemory_policy"]
	switch info["aof_enabled"] {
	case "1":
		f.Persistence = "AOF"
	case "0":
		f.Persistence = "None"
	}
}

// persistence puts together what INFO tells of the append-only file and CONFIG of snapshots; empty when it is not known
// whether there is any.
func persistence(aof, rdb, rdbKnown bool) string {
	switch {
	case aof && rdb:
		return "RDB+AOF"
	case aof:
		return "AOF"
	case rdb:
		return "RDB"
	case rdbKnown:
		return "None"
	}
	return ""
}

func parseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			info[key] = value
		}
	}
	return info
}

func (s *redisServer) Published(ctx context.Context) (*policy.Set, error) {
	document, err := s.client.Get(ctx, policystore.PoliciesKey).Bytes()
	switch {
	case errors.Is(err, redis.Nil), redisops.Classify(err) == redisops.WrongType:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", policystore.PoliciesKey, err)
	}
	set, err := policy.Parse(document)
	if err != nil {
		// Written by somebody else, or by a newer version: Publish knows what to do about either.
		return nil, nil
	}
	return set, nil
}

func (s *redisServer) Failures(ctx context.Context, policies []string) (map[string]policystore.Failure, error) {
	return policystore.ReadFailures(ctx, s.client, policies)
}

func (s *redisServer) Publish(ctx context.Context, publication policystore.Publication) (policystore.Result, error) {
	return policystore.Publish(ctx, s.client, publication)
}
