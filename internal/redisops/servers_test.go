package redisops

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// connected gives how many connections of clients a server has, without the one that asks and those of other servers.
func connected(t *testing.T, server *redistest.Server) int {
	t.Helper()
	list, err := server.ClientWith(&redis.Options{Protocol: 2}).Do(t.Context(), "CLIENT", "LIST", "TYPE", "normal").Text()
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	for line := range strings.Lines(list) {
		if !strings.Contains(line, "cmd=client|list") && !strings.Contains(line, "lib-name=go-redis") && !strings.Contains(line, "name=sentinel-") {
			others++
		}
	}
	return others
}

// press sends documents' commands from many goroutines until the context ends.
func press(ctx context.Context, client redis.UniversalClient, callers int) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = client.Get(ctx, fmt.Sprint("key", i)).Err()
			}
		})
	}
	return &wg
}

// wantBounded fails the test when one of the servers has more connections than that while many ask.
func wantBounded(t *testing.T, servers *Servers, most int, nodes ...*redistest.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	asking := press(ctx, servers.Client(), 50)
	defer asking.Wait()
	defer cancel()
	for _, node := range nodes {
		waitFor(t, "connections", func() bool { return connected(t, node) > 0 })
		for range 20 {
			if got := connected(t, node); got > most {
				t.Fatalf("%s has %d connections, want at most %d", node.Addr, got, most)
			}
		}
	}
}

func addresses(nodes []Node) []string {
	list := make([]string, len(nodes))
	for i, node := range nodes {
		list[i] = node.Address
	}
	return list
}

func TestEveryTopologyBoundsTheConnectionsToEachServer(t *testing.T) {
	const most = 5
	cfg := Config{MaxConnections: most, DialTimeout: patience}
	t.Run("Standalone", func(t *testing.T) {
		server := redistest.Start(t)
		cfg := cfg
		cfg.Addresses = []string{server.Addr}
		wantBounded(t, openServers(t, cfg), most, server)
	})
	t.Run("Independent", func(t *testing.T) {
		server := redistest.Start(t)
		cfg := cfg
		cfg.Topology, cfg.Addresses = policy.TopologyIndependent, []string{server.Addr, redistest.Start(t).Addr}
		wantBounded(t, openServers(t, cfg), most, server)
	})
	t.Run("Sentinel", func(t *testing.T) {
		sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
		cfg := cfg
		cfg.Topology, cfg.Addresses, cfg.MasterName = policy.TopologySentinel, sentinel.Addresses(), sentinel.MasterName
		servers := openServers(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		asking := press(ctx, servers.Client(), 50)
		defer asking.Wait()
		defer cancel()
		wantBounded(t, servers, most, sentinel.Primary())
		for _, one := range sentinel.Sentinels {
			if got := connected(t, one); got > sentinelConnections {
				t.Errorf("a sentinel has %d connections, want at most %d", got, sentinelConnections)
			}
		}
	})
	t.Run("Cluster", func(t *testing.T) {
		cluster := redistest.StartCluster(t, 3, 0)
		cfg := cfg
		cfg.Topology, cfg.Addresses = policy.TopologyCluster, cluster.Addresses()
		wantBounded(t, openServers(t, cfg), most, cluster.Nodes...)
	})
}

// The pool of go-redis would answer with its last error for up to a second.
func TestServerThatIsBackIsUsedAtOnce(t *testing.T) {
	server := redistest.Start(t)
	client := openServers(t, Config{Addresses: []string{server.Addr}, MaxConnections: 2}).Client()
	server.Kill()
	for range 100 {
		if err := client.Ping(t.Context()).Err(); Classify(err) != NotExecuted && Classify(err) != UnknownOutcome {
			t.Fatalf("PING without a server: %v", err)
		}
	}
	server.Run()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the first PING after the outage: %v", err)
	}
}

func TestWhatCannotBeDialledWasCertainlyNotExecuted(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	for name, address := range map[string]string{"refused": addr, "no such host": "no-such-host.invalid:6379"} {
		for _, topology := range []policy.Topology{policy.TopologyStandalone, policy.TopologySentinel, policy.TopologyCluster, policy.TopologyIndependent} {
			cfg := Config{Topology: topology, Addresses: []string{address}}
			if topology == policy.TopologySentinel {
				cfg.MasterName = "main"
			}
			servers := openServers(t, cfg)
			err := servers.Client().Incr(t.Context(), "n").Err()
			if Classify(err) != NotExecuted || !strings.Contains(err.Error(), "dial") {
				t.Errorf("%s, %s: %v of class %v; want %v and the dial named", name, topology, err, Classify(err), NotExecuted)
			}
			if topology == policy.TopologyStandalone || topology == policy.TopologyIndependent {
				continue
			}
			if nodes, err := servers.Primaries(t.Context()); Classify(err) != NotExecuted {
				t.Errorf("%s, %s: Primaries = %v, %v; want an error of class %v", name, topology, nodes, err, NotExecuted)
			}
		}
	}
}

