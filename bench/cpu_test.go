package main

import (
	"math"
	"os"
	"testing"
	"time"
)

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
