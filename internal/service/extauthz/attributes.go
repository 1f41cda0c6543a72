package extauthz

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/penstock-dev/penstock/internal/service/origin"
)

// attributes are what Envoy tells of the request that it asks about. Each is made when it is first asked for and then
// remembered: what an expression looks at in a loop is looked up each time, and its length is for the client to choose.
type attributes struct {
	context *authv3.AttributeContext
	proxies *origin.Proxies

	addressKnown, pathKnown, hostKnown, headersKnown bool

	address, path, host string
	headers             map[string]string
}

// lookup gives the attribute of that name. Of what is no HTTP request (the network filter asks about connections) there is
// no other than remote_address.
func (a *attributes) lookup(key string) (string, bool) {
	if key == "remote_address" {
		return a.remoteAddress(), true
	}
	request := a.context.GetRequest().GetHttp()
	if request == nil {
		return "", false
	}
	switch key {
	case "method":
		return request.GetMethod(), true
	case "path":
		return a.requestPath(request), true
	case "host", "header.host": // Envoy has Host as :authority among the headers
		return a.requestHost(request), true
	}
	name, found := strings.CutPrefix(key, "header.")
	if !found || strings.HasPrefix(name, ":") { // the pseudo headers are the attributes above
		return "", false
	}
	return a.header(name)
}

// remoteAddress is the address of the client, as far as trusted proxies tell of it, else that of Envoy's peer. It is empty
// when that has none (it came through a socket of the host): all such requests are one subject, since a request must not
// get around a limit by where it came from.
func (a *attributes) remoteAddress() string {
	if a.addressKnown {
		return a.address
	}
	a.addressKnown = true
	peer := origin.Address(a.context.GetSource().GetAddress().GetSocketAddress().GetAddress())
	if !peer.IsValid() {
		return ""
	}
	var forwarded []string
	if line, found := a.header("x-forwarded-for"); found {
		forwarded = []string{line}
	}
	a.address = a.proxies.Client(peer, forwarded).String()
	return a.address
}

func (a *attributes) requestPath(request *authv3.AttributeContext_HttpRequest) string {
	if !a.pathKnown {
		a.pathKnown, a.path = true, origin.Path(request.GetPath())
	}
	return a.path
}

func (a *attributes) requestHost(request *authv3.AttributeContext_HttpRequest) string {
	if !a.hostKnown {
		a.hostKnown, a.host = true, origin.Host(request.GetHost())
	}
	return a.host
}

// header gives a header by its name in lower case. Several of one name are one, joined by commas.
func (a *attributes) header(name string) (string, bool) {
	if !a.headersKnown {
		a.headersKnown = true
		request := a.context.GetRequest().GetHttp()
		a.headers = request.GetHeaders()
		if raw := request.GetHeaderMap(); raw != nil {
			a.headers = joined(raw.GetHeaders())
		}
	}
	value, found := a.headers[name]
	return value, found
}

// joined gives raw headers (encode_raw_headers of the filter) as Envoy gives the others, but with their bytes as they are.
func joined(raw []*corev3.HeaderValue) map[string]string {
	headers := make(map[string]string, len(raw))
	var repeated map[string][]string
	for _, h := range raw {
		name, value := h.GetKey(), h.GetValue()
		if h.GetRawValue() != nil {
			value = string(h.GetRawValue())
		}
		first, before := headers[name]
		if !before {
			headers[name] = value
			continue
		}
		if repeated == nil {
			repeated = map[string][]string{}
		}
		if repeated[name] == nil {
			repeated[name] = []string{first}
		}
		repeated[name] = append(repeated[name], value)
	}
	for name, values := range repeated { // at the end, so that many of one name cost no more than their length
		headers[name] = strings.Join(values, ",")
	}
	return headers
}

// isGRPC tells whether Envoy answers the request as a gRPC call, by the same rule.
func (a *attributes) isGRPC() bool {
	kind, _ := a.header("content-type")
	rest, found := strings.CutPrefix(kind, "application/grpc")
	return found && (rest == "" || rest[0] == '+')
}
