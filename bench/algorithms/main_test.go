package main

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestBadSettingsAreRefusedWithTheirName(t *testing.T) {
	for setting, want := range map[string]string{
		"-subjects=9":          "-subjects 9: want 10 to 1000000",
		"-rounds=101":          "-rounds 101: want 1 to 100",
		"-batch=49":            "-batch 49: want 50 to 100000",
		"-windows=2":           "-windows 2: want 3 to 1000",
		"-parts=memory,colour": `there is no part "colour"`,
		"memory":               `"memory" is not a flag`,
	} {
		t.Run(setting, func(t *testing.T) {
			_, err := parse([]string{setting})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	if _, err := parse([]string{"-help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help gave %v", err)
	}
}

// smallest is a run of a few seconds.
var smallest = plan{parts: allParts, subjects: 2000, rounds: 1, batch: 50, windows: 4}

func TestARunKeepsWhatTheAlgorithmsPromise(t *testing.T) {
	server := redistest.Start(t)
	r := &runner{plan: smallest, client: server.Client(), pid: server.PID(), progress: io.Discard}
	result, err := r.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Problems) > 0 {
		t.Errorf("problems: %q", result.Problems)
	}
	if got, want := len(result.Accuracy), len(accuracyAlgorithms)*(len(arrivals)+1); got != want {
		t.Errorf("%d figures of accuracy, want %d", got, want)
	}
	highest := map[string]int64{}
	for _, f := range result.Accuracy {
		highest[f.Algorithm] = max(highest[f.Algorithm], f.Most)
		if f.Offered < f.Allowed || f.Allowed == 0 || f.Capacity == 0 {
			t.Errorf("%+v does not add up", f)
		}
		if f.FalseDenials == nil && f.Arrival != retrying {
			t.Errorf("%s, %s is not compared with SlidingLog", f.Algorithm, f.Arrival)
		}
	}
	for name, want := range map[string]int64{nameSlidingLog: 100, "FixedWindow": 200, nameSmallBucket: 109} {
		if highest[name] != want {
			t.Errorf("%s lets at most %d pass in a window, want %d", name, highest[name], want)
		}
	}
	for _, name := range []string{"SlidingCounter", nameFullBucket} {
		if highest[name] <= 100 || highest[name] > 200 {
			t.Errorf("%s lets at most %d pass in a window, want more than the limit and at most twice as much", name, highest[name])
		}
	}
	if len(result.Memory) == 0 || len(result.Held) != 2 {
		t.Errorf("got %d figures of memory and %d without a window", len(result.Memory), len(result.Held))
	}
	for _, f := range result.Memory {
		if f.BytesPerSubject < float64(f.MemoryUsage)/2 || f.MemoryUsage <= 0 {
			t.Errorf("%s, %d of %d: %.0f bytes per subject, MEMORY USAGE is %d", f.Case, f.Used, f.Limit, f.BytesPerSubject, f.MemoryUsage)
		}
	}
	if want := 1 + 2*len(speedCases()); len(result.Speed) != want {
		t.Errorf("%d figures of speed, want %d", len(result.Speed), want)
	}
	for _, f := range result.Speed {
		if f.RedisMicroseconds.Median <= 0 || f.PerSecond.Median <= 0 || f.OfFloor <= 0 {
			t.Errorf("%s, %s, %s took no time: %+v", f.Case, f.Outcome, f.Mode, f)
		}
	}
}

func TestBenchReportsAndLeavesNothingBehind(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	binary := os.Getenv("PENSTOCK_REDIS_SERVER")
	if binary == "" {
		binary = "redis-server"
	}
	path := filepath.Join(t.TempDir(), "new", "algorithms.json")
	o, err := parse([]string{"-parts=memory", "-subjects=10", "-commit=abc", "-redis-server=" + binary, "-json=" + path})
	if err != nil {
		t.Fatal(err)
	}
	if err := bench(o); err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(document, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Memory) == 0 || len(got.Speed)+len(got.Accuracy) > 0 || got.Machine.Commit != "abc" || got.Machine.Redis == "" {
		t.Errorf("got %s, want only memory", document)
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBenchSaysWhyTheServerDoesNotStart(t *testing.T) {
	o, err := parse([]string{"-redis-server=/does/not/exist", "-json="})
	if err != nil {
		t.Fatal(err)
	}
	if err := bench(o); err == nil || !strings.Contains(err.Error(), "starting redis-server") {
		t.Errorf("got %v, want why the server did not start", err)
	}
}

func TestRepliesThatAreNoRowsAreRefused(t *testing.T) {
	row := []any{int64(0), int64(10), int64(0), int64(5), int64(1500), "default", "limit", ""}
	got, err := parseAnswer(row)
	if want := (answer{retryAfter: 1500 * time.Millisecond}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for name, reply := range map[string]any{
		"no row": "OK", "too short": row[:7],
		"a word":  slices.Concat([]any{"1"}, row[1:]),
		"no time": slices.Concat(row[:4], []any{"x", "default", "limit", ""}),
	} {
		if _, err := parseAnswer(reply); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestStatisticsOfACommandAreRead(t *testing.T) {
	calls, spent, err := parseStat("calls=2000,usec=31000,usec_per_call=15.50,rejected_calls=0,failed_calls=0")
	if err != nil || calls != 2000 || spent != 31_000 {
		t.Errorf("got %d calls, %v µs, %v", calls, spent, err)
	}
	for _, bad := range []string{"", "calls=1", "calls=x,usec=1"} {
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
