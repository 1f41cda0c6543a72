package dev

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// expiryTick is how often the keys of the embedded server age, and so how late they may expire.
const expiryTick = 100 * time.Millisecond

// startEmbedded starts a Redis within this process on a free port of 127.0.0.1, and gives its address. It ends with the
// context.
//
// Its keys age only when they are told to: so they are told, by as much as the clock has moved.
func startEmbedded(ctx context.Context) (string, error) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		return "", fmt.Errorf("starting the embedded Redis: %w", err)
	}
	go func() {
		defer server.Close()
		ticker := time.NewTicker(expiryTick)
		defer ticker.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				server.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	return server.Addr(), nil
}
