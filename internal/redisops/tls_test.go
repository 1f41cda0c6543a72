package redisops

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

const loopback = "127.0.0.1"

func TestEveryTopologySpeaksTLSWithClientCertificates(t *testing.T) {
	ca, clients := tlstest.NewCA(t), tlstest.NewCA(t)
	pair, client := ca.Issue(t, loopback), clients.Issue(t, "penstock")
	with := redistest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: slices.Concat(ca.PEM, clients.PEM)}
	cfg := Config{DialTimeout: patience, TLS: &TLS{CA: ca.PEM, ClientCert: client.Cert, ClientKey: client.Key}}
	for name, start := range map[policy.Topology]func(*testing.T, *Config){
		policy.TopologyStandalone: func(t *testing.T, cfg *Config) {
			cfg.Addresses = []string{redistest.StartTLS(t, with).Addr}
		},
		policy.TopologyIndependent: func(t *testing.T, cfg *Config) {
			cfg.Addresses = []string{redistest.StartTLS(t, with).Addr, redistest.StartTLS(t, with).Addr}
		},
		policy.TopologySentinel: func(t *testing.T, cfg *Config) {
			sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{Redis: with.Options(t)})
			cfg.Addresses, cfg.MasterName = sentinel.Addresses(), sentinel.MasterName
		},
		policy.TopologyCluster: func(t *testing.T, cfg *Config) {
			cfg.Addresses = redistest.StartCluster(t, 3, 1, with.Options(t)...).Addresses()
		},
	} {
		for _, protocol := range []int{2, 3} {
			t.Run(string(name)+" RESP"+string(rune('0'+protocol)), func(t *testing.T) {
				cfg := cfg
				cfg.Topology, cfg.Protocol = name, protocol
				start(t, &cfg)
				servers := openServers(t, cfg)
				for range 20 {
					if err := servers.Client().Incr(t.Context(), "n").Err(); err != nil {
						t.Fatal(err)
					}
				}
				nodes, err := servers.Nodes(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, node := range nodes {
					if err := node.Client.Ping(t.Context()).Err(); err != nil {
						t.Errorf("%s: %v", node.Address, err)
					}
				}
			})
		}
	}
}

// Fault 26.
func TestRefusedCertificatesAreAMistakeInTheConfigurationAndSayWhatToMend(t *testing.T) {
	ca, clients, other := tlstest.NewCA(t), tlstest.NewCA(t), tlstest.NewCA(t)
	good := ca.Issue(t, loopback)
	expired := ca.IssueUntil(t, time.Now().Add(-time.Hour), loopback)
	elsewhere := ca.Issue(t, "elsewhere.example")
	mine, others := clients.Issue(t, "penstock"), other.Issue(t, "penstock")
	outdated := clients.IssueUntil(t, time.Now().Add(-time.Hour), "penstock")
	withClient := func(pair tlstest.Pair) *TLS { return &TLS{CA: ca.PEM, ClientCert: pair.Cert, ClientKey: pair.Key} }
	for name, tc := range map[string]struct {
		server    redistest.TLS
		options   []string
		client    *TLS
		wantNamed string // empty: accepted
	}{
		"accepted":                        {server: redistest.TLS{Cert: good.Cert, Key: good.Key}, client: &TLS{CA: ca.PEM}},
		"accepted by another name":        {server: redistest.TLS{Cert: elsewhere.Cert, Key: elsewhere.Key}, client: &TLS{CA: ca.PEM, ServerName: "elsewhere.example"}},
		"anything accepted":               {server: redistest.TLS{Cert: expired.Cert, Key: expired.Key}, client: &TLS{InsecureSkipVerify: true}},
		"the client accepted":             {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, client: withClient(mine)},
		"TLS 1.2":                         {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, options: []string{"--tls-protocols", "TLSv1.2"}, client: withClient(mine)},
		"expired":                         {server: redistest.TLS{Cert: expired.Cert, Key: expired.Key}, client: &TLS{CA: ca.PEM}, wantNamed: "expired"},
		"another name":                    {server: redistest.TLS{Cert: elsewhere.Cert, Key: elsewhere.Key}, client: &TLS{CA: ca.PEM}, wantNamed: "serverName"},
		"another CA":                      {server: redistest.TLS{Cert: good.Cert, Key: good.Key}, client: &TLS{CA: other.PEM}, wantNamed: "CA"},
		"the CAs of the system":           {server: redistest.TLS{Cert: good.Cert, Key: good.Key}, client: &TLS{}, wantNamed: "CA"},
		"no client certificate":           {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, client: &TLS{CA: ca.PEM}, wantNamed: "wants a client certificate"},
		"no client certificate, TLS 1.2":  {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, options: []string{"--tls-protocols", "TLSv1.2"}, client: &TLS{CA: ca.PEM}, wantNamed: "wants a client certificate"},
		"a client of another CA":          {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, client: withClient(others), wantNamed: "refuses the client certificate"},
		"a client of another CA, TLS 1.2": {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, options: []string{"--tls-protocols", "TLSv1.2"}, client: withClient(others), wantNamed: "refuses the client certificate"},
		"an expired client certificate":   {server: redistest.TLS{Cert: good.Cert, Key: good.Key, ClientCA: clients.PEM}, client: withClient(outdated), wantNamed: "refuses the client certificate"},
		"a client that does without TLS":  {server: redistest.TLS{Cert: good.Cert, Key: good.Key}, wantNamed: "set tls"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.StartTLS(t, tc.server, tc.options...)
			cfg := Config{Addresses: []string{server.Addr}, DialTimeout: patience, TLS: tc.client}
			servers := openServers(t, cfg)
			for range 20 { // whether the refusal or the end of the connection is noticed first is a race
				err := servers.Client().Ping(t.Context()).Err()
				if tc.wantNamed == "" {
					if err != nil {
						t.Fatal(err)
					}
					continue
				}
				if Classify(err) != Configuration || !strings.Contains(err.Error(), tc.wantNamed) {
					t.Fatalf("%v of class %v; want %v, and %q named", err, Classify(err), Configuration, tc.wantNamed)
				}
			}
		})
	}
}

