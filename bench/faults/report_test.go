package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/machine"
)

// example has every form that a figure can have.
func example() *report {
	return &report{
		Machine: machine.Facts{
			CPU: "Some CPU", Cores: 2, Kernel: "6.1", Go: "go1.26", Redis: "7.0.15", Commit: "abc",
			When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		},
		Callers: 64, Rate: 20,
		Scenarios: []scenario{
			{
				Name: nameKill, Title: "Redis is killed", Others: 0.3, Stolen: 0.04, FirstError: "no answer",
				Figures: []figure{
					number("answers", 1000).beside(number("", 500)),
					number("  errors", 1).beside(number("", 0)).exactly(0),
					ms("  longest", 25*time.Millisecond).beside(ms("", 3*time.Millisecond)).most(25),
					after("all enforced", 5500*time.Millisecond, true).most(5),
					after("all enforced again", 0, false).most(5),
					after("promoted", 1250*time.Millisecond, true),
				},
			},
			{
				Name: namePolicies, Title: "many policies",
				Figures: []figure{number("writes", 1).exactly(1), value("memory", unitMiB, 123.45).most(300), number("more writes", 2).exactly(1)},
			},
		},
	}
}

func TestTheReportHasWhatWasMeasuredBesideWhatWasWanted(t *testing.T) {
	var text strings.Builder
	example().print(&text)
	golden := filepath.Join("testdata", "report.golden")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("got\n%s\nwant (%s)\n%s", &text, golden, want)
	}
}

func TestTheJSONTellsWhichBoundsAreMet(t *testing.T) {
	document, err := json.Marshal(example().Scenarios[0].Figures[4])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(document), `{"name":"all enforced again","unit":"s","value":null,"most":5,"met":false}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
