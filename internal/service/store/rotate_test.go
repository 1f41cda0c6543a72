package store_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/store"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

const (
	soon  = 20 * time.Millisecond // for what a test waits for
	never = time.Hour             // for what only another thing may bring about
)

// load asks from 32 callers until it is stopped.
type load struct {
	asked, wrong atomic.Int64
	first        atomic.Pointer[string] // what was wrong first
	stop         func()
}

func (p *penstockd) load(t *testing.T) *load {
	t.Helper()
	l := &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	for caller := range 32 {
		callers.Go(func() {
			for ctx.Err() == nil {
				got, err := p.ask(t, "user", strconv.Itoa(caller))
				if err != nil || degraded(got) || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
					l.wrong.Add(1)
					text := got.String()
					if err != nil {
						text = err.Error()
					}
					l.first.CompareAndSwap(nil, &text)
				}
				l.asked.Add(1)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); callers.Wait() })
	t.Cleanup(l.stop)
	return l
}

// goesOn waits until a good many more were answered.
func (l *load) goesOn(t *testing.T) {
	t.Helper()
	enough := l.asked.Load() + 300
	eventually(t, "requests are answered", func() bool { return l.asked.Load() >= enough })
}

func (l *load) wantAllDecided(t *testing.T) {
	t.Helper()
	l.goesOn(t)
	l.stop()
	if wrong := l.wrong.Load(); wrong != 0 {
		t.Errorf("%d of %d were not decided by Redis, the first: %s", wrong, l.asked.Load(), *l.first.Load())
	}
}

// told is how often the log says so.
func (p *penstockd) told(text string) int { return strings.Count(p.log.String(), text) }

const inForce = "other settings of redis are in force"

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// plenty is a policy that no test exhausts.
func plenty() policy.RateLimit {
	r := rateLimit("plenty", "user", policy.FailureAllow, policy.FixedWindow)
	r.Limits[0].Requests = 1_000_000_000
	return r.Sealed()
}

func TestCredentialsAreRotatedWithoutAFailedDecision(t *testing.T) {
	standalone := func(t *testing.T) (connect.Settings, []*redistest.Server) {
		server := redistest.Start(t)
		publish(t, server, plenty())
		return connect.Settings{URL: "redis://" + server.Addr}, []*redistest.Server{server}
	}
	for name, test := range map[string]struct {
		begin func(*testing.T) (connect.Settings, []*redistest.Server)
		set   *policy.Set
	}{
		"published": {standalone, nil},
		"of a file": {standalone, policy.NewSet([]policy.RateLimit{plenty()})},
		"published in a cluster": {func(t *testing.T) (connect.Settings, []*redistest.Server) {
			cluster := redistest.StartCluster(t, 3, 0)
			publishBy(t, clusterConfig(cluster), plenty())
			return connect.Settings{URL: "redis://" + cluster.Nodes[0].Addr, Topology: "Cluster"}, cluster.Nodes
		}, nil},
		"published behind sentinels": {func(t *testing.T) (connect.Settings, []*redistest.Server) {
			s := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
			publishBy(t, sentinelConfig(s), plenty())
			url := "redis://" + strings.Join(s.Addresses(), ",")
			return connect.Settings{URL: url, Topology: "Sentinel", MasterName: s.MasterName}, s.Servers
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			settings, servers := test.begin(t)
			do := func(args ...any) {
				for _, server := range servers {
					server.Do(args...)
				}
			}
			all := []any{"~*", "&*", "+@all"}
			setUser := func(args ...any) { do(append([]any{"ACL", "SETUSER"}, args...)...) }
			setUser(append([]any{"one", "on", ">first"}, all...)...)
			folder := t.TempDir()
			user, password := filepath.Join(folder, "user"), filepath.Join(folder, "password")
			write(t, user, "one\n")
			write(t, password, "first\n")
			settings.UsernameFile, settings.PasswordFile, settings.CommandTimeout = user, password, commandTimeout
			p := startAs(t, store.Options{Load: settings.Load, Reload: soon, Replica: "r"}, test.set)
			p.ready(t)
			eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
			requests := p.load(t)
			requests.goesOn(t)

			setUser("one", ">second")
			write(t, password, "second\n")
			eventually(t, "the new password is in force", func() bool { return p.told(inForce) == 1 })
			setUser("one", "<first")
			requests.goesOn(t)

			setUser(append([]any{"two", "on", ">second"}, all...)...)
			write(t, user, "two\n")
			eventually(t, "the new user is in force", func() bool { return p.told(inForce) == 2 })
			do("ACL", "DELUSER", "one")
			requests.wantAllDecided(t)
			if log := p.log.String(); strings.Contains(log, "second") || !strings.Contains(log, "changed=[username]") || !strings.Contains(log, "changed=[password]") {
				t.Errorf("the log tells a secret, or not what changed:\n%s", log)
			}
			if clients := servers[0].Do("CLIENT", "LIST").(string); strings.Contains(clients, "user=one") || !strings.Contains(clients, "user=two") {
				t.Errorf("want connections of the new user only:\n%s", clients)
			}
		})
	}
}

