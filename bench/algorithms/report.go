package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/penstock-dev/penstock/bench/internal/machine"
)

// noisy is the foreign share above which figures of speed are not to be trusted.
const noisy = 0.05

// report is the result of a run: what is printed, and what is kept as JSON.
type report struct {
	Machine machine.Facts `json:"machine"`
	// What was asked for.
	Subjects int   `json:"subjects"`
	Rounds   int   `json:"rounds"`
	Batch    int   `json:"batch"`
	Windows  int   `json:"windows"`
	Requests int64 `json:"requestsPerWindow"`
	// Parts that were not measured are empty.
	Memory   []memoryFigure   `json:"memory,omitempty"`
	Speed    []speedFigure    `json:"speed,omitempty"`
	Accuracy []accuracyFigure `json:"accuracy,omitempty"`
	Held     []heldFigure     `json:"held,omitempty"`
	// Foreign is the share of the machine's CPU time, 0 to 1, that others had while speed was measured.
	Foreign float64 `json:"foreignShareOfCPU"`
	// Problems says which figures cannot be: an algorithm that breaks its promise.
	Problems []string `json:"problems,omitempty"`
}

// promised gives the most that an algorithm lets pass in any sliding window.
func promised(name string) int64 {
	switch name {
	case nameSlidingLog:
		return accuracyRequests
	case nameSmallBucket:
		return accuracyRequests + accuracyRequests/10
	default:
		// Two windows, or a full bucket and what is refilled in a window.
		return 2 * accuracyRequests
	}
}

// judge fills in Problems.
func (r *report) judge() {
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	for _, f := range r.Memory {
		if f.BytesPerSubject <= 0 || f.MemoryUsage <= 0 {
			problem("%s, %d of %d: a subject takes no memory", f.Case, f.Used, f.Limit)
		}
	}
	for _, f := range r.Accuracy {
		if most := promised(f.Algorithm); f.Most > most {
			problem("%s, %s: %d passed in a window, promised are %d", f.Algorithm, f.Arrival, f.Most, most)
		}
		if f.Algorithm == nameSlidingLog && f.WronglyRefused+f.WronglyAllowed > 0 {
			problem("%s, %s: %d decisions are not exact", f.Algorithm, f.Arrival, f.WronglyRefused+f.WronglyAllowed)
		}
		if f.RetriedInVain > 0 {
			problem("%s: %d times retryAfter was too short", f.Algorithm, f.RetriedInVain)
		}
	}
	for _, f := range r.Held {
		if f.Most > f.Capacity || f.WronglyRefused+f.WronglyAllowed > 0 {
			problem("%s: %d of %d, %d decisions are not exact", f.Algorithm, f.Most, f.Capacity, f.WronglyRefused+f.WronglyAllowed)
		}
	}
}

// table is one of the report's.
type table struct {
	title   string
	columns []string
	rows    [][]string
}

// tables gives those of all parts that were measured.
func (r *report) tables() []table {
	var all []table
	if len(r.Memory) > 0 {
		all = append(all, r.memoryTable())
	}
	if len(r.Speed) > 0 {
		all = append(all, r.speedTable())
	}
	if len(r.Accuracy) > 0 {
		all = append(all,
			r.accuracyTable(fmt.Sprintf("Most requests in any sliding window, %% of the limit (%d per window)", r.Requests),
				func(f accuracyFigure) string { return trimmed(percent(f.Most, r.Requests)) }),
			r.accuracyTable("Refused where SlidingLog lets the same request pass, % of all requests",
				func(f accuracyFigure) string { return shareOf(f.FalseDenials, f.Offered) }),
			r.accuracyTable("Let pass where SlidingLog refuses the same request, % of all requests",
				func(f accuracyFigure) string { return shareOf(f.FalseAllowances, f.Offered) }),
			r.accuracyTable("Passed in all, % of the limit",
				func(f accuracyFigure) string { return trimmed(percent(f.Allowed, f.Capacity)) }))
	}
	if len(r.Held) > 0 {
		all = append(all, r.heldTable())
	}
	return all
}

// memoryTable has a row for each case, and the cross-check in parentheses.
func (r *report) memoryTable() table {
	t := table{title: "Memory per subject in bytes (MEMORY USAGE in parentheses)", columns: []string{""}}
	columns := map[string]int{}
	rows := map[string]int{}
	for _, f := range r.Memory {
		column := fmt.Sprintf("%d of %d used", f.Used, f.Limit)
		if columns[column] == 0 {
			columns[column] = len(t.columns)
			t.columns = append(t.columns, column)
		}
	}
	for _, f := range r.Memory {
		at, is := rows[f.Case]
		if !is {
			at = len(t.rows)
			rows[f.Case] = at
			t.rows = append(t.rows, slices.Repeat([]string{"–"}, len(t.columns)))
			t.rows[at][0] = f.Case
		}
		t.rows[at][columns[fmt.Sprintf("%d of %d used", f.Used, f.Limit)]] = fmt.Sprintf("%.0f (%d)", f.BytesPerSubject, f.MemoryUsage)
	}
	return t
}

