package policystore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

const owner = "cluster-a/shop/default"

// setOf gives a set of so many policies with that limit each.
func setOf(n int, requests int64) *policy.Set {
	limits := make([]policy.RateLimit, n)
	for i := range limits {
		limits[i] = policy.RateLimit{
			Name:           fmt.Sprintf("shop/p%04d", i),
			Domain:         "shop",
			Limits:         []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: requests, WindowMs: 60_000}},
			OnStoreFailure: policy.FailureAllow,
		}.Sealed()
	}
	return policy.NewSet(limits)
}

func newServers(t *testing.T, addr string) *redisops.Servers {
	t.Helper()
	return redisopstest.Open(t, redisops.Config{Addresses: []string{addr}, DialTimeout: 10 * time.Second})
}

func publish(t *testing.T, servers *redisops.Servers, p policystore.Publication) policystore.Result {
	t.Helper()
	if p.Owner == "" {
		p.Owner = owner
	}
	result, err := policystore.Publish(t.Context(), servers, p)
	if err != nil {
		t.Fatalf("Publish: %v", err)
	}
	return result
}

// snapshot is everything that a publication may change.
func snapshot(t *testing.T, client redis.UniversalClient) string {
	t.Helper()
	documents, err := client.MGet(t.Context(), policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey).Result()
	if err != nil {
		t.Fatal(err)
	}
	text, found, err := library.Loaded(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(documents, found, text)
}

// writes counts the commands that changed something, the announcements and the loadings.
func writes(t *testing.T, client redis.UniversalClient) string {
	t.Helper()
	stats, err := client.InfoMap(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("set %s, load %s, publish %s, multi %s",
		stats["Commandstats"]["cmdstat_set"], stats["Commandstats"]["cmdstat_function|load"],
		stats["Commandstats"]["cmdstat_publish"], stats["Commandstats"]["cmdstat_multi"])
}

func TestPublishedSetIsReadBackServedAndAnnounced(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	pubsub := client.Subscribe(t.Context(), policystore.Channel)
	defer func() { _ = pubsub.Close() }()
	if _, err := pubsub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	set := setOf(3, 100)

	result := publish(t, servers, policystore.Publication{Set: set})
	if !result.Changed || result.Previous != nil {
		t.Errorf("Result = %+v, want changed and no previous set", result)
	}
	got, err := policystore.Read(t.Context(), client)
	if err != nil || got.Hash != set.Hash {
		t.Errorf("Read = %v, %v; want the set %s", got, err, set.Hash)
	}
	if got := client.Get(t.Context(), policystore.OwnerKey).Val(); got != owner {
		t.Errorf("%s = %q, want %q", policystore.OwnerKey, got, owner)
	}
	document, err := library.ReadDocument(t.Context(), client)
	text, found, loadedErr := library.Loaded(t.Context(), client)
	if err != nil || loadedErr != nil || !found || document.Text != text {
		t.Errorf("the library's document (%v) and the library (%v, found %v) differ", err, loadedErr, found)
	}
	if got := client.FCall(t.Context(), "penstock_policy", nil, "shop/p0001").Val(); got == nil {
		t.Error("the library does not serve shop/p0001")
	}
	message, err := pubsub.ReceiveMessage(t.Context())
	if err != nil || message.Payload != set.Hash {
		t.Errorf("announced %v (%v), want %s", message, err, set.Hash)
	}
}

func TestNothingIsWrittenWhenNothingChanged(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	set := setOf(3, 100)
	publish(t, servers, policystore.Publication{Set: set})
	before := writes(t, client)

	result := publish(t, servers, policystore.Publication{Set: setOf(3, 100)})
	if result.Changed || result.Previous == nil || result.Previous.Hash != set.Hash {
		t.Errorf("Result = %+v, want unchanged, and the set as the previous one", result)
	}
	if after := writes(t, client); after != before {
		t.Errorf("wrote: before %s, after %s", before, after)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	for name, damage := range map[string]func(redis.UniversalClient) error{
		"function flush": func(c redis.UniversalClient) error { return c.FunctionFlush(context.Background()).Err() },
		"other library": func(c redis.UniversalClient) error {
			return c.FunctionLoadReplace(context.Background(),
				"#!lua name=penstock\nredis.register_function('penstock_limit', function() return 1 end)").Err()
		},
		"flushall":         func(c redis.UniversalClient) error { return c.FlushAll(context.Background()).Err() },
		"policies deleted": func(c redis.UniversalClient) error { return c.Del(context.Background(), policystore.PoliciesKey).Err() },
		"policies garbage": func(c redis.UniversalClient) error {
			return c.Set(context.Background(), policystore.PoliciesKey, "{", 0).Err()
		},
		"library document deleted": func(c redis.UniversalClient) error { return c.Del(context.Background(), library.DocumentKey).Err() },
		"owner deleted":            func(c redis.UniversalClient) error { return c.Del(context.Background(), policystore.OwnerKey).Err() },
		"policies of a wrong type": func(c redis.UniversalClient) error { return replaceByList(c, policystore.PoliciesKey) },
		"owner of a wrong type":    func(c redis.UniversalClient) error { return replaceByList(c, policystore.OwnerKey) },
	} {
		t.Run(name, func(t *testing.T) {
			servers := newServers(t, redistest.Start(t).Addr)
			client := servers.Client()
			p := policystore.Publication{Set: setOf(3, 100)}
			publish(t, servers, p)
			want := snapshot(t, client)
			if err := damage(client); err != nil {
				t.Fatal(err)
			}
			if result := publish(t, servers, p); !result.Changed {
				t.Error("nothing was repaired")
			}
			if got := snapshot(t, client); got != want {
				t.Errorf("after the repair: %s\nwant: %s", got, want)
			}
		})
	}
}

func replaceByList(client redis.UniversalClient, key string) error {
	if err := client.Del(context.Background(), key).Err(); err != nil {
		return err
	}
	return client.RPush(context.Background(), key, "x").Err()
}

func TestFullRedisKeepsTheSetInForce(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
	before := snapshot(t, client)
	if err := client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 2)})
	if class := redisops.Classify(err); class != redisops.OutOfMemory {
		t.Errorf("error %v is of class %q, want out of memory", err, class)
	}
	if after := snapshot(t, client); after != before {
		t.Error("the set in force changed")
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, servers, policystore.Publication{Set: setOf(2, 2)})
}

