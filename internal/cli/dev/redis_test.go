package dev_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/cli/dev"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestARealRedisServesTheSameBudgetByFCALL(t *testing.T) {
	server := redistest.Start(t)
	r := start(t, dev.Options{Redis: "redis://" + server.Addr}, map[string]string{"a.yaml": rateLimit("a", "requests: 3, window: 1h")})
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
	again := start(t, dev.Options{Redis: "redis://" + server.Addr}, map[string]string{"a.yaml": rateLimit("a", "requests: 4, window: 1h")})
	again.wantStatus(t, "default/a", 429)
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
			if _, err := policystore.Publish(t.Context(), server.Client(), policystore.Publication{Owner: owner, Set: theirs, Mode: library.ModeFunctions}); err != nil {
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
				Files: []string{samples}, Redis: url, HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Out: out, Log: slog.New(slog.DiscardHandler),
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