func TestIndependentServersAreAllPrimariesAndDocumentsGoToTheFirst(t *testing.T) {
	first, second := redistest.Start(t), redistest.Start(t)
	servers := openServers(t, Config{Topology: policy.TopologyIndependent, Addresses: []string{first.Addr, second.Addr}, DialTimeout: patience})
	nodes, err := servers.Primaries(t.Context())
	if err != nil || !slices.Equal(addresses(nodes), []string{first.Addr, second.Addr}) {
		t.Fatalf("Primaries = %v, %v", addresses(nodes), err)
	}
	for i, node := range nodes {
		if err := node.Client.Set(t.Context(), "which", i, 0).Err(); err != nil || !node.Primary {
			t.Errorf("node %d: primary %v, %v", i, node.Primary, err)
		}
	}
	if got := servers.Client().Get(t.Context(), "which").Val(); got != "0" {
		t.Errorf("the document is the one of server %q, want 0", got)
	}
	if got := second.Do("GET", "which"); got != "1" {
		t.Errorf("the second server has %v, want 1", got)
	}
}

func TestDroppedConnectionsAreNotUsedAgain(t *testing.T) {
	server := redistest.Start(t)
	servers := openServers(t, Config{Addresses: []string{server.Addr}, MaxConnections: 3, DialTimeout: patience})
	client := servers.Client().(*redis.Client)
	id := func() int64 { return client.Do(t.Context(), "CLIENT", "ID").Val().(int64) }
	before := id()
	if again := id(); again != before {
		t.Fatalf("connections %d and %d, want one", before, again)
	}
	servers.dropIdle(client)
	if after := id(); after == before {
		t.Error("the connection was used again")
	}
	waitFor(t, "the dropped connection to be closed", func() bool { return connected(t, server) == 1 })
}

func TestBothVersionsOfTheProtocolServe(t *testing.T) {
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
			server := redistest.Start(t, "--requirepass", "pw")
			servers := openServers(t, Config{Addresses: []string{server.Addr}, Password: "pw", Protocol: protocol, DialTimeout: patience})
			client := servers.Client()
			if err := client.HSet(t.Context(), "h", "field", "value").Err(); err != nil {
				t.Fatal(err)
			}
			if got, err := client.HGetAll(t.Context(), "h").Result(); err != nil || got["field"] != "value" {
				t.Errorf("HGETALL = %v, %v", got, err)
			}
			if info := client.Do(t.Context(), "CLIENT", "INFO").Val().(string); !strings.Contains(info, fmt.Sprint("resp=", protocol)) {
				t.Errorf("the connection is %q, want RESP%d", info, protocol)
			}
			pubsub := client.Subscribe(t.Context(), "news")
			defer func() { _ = pubsub.Close() }()
			if _, err := pubsub.ReceiveTimeout(t.Context(), patience); err != nil {
				t.Fatal(err)
			}
			client.Publish(t.Context(), "news", "now")
			if message, err := pubsub.ReceiveTimeout(t.Context(), patience); err != nil || !strings.Contains(fmt.Sprint(message), "now") {
				t.Errorf("received %v, %v", message, err)
			}
		})
	}
}

// Pushes come between replies wherever they like.
func TestPushesDoNotShiftReplies(t *testing.T) {
	server := redistest.Start(t)
	servers := openServers(t, Config{Addresses: []string{server.Addr}, Protocol: 3, MaxConnections: 1, DialTimeout: patience})
	client := servers.Client()
	if err := client.Do(t.Context(), "CLIENT", "TRACKING", "ON", "BCAST").Err(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		pipe := client.Pipeline()
		for j := range 10 {
			pipe.Set(t.Context(), fmt.Sprint("k", j), i, 0)
			pipe.Get(t.Context(), fmt.Sprint("k", j))
		}
		commands, err := pipe.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for j := 1; j < len(commands); j += 2 {
			if got := commands[j].(*redis.StringCmd).Val(); got != fmt.Sprint(i) {
				t.Fatalf("reply %d of round %d is %q", j, i, got)
			}
		}
	}
}

