package debug

import (
	"net/http"
	"net/http/pprof"

	"github.com/penstock-dev/penstock/internal/service/origin"
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

// Local answers local callers, as origin.Local has it, and others by 403.
func Local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !origin.Local(r) {
			http.Error(w, "only for local callers: connect from 127.0.0.1 to localhost, for example through kubectl port-forward, and not through a proxy",
				http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