// speedTable has functions and scripts side by side.
func (r *report) speedTable() table {
	t := table{
		title: "Redis µs per decision, and decisions/s of one connection (median of the rounds, least and greatest)",
		columns: []string{
			"", "outcome", "functions µs", "× floor", "scripts µs", "functions/s", "scripts/s",
		},
	}
	rows := map[string]int{}
	for _, f := range r.Speed {
		micros := fmt.Sprintf("%.1f (%.1f–%.1f)", f.RedisMicroseconds.Median, f.RedisMicroseconds.Min, f.RedisMicroseconds.Max)
		rate := fmt.Sprintf("%.0f", f.PerSecond.Median)
		name := f.Case + "\n" + f.Outcome
		at, is := rows[name]
		if !is {
			at = len(t.rows)
			rows[name] = at
			t.rows = append(t.rows, []string{f.Case, f.Outcome, "–", "–", "–", "–", "–"})
		}
		switch f.Mode {
		case modePlain:
			t.rows[at] = []string{f.Case + " (floor)", "–", micros, "1", "–", rate, "–"}
		case modeFunctions:
			t.rows[at][2], t.rows[at][3], t.rows[at][5] = micros, fmt.Sprintf("%.1f", f.OfFloor), rate
		default:
			t.rows[at][4], t.rows[at][6] = micros, rate
		}
	}
	return t
}

func (r *report) accuracyTable(title string, figure func(accuracyFigure) string) table {
	t := table{title: title, columns: []string{"arrivals"}}
	rows := map[string]int{}
	for _, f := range r.Accuracy {
		if !slices.Contains(t.columns, f.Algorithm) {
			t.columns = append(t.columns, f.Algorithm)
		}
		at, is := rows[f.Arrival]
		if !is {
			at = len(t.rows)
			rows[f.Arrival] = at
			t.rows = append(t.rows, []string{f.Arrival})
		}
		t.rows[at] = append(t.rows[at], figure(f))
	}
	return t
}

// trimmed gives a percentage to the tenth, small ones to the thousandth, and zero as 0.
func trimmed(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 1:
		return fmt.Sprintf("%.3f", v)
	default:
		return fmt.Sprintf("%.1f", v)
	}
}

// shareOf gives a part that may be unknown.
func shareOf(part *int64, whole int64) string {
	if part == nil {
		return "–"
	}
	return trimmed(percent(*part, whole))
}

func (r *report) heldTable() table {
	t := table{title: "Without a window", columns: []string{"", "arrivals", "offered", "allowed", "most, % of what there is", "wrong decisions"}}
	for _, f := range r.Held {
		t.rows = append(t.rows, []string{
			f.Algorithm, f.Arrival, fmt.Sprint(f.Offered), fmt.Sprint(f.Allowed), trimmed(percent(f.Most, f.Capacity)),
			fmt.Sprint(f.WronglyRefused + f.WronglyAllowed),
		})
	}
	return t
}

// settings says in one line what was asked for.
func (r *report) settings() string {
	return fmt.Sprintf("%d subjects (fewer with long logs); %d rounds of %d decisions, %d at a time; %d windows of each arrival",
		r.Subjects, r.Rounds, r.Batch, pipelined, r.Windows)
}

// print writes the report for people.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n%s\n", r.Machine, r.settings())
	for _, t := range r.tables() {
		fmt.Fprintf(w, "\n%s\n\n", t.title)
		out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(out, strings.Join(t.columns, "\t"))
		for _, row := range t.rows {
			fmt.Fprintln(out, strings.Join(row, "\t"))
		}
		_ = out.Flush()
	}
	fmt.Fprintln(w)
	for _, remark := range r.remarks() {
		fmt.Fprintln(w, remark)
	}
}

// printMarkdown writes the report as it stands in docs/algorithms.md.
func (r *report) printMarkdown(w io.Writer) {
	fmt.Fprintf(w, "Measured by `make bench-algorithms`: %s. %s.\n", strings.ReplaceAll(r.Machine.String(), "\n", ", "), r.settings())
	for _, remark := range r.remarks() {
		fmt.Fprintf(w, "\n%s\n", remark)
	}
	for _, t := range r.tables() {
		fmt.Fprintf(w, "\n### %s\n\n| %s |\n|%s\n", t.title, strings.Join(t.columns, " | "), strings.Repeat(" --- |", len(t.columns)))
		for _, row := range t.rows {
			fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		}
	}
}

// remarks say what keeps the figures from being quoted.
func (r *report) remarks() []string {
	var remarks []string
	for _, problem := range r.Problems {
		remarks = append(remarks, "INVALID: "+problem)
	}
	if r.Foreign > noisy {
		remarks = append(remarks, fmt.Sprintf(
			"The machine was not quiet: other programs had %.0f %% of its CPU time while speed was measured. Do not quote those figures.", 100*r.Foreign))
	}
	return remarks
}
