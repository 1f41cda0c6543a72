package interop

import (
	"net/http"
	"os"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/test/daemon"
)

// binary is the built penstockd.
var binary daemon.Binary

func TestMain(m *testing.M) {
	os.Exit(daemon.Run(func(b daemon.Binary) int {
		binary = b
		return m.Run()
	}))
}

// url is the address of a server as clients write it.
func url(addr string) string { return "redis://" + addr }

// penstockd is a process that answers at /auth/.
type penstockd struct {
	t    *testing.T
	base string
}

// startPenstockd starts it on the server.
func startPenstockd(t *testing.T, server *redistest.Server) *penstockd {
	t.Helper()
	return &penstockd{t: t, base: "http://" + binary.Start(t, server).HTTP}
}

// allows asks penstockd by forward-auth; path is <namespace>/<policy>[/<path>]. It may be called from many goroutines.
func (p *penstockd) allows(path, user string) bool {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+"/auth/"+path, http.NoBody)
	if err != nil {
		p.t.Error(err)
		return false
	}
	request.Header.Set("X-User", user)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Error(err)
		return false
	}
	_ = response.Body.Close()
	if degraded := response.Header.Get("X-Penstock-Degraded"); degraded != "" {
		p.t.Errorf("penstockd decided without Redis: %s", degraded)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusTooManyRequests {
		p.t.Errorf("penstockd answers %s", response.Status)
	}
	return response.StatusCode == http.StatusOK
}
