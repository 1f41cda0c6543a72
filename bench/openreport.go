package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
)

// openFacts says what was asked in the open loop.
type openFacts struct {
	Arrivals string `json:"arrivals"`
	// Base is the target whose throughput in the closed loop the rates are shares of.
	Base        string    `json:"base"`
	BaseRate    float64   `json:"baseChecksPerSecond"`
	Percentages []int     `json:"percentages"`
	Rates       []float64 `json:"ratesPerSecond"`
	InFlight    int       `json:"inFlight"`
	Rounds      int       `json:"rounds"`
}

// openFactsOf gives nil when there was no open loop.
func openFactsOf(p plan, outcomes []*outcome) *openFacts {
	base := slowest(outcomes)
	if p.openRounds() == 0 || base == nil {
		return nil
	}
	reached := base.throughput().Median
	return &openFacts{
		Arrivals: "Poisson", Base: base.Name, BaseRate: reached, Percentages: p.shares, Rates: openRates(reached, p.shares),
		InFlight: p.inFlight, Rounds: p.openRounds(),
	}
}

// printOpen writes the open loop, the targets of one rate below each other.
func (r *report) printOpen(w io.Writer) {
	f := r.Open
	if f == nil {
		return
	}
	fmt.Fprintf(w, "\nOpen loop: %s arrivals, latency from the time a check was due; at most %d under way; %d rounds of %.1f s after %.1f s of warm-up.\n",
		f.Arrivals, f.InFlight, f.Rounds, r.Load.MeasureSeconds, r.Load.WarmSeconds)
	fmt.Fprintf(w, "Rates are shares of the %.0f checks/s of %s.\n\n", f.BaseRate, f.Base)

	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	columns := []string{
		"checks/s due", "median (min-max)", "answered/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms",
		"sent late p50 ms", "p99 ms", "max ms", "not sent",
	}
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for k, percent := range f.Percentages {
		for _, o := range r.Outcomes {
			row := o.openAt(percent)
			if len(row) == 0 {
				continue
			}
			fmt.Fprintf(table, "%.0f (%d %%)\t%s\t%s", f.Rates[k], percent, o.Name, spread(row, 0, func(r openRound) float64 { return r.AnsweredPerSecond }))
			for _, of := range openDurations {
				fmt.Fprintf(table, "\t%s", spread(row, 2, func(r openRound) float64 { return figures.Milliseconds(of(r)) }))
			}
			fmt.Fprintf(table, "\t%d%s\n", unsentOf(row), invalidRow(row))
		}
	}
	_ = table.Flush()
}

// openDurations are the columns of the open loop that are times.
var openDurations = []func(openRound) time.Duration{
	func(r openRound) time.Duration { return r.P50 },
	func(r openRound) time.Duration { return r.P90 },
	func(r openRound) time.Duration { return r.P99 },
	func(r openRound) time.Duration { return r.P999 },
	func(r openRound) time.Duration { return r.Max },
	func(r openRound) time.Duration { return r.LateP50 },
	func(r openRound) time.Duration { return r.LateP99 },
	func(r openRound) time.Duration { return r.LateMax },
}

// openAt gives the rounds at one of the rates.
func (o *outcome) openAt(percent int) (row []openRound) {
	for _, r := range o.Open {
		if r.Percent == percent {
			row = append(row, r)
		}
	}
	return row
}

func unsentOf(row []openRound) (sum int64) {
	for _, r := range row {
		sum += r.Unsent
	}
	return sum
}

// invalidRow says why a row does not count, "" when it does: one round that does not is enough.
func invalidRow(row []openRound) string {
	for _, r := range row {
		if r.Invalid != "" {
			return "  INVALID: " + r.Invalid
		}
	}
	return ""
}
