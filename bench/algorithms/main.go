// Command algorithms measures what each algorithm of a RateLimit costs and how exact it is: memory per subject, time of
// Redis per decision, and what it lets pass of several arrivals. See bench/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/frame"
	"github.com/penstock-dev/penstock/bench/internal/machine"
	"github.com/penstock-dev/penstock/bench/internal/process"
)

// The main goroutine starts redis-server and keeps its thread, because the server is told to end with that thread.
func init() { runtime.LockOSThread() }

// Parts of a run.
const (
	partMemory   = "memory"
	partSpeed    = "speed"
	partAccuracy = "accuracy"
)

var allParts = []string{partMemory, partSpeed, partAccuracy}

// budget is how long a run may take before it is given up; with the default settings it takes a fraction of that.
const budget = 15 * time.Minute

type options struct {
	plan
	partList string
	redis    string
	commit   string
	jsonPath string
	markdown bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("algorithms", flag.ContinueOnError)
	flags.StringVar(&o.partList, "parts", strings.Join(allParts, ","), "what to measure, separated by commas")
	flags.IntVar(&o.subjects, "subjects", 20_000, "subjects whose memory is measured: 10 to 1000000 (fewer where each keeps many entries)")
	flags.IntVar(&o.rounds, "rounds", 7, "rounds, in each of which the speed of everything is measured: 1 to 100")
	flags.IntVar(&o.batch, "batch", 2000, "decisions of one measurement of speed: 50 to 100000")
	flags.IntVar(&o.windows, "windows", 60, "windows of each arrival: 3 to 1000")
	flags.StringVar(&o.redis, "redis-server", "redis-server", "path of redis-server")
	flags.StringVar(&o.commit, "commit", "unknown", "commit of this repository, for the report")
	flags.StringVar(&o.jsonPath, "json", defaultJSONPath(), "file to write the report to as JSON; empty for none")
	flags.BoolVar(&o.markdown, "markdown", false, "print the tables as Markdown, as they stand in docs/algorithms.md")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag: all settings are flags, see -help", flags.Arg(0))
	}
	o.parts = strings.Split(o.partList, ",")
	for _, name := range o.parts {
		if !slices.Contains(allParts, name) {
			return o, fmt.Errorf("-parts: there is no part %q; there are %s", name, strings.Join(allParts, ", "))
		}
	}
	return o, o.validate()
}

// defaultJSONPath is beside the report of the other benchmark; nothing where there is no home.
func defaultJSONPath() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "penstock", "bench", "algorithms.json")
}

func (p plan) validate() error {
	switch {
	case p.subjects < 10 || p.subjects > 1_000_000:
		return fmt.Errorf("-subjects %d: want 10 to 1000000", p.subjects)
	case p.rounds < 1 || p.rounds > 100:
		return fmt.Errorf("-rounds %d: want 1 to 100", p.rounds)
	case p.batch < pipelined || p.batch > 100_000:
		return fmt.Errorf("-batch %d: want %d to 100000", p.batch, pipelined)
	case p.windows < 3 || p.windows > 1000:
		return fmt.Errorf("-windows %d: want 3 to 1000", p.windows)
	}
	return nil
}

func main() {
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err == nil:
		err = bench(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "algorithms:", err)
		os.Exit(1)
	}
}

// bench starts a redis-server, measures, reports, and ends the server, whatever happens.
func bench(o options) error {
	return frame.Run(budget, o.redis, func(ctx context.Context, server *process.Redis, _ string) error {
		r := &runner{plan: o.plan, client: server.Client, pid: server.Process.PID(), progress: os.Stderr}
		result, err := r.run(ctx)
		if err != nil {
			return err
		}
		result.Machine = machine.Describe(server.Version, o.commit, time.Now())
		if o.markdown {
			result.printMarkdown(os.Stdout)
		} else {
			result.print(os.Stdout)
		}
		return frame.Keep(result, o.jsonPath)
	})
}
