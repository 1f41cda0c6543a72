package origin

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnlyWhoIsOnThisHostIsLocal(t *testing.T) {
	for name, test := range map[string]struct {
		peer, host string
		header     string
		want       bool
	}{
		"loopback":             {"127.0.0.1:1", "localhost:8080", "", true},
		"by the address":       {"127.0.0.1:1", "127.0.0.1:8080", "", true},
		"IPv6":                 {"[::1]:1", "[::1]:8080", "", true},
		"mapped":               {"[::ffff:127.0.0.1]:1", "LOCALHOST", "", true},
		"elsewhere":            {"10.0.0.1:1", "localhost:8080", "", false},
		"a sidecar":            {"127.0.0.6:1", "10.0.0.1:8080", "", false},
		"a proxy, by For":      {"127.0.0.1:1", "localhost", "X-Forwarded-For", false},
		"a proxy, by Host":     {"127.0.0.1:1", "localhost", "X-Forwarded-Host", false},
		"a proxy, by Proto":    {"127.0.0.1:1", "localhost", "X-Forwarded-Proto", false},
		"a proxy, by RFC 7239": {"127.0.0.1:1", "localhost", "Forwarded", false},
		"a proxy, by Via":      {"127.0.0.1:1", "localhost", "Via", false},
		"nginx":                {"127.0.0.1:1", "localhost", "X-Real-IP", false},
		"Envoy":                {"127.0.0.1:1", "localhost", "X-Envoy-External-Address", false},
		"a page in a browser":  {"127.0.0.1:1", "evil.example:8080", "", false},
		"a Unix socket":        {"@", "localhost", "", false},
		"nothing":              {"", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.RemoteAddr, r.Host = test.peer, test.host
			if test.header != "" {
				r.Header.Set(test.header, "127.0.0.1")
			}
			if got := Local(r); got != test.want {
				t.Errorf("local %v, want %v", got, test.want)
			}
		})
	}
}
