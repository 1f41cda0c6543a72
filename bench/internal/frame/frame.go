// Package frame is what every benchmark runs in: its time, its folder, its redis-server, and the report that it keeps.
package frame

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/process"
)

// Run calls work with a redis-server and a folder of its own, and ends both afterwards, whatever happens. The context ends
// with ^C, SIGTERM or SIGHUP, and when the budget is spent; the error then says so too. Call it from a goroutine
// that keeps its thread, see process.Start.
func Run(budget time.Duration, redisServer string, work func(ctx context.Context, redis *process.Redis, dir string) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, budget, fmt.Errorf("gave up after %s", budget))
	defer cancel()

	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	redis, err := process.StartRedis(ctx, redisServer, dir)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer redis.Stop()

	if err := work(ctx, redis, dir); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// Keep writes the report as JSON, with the folders that it needs, and says so on stderr; without a path it does nothing.
func Keep(report any, path string) error {
	if path == "" {
		return nil
	}
	document, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := os.WriteFile(path, append(document, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	fmt.Fprintf(os.Stderr, "written to %s\n", path)
	return nil
}
