package main

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary be the no-op server, as the bench is its own.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-serve-noop" {
		if err := serveNoop(os.Args[2]); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestBadSettingsAreRefusedWithTheirName(t *testing.T) {
	for setting, want := range map[string]string{
		"-callers=0":          "-callers 0: want 1 to 4096",
		"-subjects=1000001":   "-subjects 1000001: want 1 to 1000000",
		"-rounds=-1":          "-rounds -1: want 1 to 100",
		"-measure=1ms":        "-measure 1ms: want 100ms to 10m",
		"-warm=2m":            "-warm 2m0s: want 0 to 1m",
		"-in-flight=0":        "-in-flight 0: want 1 to 16384",
		"-open=50,half":       `-open: "half" is not a percentage from 1 to 1000`,
		"-open=0":             `-open: "0" is not a percentage from 1 to 1000`,
		"-open=25,50,25":      "-open: 25 is there twice",
		"-targets=no-op,nope": `no target is named "nope"`,
		"rounds":              `"rounds" is not a flag`,
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

func TestBenchMeasuresAndLeavesNothingBehind(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	path := filepath.Join(t.TempDir(), "result.json")
	o, err := parse([]string{"-targets=no-op", "-rounds=2", "-measure=200ms", "-warm=10ms", "-callers=4", "-subjects=10", "-open=10,20", "-commit=abc", "-json=" + path})
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
	if len(got.Outcomes) != 1 || got.Outcomes[0].Name != "no-op" || len(got.Outcomes[0].Rounds) != 2 {
		t.Fatalf("got %s, want two rounds of no-op", document)
	}
	for i, r := range got.Outcomes[0].Rounds {
		if r.OK == 0 || r.Failed+r.OverLimit > 0 || r.ChecksPerSecond <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.ClientCPU <= 0 || r.Allocations == nil || *r.Allocations <= 0 {
			t.Errorf("round %d is %+v", i, r)
		}
	}
	if len(got.Outcomes[0].Open) != 2 { // half of the rounds, two rates
		t.Fatalf("got %s, want one round of two rates", document)
	}
	for i, r := range got.Outcomes[0].Open {
		if r.Due == 0 || r.OK+r.Unsent+r.Failed != r.Due || r.P50 <= 0 || r.Max < r.P999 || r.LateP50 <= 0 {
			t.Errorf("open round %d is %+v", i, r)
		}
	}
	if got.Open == nil || got.Open.Base != "no-op" || len(got.Open.Rates) != 2 {
		t.Errorf("the open loop is %+v", got.Open)
	}
	if got.Machine.Commit != "abc" || got.Machine.Redis == "" || got.Machine.Cores == 0 {
		t.Errorf("the machine is %+v", got.Machine)
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if left := children(t); len(left) != 0 {
		t.Errorf("still running: %q", left)
	}
}

func TestBenchEndsWhatItStartedWhenATargetDoesNotStart(t *testing.T) {
	o, err := parse([]string{"-targets=no-op,penstockd", "-penstockd=/does/not/exist"})
	if err != nil {
		t.Fatal(err)
	}
	if err := bench(o); err == nil || !strings.Contains(err.Error(), "starting penstockd") {
		t.Errorf("got %v, want why penstockd did not start", err)
	}
	if left := children(t); len(left) != 0 {
		t.Errorf("still running: %q", left)
	}
}

// children gives the commands of the processes that this one has started and that have not ended.
func children(t *testing.T) (commands []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		pids, err := os.ReadFile(path)
		if err != nil {
			continue // that thread has ended
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			command, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			commands = append(commands, pid+" "+string(command))
		}
	}
	return commands
}
