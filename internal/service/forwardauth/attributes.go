package forwardauth

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/penstock-dev/penstock/internal/service/origin"
)

// Headers in which a proxy says what it was asked.
const (
	forwardedFor    = "X-Forwarded-For"
	forwardedMethod = "X-Forwarded-Method"
	forwardedHost   = "X-Forwarded-Host"
	forwardedURI    = "X-Forwarded-Uri"
)

// attributes are what the request shows that is to be decided: of this one itself, or where a trusted proxy asks, as it
// says.
type attributes struct {
	request *http.Request
	proxies origin.Proxies
	// peer is who asks, and trusted whether its headers X-Forwarded-… are believed.
	peer    netip.Addr
	trusted bool
	// behind is what follows the policy in the path; empty is nothing.
	behind string
	// What is not there as it is looked up is made when it is first asked for, and then remembered: what an expression
	// looks at in a loop is looked up each time, and its length is for the client to choose.
	address, host, path made
	joined              map[string]string
}

// made is a text that is made once.
type made struct {
	done bool
	text string
}

func newAttributes(r *http.Request, proxies origin.Proxies, behind string) *attributes {
	peer := origin.Address(r.RemoteAddr)
	return &attributes{request: r, proxies: proxies, peer: peer, trusted: proxies.Trusts(peer), behind: behind}
}

// lookup gives the attribute of that name.
func (a *attributes) lookup(key string) (string, bool) {
	switch key {
	case "remote_address":
		return a.address.once(a.clientAddress), true
	case "method":
		if method := a.forwarded(forwardedMethod); method != "" {
			return method, true
		}
		return a.request.Method, true
	case "path":
		return a.path.once(a.originalPath), true
	case "host", "header.host": // net/http takes Host out of the headers
		return a.host.once(a.originalHost), true
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

// once gives the text, which it makes the first time.
func (m *made) once(build func() string) string {
	if !m.done {
		m.done, m.text = true, build()
	}
	return m.text
}

// forwarded gives what a trusted proxy says in a header. Of several lines it is the last one: proxies set these headers, and
// one that adds a line to what its client has sent adds it behind. It is empty when there is none, and when the peer is not
// trusted.
func (a *attributes) forwarded(name string) string {
	if !a.trusted {
		return ""
	}
	return last(a.request.Header[name])
}

// clientAddress is empty when the peer has none, at a Unix socket: all such requests are one subject, since none must get
// around a limit by where it came from.
func (a *attributes) clientAddress() string {
	client := a.proxies.Client(a.peer, a.request.Header[forwardedFor])
	if !client.IsValid() {
		return ""
	}
	return client.String()
}

func (a *attributes) originalHost() string {
	// Apache separates what each proxy was asked for by commas, of which a host has none; the last is the nearest's.
	said := a.forwarded(forwardedHost)
	said = strings.Trim(said[strings.LastIndexByte(said, ',')+1:], " \t")
	if said == "" {
		said = a.request.Host
	}
	return origin.Host(said)
}

// originalPath is what follows the policy, when something does: that was written by whoever asks, while a header may be the
// client's, passed on.
func (a *attributes) originalPath() string {
	if a.behind != "" {
		return a.behind
	}
	if target := a.forwarded(forwardedURI); target != "" {
		return origin.Path(target)
	}
	return "/"
}

// join gives the values of a header in one, separated as Envoy does it, so that the subject is the same at its doors.
func (a *attributes) join(name string, values []string) string {
	text, known := a.joined[name]
	if known {
		return text
	}
	if a.joined == nil {
		a.joined = map[string]string{}
	}
	text = strings.Join(values, ",")
	a.joined[name] = text
	return text
}
