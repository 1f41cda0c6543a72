package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/penstock-dev/penstock/bench/internal/figures"
	"github.com/penstock-dev/penstock/bench/internal/machine"
)

// What is wanted of penstockd next to its peer.
const (
	wantedThroughput = 1.30
	wantedServerCPU  = 0.75
)

// noisy is the foreign share of a round above which figures are not to be trusted.
const noisy = 0.05

// report is the result of a run: what is printed, and what is kept as JSON.
type report struct {
	Machine    facts       `json:"machine"`
	Load       loadFacts   `json:"load"`
	Open       *openFacts  `json:"openLoad,omitempty"`
	Outcomes   []*outcome  `json:"outcomes"`
	Comparison *comparison `json:"comparison,omitempty"`
}

// facts are those of the machine, and what it is compared with.
type facts struct {
	machine.Facts
	PeerVersion string `json:"ratelimitVersion"`
}

// String gives the facts in three lines.
func (f facts) String() string {
	return fmt.Sprintf("%s\nenvoyproxy/ratelimit %s", f.Facts, f.PeerVersion)
}

// loadFacts says what was asked.
type loadFacts struct {
	Callers        int     `json:"callers"`
	Connections    int     `json:"connections"`
	Subjects       int     `json:"subjects"`
	Algorithm      string  `json:"algorithm"`
	Rounds         int     `json:"rounds"`
	WarmSeconds    float64 `json:"warmSeconds"`
	MeasureSeconds float64 `json:"measureSeconds"`
}

// comparison is ours next to the better of the peer's configurations: ours divided by the peer's.
type comparison struct {
	Ours             string         `json:"ours"`
	Peer             string         `json:"peer"`
	Throughput       figures.Spread `json:"throughput"`
	ServerCPU        figures.Spread `json:"serverCPU"`
	RedisCPU         figures.Spread `json:"redisCPU"`
	P99              figures.Spread `json:"p99"`
	WantedThroughput float64        `json:"wantedThroughput"`
	WantedServerCPU  float64        `json:"wantedServerCPU"`
	// Met tells whether both medians are as wanted, and all figures valid.
	Met bool `json:"met"`
	// Quiet tells whether the machine did little else; figures of one that was not are not to be quoted.
	Quiet bool `json:"quiet"`
	// Invalid says why the figures do not count, such as a target that did not count every check.
	Invalid []string `json:"invalid,omitempty"`
}

func newReport(p plan, m facts, outcomes []*outcome) *report {
	return &report{
		Machine: m, Outcomes: outcomes, Comparison: compare(outcomes), Open: openFactsOf(p, outcomes),
		Load: loadFacts{
			Callers: p.callers, Connections: connections, Subjects: p.subjects, Algorithm: "FixedWindow of a day",
			Rounds: p.rounds, WarmSeconds: p.warm.Seconds(), MeasureSeconds: p.measure.Seconds(),
		},
	}
}

// compare gives nil when ours or every peer is missing.
func compare(outcomes []*outcome) *comparison {
	var ours, peer *outcome
	for _, o := range outcomes {
		switch {
		case o.Role == roleOurs:
			ours = o
		case o.Role == rolePeer && (peer == nil || o.throughput().Median > peer.throughput().Median):
			peer = o
		}
	}
	if ours == nil || peer == nil {
		return nil
	}
	c := &comparison{
		Ours: ours.Name, Peer: peer.Name, WantedThroughput: wantedThroughput, WantedServerCPU: wantedServerCPU,
		Throughput: ratios(ours.Rounds, peer.Rounds, func(r round) float64 { return r.ChecksPerSecond }),
		ServerCPU:  ratios(ours.Rounds, peer.Rounds, func(r round) float64 { return float64(r.ServerCPU) }),
		RedisCPU:   ratios(ours.Rounds, peer.Rounds, func(r round) float64 { return float64(r.RedisCPU) }),
		P99:        ratios(ours.Rounds, peer.Rounds, func(r round) float64 { return float64(r.P99) }),
	}
	c.Quiet = worstForeign(outcomes) <= noisy
	for _, o := range []*outcome{ours, peer} {
		c.Invalid = append(c.Invalid, o.problems()...)
	}
	c.Met = len(c.Invalid) == 0 && c.Throughput.Median >= wantedThroughput && c.ServerCPU.Median <= wantedServerCPU
	return c
}

func (o *outcome) throughput() figures.Spread {
	return figures.SpreadOf(o.Rounds, func(r round) float64 { return r.ChecksPerSecond })
}

// answers adds up the rounds.
func (o *outcome) answers() (sum answers) {
	for _, r := range o.Rounds {
		sum.add(answers{ok: r.OK, overLimit: r.OverLimit, failed: r.Failed})
	}
	return sum
}

// problems says what makes the figures of this target invalid: wrong counts, failures, and denials, for no limit was
// near (a denial under load is onStoreFailure answering).
func (o *outcome) problems() []string {
	var problems []string
	if v := o.Verification; v != nil {
		for _, problem := range v.Problems {
			problems = append(problems, o.Name+": "+problem)
		}
	}
	if a := o.answers(); a.failed+a.overLimit > 0 {
		problem := fmt.Sprintf("%s: %d checks failed and %d were denied under load", o.Name, a.failed, a.overLimit)
		if o.FirstError != "" {
			problem += "; one failure: " + o.FirstError
		}
		problems = append(problems, problem)
	}
	return problems
}

