package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/penstock-dev/penstock/bench/internal/process"
)

// network is Toxiproxy in this program, between penstockd and a server.
type network struct {
	address string
	proxy   *toxiproxy.Proxy
}

func startNetwork(target string) (*network, error) {
	address, err := process.FreeAddress()
	if err != nil {
		return nil, err
	}
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics log by a logger of their own
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	n := &network{address: address, proxy: toxiproxy.NewProxy(server, "redis", address, target)}
	if err := n.proxy.Start(); err != nil {
		return nil, fmt.Errorf("starting Toxiproxy: %w", err)
	}
	return n, nil
}

func (n *network) stop() { n.proxy.Stop() }

// delay lets every reply be so late.
func (n *network) delay(d time.Duration) error {
	return n.add("latency", "downstream", map[string]int64{"latency": d.Milliseconds()})
}

// blackHole accepts connections, and lets nothing through.
func (n *network) blackHole() error {
	if err := n.add("timeout", "upstream", map[string]int64{"timeout": 0}); err != nil {
		return err
	}
	return n.add("timeout", "downstream", map[string]int64{"timeout": 0})
}

// heal ends all that.
func (n *network) heal(ctx context.Context) { n.proxy.Toxics.ResetToxics(ctx) }

func (n *network) add(kind, stream string, attributes map[string]int64) error {
	toxic, err := json.Marshal(map[string]any{"name": kind + "_" + stream, "type": kind, "stream": stream, "attributes": attributes})
	if err == nil {
		_, err = n.proxy.Toxics.AddToxicJson(bytes.NewReader(toxic))
	}
	if err != nil {
		return fmt.Errorf("telling Toxiproxy: %w", err)
	}
	return nil
}
