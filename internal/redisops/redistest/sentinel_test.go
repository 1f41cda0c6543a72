package redistest_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

func TestSentinelsReplaceAPrimaryThatDied(t *testing.T) {
	t.Parallel()
	ca := tlstest.NewCA(t)
	pair := ca.Issue(t, "127.0.0.1")
	for name, options := range map[string]redistest.SentinelOptions{
		"open":           {},
		"with passwords": {Redis: []string{"--requirepass", "secret"}, Sentinels: []string{"--requirepass", "other secret"}},
		"with users": {
			Redis:     adminOnly,
			Sentinels: []string{"--user", "app", "on", ">guess", "~*", "&*", "+@all"},
		},
		"over TLS": {Redis: redistest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: ca.PEM}.Options(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sentinel := redistest.StartSentinel(t, 1, options)
			primary := sentinel.Primary()
			if primary != sentinel.Servers[0] {
				t.Fatalf("%s is the primary, want the first server", primary.Addr)
			}
			primary.Do("SET", "k", "v")
			primary.Do("WAIT", 1, 5000)

			primary.Kill()
			next := sentinel.WaitFailover(primary)
			if got := next.Do("GET", "k"); got != "v" {
				t.Errorf("the new primary has %v", got)
			}
			next.Do("SET", "k", "w")

			primary.Run()
			sentinel.WaitReady()
			if replicas := sentinel.Replicas(); len(replicas) != 1 || replicas[0] != primary {
				t.Errorf("the old primary is not a replica: %v", replicas)
			}
			if again := sentinel.Failover(); again != primary {
				t.Errorf("%s is the primary after a failover by hand, want %s", again.Addr, primary.Addr)
			}
			if got := primary.Do("GET", "k"); got != "w" {
				t.Errorf("it has %v", got)
			}
		})
	}
}

func TestAClientFindsThePrimaryWhileASentinelIsGone(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, 2, redistest.SentinelOptions{
		Redis: []string{"--requirepass", "secret"}, Sentinels: []string{"--requirepass", "other"},
	})
	sentinel.Sentinels[0].Kill()
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: sentinel.MasterName, SentinelAddrs: sentinel.Addresses(), Password: "secret", SentinelPassword: "other",
	})
	t.Cleanup(func() { _ = client.Close() })
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got := sentinel.Primary().Do("GET", "k"); got != "v" {
		t.Errorf("the primary has %v", got)
	}
	primary := sentinel.Primary()
	primary.Kill()
	sentinel.WaitFailover(primary)
	sentinel.Sentinels[0].Run()
	sentinel.WaitReady()
}
