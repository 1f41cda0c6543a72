// Package redisopstest opens servers of stores for tests.
package redisopstest

import (
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// Open opens the servers of that configuration; they are closed with the test.
func Open(tb testing.TB, cfg redisops.Config) *redisops.Servers {
	tb.Helper()
	servers, err := redisops.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = servers.Close() })
	return servers
}

// At opens the one server at that address; see Open.
func At(tb testing.TB, address string) *redisops.Servers {
	tb.Helper()
	return Open(tb, redisops.Config{Addresses: []string{address}})
}