// print writes the report for people.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", r.Machine)
	fmt.Fprintf(w, "%d callers in a closed loop on %d connections, %d subjects, %s; %d rounds of %.1f s after %.1f s of warm-up\n\n",
		r.Load.Callers, r.Load.Connections, r.Load.Subjects, r.Load.Algorithm, r.Load.Rounds, r.Load.MeasureSeconds, r.Load.WarmSeconds)

	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	columns := []string{"median (min-max)", "checks/s", "p50 ms", "p99 ms", "server µs/check", "Redis µs/check", "load µs/check", "allocs/check", "bytes/check", "OK", "denied", "failed"}
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for _, o := range r.Outcomes {
		a := o.answers()
		redis := figure(o, 1, func(r round) float64 { return figures.Microseconds(r.RedisCPU) })
		if o.Role == roleCeiling {
			redis = unknown
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", o.Name,
			figure(o, 0, func(r round) float64 { return r.ChecksPerSecond }),
			figure(o, 2, func(r round) float64 { return figures.Milliseconds(r.P50) }),
			figure(o, 2, func(r round) float64 { return figures.Milliseconds(r.P99) }),
			figure(o, 1, func(r round) float64 { return figures.Microseconds(r.ServerCPU) }),
			redis,
			figure(o, 1, func(r round) float64 { return figures.Microseconds(r.ClientCPU) }),
			toldFigure(o, func(r round) *float64 { return r.Allocations }),
			toldFigure(o, func(r round) *float64 { return r.AllocatedBytes }),
			a.ok, a.overLimit, a.failed)
	}
	_ = table.Flush()

	r.printUntold(w)
	r.printOpen(w)
	r.printCounts(w)
	r.printComparison(w)
	r.printNoise(w)
}

// unknown stands for a figure that a target cannot have, or does not tell.
const unknown = "–"

func figure(o *outcome, decimals int, of func(round) float64) string {
	return spread(o.Rounds, decimals, of)
}

// toldFigure is of the rounds in which the target told it.
func toldFigure(o *outcome, of func(round) *float64) string {
	var told []float64
	for _, r := range o.Rounds {
		if value := of(r); value != nil {
			told = append(told, *value)
		}
	}
	if len(told) == 0 {
		return unknown
	}
	return spread(told, 0, func(v float64) float64 { return v })
}

// spread gives the median with the least and the greatest.
func spread[E any](elements []E, decimals int, of func(E) float64) string {
	s := figures.SpreadOf(elements, of)
	return fmt.Sprintf("%.*f (%.*f-%.*f)", decimals, s.Median, decimals, s.Min, decimals, s.Max)
}

// printUntold says why allocations are missing.
func (r *report) printUntold(w io.Writer) {
	for _, o := range r.Outcomes {
		if o.HeapUnknown != "" {
			fmt.Fprintf(w, "\n%s did not tell its allocations: %s\n", o.Name, o.HeapUnknown)
		}
	}
}

func (r *report) printCounts(w io.Writer) {
	fmt.Fprintln(w)
	for _, o := range r.Outcomes {
		v := o.Verification
		if v == nil {
			continue
		}
		fmt.Fprintf(w, "%s counts: %d of %d probes allowed (limit %d); counters hold %d of %d checks answered OK; %d keys\n",
			o.Name, v.ProbeAllowed, v.ProbeAsked, v.ProbeLimit, v.Counted, v.Acknowledged, v.KeysAdded)
	}
}

func (r *report) printComparison(w io.Writer) {
	c := r.Comparison
	if c == nil {
		return
	}
	fmt.Fprintf(w, "\n%s / %s, median of rounds (min-max):\n", c.Ours, c.Peer)
	fmt.Fprintf(w, "  throughput  %s  wanted at least %.2f\n", c.Throughput, c.WantedThroughput)
	fmt.Fprintf(w, "  server CPU  %s  wanted at most %.2f\n", c.ServerCPU, c.WantedServerCPU)
	fmt.Fprintf(w, "  Redis CPU   %s\n", c.RedisCPU)
	fmt.Fprintf(w, "  p99         %s\n", c.P99)
	for _, problem := range c.Invalid {
		fmt.Fprintf(w, "INVALID: %s\n", problem)
	}
	verdict := "NOT met"
	if c.Met {
		verdict = "met"
	}
	if !c.Quiet {
		verdict += ", by a machine that was not quiet"
	}
	fmt.Fprintf(w, "wanted: %s\n", verdict)
}

func (r *report) printNoise(w io.Writer) {
	if worst := worstForeign(r.Outcomes); worst > noisy {
		fmt.Fprintf(w, "\nThe machine was not quiet: other programs had up to %.0f %% of its CPU time in a round. Do not quote these figures.\n", 100*worst)
	}
}

// worstForeign gives the greatest foreign share of any round.
func worstForeign(outcomes []*outcome) (worst float64) {
	for _, o := range outcomes {
		worst = max(worst, figures.SpreadOf(o.Rounds, func(r round) float64 { return r.Foreign }).Max,
			figures.SpreadOf(o.Open, func(r openRound) float64 { return r.Foreign }).Max)
	}
	return worst
}
