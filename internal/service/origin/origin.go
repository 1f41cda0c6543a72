// Package origin tells where a request began: the address of its client behind proxies, and what it asked for, written the
// same way by every door, so that one client has one budget whichever way it comes.
package origin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

const (
	// maxHops is how many entries of X-Forwarded-For are looked at, from the right. No chain of proxies is as long; a
	// client that sends more buys no time by it.
	maxHops = 64
	// maxEntryBytes bounds what can be an address with a zone and a port.
	maxEntryBytes = 128
)

// Proxies are the networks of the proxies that are believed what they say of a request. The zero value believes nobody.
type Proxies struct {
	networks []netip.Prefix
}

// ParseProxies reads networks such as 10.0.0.0/8 and 2001:db8::/32, and single addresses. It fails on anything else, on an
// address with a zone, and on a network with bits behind its mask: whoever writes 10.0.0.1/8 may have meant one address.
func ParseProxies(cidrs []string) (Proxies, error) {
	var p Proxies
	for _, text := range cidrs {
		network, err := parseNetwork(text)
		if err != nil {
			return Proxies{}, fmt.Errorf("trusted proxy %q: %w", text, err)
		}
		p.networks = append(p.networks, network)
	}
	return p, nil
}

var errNetwork = errors.New("want a network such as 10.0.0.0/8, or an address")

func parseNetwork(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return netip.Prefix{}, errNetwork
		}
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, errNetwork
	}
	if address := network.Addr(); address.Is4In6() {
		if network.Bits() < 96 {
			return netip.Prefix{}, errNetwork
		}
		network = netip.PrefixFrom(address.Unmap(), network.Bits()-96)
	}
	if network != network.Masked() {
		return netip.Prefix{}, fmt.Errorf("has bits behind its mask; want %s, or the address alone", network.Masked())
	}
	return network, nil
}

// Trusts tells whether the address is that of a proxy to be believed. An IPv4 address is the same one in IPv6
// (::ffff:192.0.2.1); a zone does not matter.
func (p Proxies) Trusts(addr netip.Addr) bool {
	addr = plain(addr)
	for _, network := range p.networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// Client gives the address of the client whose request came from the peer with these lines of X-Forwarded-For. The peer
// itself is the client unless it is trusted. A trusted one has appended the address that it got the request from, so the
// entries are read from the right, the last line first, as long as each is a trusted proxy's: the client is the first that
// is not, and when all are, the leftmost.
//
// Empty entries are skipped. What is no address ("unknown", a name, an obfuscated id) ends the search, as nobody to be
// believed has said what is left of it: the client is then the last address before it, and that is the peer when there is
// none. So it is behind 64 entries. An entry may have a port ("192.0.2.1:5000", "[2001:db8::1]:5000").
//
// The address has no zone and is no IPv4 address in IPv6. It is not valid exactly when the peer is not.
func (p Proxies) Client(peer netip.Addr, forwardedFor []string) netip.Addr {
	client := plain(peer)
	if !p.Trusts(client) {
		return client
	}
	hops := 0
	for _, line := range slices.Backward(forwardedFor) {
		rest, more := line, true
		for more {
			var entry string
			if hops++; hops > maxHops {
				return client
			}
			rest, entry, more = cutLast(rest)
			if entry == "" {
				continue
			}
			hop := Address(entry)
			if !hop.IsValid() {
				return client
			}
			if client = hop; !p.Trusts(client) {
				return client
			}
		}
	}
	return client
}

// cutLast takes the last entry off a list that commas separate, and tells whether there are more.
func cutLast(list string) (rest, entry string, more bool) {
	comma := strings.LastIndexByte(list, ',')
	if comma < 0 {
		return "", strings.Trim(list, " \t"), false
	}
	return list[:comma], strings.Trim(list[comma+1:], " \t"), true
}

// Address reads an IP address, with or without brackets, zone and port: 192.0.2.1, 192.0.2.1:5000, 2001:db8::1,
// [2001:db8::1], [fe80::1%eth0]:5000. The result has no zone and is no IPv4 address in IPv6. It is not valid when the text
// is something else, such as the name of a Unix socket.
func Address(text string) netip.Addr {
	if len(text) > maxEntryBytes {
		return netip.Addr{}
	}
	inner, bracketed := strings.CutPrefix(text, "[")
	switch {
	case bracketed && strings.HasSuffix(inner, "]"):
		address, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || address.Is4() {
			return netip.Addr{}
		}
		return plain(address)
	case bracketed || strings.Count(text, ":") == 1:
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}
		}
		return plain(withPort.Addr())
	default:
		address, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Addr{}
		}
		return plain(address)
	}
}

func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }

// Host gives the host of host, host:port or [address]:port as a subject has it: in lower case, without port and brackets,
// and without the dot that may end a full name.
func Host(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(authority, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// Path gives the path of a request target (RFC 9112, section 3.2) as a subject has it: without scheme, host and query, and
// with percent-encoded bytes decoded, once, so that nobody is a new subject by writing a letter as %61. What is no encoding
// stays as it is. So do dots and repeated slashes, as what they mean is the server's to say. It begins with a slash; one is
// put before a target that has none, such as *.
func Path(requestTarget string) string {
	path := requestTarget
	// A fragment has no place in a request target, and servers that take one look for what they serve without it.
	if end := strings.IndexAny(path, "?#"); end >= 0 {
		path = path[:end]
	}
	if !strings.HasPrefix(path, "/") {
		if scheme, rest, found := strings.Cut(path, "://"); found && isScheme(scheme) {
			_, path, _ = strings.Cut(rest, "/")
		}
		path = "/" + path
	}
	return decoded(path)
}

// isScheme tells whether the text is a scheme of RFC 3986, section 3.1.
func isScheme(text string) bool {
	for i := range len(text) {
		letter := 'a' <= text[i]|0x20 && text[i]|0x20 <= 'z'
		other := '0' <= text[i] && text[i] <= '9' || strings.IndexByte("+-.", text[i]) >= 0
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return text != ""
}

func decoded(path string) string {
	at := strings.IndexByte(path, '%')
	if at < 0 {
		return path
	}
	out := make([]byte, at, len(path))
	copy(out, path)
	for ; at < len(path); at++ {
		if path[at] == '%' && at+2 < len(path) {
			high, low := digit(path[at+1]), digit(path[at+2])
			if high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low))
				at += 2
				continue
			}
		}
		out = append(out, path[at])
	}
	return string(out)
}

// digit is the value of a hexadecimal digit; -1 is none.
func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	default:
		return -1
	}
}
