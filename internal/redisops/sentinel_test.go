package redisops

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func sentinelConfig(sentinel *redistest.Sentinel) Config {
	return Config{Topology: policy.TopologySentinel, Addresses: sentinel.Addresses(), MasterName: sentinel.MasterName}
}

// port gives which server answers.
func port(t *testing.T, client redis.UniversalClient) string {
	t.Helper()
	got, err := client.ConfigGet(t.Context(), "port").Result()
	if err != nil {
		return err.Error()
	}
	return "127.0.0.1:" + got["port"]
}

func TestSentinelsTellThePrimaryAndItsReplicas(t *testing.T) {
	sentinel := redistest.StartSentinel(t, 2, redistest.SentinelOptions{
		Redis:     []string{"--requirepass", "pw", "--masterauth", "pw"},
		Sentinels: []string{"--requirepass", "hidden"},
	})
	cfg := sentinelConfig(sentinel)
	cfg.Password, cfg.SentinelPassword, cfg.DB, cfg.DialTimeout = "pw", "hidden", 2, patience
	servers := openServers(t, cfg)
	if got, want := port(t, servers.Client()), sentinel.Primary().Addr; got != want {
		t.Errorf("documents go to %s, want %s", got, want)
	}
	cfg.Protocol = 3
	if got, err := openServers(t, cfg).Client().ClientInfo(t.Context()).Result(); err != nil || got.Resp != 3 {
		t.Errorf("with protocol 3 the connection speaks %+v, %v", got, err)
	}
	nodes, err := servers.Primaries(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Address != sentinel.Primary().Addr || !nodes[0].Primary {
		t.Errorf("Primaries = %+v, %v", nodes, err)
	}
	nodes, err = servers.Nodes(t.Context())
	if err != nil || len(nodes) != 3 {
		t.Fatalf("Nodes = %+v, %v; want 3", nodes, err)
	}
	for _, node := range nodes {
		if got := port(t, node.Client); got != node.Address {
			t.Errorf("the client of %s goes to %s", node.Address, got)
		}
	}

	for name, tc := range map[string]struct {
		change func(*Config)
		named  string
	}{
		"an unknown name":              {func(c *Config) { c.MasterName = "nobody" }, "masterName"},
		"a wrong password":             {func(c *Config) { c.Password = "wrong" }, "WRONGPASS"},
		"a wrong password of sentinel": {func(c *Config) { c.SentinelPassword = "wrong" }, "WRONGPASS"},
		"no password of sentinels":     {func(c *Config) { c.SentinelPassword = "" }, "NOAUTH"},
	} {
		wrong := cfg
		tc.change(&wrong)
		err := openServers(t, wrong).Client().Ping(t.Context()).Err()
		if Classify(err) != Configuration || !strings.Contains(err.Error(), tc.named) {
			t.Errorf("%s: %v of class %v, want %v and %s named", name, err, Classify(err), Configuration, tc.named)
		}
	}
}

func TestSentinelsThatAreDeadOrSilentDoNotKeepFromThePrimary(t *testing.T) {
	sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	silent := redistest.StartToxiproxy(t, sentinel.Sentinels[1].Addr)
	cfg := sentinelConfig(sentinel)
	cfg.Addresses[1], cfg.DialTimeout = silent.Addr, 2*time.Second
	servers := openServers(t, cfg)
	if err := servers.Client().Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	silent.BlackHole()
	sentinel.Sentinels[2].Kill()
	for range 5 {
		servers.dropIdle(servers.Client().(*redis.Client))
		start := time.Now()
		if got, want := port(t, servers.Client()), sentinel.Servers[0].Addr; got != want {
			t.Errorf("documents go to %s, want %s", got, want)
		}
		if took := time.Since(start); took > cfg.DialTimeout {
			t.Errorf("a connection took %v with one of three sentinels left, want less than %v", took, cfg.DialTimeout)
		}
	}
}

func TestSentinelFailoverIsFollowed(t *testing.T) {
	sentinel := redistest.StartSentinel(t, 2, redistest.SentinelOptions{})
	cfg := sentinelConfig(sentinel)
	servers := openServers(t, cfg)
	client := servers.Client()
	works := func() bool { return client.Incr(t.Context(), "n").Err() == nil }
	waitFor(t, "the first primary", works)
	old := sentinel.Primary()
	old.Kill()
	promoted := sentinel.WaitFailover(old)
	waitFor(t, "the promoted primary", works)
	if got := port(t, client); got != promoted.Addr {
		t.Errorf("documents go to %s, want %s", got, promoted.Addr)
	}
	old.Run()
	sentinel.WaitReady()
	next := sentinel.Failover()
	waitFor(t, "the next primary", func() bool { return works() && port(t, client) == next.Addr })
}

// The former primary is cut off from the sentinels, and not from us.
func TestPrimaryThatWasReplacedWithoutKnowingIsLeft(t *testing.T) {
	first, second := redistest.Start(t), redistest.Start(t)
	told := &fakeSentinels{}
	told.set(first.Addr)
	cfg := Config{
		Topology: policy.TopologySentinel, MasterName: "main", DialTimeout: patience,
		Addresses: []string{told.start(t), told.start(t), told.start(t)},
	}
	servers := openServers(t, cfg)
	if got := port(t, servers.Client()); got != first.Addr {
		t.Fatalf("documents go to %s, want %s", got, first.Addr)
	}
	told.set(second.Addr)
	waitFor(t, "the replacement", func() bool { return port(t, servers.Client()) == second.Addr })
}

// Fault 23.
func TestSentinelWithAnOldAddressIsOutvotedAndAReplicaIsNotTaken(t *testing.T) {
	primary, replica := redistest.Start(t), redistest.Start(t)
	replica.ReplicaOf(primary)
	right, wrong := &fakeSentinels{}, &fakeSentinels{}
	right.set(primary.Addr)
	wrong.set(replica.Addr)
	open := func(addresses ...string) *Servers {
		return openServers(t, Config{
			Topology: policy.TopologySentinel, MasterName: "main", DialTimeout: patience, Addresses: addresses,
		})
	}
	servers := open(wrong.start(t), right.start(t), right.start(t))
	for range 20 {
		servers.dropIdle(servers.Client().(*redis.Client))
		if got := port(t, servers.Client()); got != primary.Addr {
			t.Fatalf("documents go to %s, want %s", got, primary.Addr)
		}
	}
	lied := open(wrong.start(t))
	if err := lied.Client().Incr(t.Context(), "n").Err(); !errors.Is(err, ErrNoPrimary) || Classify(err) != NotExecuted {
		t.Errorf("INCR with a sentinel that tells a replica: %v of class %v", err, Classify(err))
	}
	wrong.set(primary.Addr)
	if err := lied.Client().Incr(t.Context(), "n").Err(); err != nil {
		t.Errorf("INCR once the sentinel knows better: %v", err)
	}
}

// fakeSentinels tell an address, whatever is asked.
type fakeSentinels struct{ address atomic.Pointer[string] }

func (f *fakeSentinels) set(address string) { f.address.Store(&address) }

func (f *fakeSentinels) start(t *testing.T) string {
	t.Helper()
	return startServing(t, func(command string) string {
		switch command {
		case "HELLO":
			return "-ERR unknown command\r\n"
		case "PING":
			return "+PONG\r\n"
		default:
			host, port, _ := net.SplitHostPort(*f.address.Load())
			return fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(host), host, len(port), port)
		}
	})
}

func TestSentinelTakesOnlyReachableReplicas(t *testing.T) {
	for flags, want := range map[string]bool{
		"slave": false, "slave,disconnected": true, "s_down,slave": true, "slave,o_down": true, "": false,
	} {
		if got := isDown(flags); got != want {
			t.Errorf("%q is down: %v, want %v", flags, got, want)
		}
	}
}