// A library that the server refuses for another reason than memory is seen only when the transaction has run.
func TestRefusedLibraryKeepsTheSetInForce(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
	before := snapshot(t, client)
	// Somebody else's library has taken a name of ours, so that ours cannot be loaded.
	if err := client.FunctionDelete(t.Context(), library.Name).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.FunctionLoad(t.Context(), "#!lua name=foreign\nredis.register_function('penstock_limit', function() return 1 end)").Err(); err != nil {
		t.Fatal(err)
	}
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 2)})
	if err == nil {
		t.Fatal("a library that the server refused was published")
	}
	set, err := policystore.Read(t.Context(), client)
	if err != nil || set.Hash != setOf(2, 1).Hash {
		t.Errorf("policies in force: %v, %v; want the former set", set, err)
	}
	if err := client.FunctionDelete(t.Context(), "foreign").Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
	if after := snapshot(t, client); after != before {
		t.Errorf("after the repair: %s\nwant: %s", after, before)
	}
}

func TestTooLargeSetIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	publish(t, servers, policystore.Publication{Set: setOf(2, 1)})
	before := snapshot(t, client)
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(20_000, 1)})
	if !errors.Is(err, library.ErrTooLarge) {
		t.Errorf("error %v, want %v", err, library.ErrTooLarge)
	}
	if after := snapshot(t, client); after != before {
		t.Error("something was written")
	}
}

