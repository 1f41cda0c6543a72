package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

const (
	// connections is how many the operator opens to one server: it does one thing at a time there.
	connections = 4
	// maxReplyBytes is more than the documents and the library of the largest set, and little enough for hostile servers of
	// several stores at a time.
	maxReplyBytes = 16 << 20
	// maxDialTimeout bounds timeouts.dial of a store for the operator, and patience what one reconciliation waits for a
	// Redis in all, so that those that keep silent do not hold up other stores.
	maxDialTimeout = 2 * time.Second
	patience       = 3 * time.Second
)

// Server is what the controller does with the Redis of a store: one server, or several.
type Server interface {
	// Probe finds out what the primaries are. It fails when none of them can be asked, or one permits too little.
	Probe(ctx context.Context) (Facts, error)
	// Published reads the set that is published, nil when there is none, or none that can be read.
	Published(ctx context.Context) (*policy.Set, error)
	// Publish makes the servers hold the set; see policystore.Publish.
	Publish(ctx context.Context, publication policystore.Publication) (policystore.Result, error)
	// Failures reads what these policies ("<namespace>/<name>") failed with lately; see policystore.ReadFailures.
	Failures(ctx context.Context, policies []string) (map[string]policystore.Failure, error)
	// PruneBeats forgets replicas of penstockd that are gone; see policystore.PruneBeats.
	PruneBeats(ctx context.Context) error
	// WatchDrift calls changed whenever somebody changed what is published, until ctx ends; see policystore.WatchDrift.
	WatchDrift(ctx context.Context, changed func()) error
	// Close closes the connections.
	Close() error
}

// Dial gives a Server for that configuration, whose DialTimeout is cut to 2 s. It opens no connection yet. The error tells
// what is wrong with the configuration.
func Dial(config redisops.Config) (Server, error) {
	config.MaxConnections = connections
	config.MaxReplyBytes = maxReplyBytes
	config.DialTimeout = min(config.DialTimeout, maxDialTimeout)
	servers, err := redisops.Open(config)
	if err != nil {
		return nil, err
	}
	return &redisServer{servers: servers, client: servers.Client()}, nil
}

type redisServer struct {
	servers *redisops.Servers
	client  redis.UniversalClient
	// document is what was read or published last, and set what it says, or else why it says nothing: it is read far more
	// often than it changes.
	document string
	set      *policy.Set
	invalid  error
}

func (s *redisServer) Close() error { return s.servers.Close() }

func (s *redisServer) Probe(ctx context.Context) (Facts, error) {
	primaries, err := s.servers.Primaries(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("find the primaries: %w", err)
	}
	found, failures := make([]sighting, len(primaries)), make([]error, len(primaries))
	var asking sync.WaitGroup
	for i := range primaries {
		asking.Go(func() { found[i], failures[i] = probe(ctx, primaries[i]) })
	}
	asking.Wait()

	var seen []sighting
	var unreached []Unreached
	for i, err := range failures {
		if err == nil {
			seen = append(seen, found[i])
		} else {
			unreached = append(unreached, Unreached{Address: primaries[i].Address, Err: err})
		}
	}
	if len(seen) == 0 {
		return Facts{}, &UnreachedError{Primaries: len(primaries), Unreached: unreached}
	}
	facts := merge(seen)
	facts.Unreached = unreached
	return facts, nil
}

// probe finds out what one primary is.
func probe(ctx context.Context, node redisops.Node) (sighting, error) {
	client, seen := node.Client, sighting{address: node.Address}
	// First what every server permits, so that an outage is not taken for a lack of permission.
	if err := client.Ping(ctx).Err(); err != nil {
		return sighting{}, fmt.Errorf("ping: %w", err)
	}
	var err error
	if seen.library, err = library.Probe(ctx, client); err != nil {
		return sighting{}, err
	}
	// From here on an ACL may well forbid what is asked, which then is not known. No reply is another thing: what is known
	// must not come and go with it.
	if seen.library.Functions {
		told, err := library.Told(ctx, client)
		if unanswered(err) {
			return sighting{}, err
		}
		seen.empty = err == nil && told == ""
	}
	// Off it is anyway on a connection of a pool: this only tells whether the server knows and permits it.
	if err = client.Do(ctx, "CLIENT", "TRACKING", "OFF").Err(); unanswered(err) {
		return sighting{}, fmt.Errorf("try tracking: %w", err)
	}
	seen.tracking = err == nil
	info, err := client.Info(ctx).Result()
	if unanswered(err) {
		return sighting{}, fmt.Errorf("read INFO: %w", err)
	}
	if err == nil {
		seen.describe(redisops.ParseInfo(info))
	}
	if seen.persisted != "" {
		save, err := client.ConfigGet(ctx, "save").Result()
		if unanswered(err) {
			return sighting{}, fmt.Errorf("read CONFIG: %w", err)
		}
		seen.persisted = persistence(seen.persisted == "AOF", save["save"] != "", err == nil)
	}
	return seen, nil
}

// unanswered tells of an error that it is not a refusal.
func unanswered(err error) bool {
	return err != nil && !isReply(err)
}

func (s *redisServer) Published(ctx context.Context) (*policy.Set, error) {
	document, err := s.client.Get(ctx, policystore.PoliciesKey).Result()
	switch {
	case errors.Is(err, redis.Nil), redisops.Classify(err) == redisops.WrongType:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", policystore.PoliciesKey, err)
	}
	// An error is for Publish: written by somebody else, or by a newer version, it knows what to do about either.
	set, _ := s.parse(document)
	return set, nil
}

func (s *redisServer) parse(document string) (*policy.Set, error) {
	if document != s.document {
		s.set, s.invalid = policy.Parse([]byte(document))
		s.document = document
	}
	return s.set, s.invalid
}

func (s *redisServer) Failures(ctx context.Context, policies []string) (map[string]policystore.Failure, error) {
	return policystore.ReadFailures(ctx, s.client, policies)
}

func (s *redisServer) Publish(ctx context.Context, publication policystore.Publication) (policystore.Result, error) {
	publication.Parse = s.parse
	result, err := policystore.Publish(ctx, s.servers, publication)
	if err == nil {
		s.document, s.set, s.invalid = result.Document, publication.Set, nil
	}
	return result, err
}

func (s *redisServer) PruneBeats(ctx context.Context) error {
	return policystore.PruneBeats(ctx, s.client)
}

func (s *redisServer) WatchDrift(ctx context.Context, changed func()) error {
	return policystore.WatchDrift(ctx, s.servers, changed)
}
