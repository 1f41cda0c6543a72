package redistest

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Toxic is Toxiproxy in front of a server: the faults of a network that Proxy does not know. It ends with the test. Faults
// hold for connections that are open and for new ones, until Heal. Bytes that were held by BlackHole are lost.
type Toxic struct {
	// Addr is host:port to connect to.
	Addr string

	tb    testing.TB
	proxy *toxiproxy.Proxy
}

// StartToxiproxy starts a proxy to that address.
func StartToxiproxy(tb testing.TB, target string) *Toxic {
	tb.Helper()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(tb)))
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics log by a logger of their own
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	t := &Toxic{Addr: addr, tb: tb, proxy: toxiproxy.NewProxy(server, "redis", addr, target)}
	t.Up()
	tb.Cleanup(t.Down)
	return t
}

// Down closes all connections and refuses new ones, as when nothing listens.
func (t *Toxic) Down() { t.proxy.Stop() }

// Up ends Down.
func (t *Toxic) Up() {
	t.tb.Helper()
	if err := t.proxy.Start(); err != nil {
		t.tb.Fatalf("redistest: %v", err)
	}
}

// Latency delays replies by d, more or less by up to jitter. It replaces a Latency of before.
func (t *Toxic) Latency(d, jitter time.Duration) {
	t.tb.Helper()
	t.set("latency", "downstream", map[string]int64{"latency": d.Milliseconds(), "jitter": jitter.Milliseconds()})
}

// BlackHole accepts connections and lets nothing through in either direction: requests do not reach the server. Heal closes
// the connections that were open.
func (t *Toxic) BlackHole() {
	t.tb.Helper()
	t.set("timeout", "upstream", map[string]int64{"timeout": 0})
	t.set("timeout", "downstream", map[string]int64{"timeout": 0})
}

// ResetPeer resets connections (RST) as soon as something is sent on them. Those that are open now are closed the ordinary
// way instead (FIN).
func (t *Toxic) ResetPeer() {
	t.tb.Helper()
	t.set("reset_peer", "upstream", map[string]int64{"timeout": 0})
}

// LimitData closes a connection once so many bytes of replies went through, perhaps in the midst of one.
func (t *Toxic) LimitData(size int64) {
	t.tb.Helper()
	t.set("limit_data", "downstream", map[string]int64{"bytes": size})
}

// Slice lets replies arrive in pieces of so many bytes, with a pause between them.
func (t *Toxic) Slice(size int64, pause time.Duration) {
	t.tb.Helper()
	t.set("slicer", "downstream", map[string]int64{"average_size": size, "size_variation": 0, "delay": pause.Microseconds()})
}

// Bandwidth lets no more than so many KB per second of replies through.
func (t *Toxic) Bandwidth(rate int64) {
	t.tb.Helper()
	t.set("bandwidth", "downstream", map[string]int64{"rate": rate})
}

// Heal ends all faults but Down.
func (t *Toxic) Heal() { t.proxy.Toxics.ResetToxics(context.Background()) }

// set adds a fault in place of the one of that kind and direction. It is not updated in place: links read it unlocked.
func (t *Toxic) set(kind, stream string, attributes map[string]int64) {
	t.tb.Helper()
	name := kind + "_" + stream
	if t.proxy.Toxics.GetToxic(name) != nil {
		if err := t.proxy.Toxics.RemoveToxic(context.Background(), name); err != nil {
			t.tb.Fatalf("redistest: %v", err)
		}
	}
	toxic, err := json.Marshal(map[string]any{"name": name, "type": kind, "stream": stream, "attributes": attributes})
	if err == nil {
		_, err = t.proxy.Toxics.AddToxicJson(bytes.NewReader(toxic))
	}
	if err != nil {
		t.tb.Fatalf("redistest: %v", err)
	}
}
