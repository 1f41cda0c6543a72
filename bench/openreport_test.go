package main

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func TestReportShowsTheOpenLoopAndAllocations(t *testing.T) {
	// asked gives two rounds of each rate.
	asked := func(latency time.Duration) (rounds []openRound) {
		for _, percent := range []int{50, 75} {
			for n := range time.Duration(2) {
				l := latency * time.Duration(percent) * (n + 1) / 50
				rounds = append(rounds, openRound{
					Percent: percent, Rate: float64(percent * 100), AnsweredPerSecond: float64(percent*100 - 1),
					P50: l, P90: 2 * l, P99: 4 * l, P999: 8 * l, Max: 16 * l,
					LateP50: 20 * time.Microsecond, LateP99: 80 * time.Microsecond, LateMax: time.Millisecond, Due: 600, OK: 600,
				})
			}
		}
		return rounds
	}
	objects, bytes := 88.6, 5835.2
	ours := ran("penstockd", roleOurs, 18000, 45*time.Microsecond)
	for i := range ours.Rounds {
		ours.Rounds[i].Allocations, ours.Rounds[i].AllocatedBytes = &objects, &bytes
	}
	ours.Open = asked(500 * time.Microsecond)
	peer := ran("ratelimit", rolePeer, 10000, 100*time.Microsecond)
	peer.HeapUnknown = "reading allocations: connection refused"
	peer.Open = asked(time.Millisecond)
	peer.Open[3].Unsent, peer.Open[3].OK, peer.Open[3].Invalid = 25, 575, "over capacity: 25 of 600 not sent"
	ceiling := ran("no-op", roleCeiling, 30000, 30*time.Microsecond)
	ceiling.Open = asked(200 * time.Microsecond)

	p := plan{
		callers: 64, subjects: 10000, rounds: 3, warm: 1500 * time.Millisecond, measure: 6 * time.Second, shares: []int{50, 75}, inFlight: 1024,
	}
	var text strings.Builder
	newReport(p, facts{PeerVersion: "v1"}, []*outcome{ceiling, ours, peer}).print(&text)
	const golden = "testdata/report.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("the report is not that of %s (run with -update to write it):\n%s", golden, &text)
	}
}

func TestReportWithoutAnOpenLoopSaysNothingOfIt(t *testing.T) {
	r := newReport(plan{rounds: 3}, facts{}, []*outcome{ran("penstockd", roleOurs, 18000, 45*time.Microsecond)})
	var text strings.Builder
	r.print(&text)
	if r.Open != nil || strings.Contains(text.String(), "Open loop") {
		t.Errorf("it tells of one:\n%s", &text)
	}
}
