package process

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Redis is a redis-server of the benchmark's own.
type Redis struct {
	// Address is host:port.
	Address string
	// Version is what it says of itself.
	Version string
	Process *Process
	Client  *redis.Client
}

// StartRedis starts a server without persistence on a free port of the loopback; dir is its folder. See Start.
func StartRedis(ctx context.Context, binary, dir string) (*Redis, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("starting redis-server: %w", err)
	}
	p, err := Start("redis-server", nil, binary,
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--loglevel", "warning")
	if err != nil {
		return nil, err
	}
	s := &Redis{Address: address, Process: p, Client: redis.NewClient(&redis.Options{Addr: address})}
	if err := p.Eventually(ctx, func(ctx context.Context) error { return s.Client.Ping(ctx).Err() }); err != nil {
		s.Stop()
		return nil, err
	}
	info, err := s.Client.Info(ctx, "server").Result()
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("asking redis-server for its version: %w", err)
	}
	s.Version = InfoField(info, "redis_version")
	return s, nil
}

// Stop ends the server and waits for it.
func (s *Redis) Stop() {
	_ = s.Client.Close()
	s.Process.Stop()
}

// InfoField finds name:value in the answer of INFO; "" when it is not there.
func InfoField(info, name string) string {
	for line := range strings.Lines(info) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ":"); found && key == name {
			return value
		}
	}
	return ""
}
