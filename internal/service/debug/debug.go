package debug

import (
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
)

// Prefix is where the handler is.
const Prefix = "/debug/"

const (
	topPath  = Prefix + "top"
	pprofDir = Prefix + "pprof/"
)

// New makes the handler of everything under Prefix, for local callers only. Profiles are served when they are asked for.
func New(denials Denials, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+topPath, top{denials: denials})
	if profiles {
		// Not its cmdline: the arguments of the process may hold a password.
		mux.HandleFunc(pprofDir, pprof.Index)
		mux.HandleFunc(pprofDir+"profile", pprof.Profile)
		mux.HandleFunc(pprofDir+"trace", pprof.Trace)
		mux.HandleFunc(pprofDir+"symbol", pprof.Symbol)
		mux.HandleFunc(pprofDir+"cmdline", http.NotFound)
	}
	return Local(mux)
}

// passedOn are headers of requests that a proxy passes on.
var passedOn = []string{
	"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Envoy-External-Address",
}

const refusal = "only for local callers: connect from 127.0.0.1 to localhost, for example through kubectl port-forward, " +
	"and not through a proxy"

// Local answers local callers, and others by 403. Local is a connection from 127.0.0.1 or ::1, whatever a header says of
// where the request began; and of these, not
//
//   - one that a proxy on the same host passes on for somebody else, as far as its headers tell,
//   - one from another address of the host's own (127.0.0.6 and the like), where a sidecar passes on what came from outside,
//   - one to a name other than localhost, which is a page in a browser that had its own name resolve to this host.
func Local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !local(r) {
			http.Error(w, refusal, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func local(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if from := peer.Addr().Unmap(); from != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && from != netip.IPv6Loopback() {
		return false
	}
	for _, name := range passedOn {
		if len(r.Header.Values(name)) > 0 {
			return false
		}
	}
	return toThisHost(r.Host)
}

// toThisHost tells whether the host of a request is localhost or an address.
func toThisHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil
}
