package dev_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/cli/dev"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

func TestARealRedisServesTheSameBudgetByFCALL(t *testing.T) {
	server := redistest.Start(t)
	r := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}}, map[string]string{"a.yaml": rateLimit("a", "requests: 3, window: 1h")})
	if strings.Contains(r.String(), "has no functions") || strings.Contains(r.String(), "embedded") {
		t.Errorf("the banner speaks of another server:\n%s", r)
	}
	r.wantStatus(t, "default/a", 200, 200)
	key := redisops.CounterKey("default/a", []redisops.Entry{{Key: "remote_address", Value: "127.0.0.1"}})
	row := fmt.Sprint(server.Do("FCALL", "penstock_limit", 1, key, "default/a", 1, "", "127.0.0.1"))
	if !strings.HasPrefix(row, "[1 3 0 ") {
		t.Errorf("FCALL gives %s, want it to be allowed with 0 of 3 remaining", row)
	}
	r.wantStatus(t, "default/a", 429)

	r.edit(t, "reloaded", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 4, window: 1h")) })
	r.wantStatus(t, "default/a", 200, 429)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	// The next session on this machine goes on with it.
	again := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}}, map[string]string{"a.yaml": rateLimit("a", "requests: 4, window: 1h")})
	again.wantStatus(t, "default/a", 429)
}

func TestPoliciesAreServedByEveryTopology(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) connect.Settings{
		"Sentinel": func(t *testing.T) connect.Settings {
			servers := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
			return connect.Settings{URL: "redis://" + strings.Join(servers.Addresses(), ","), Topology: "Sentinel", MasterName: servers.MasterName}
		},
		"Cluster": func(t *testing.T) connect.Settings {
			cluster := redistest.StartCluster(t, 3, 0)
			return connect.Settings{URL: "redis://" + strings.Join(cluster.Addresses(), ","), Topology: "Cluster"}
		},
		"TLS": func(t *testing.T) connect.Settings {
			pair := tlstest.NewCA(t).Issue(t, "127.0.0.1")
			server := redistest.StartTLS(t, redistest.TLS{Cert: pair.Cert, Key: pair.Key})
			return connect.Settings{URL: "rediss://" + server.Addr, TLSInsecureSkipVerify: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			settings := begin(t)
			r := start(t, dev.Options{Redis: settings}, map[string]string{
				"a.yaml": rateLimit("a", "requests: 2, window: 1h"), "b.yaml": rateLimit("b", "requests: 1, window: 1h"),
			})
			if _, hosts, _ := strings.Cut(settings.URL, "://"); !strings.Contains(r.String(), "redis  "+hosts+"\n") {
				t.Errorf("the banner does not name the servers:\n%s", r)
			}
			r.wantStatus(t, "default/a", 200, 200, 429)
			r.wantStatus(t, "default/b", 200, 429)
			r.edit(t, "reloaded", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 3, window: 1h")) })
			r.wantStatus(t, "default/a", 200, 429)
		})
	}
}

func TestIndependentServersAreRefused(t *testing.T) {
	err := dev.Run(t.Context(), dev.Options{
		Files: []string{samples}, Redis: connect.Settings{URL: "redis://r1,r2,r3", Topology: "Independent"},
		HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Out: newTerminal(), Log: slog.New(slog.DiscardHandler),
	})
	if usage := (*dev.UsageError)(nil); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--redis-topology is Independent") {
		t.Errorf("%v, want it to name the flag", err)
	}
}

func TestSomebodyElsesRedisIsLeftAlone(t *testing.T) {
	const owner = "3f0c/shop/default"
	theirs := policy.NewSet(nil)
	for name, test := range map[string]struct {
		url  string // after host:port
		want string
	}{
		"that of an operator":              {"", `belongs to "` + owner + `", and penstock dev takes nothing over`},
		"another database of its server":   {"/5", "has the functions of a publisher who is not in database 5 of it; functions are shared by all databases"},
		"one that asks for a password":     {"", "NOAUTH"},
		"one with the wrong password":      {"", "WRONGPASS"},
		"one that does not permit writing": {"", "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			if _, err := policystore.Publish(t.Context(), redisopstest.At(t, server.Addr), policystore.Publication{Owner: owner, Set: theirs, Mode: library.ModeFunctions}); err != nil {
				t.Fatal(err)
			}
			url := "redis://" + server.Addr + test.url
			check := server.ClientWith(&redis.Options{Protocol: 2})
			switch test.want {
			case "NOAUTH":
				server.Do("CONFIG", "SET", "requirepass", "secret")
				check = server.ClientWith(&redis.Options{Protocol: 2, Password: "secret"})
			case "WRONGPASS":
				url = "redis://default:wrong-secret@" + server.Addr
				server.Do("CONFIG", "SET", "requirepass", "secret")
				check = server.ClientWith(&redis.Options{Protocol: 2, Password: "secret"})
			case "NOPERM":
				server.Do("ACL", "SETUSER", "reader", "on", "nopass", "~*", "&*", "+@read", "-get", "+fcall_ro", "+eval", "+client", "+hello")
				url = "redis://reader:any@" + server.Addr
			}
			out := newTerminal()
			err := dev.Run(t.Context(), dev.Options{
				Files: []string{samples}, Redis: connect.Settings{URL: url}, HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Out: out, Log: slog.New(slog.DiscardHandler),
			})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), server.Addr) {
				t.Errorf("error %v, want %q and the address", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a password: %v", err)
			}
			present, err := policystore.Read(t.Context(), check)
			if err != nil || present.Hash != theirs.Hash {
				t.Errorf("their policies are %v (%v), want them untouched", present, err)
			}
			if got := check.Get(t.Context(), policystore.OwnerKey).Val(); got != owner {
				t.Errorf("owner %q, want %q", got, owner)
			}
		})
	}
}
