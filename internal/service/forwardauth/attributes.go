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
	// host, and what repeated headers are together, are made when they are first asked for and then remembered: what an
	// expression looks at in a loop is looked up each time, and its length is for the client to choose.
	host      string
	hostKnown bool
	joined    map[string]string
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
		if !a.hostKnown {
			a.hostKnown, a.host = true, strings.ToLower(withoutPort(a.request.Host))
		}
		return a.host, true
	}
	name, found := strings.CutPrefix(key, "header.")
	if !found || name != strings.ToLower(name) {
		return "", false
	}
	switch values := a.request.Header.Values(name); len(values) {
	case 0:
		return "", false
	case 1:
		return values[0], true
	default:
		return a.join(name, values), true
	}
}

// join gives the values of a header in one.
func (a *attributes) join(name string, values []string) string {
	text, known := a.joined[name]
	if known {
		return text
	}
	if a.joined == nil {
		a.joined = map[string]string{}
	}
	text = strings.Join(values, ", ")
	a.joined[name] = text
	return text
}

// withoutPort gives the host of host, host:port or [address]:port.
func withoutPort(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
}