// Servers of a cluster have their users each for itself, and are changed one after the other.
func TestCredentialsThatNotAllServersKnowYetAreNotPutIntoForce(t *testing.T) {
	for name, set := range map[string]*policy.Set{"published": nil, "of a file": policy.NewSet([]policy.RateLimit{plenty()})} {
		t.Run(name, func(t *testing.T) {
			cluster := redistest.StartCluster(t, 3, 0)
			if set == nil {
				publishBy(t, clusterConfig(cluster), plenty())
			}
			know := func(servers []*redistest.Server, password string) {
				for _, server := range servers {
					server.Do("ACL", "SETUSER", "one", "on", ">"+password, "~*", "&*", "+@all")
				}
			}
			know(cluster.Nodes, "first")
			password := filepath.Join(t.TempDir(), "password")
			write(t, password, "first")
			settings := connect.Settings{
				URL: "redis://" + cluster.Nodes[0].Addr, Topology: "Cluster", Username: "one", PasswordFile: password, CommandTimeout: commandTimeout,
			}
			p := startAs(t, store.Options{Load: settings.Load, Reload: soon}, set)
			p.ready(t)
			eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
			requests := p.load(t)
			know(cluster.Nodes[:1], "second")
			write(t, password, "second")
			eventually(t, "it is said that they are not in force", func() bool { return p.told("the last good ones stay in force") > 0 })
			for range 3 {
				requests.goesOn(t)
			}
			if p.told(inForce) != 0 {
				t.Errorf("they were put into force:\n%s", p.log)
			}
			know(cluster.Nodes[1:], "second")
			eventually(t, "they are in force", func() bool { return p.told(inForce) == 1 })
			requests.wantAllDecided(t)
		})
	}
}

