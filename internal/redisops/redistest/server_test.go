package redistest_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// adminOnly are options of a server that lets in one user by name and nobody else.
var adminOnly = []string{
	"--user", "default", "off", "--user", "admin", "on", ">secret", "~*", "&*", "+@all",
	"--masteruser", "admin", "--masterauth", "secret",
}

// plain gives a client that never tries twice.
func plain(t *testing.T, addr string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestHelpersAuthenticateByTheOptions(t *testing.T) {
	for name, options := range map[string][]string{
		"a password": {"--requirepass", "secret"},
		"a user":     adminOnly,
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, options...)
			server.Do("SET", "k", "v")
			if got := server.Client().Get(t.Context(), "k").Val(); got != "v" {
				t.Errorf("Client reads %q", got)
			}
			if err := plain(t, server.Addr).Get(t.Context(), "k").Err(); err == nil {
				t.Error("the server lets anybody in")
			}
		})
	}
}

func TestAServerComesBackAtItsAddress(t *testing.T) {
	server := redistest.Start(t)
	server.Do("SET", "k", "v")
	server.Kill()
	if err := plain(t, server.Addr).Ping(t.Context()).Err(); err == nil {
		t.Error("a killed server answers")
	}
	server.Run()
	if got := server.Do("EXISTS", "k"); got != int64(0) {
		t.Errorf("EXISTS = %v after a crash without persistence", got)
	}
}