func TestSetOfANewerVersionIsNotOverwritten(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	newer := fmt.Sprintf(`{"format":%d,"hash":"x"}`, policy.Format+1)
	if err := client.Set(t.Context(), policystore.PoliciesKey, newer, 0).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 1)})
	if !errors.Is(err, policy.ErrNewerFormat) {
		t.Errorf("error %v, want %v", err, policy.ErrNewerFormat)
	}
	if got := client.Get(t.Context(), policystore.PoliciesKey).Val(); got != newer {
		t.Errorf("overwritten by %q", got)
	}
}

func TestOnAReplicaNothingIsPublished(t *testing.T) {
	primary, server := redistest.Start(t), redistest.Start(t)
	servers := newServers(t, server.Addr)
	server.ReplicaOf(primary)
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 1)})
	if class := redisops.Classify(err); class != redisops.ReadOnly {
		t.Errorf("error %v is of class %q, want read only", err, class)
	}
}

func TestUnreachableRedisIsAnErrorOfItsClass(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	server.Kill()
	_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(2, 1)})
	if class := redisops.Classify(err); class != redisops.NotExecuted {
		t.Errorf("error %v is of class %q, want not executed", err, class)
	}
}

func TestIncompletePublicationIsRefused(t *testing.T) {
	for name, p := range map[string]policystore.Publication{
		"no owner":      {Set: setOf(1, 1)},
		"no set":        {Owner: owner},
		"not a set":     {Owner: owner, Set: &policy.Set{}},
		"a forged hash": {Owner: owner, Set: &policy.Set{Format: policy.Format, Hash: "00", RateLimits: []policy.RateLimit{}}},
	} {
		t.Run(name, func(t *testing.T) {
			servers := newServers(t, "127.0.0.1:1")
			if _, err := policystore.Publish(t.Context(), servers, p); err == nil || redisops.Classify(err) == redisops.NotExecuted {
				t.Errorf("error %v, want a refusal before Redis is asked", err)
			}
		})
	}
}

func TestScriptModeWorksOnTheEmbeddedServer(t *testing.T) {
	server := miniredis.RunT(t)
	servers := newServers(t, server.Addr())
	client := servers.Client()
	p := policystore.Publication{Set: setOf(3, 100), Mode: library.ModeScripts}
	if result := publish(t, servers, p); !result.Changed {
		t.Error("nothing was written")
	}
	set, err := policystore.Read(t.Context(), client)
	if err != nil || set.Hash != p.Set.Hash {
		t.Errorf("Read = %v, %v", set, err)
	}
	if server.Exists(library.DocumentKey) {
		t.Error("a library's document was written for a server without functions")
	}
	if result := publish(t, servers, p); result.Changed {
		t.Error("it was written twice")
	}
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: "x/y/z", Set: setOf(1, 1), Mode: library.ModeScripts}); !errors.As(err, new(*policystore.OwnedError)) {
		t.Errorf("a foreign publisher got %v", err)
	}
}

func TestReadTellsWhatIsWrong(t *testing.T) {
	server := redistest.Start(t)
	servers := newServers(t, server.Addr)
	client := servers.Client()
	if _, err := policystore.Read(t.Context(), client); !errors.Is(err, policystore.ErrNoPolicies) {
		t.Errorf("empty Redis: %v, want %v", err, policystore.ErrNoPolicies)
	}
	if err := replaceByList(client, policystore.PoliciesKey); err != nil {
		t.Fatal(err)
	}
	if _, err := policystore.Read(t.Context(), client); redisops.Classify(err) != redisops.WrongType {
		t.Errorf("a list: %v, want class wrong type", err)
	}
	if err := client.Set(t.Context(), policystore.PoliciesKey, "nonsense", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := policystore.Read(t.Context(), client); err == nil || errors.Is(err, policystore.ErrNoPolicies) {
		t.Errorf("garbage: %v, want an error that tells so", err)
	}
}