func TestServerWithoutTLSIsToldToAClientWithIt(t *testing.T) {
	for name, start := range map[string]func() string{
		"Redis": func() string { return redistest.Start(t).Addr },
		"HTTP":  func() string { return startAnswering(t, "HTTP/1.1 400 Bad Request\r\n\r\n") },
	} {
		servers := openServers(t, Config{Addresses: []string{start()}, DialTimeout: 2 * time.Second, TLS: &TLS{}})
		err := servers.Client().Ping(t.Context()).Err()
		if !strings.Contains(err.Error(), "speak") || Classify(err) != Configuration && Classify(err) != NotExecuted {
			t.Errorf("%s: %v of class %v", name, err, Classify(err))
		}
	}
}

func TestRotatedCAIsTakenWithNewServers(t *testing.T) {
	before, after := tlstest.NewCA(t), tlstest.NewCA(t)
	first, second := before.Issue(t, loopback), after.Issue(t, loopback)
	server := redistest.StartTLS(t, redistest.TLS{Cert: first.Cert, Key: first.Key})
	open := func(ca []byte) redis.UniversalClient {
		return openServers(t, Config{Addresses: []string{server.Addr}, DialTimeout: patience, TLS: &TLS{CA: ca}}).Client()
	}
	old := open(before.PEM)
	if err := old.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	server.UseTLS(redistest.TLS{Cert: second.Cert, Key: second.Key})
	if err := old.Ping(t.Context()).Err(); err != nil {
		t.Errorf("a connection that stands: %v", err)
	}
	if err := open(append(before.PEM, after.PEM...)).Ping(t.Context()).Err(); err != nil {
		t.Errorf("with both CAs: %v", err)
	}
	if err := open(before.PEM).Ping(t.Context()).Err(); Classify(err) != Configuration {
		t.Errorf("with the former CA: %v", err)
	}
}

// As without TLS: the first command after a restart meets no connection of before.
func TestDeadTLSConnectionIsNotUsed(t *testing.T) {
	ca := tlstest.NewCA(t)
	pair := ca.Issue(t, loopback)
	server := redistest.StartTLS(t, redistest.TLS{Cert: pair.Cert, Key: pair.Key})
	for _, protocol := range []int{2, 3} {
		servers := openServers(t, Config{Addresses: []string{server.Addr}, DialTimeout: patience, Protocol: protocol, TLS: &TLS{CA: ca.PEM}})
		client := servers.Client().(*redis.Client)
		id := func() any { return client.Do(t.Context(), "CLIENT", "ID").Val() }
		before := id()
		if again := id(); again != before {
			t.Errorf("RESP%d: connections %v and %v, want one", protocol, before, again)
		}
		for range 3 {
			server.Kill()
			server.Run()
			if err := client.Incr(t.Context(), "n").Err(); err != nil {
				t.Errorf("RESP%d: the first INCR after a restart: %v", protocol, err)
			}
		}
		// One that the server closes as TLS has it.
		if err := server.ClientWith(&redis.Options{}).Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
			t.Fatal(err)
		}
		if err := client.Incr(t.Context(), "n").Err(); err != nil {
			t.Errorf("RESP%d: the first INCR after CLIENT KILL: %v", protocol, err)
		}
		servers.dropIdle(client)
		if err := client.Incr(t.Context(), "n").Err(); err != nil {
			t.Errorf("RESP%d: the first INCR after the connections were dropped: %v", protocol, err)
		}
	}
}

func TestTLSHandshakeThatDoesNotEndIsAnOutage(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, by its backlog, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	servers := openServers(t, Config{Addresses: []string{listener.Addr().String()}, DialTimeout: 100 * time.Millisecond, TLS: &TLS{}})
	if err := servers.Client().Ping(t.Context()).Err(); Classify(err) != NotExecuted || !strings.Contains(err.Error(), "speaks TLS") {
		t.Errorf("%v of class %v, want %v", err, Classify(err), NotExecuted)
	}
}

func TestTLSOlderThan12IsRefused(t *testing.T) {
	pair := tlstest.NewCA(t).Issue(t, loopback)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{ //nolint:gosec // it is too old on purpose
		Certificates: []tls.Certificate{pair.Certificate(t)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
	})
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
			_ = connection.(*tls.Conn).HandshakeContext(t.Context())
			_ = connection.Close()
		}
	}()
	servers := openServers(t, Config{Addresses: []string{listener.Addr().String()}, DialTimeout: patience, TLS: &TLS{InsecureSkipVerify: true}})
	if err := servers.Client().Ping(t.Context()).Err(); Classify(err) != Configuration || !strings.Contains(err.Error(), "TLS 1.2") {
		t.Errorf("%v of class %v, want %v and TLS 1.2 named", err, Classify(err), Configuration)
	}
}
