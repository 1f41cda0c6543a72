package client

import (
	"maps"
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/penstock-dev/penstock/internal/service/origin"
)

const headerPrefix = "header."

// attributes are what a request shows of itself, under the names that the doors of penstockd have for it.
type attributes struct {
	peer, method, path, host string
	// values gives those of a header by its name in lower case.
	values func(name string) []string
}

func ofRequest(r *http.Request) attributes {
	path := r.URL.Path
	if !strings.HasPrefix(path, "/") { // the target is a URL without path, or *
		path = "/" + path
	}
	return attributes{peer: r.RemoteAddr, method: r.Method, path: path, host: origin.Host(r.Host), values: r.Header.Values}
}

func ofCall(peer, fullMethod string, md metadata.MD) attributes {
	a := attributes{peer: peer, method: http.MethodPost, path: fullMethod, values: md.Get}
	if authority := md.Get(":authority"); len(authority) > 0 {
		a.host = origin.Host(authority[0])
	}
	return a
}

// subject gives the attributes that are always told, with the listed headers and what the program adds.
func (a *attributes) subject(c *common, own map[string]string) map[string]string {
	subject := make(map[string]string, 4+len(c.headers)+len(own))
	subject["remote_address"] = a.client(c.proxies)
	subject["method"] = a.method
	subject["path"] = a.path
	subject["host"] = a.host
	for _, name := range c.headers {
		if value, found := a.header(name); found {
			subject[headerPrefix+name] = value
		}
	}
	maps.Copy(subject, own)
	return subject
}

// client is empty when the peer has no address, at a Unix socket: all such requests are one subject, since none must get
// around a limit by where it came from.
func (a *attributes) client(proxies origin.Proxies) string {
	client := proxies.Client(origin.Address(a.peer), a.values("x-forwarded-for"))
	if !client.IsValid() {
		return ""
	}
	return client.String()
}

// header gives the values of a header in one, separated as penstockd and Envoy do it.
func (a *attributes) header(name string) (string, bool) {
	if name == "host" { // net/http takes it out of the headers
		return a.host, true
	}
	switch values := a.values(name); len(values) {
	case 0:
		return "", false
	case 1:
		return values[0], true
	default:
		return strings.Join(values, ","), true
	}
}

// lookup gives the headers that the subject lacks. What they are together is remembered: what an expression looks at in a
// loop is looked up each time, and its length is for the client to choose. It is not for concurrent use.
func (a attributes) lookup() func(key string) (string, bool) {
	var joined map[string]string
	return func(key string) (string, bool) {
		name, found := strings.CutPrefix(key, headerPrefix)
		if !found || name != strings.ToLower(name) {
			return "", false
		}
		if value, known := joined[name]; known {
			return value, true
		}
		value, found := a.header(name)
		if found {
			if joined == nil {
				joined = map[string]string{}
			}
			joined[name] = value
		}
		return value, found
	}
}