// Faults 27 and 28.
func TestWhatAnswersNeedNotBeARedis(t *testing.T) {
	const secretBytes = "topsecret"
	for name, tc := range map[string]struct {
		answer    string
		wantNamed string
	}{
		"HTTP":      {"HTTP/1.1 400 Bad Request\r\nServer: " + secretBytes + "\r\n\r\n", "HTTP server"},
		"garbage":   {secretBytes + "\r\n", "no Redis"},
		"binary":    {"\x00\x01" + secretBytes, "no Redis"},
		"TLS alert": {"\x15\x03\x01\x00\x02\x02\x46", "set tls"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := startAnswering(t, tc.answer)
			servers := openServers(t, Config{Addresses: []string{addr}, DialTimeout: patience})
			err := servers.Client().Incr(t.Context(), "n").Err()
			if Classify(err) != Configuration || !strings.Contains(err.Error(), tc.wantNamed) || strings.Contains(err.Error(), secretBytes) {
				t.Errorf("%v of class %v; want %v, %q named and nothing shown of what came", err, Classify(err), Configuration, tc.wantNamed)
			}
		})
	}
}

// A Redis that ends while a connection is being opened, and is back: to a greeting of TLS it says nothing.
func TestWhoeverLosesANewConnectionDoesNotWaitForATrialOfTLS(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = connection.Close() })
			begin := make([]byte, 1024)
			if n, err := connection.Read(begin); err == nil && n > 0 && begin[0] == '*' {
				_ = connection.Close()
			}
		}
	}()
	servers := openServers(t, Config{Addresses: []string{listener.Addr().String()}, DialTimeout: patience})
	start := time.Now()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := servers.Client().Ping(t.Context()).Err(); Classify(err) != NotExecuted {
				t.Errorf("%v of class %v, want %v", err, Classify(err), NotExecuted)
			}
		})
	}
	all.Wait()
	if took := time.Since(start); took > patience/2 {
		t.Errorf("that took %v", took)
	}
}

// startAnswering starts a server that says the same to everybody, and closes.
func startAnswering(t *testing.T, answer string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = connection.Close() }()
				_ = connection.SetDeadline(time.Now().Add(patience))
				_, _ = connection.Read(make([]byte, 1024))
				_, _ = connection.Write([]byte(answer))
				_, _ = connection.Read(make([]byte, 1024))
			}()
		}
	}()
	return listener.Addr().String()
}

// startServing starts a server that answers each command, which it gets in upper case, without its arguments.
func startServing(t *testing.T, answer func(command string) string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	serve := func(connection net.Conn) {
		defer func() { _ = connection.Close() }()
		for lines := bufio.NewScanner(connection); lines.Scan(); {
			var arguments int
			if _, err := fmt.Sscanf(lines.Text(), "*%d", &arguments); err != nil {
				return
			}
			command := ""
			for i := range 2 * arguments { // each has a line for its size
				if !lines.Scan() {
					return
				}
				if i == 1 {
					command = strings.ToUpper(lines.Text())
				}
			}
			if _, err := connection.Write([]byte(answer(command))); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connection)
		}
	}()
	return listener.Addr().String()
}

func TestServerWithoutHelloIsSpokenToInRESP2(t *testing.T) {
	server := redistest.Start(t, "--rename-command", "HELLO", "", "--requirepass", "pw")
	servers := openServers(t, Config{Addresses: []string{server.Addr}, Password: "pw", Protocol: 3, DialTimeout: patience})
	if err := servers.Client().HSet(t.Context(), "h", "a", "b").Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := servers.Client().HGetAll(t.Context(), "h").Result(); err != nil || got["a"] != "b" {
		t.Errorf("HGETALL = %v, %v", got, err)
	}
}

func TestClosedServersRefuseEverything(t *testing.T) {
	server := redistest.Start(t)
	for _, topology := range []policy.Topology{policy.TopologyStandalone, policy.TopologySentinel, policy.TopologyCluster, policy.TopologyIndependent} {
		cfg := Config{Topology: topology, Addresses: []string{server.Addr}}
		if topology == policy.TopologySentinel {
			cfg.MasterName = "main"
		}
		servers, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := servers.Close(); err != nil {
			t.Errorf("%s: Close: %v", topology, err)
		}
		if err := servers.Client().Ping(t.Context()).Err(); !errors.Is(err, redis.ErrClosed) {
			t.Errorf("%s: PING after Close: %v", topology, err)
		}
	}
}
