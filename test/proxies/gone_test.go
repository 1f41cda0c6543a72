package proxies

import (
	"net/http"
	"testing"
	"time"
)

// soon is far longer than the pages let penstockd take, and far less than any default of a proxy.
const soon = 3 * time.Second

func TestWithoutPenstockdTheProxyDoesWhatItsPageSays(t *testing.T) {
	for name, p := range proxies {
		for way, test := range map[string]struct {
			change     func(t *testing.T) []string
			wantStatus int
			wantSeen   int
		}{
			"open":   {p.failOpen, http.StatusOK, 1},
			"closed": {p.failClosed, p.goneStatus, 0},
		} {
			if test.change == nil {
				continue
			}
			t.Run(name+" fails "+way+" when it is gone", func(t *testing.T) {
				p.wantWithout(t, freeAddress(t), test.change(t), test.wantStatus, test.wantSeen)
			})
			if way == "closed" {
				test.wantStatus = p.silentStatus
			}
			if test.wantStatus == 0 {
				continue
			}
			t.Run(name+" fails "+way+" when it is silent", func(t *testing.T) {
				penstockd := listenSilently(t)
				p.wantWithout(t, penstockd.address, test.change(t), test.wantStatus, test.wantSeen)
				if got := penstockd.questions(); got != 1 {
					t.Errorf("penstockd was asked %d times, want once: it may have charged the request", got)
				}
			})
		}
	}
}

// wantWithout makes a request while there is no penstockd at the address.
func (p proxy) wantWithout(t *testing.T, penstockd string, change []string, wantStatus, wantSeen int) {
	t.Helper()
	b := startBackend(t)
	url := "http://" + p.start(t, site{penstockd: penstockd, backend: b.address, change: change, hurried: true})
	began := time.Now()
	got := get(t, newClient(), url)
	if took := time.Since(began); took > soon {
		t.Errorf("it took %v", took)
	}
	if got.status != wantStatus || len(b.requests()) != wantSeen {
		t.Errorf("%d %q, and the backend saw %v; want %d and %d requests", got.status, got.body, b.requests(), wantStatus, wantSeen)
	}
}
