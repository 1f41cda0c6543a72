package frame

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/process"
)

func TestRunLeavesNothingBehindWhenWorkFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var server *process.Redis
	var folder string
	broken := errors.New("no figures")
	err := Run(time.Minute, "redis-server", func(ctx context.Context, redis *process.Redis, dir string) error {
		server, folder = redis, dir
		if err := redis.Client.Ping(ctx).Err(); err != nil {
			t.Errorf("the server does not answer: %v", err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the work", err)
	}
	if server.Process.Alive() == nil {
		t.Error("the server lives")
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

func TestRunSaysThatItsBudgetIsSpent(t *testing.T) {
	const budget = 500 * time.Millisecond
	err := Run(budget, "redis-server", func(ctx context.Context, _ *process.Redis, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "gave up after 500ms") {
		t.Errorf("got %v, want how long it was given", err)
	}
}

func TestKeepWritesTheReportIntoAFolderOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "report.json")
	if err := Keep(map[string]int{"rounds": 3}, path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := "{\n  \"rounds\": 3\n}\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if err := Keep(nil, ""); err != nil {
		t.Errorf("without a path it failed: %v", err)
	}
	if err := Keep(nil, t.TempDir()); err == nil || !strings.Contains(err.Error(), "writing the report") {
		t.Errorf("a folder for a path gave %v", err)
	}
}
