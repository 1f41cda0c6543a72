package forwardauth

import (
	"net"
	"net/http"
	"strings"
)

// attributes are what a request tells of itself. What it says of others (X-Forwarded-For and its like) is not believed.
type attributes struct {
	request *http.Request
	path    string
}

// lookup gives the attribute of that name.
func (a *attributes) lookup(key string) (string, bool) {
	switch key {
	case "remote_address":
		return withoutPort(a.request.RemoteAddr), true
	case "method":
		return a.request.Method, true
	case "path":
		return a.path, true
	case "host", "header.host": // net/http takes Host out of the headers
		return strings.ToLower(withoutPort(a.request.Host)), true
	}
	name, found := strings.CutPrefix(key, "header.")
	if !found || name != strings.ToLower(name) {
		return "", false
	}
	values := a.request.Header.Values(name)
	if len(values) == 0 {
		return "", false
	}
	return strings.Join(values, ", "), true
}

// withoutPort gives the host of host, host:port or [address]:port.
func withoutPort(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
}
