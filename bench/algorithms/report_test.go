package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

func TestPromisesThatAreBrokenMakeFiguresInvalid(t *testing.T) {
	for name, test := range map[string]struct {
		report report
		want   []string
	}{
		"all is well": {report: report{
			Memory:   []memoryFigure{{Case: "x", BytesPerSubject: 1, MemoryUsage: 1}},
			Accuracy: []accuracyFigure{{Algorithm: nameSlidingLog, Most: 100}, {Algorithm: "FixedWindow", Most: 200, WronglyAllowed: 9}},
			Held:     []heldFigure{{Algorithm: "Balance", Most: 5, Capacity: 5}},
		}},
		"no memory": {
			report{Memory: []memoryFigure{{Case: "x", Used: 1, Limit: 10, BytesPerSubject: 0, MemoryUsage: 3}}},
			[]string{"x, 1 of 10: a subject takes no memory"},
		},
		"a log above its limit": {
			report{Accuracy: []accuracyFigure{{Algorithm: nameSlidingLog, Arrival: "a", Most: 101}}},
			[]string{"SlidingLog, a: 101 passed in a window, promised are 100"},
		},
		"a log that is not exact": {
			report{Accuracy: []accuracyFigure{{Algorithm: nameSlidingLog, Arrival: "a", Most: 100, WronglyRefused: 2, WronglyAllowed: 1}}},
			[]string{"SlidingLog, a: 3 decisions are not exact"},
		},
		"a bucket above burst and refill": {
			report{Accuracy: []accuracyFigure{{Algorithm: nameSmallBucket, Arrival: "a", Most: 111}, {Algorithm: nameFullBucket, Most: 200}}},
			[]string{"TokenBucket, burst 10, a: 111 passed in a window, promised are 110"},
		},
		"a window above twice its limit": {
			report{Accuracy: []accuracyFigure{{Algorithm: "FixedWindow", Arrival: "a", Most: 201}}},
			[]string{"FixedWindow, a: 201 passed in a window, promised are 200"},
		},
		"a client that waited in vain": {
			report{Accuracy: []accuracyFigure{{Algorithm: "FixedWindow", RetriedInVain: 4}}},
			[]string{"FixedWindow: 4 times retryAfter was too short"},
		},
		"too many slots": {
			report{Held: []heldFigure{{Algorithm: "Concurrency", Most: 6, Capacity: 5, WronglyAllowed: 1}}},
			[]string{"Concurrency: 6 of 5, 1 decisions are not exact"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.report.judge()
			if !slices.Equal(test.report.Problems, test.want) {
				t.Errorf("got %q, want %q", test.report.Problems, test.want)
			}
		})
	}
}

func TestMarkdownHasATableForEachPart(t *testing.T) {
	some, none := int64(5), int64(0)
	r := report{
		Requests: 100, Foreign: 0.2, Problems: []string{"it broke"},
		Memory: []memoryFigure{
			{Case: "A", Used: 1, Limit: 1000, BytesPerSubject: 200.4, MemoryUsage: 136},
			{Case: "A", Used: 10, Limit: 10, BytesPerSubject: 300, MemoryUsage: 240},
			{Case: "B", Used: 10, Limit: 10, BytesPerSubject: 99, MemoryUsage: 88},
		},
		Speed: []speedFigure{
			{Case: floorCase, Outcome: outcomeAllowed, Mode: modePlain, RedisMicroseconds: figures.Spread{Median: 1, Min: 1, Max: 2}},
			{Case: "A", Outcome: outcomeDenied, Mode: modeFunctions, RedisMicroseconds: figures.Spread{Median: 9, Min: 8, Max: 10},
				OfFloor: 9, PerSecond: figures.Spread{Median: 50_000}},
			{Case: "A", Outcome: outcomeDenied, Mode: modeScripts, RedisMicroseconds: figures.Spread{Median: 30, Min: 29, Max: 31},
				PerSecond: figures.Spread{Median: 20_000}},
		},
		Accuracy: []accuracyFigure{
			{Algorithm: "A", Arrival: "flood", Offered: 1000, Allowed: 150, Capacity: 100, Most: 120, FalseDenials: &none, FalseAllowances: &some},
			{Algorithm: "A", Arrival: retrying, Offered: 10, Allowed: 10, Capacity: 10, Most: 10},
		},
		Held: []heldFigure{{Algorithm: "C", Arrival: "visits", Offered: 9, Allowed: 4, Most: 5, Capacity: 10}},
	}
	var text strings.Builder
	r.printMarkdown(&text)
	for _, want := range []string{
		"INVALID: it broke", "other programs had 20 % of its CPU time",
		"|  | 1 of 1000 used | 10 of 10 used |\n| --- | --- | --- |\n| A | 200 (136) | 300 (240) |\n| B | – | 99 (88) |\n",
		"| INCR + PEXPIRE (floor) | – | 1.0 (1.0–2.0) | 1 | – | 0 | – |\n",
		"| A | denied | 9.0 (8.0–10.0) | 9.0 | 30.0 (29.0–31.0) | 50000 | 20000 |\n",
		"| arrivals | A |\n| --- | --- |\n| flood | 120.0 |\n",
		"| flood | 0.500 |\n| " + retrying + " | – |\n",
		"| flood | 0 |\n", "| flood | 150.0 |\n",
		"| C | visits | 9 | 4 | 50.0 | 0 |\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("want %q in:\n%s", want, &text)
		}
	}
}
