package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/penstock-dev/penstock/bench/internal/machine"
)

// noisy is the foreign share above which latencies are not to be trusted.
const noisy = 0.05

// report is the result of a run: what is printed, and what is kept as JSON.
type report struct {
	Machine machine.Facts `json:"machine"`
	Callers int           `json:"callers"`
	// Rate is how many checks a second each caller sends.
	Rate      int        `json:"checksPerSecondOfACaller"`
	Scenarios []scenario `json:"scenarios"`
}

// scenario is what was measured of one.
type scenario struct {
	Name string `json:"name"`
	// Title says what happens.
	Title   string   `json:"title"`
	Figures []figure `json:"figures"`
	// Others and Stolen are shares of the machine's CPU time, 0 to 1, that other programs had, and that the hypervisor withheld.
	Others float64 `json:"othersShareOfCPU"`
	Stolen float64 `json:"stolenShareOfCPU"`
	// FirstError is one of the failures of calls, if any.
	FirstError string `json:"firstError,omitempty"`
	// Log is the end of what the program under test has printed.
	Log string `json:"log,omitempty"`
}

// print writes the report for people.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%d callers, each %d checks/s; penstockd has its default settings (10 ms for a decision)\n",
		r.Machine, r.Callers, r.Rate)
	met, bounded := 0, 0
	for _, s := range r.Scenarios {
		fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.Title)
		var rows strings.Builder
		out := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
		fmt.Fprintln(out, strings.Join([]string{"", "measured", "without fault", "wanted", ""}, "\t"))
		for _, f := range s.Figures {
			fmt.Fprintln(out, strings.Join(f.row(), "\t"))
			if f.Met != nil {
				bounded++
				if *f.Met {
					met++
				}
			}
		}
		_ = out.Flush()
		for line := range strings.Lines(rows.String()) {
			fmt.Fprintln(w, strings.TrimRight(line, " \n"))
		}
		if s.FirstError != "" {
			fmt.Fprintf(w, "  one of the errors: %s\n", s.FirstError)
		}
		if s.Others+s.Stolen > noisy {
			fmt.Fprintf(w, "  The machine was not quiet: other programs had %.0f %% of its CPU time, and the hypervisor withheld %.0f %%.\n",
				100*s.Others, 100*s.Stolen)
		}
	}
	fmt.Fprintf(w, "\n%d of %d bounds are met.\n", met, bounded)
}
