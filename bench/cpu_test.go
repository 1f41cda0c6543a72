package main

import (
	"math"
	"os"
	"testing"
	"time"
)

func TestParseProcessStatAddsUserAndSystemTime(t *testing.T) {
	for name, test := range map[string]struct {
		stat    string
		want    time.Duration
		wantErr bool
	}{
		"a plain command": {
			stat: "4467 (bench) S 1 4467 1 0 -1 4194560 2000 0 0 0 123 45 9 9 20 0 8 0 100 1 2",
			want: 1680 * time.Millisecond,
		},
		"a command with spaces and parentheses": {
			stat: "4467 (a) R (b c) S 1 4467 1 0 -1 4194560 2000 0 0 0 1 2 9 9 20 0 8 0 100 1 2",
			want: 30 * time.Millisecond,
		},
		"too short":    {stat: "4467 (bench) S 1 4467", wantErr: true},
		"no command":   {stat: "4467 bench S 1 2 3 4 5 6 7 8 9 10 11 12 13 14", wantErr: true},
		"not a number": {stat: "4467 (bench) S 1 4467 1 0 -1 4194560 2000 0 0 0 x 45 9 9", wantErr: true},
		"nothing":      {stat: "", wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseProcessStat([]byte(test.stat))
			if got != test.want || (err != nil) != test.wantErr {
				t.Errorf("got %v, %v; want %v, error %v", got, err, test.want, test.wantErr)
			}
		})
	}
}

func TestParseMachineStatLeavesOutIdleTime(t *testing.T) {
	got, err := parseMachineStat([]byte("cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (machineTime{busy: 730 * time.Millisecond, stolen: 80 * time.Millisecond}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 3"} {
		if _, err := parseMachineStat([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestCPUTimeGrowsByWhatAProcessUses(t *testing.T) {
	before, err := readUsage(os.Getpid(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const burn = 100 * time.Millisecond
	started := time.Now()
	var spent usage
	for x := 1.0; spent.server < burn; {
		for range 100_000 {
			x = math.Sqrt(x + 1)
		}
		after, err := readUsage(os.Getpid(), os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		spent = after.since(before)
		if time.Since(started) > 30*time.Second {
			t.Fatalf("after 30 s of work the process has used %v", spent.server)
		}
	}
	if spent.machine < burn/2 {
		t.Errorf("the process used %v but the machine only %v", spent.server, spent.machine)
	}
}

func TestForeignTimeIsWhatOthersUsedOrTook(t *testing.T) {
	u := usage{server: 1 * time.Second, redis: 2 * time.Second, client: 3 * time.Second, machine: 10 * time.Second, stolen: 500 * time.Millisecond}
	if got, want := u.foreign(), 4500*time.Millisecond; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	u.machine = 5 * time.Second // the clocks are not read at the same instant
	if got, want := u.foreign(), 500*time.Millisecond; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
