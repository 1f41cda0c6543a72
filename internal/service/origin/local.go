package origin

import (
	"net/http"
	"net/netip"
)

// PassedOnKeys are headers by which proxies say that they pass on a request for somebody else, in lower case.
var PassedOnKeys = []string{
	"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-envoy-external-address",
}

// passedOnHeaders are the same as net/http has them.
var passedOnHeaders = func() []string {
	names := make([]string, len(PassedOnKeys))
	for i, key := range PassedOnKeys {
		names[i] = http.CanonicalHeaderKey(key)
	}
	return names
}()

// ThisHost tells whether the address is the one by which a host reaches itself: 127.0.0.1 or ::1, and no other that loops
// back. From those (127.0.0.6 and the like) sidecars deliver what came from outside.
func ThisHost(address netip.Addr) bool {
	address = address.Unmap()
	return address == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || address == netip.IPv6Loopback()
}

// Local tells whether a request over HTTP comes from this host, as the connection has it: not from elsewhere, whatever a header
// says of that; not through a proxy here that passes it on for somebody else, as far as its headers tell; and not to a name
// other than localhost, which is a page in a browser that had its own name resolve to this host.
func Local(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && ThisHost(peer.Addr()) && !passedOn(r.Header) && namesThisHost(r.Host)
}

func passedOn(header http.Header) bool {
	for _, name := range passedOnHeaders {
		if len(header[name]) > 0 {
			return true
		}
	}
	return false
}

// namesThisHost tells whether the host of a request is localhost or an address.
func namesThisHost(authority string) bool {
	host := Host(authority)
	if host == "localhost" {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
