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
	// Process is the one that runs, or that ran last.
	Process *Process
	Client  *redis.Client

	binary string
	args   []string
}

// StartRedis starts a server without persistence on a free port of the loopback; dir is its folder. Options of the command
// line are added and win; where the first is the path of a file, that is its configuration. See Start.
func StartRedis(ctx context.Context, binary, dir string, options ...string) (*Redis, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("starting redis-server: %w", err)
	}
	var args []string
	if len(options) > 0 && !strings.HasPrefix(options[0], "-") {
		args, options = options[:1], options[1:]
	}
	args = append(args, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--loglevel", "warning")
	s := &Redis{
		Address: address, Client: redis.NewClient(&redis.Options{Addr: address}),
		binary: binary, args: append(args, options...),
	}
	if err := s.Again(ctx); err != nil {
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

// Again starts a server that has ended, on its port and in its folder, and waits until it answers. See Start.
func (s *Redis) Again(ctx context.Context) error {
	p, err := Start("redis-server", nil, s.binary, s.args...)
	if err != nil {
		return err
	}
	s.Process = p
	return p.Eventually(ctx, func(ctx context.Context) error { return s.Client.Ping(ctx).Err() })
}

// Stop ends the server and waits for it.
func (s *Redis) Stop() {
	_ = s.Client.Close()
	if s.Process != nil {
		s.Process.Stop()
	}
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
