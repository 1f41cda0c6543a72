package main

import (
	"strings"
	"testing"
	"time"
)

// ran gives an outcome of three equal rounds.
func ran(name string, as role, checksPerSecond float64, serverCPU time.Duration) *outcome {
	r := round{ChecksPerSecond: checksPerSecond, P50: time.Millisecond, P99: 2 * time.Millisecond, ServerCPU: serverCPU, RedisCPU: 10 * time.Microsecond, OK: 1000}
	o := &outcome{Name: name, Role: as, Rounds: []round{r, r, r}}
	if as != roleCeiling {
		o.Verification = &verification{ProbeAllowed: probeLimit, ProbeAsked: 320, ProbeLimit: probeLimit}
	}
	return o
}

func TestComparisonTellsWhetherWhatIsWantedIsMet(t *testing.T) {
	denied := ran("penstockd", roleOurs, 18000, 45*time.Microsecond)
	denied.Rounds[1].OverLimit = 3
	cheating := ran("penstockd", roleOurs, 18000, 45*time.Microsecond)
	cheating.Verification.Problems = []string{"its counters hold 3"}
	peer := ran("ratelimit", rolePeer, 10000, 100*time.Microsecond)
	busy := ran("no-op", roleCeiling, 30000, 30*time.Microsecond)
	busy.Rounds[0].Foreign = 0.06
	for name, test := range map[string]struct {
		outcomes []*outcome
		wantMet  bool
		wantText []string
	}{
		"faster and cheaper": {
			outcomes: []*outcome{ran("no-op", roleCeiling, 30000, 30*time.Microsecond), ran("penstockd", roleOurs, 18000, 45*time.Microsecond), peer},
			wantMet:  true,
			wantText: []string{"throughput  1.80 (1.80-1.80)", "server CPU  0.45 (0.45-0.45)", "wanted: met\n"},
		},
		"faster, but not enough": {
			outcomes: []*outcome{ran("penstockd", roleOurs, 12900, 45*time.Microsecond), peer},
			wantText: []string{"throughput  1.29", "wanted: NOT met"},
		},
		"as wanted, on a busy machine": {
			outcomes: []*outcome{ran("penstockd", roleOurs, 18000, 45*time.Microsecond), peer, busy},
			wantMet:  true,
			wantText: []string{"wanted: met, by a machine that was not quiet", "other programs had up to 6 %"},
		},
		"too expensive": {
			outcomes: []*outcome{ran("penstockd", roleOurs, 18000, 76*time.Microsecond), peer},
			wantText: []string{"server CPU  0.76", "wanted: NOT met"},
		},
		"denied what it should allow": {
			outcomes: []*outcome{denied, peer},
			wantText: []string{"INVALID: penstockd: 0 checks failed and 3 were denied under load", "wanted: NOT met"},
		},
		"does not count": {
			outcomes: []*outcome{cheating, peer},
			wantText: []string{"INVALID: penstockd: its counters hold 3", "wanted: NOT met"},
		},
		"the better of two peers is the peer": {
			outcomes: []*outcome{ran("penstockd", roleOurs, 18000, 45*time.Microsecond), peer, ran("ratelimit-nostats", rolePeer, 15000, 90*time.Microsecond)},
			wantText: []string{"penstockd / ratelimit-nostats", "throughput  1.20", "wanted: NOT met"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReport(plan{callers: 64, subjects: 10000, rounds: 3}, facts{}, test.outcomes)
			if r.Comparison == nil || r.Comparison.Met != test.wantMet {
				t.Errorf("got %+v, want met %v", r.Comparison, test.wantMet)
			}
			var text strings.Builder
			r.print(&text)
			for _, want := range test.wantText {
				if !strings.Contains(text.String(), want) {
					t.Errorf("%q is not in the report:\n%s", want, &text)
				}
			}
		})
	}
}

func TestReportWithoutAPeerComparesNothing(t *testing.T) {
	r := newReport(plan{}, facts{}, []*outcome{ran("penstockd", roleOurs, 18000, 45*time.Microsecond)})
	var text strings.Builder
	r.print(&text)
	if r.Comparison != nil || strings.Contains(text.String(), "wanted") {
		t.Errorf("it compared with nobody:\n%s", &text)
	}
}

func TestReportWarnsOfABusyMachine(t *testing.T) {
	quiet := ran("no-op", roleCeiling, 30000, 30*time.Microsecond)
	busy := ran("penstockd", roleOurs, 18000, 45*time.Microsecond)
	busy.Rounds[2].Foreign = 0.3
	for name, test := range map[string]struct {
		outcomes []*outcome
		want     bool
	}{
		"quiet": {[]*outcome{quiet}, false},
		"busy":  {[]*outcome{quiet, busy}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			newReport(plan{}, facts{}, test.outcomes).print(&text)
			if got := strings.Contains(text.String(), "other programs had up to 30 %"); got != test.want {
				t.Errorf("warned: %v, want %v:\n%s", got, test.want, &text)
			}
		})
	}
}
