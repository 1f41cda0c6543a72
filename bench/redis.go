package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// redisServer is the one server that all targets count in.
type redisServer struct {
	address string
	// version is what it says of itself.
	version string
	process *process
	client  *redis.Client
}

// startRedis starts a server without persistence on a free port of the loopback.
func startRedis(ctx context.Context, binary, dir string) (*redisServer, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("starting redis-server: %w", err)
	}
	p, err := startProcess("redis-server", nil, binary,
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--loglevel", "warning")
	if err != nil {
		return nil, err
	}
	s := &redisServer{address: address, process: p, client: redis.NewClient(&redis.Options{Addr: address})}
	if err := p.eventually(ctx, func(ctx context.Context) error { return s.client.Ping(ctx).Err() }); err != nil {
		s.stop()
		return nil, err
	}
	info, err := s.client.Info(ctx, "server").Result()
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("asking redis-server for its version: %w", err)
	}
	s.version = infoField(info, "redis_version")
	return s, nil
}

func (s *redisServer) stop() {
	_ = s.client.Close()
	s.process.stop()
}

// keys counts the keys in the server.
func (s *redisServer) keys(ctx context.Context) (int64, error) {
	n, err := s.client.DBSize(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("counting the keys in Redis: %w", err)
	}
	return n, nil
}

// infoField finds name:value in the answer of INFO; "" when it is not there.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ":"); found && key == name {
			return value
		}
	}
	return ""
}
