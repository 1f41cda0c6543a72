// Command faults measures how penstockd answers while Redis is slow, gone or replaced, and what the operator does with many
// policies. See bench/README.md.
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

// The main goroutine starts the children and keeps its thread, because they are told to end with that thread.
func init() { runtime.LockOSThread() }

type options struct {
	plan
	scenarioList string
	commit       string
	jsonPath     string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.StringVar(&o.scenarioList, "scenarios", strings.Join(names(), ","), "what to measure, separated by commas")
	flags.IntVar(&o.callers, "callers", 64, "callers, each with at most one check under way: 1 to 4096")
	flags.IntVar(&o.rate, "rate", 20, "checks a second of each caller: 1 to 1000")
	flags.IntVar(&o.policies, "policies", 5000, "RateLimits that the operator has to publish: 1 to 100000")
	flags.DurationVar(&o.quiet, "quiet", time.Minute, "how long nothing changes while the operator's writes are counted: 1s to 1h")
	flags.StringVar(&o.penstockd, "penstockd", "penstockd", "path of penstockd")
	flags.StringVar(&o.operator, "operator", "operator", "path of the operator")
	flags.StringVar(&o.crds, "crds", filepath.Join("config", "crd", "bases"), "directory of the CRDs")
	flags.StringVar(&o.redis, "redis-server", "redis-server", "path of redis-server")
	flags.StringVar(&o.commit, "commit", "unknown", "commit of this repository, for the report")
	flags.StringVar(&o.jsonPath, "json", "", "file to write the report to as JSON; empty for none")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag: all settings are flags, see -help", flags.Arg(0))
	}
	o.scenarios = strings.Split(o.scenarioList, ",")
	for _, name := range o.scenarios {
		if !slices.Contains(names(), name) {
			return o, fmt.Errorf("-scenarios: there is no scenario %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	return o, o.validate()
}

func (p plan) validate() error {
	switch {
	case p.callers < 1 || p.callers > 4096:
		return fmt.Errorf("-callers %d: want 1 to 4096", p.callers)
	case p.rate < 1 || p.rate > 1000:
		return fmt.Errorf("-rate %d: want 1 to 1000", p.rate)
	case p.policies < 1 || p.policies > 100_000:
		return fmt.Errorf("-policies %d: want 1 to 100000", p.policies)
	case p.quiet < time.Second || p.quiet > time.Hour:
		return fmt.Errorf("-quiet %s: want 1s to 1h", p.quiet)
	}
	return nil
}

// budget is how long the run may take before it is given up: some three times what it should.
func (p plan) budget() time.Duration {
	return time.Duration(len(p.scenarios))*3*time.Minute + 2*p.quiet + time.Duration(p.policies)*100*time.Millisecond
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
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

// bench measures and reports, and ends everything that was started, whatever happens.
func bench(o options) error {
	return frame.Run(o.budget(), o.redis, func(ctx context.Context, redis *process.Redis, dir string) error {
		r := &runner{plan: o.plan, plain: redis, dir: dir, progress: os.Stderr}
		result := &report{
			Machine: machine.Describe(redis.Version, o.commit, time.Now()), Callers: o.callers, Rate: o.rate,
		}
		var broken error
		for _, name := range o.scenarios {
			s, err := r.run(ctx, name)
			if err != nil {
				broken = fmt.Errorf("%s: %w", name, err)
				break
			}
			result.Scenarios = append(result.Scenarios, *s)
		}
		// What was measured before is told all the same.
		result.print(os.Stdout)
		return errors.Join(broken, frame.Keep(result, o.jsonPath))
	})
}