func TestCertificatesAreRotatedWithoutAFailedDecision(t *testing.T) {
	old, next := tlstest.NewCA(t), tlstest.NewCA(t)
	both := append(append([]byte{}, old.PEM...), next.PEM...)
	identity := func(ca *tlstest.CA, trusted []byte) redistest.TLS {
		pair := ca.Issue(t, "127.0.0.1")
		return redistest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: trusted}
	}
	server := redistest.StartTLS(t, identity(old, both))
	pair := old.Issue(t, "publisher")
	publishBy(t, redisops.Config{
		Addresses: []string{server.Addr}, TLS: &redisops.TLS{CA: old.PEM, ClientCert: pair.Cert, ClientKey: pair.Key},
	}, plenty())
	ours := func(ca *tlstest.CA, trusted []byte) map[string][]byte {
		pair := ca.Issue(t, "penstockd")
		return map[string][]byte{"ca.crt": trusted, "tls.crt": pair.Cert, "tls.key": pair.Key}
	}
	files := tlstest.NewMount(t, ours(old, old.PEM))
	settings := &connect.Settings{
		URL: "rediss://" + server.Addr, TLSCA: files.Path("ca.crt"), TLSCert: files.Path("tls.crt"), TLSKey: files.Path("tls.key"),
		CommandTimeout: commandTimeout,
	}
	p := startAs(t, store.Options{Load: settings.Load, Reload: soon}, nil)
	p.ready(t)
	requests := p.load(t)
	requests.goesOn(t)

	files.Swap(t, ours(old, both))
	eventually(t, "both CAs are trusted", func() bool { return p.told(inForce) == 1 })
	server.UseTLS(identity(next, both))
	files.Swap(t, ours(next, both))
	eventually(t, "the new client certificate is in force", func() bool { return p.told(inForce) == 2 })
	files.Swap(t, ours(next, next.PEM))
	eventually(t, "the old CA is out of force", func() bool { return p.told(inForce) == 3 })
	requests.wantAllDecided(t)
}

func TestSettingsThatAreRefusedLeaveTheOldOnesInForce(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	publishBy(t, redisops.Config{Addresses: []string{server.Addr}, Password: "secret"}, plenty())
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, "secret")
	settings := &connect.Settings{URL: "redis://" + server.Addr, PasswordFile: password, CommandTimeout: commandTimeout}
	p := startAs(t, store.Options{Load: settings.Load, Reload: soon}, nil)
	p.ready(t)
	requests := p.load(t)
	const refused = "cannot use the new settings of redis; the last good ones stay in force"
	for i, bad := range []struct{ content, why string }{{"wrong", "WRONGPASS"}, {"", "is empty"}} {
		write(t, password, bad.content)
		eventually(t, "the log says so", func() bool { return p.told(refused) == i+1 })
		if log := p.log.String(); !strings.Contains(log[strings.LastIndex(log, refused):], bad.why) {
			t.Errorf("%q: the log lacks %q:\n%s", bad.content, bad.why, log)
		}
		requests.goesOn(t)
		if n := p.told(refused); n != i+1 {
			t.Errorf("%q: said %d times, want once", bad.content, n-i)
		}
	}
	write(t, password, "secret")
	eventually(t, "it says that all is well", func() bool { return p.told("the settings of redis are again those in force") == 1 })
	requests.wantAllDecided(t)
	if p.told(inForce) != 0 {
		t.Errorf("something was put into force:\n%s", p.log)
	}
}

func TestAWrongPasswordIsReadAgainAtOnceWhenItIsRefused(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	publishBy(t, redisops.Config{Addresses: []string{server.Addr}, Password: "secret"}, rateLimit("per-user", "user", policy.FailureAllow, policy.FixedWindow))
	password := filepath.Join(t.TempDir(), "password")
	write(t, password, "wrong")
	settings := &connect.Settings{URL: "redis://" + server.Addr, PasswordFile: password, CommandTimeout: commandTimeout}
	p := startAs(t, store.Options{Load: settings.Load, Reload: never}, nil)
	want := "not ready: no policy set is loaded yet: redis refuses the credentials or rights of penstockd\n"
	eventually(t, "it says why it is not ready", func() bool { return p.get(t, "/readyz").body == want })
	write(t, password, "secret")
	p.ready(t)
	if got := p.mustAsk(t, "user", "bob"); degraded(got) {
		t.Errorf("%v, want a decision", got)
	}
	// And once more while it runs: the first connection that has to be opened finds out.
	server.Do("CONFIG", "SET", "requirepass", "other")
	admin := server.ClientWith(&redis.Options{Password: "other"})
	write(t, password, "other")
	if err := admin.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "decided by Redis again", func() bool {
		got, err := p.ask(t, "user", "bob")
		return err == nil && !degraded(got)
	})
}
