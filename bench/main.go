// Command bench measures penstockd under the load of an Envoy, next to a no-op server and to envoyproxy/ratelimit, over
// one redis-server. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
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
	targetList, shareList       string
	penstockd, ratelimit, redis string
	penstockdArgs, ratelimitEnv string
	commit, peerVersion         string
	jsonPath                    string
	serveNoop                   string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.targetList, "targets", strings.Join(targetNames, ","), "targets to measure, separated by commas")
	flags.IntVar(&o.callers, "callers", 64, "callers, each with one check under way: 1 to 4096")
	flags.IntVar(&o.subjects, "subjects", 10_000, "different subjects: 1 to 1000000")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds, in each of which every target is measured: 1 to 100")
	flags.DurationVar(&o.measure, "measure", 6*time.Second, "length of one measurement: 100ms to 10m")
	flags.DurationVar(&o.warm, "warm", 1500*time.Millisecond, "load before each measurement that is not counted: 0 to 1m")
	flags.StringVar(&o.shareList, "open", "25,50,75",
		"rates of the open loop, in percent of what the slowest target reached in the closed loop: 1 to 1000, separated by commas; empty for none")
	flags.IntVar(&o.inFlight, "in-flight", 1024, "checks of the open loop that may be under way: 1 to 16384")
	flags.StringVar(&o.penstockd, "penstockd", "penstockd", "path of penstockd")
	flags.StringVar(&o.ratelimit, "ratelimit", "service_cmd", "path of envoyproxy/ratelimit")
	flags.StringVar(&o.penstockdArgs, "penstockd-args", "", "more arguments for penstockd: --name=value,--name=value")
	flags.StringVar(&o.ratelimitEnv, "ratelimit-env", "", "more settings for envoyproxy/ratelimit: NAME=value,NAME=value")
	flags.StringVar(&o.redis, "redis-server", "redis-server", "path of redis-server")
	flags.StringVar(&o.commit, "commit", "unknown", "commit of penstockd, for the report")
	flags.StringVar(&o.peerVersion, "ratelimit-version", "unknown", "version of envoyproxy/ratelimit, for the report")
	flags.StringVar(&o.jsonPath, "json", "", "file to write the report to as JSON")
	flags.StringVar(&o.serveNoop, "serve-noop", "", "only serve as the no-op server, on these two addresses (how the bench starts it)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag: all settings are flags, see -help", flags.Arg(0))
	}
	o.targets = strings.Split(o.targetList, ",")
	for _, name := range o.targets {
		if !slices.Contains(targetNames, name) {
			return o, fmt.Errorf("-targets: no target is named %q; there are %s", name, strings.Join(targetNames, ", "))
		}
	}
	for _, share := range list(o.shareList) {
		percent, err := strconv.Atoi(share)
		if err != nil || percent < 1 || percent > 1000 {
			return o, fmt.Errorf("-open: %q is not a percentage from 1 to 1000", share)
		}
		if slices.Contains(o.shares, percent) {
			return o, fmt.Errorf("-open: %d is there twice", percent)
		}
		o.shares = append(o.shares, percent)
	}
	return o, o.validate()
}

func (p plan) validate() error {
	switch {
	case p.callers < 1 || p.callers > 4096:
		return fmt.Errorf("-callers %d: want 1 to 4096", p.callers)
	case p.subjects < 1 || p.subjects > 1_000_000:
		return fmt.Errorf("-subjects %d: want 1 to 1000000", p.subjects)
	case p.rounds < 1 || p.rounds > 100:
		return fmt.Errorf("-rounds %d: want 1 to 100", p.rounds)
	case p.measure < 100*time.Millisecond || p.measure > 10*time.Minute:
		return fmt.Errorf("-measure %s: want 100ms to 10m", p.measure)
	case p.warm < 0 || p.warm > time.Minute:
		return fmt.Errorf("-warm %s: want 0 to 1m", p.warm)
	case p.inFlight < 1 || p.inFlight > 16_384:
		return fmt.Errorf("-in-flight %d: want 1 to 16384", p.inFlight)
	}
	return nil
}

func main() {
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err == nil && o.serveNoop != "":
		err = serveNoop(o.serveNoop)
	case err == nil:
		err = bench(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench starts everything, measures, reports, and ends everything it started, whatever happens.
func bench(o options) error {
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	return frame.Run(o.budget(), o.redis, func(ctx context.Context, redis *process.Redis, dir string) error {
		if err := publish(ctx, redis.Address); err != nil {
			return err
		}
		start := launcher{
			own: own, penstockd: o.penstockd, ratelimit: o.ratelimit, redis: redis.Address, dir: dir,
			penstockdArgs: list(o.penstockdArgs), ratelimitEnv: list(o.ratelimitEnv),
		}
		var targets []*target
		defer func() { stopTargets(targets) }()
		for _, name := range o.targets {
			t, err := start.start(ctx, name)
			if err != nil {
				return err
			}
			targets = append(targets, t)
			fmt.Fprintf(os.Stderr, "%s is process %d\n", t.name, t.process.PID())
		}
		// After the children have been started, which would inherit it.
		if err := wakeInTime(); err != nil {
			return err
		}

		requests := subjects(o.subjects)
		r := &runner{
			plan: o.plan, redis: redis, targets: targets, cores: runtime.NumCPU(), progress: os.Stderr,
			load: load{callers: o.callers, requests: requests},
			open: openLoad{requests: requests, inFlight: o.inFlight, sleep: exactSleep},
		}
		outcomes, err := r.run(ctx)
		if err != nil {
			return err
		}

		result := newReport(o.plan, facts{machine.Describe(redis.Version, o.commit, time.Now()), o.peerVersion}, outcomes)
		result.print(os.Stdout)
		return frame.Keep(result, o.jsonPath)
	})
}

// list splits at commas; nothing is an empty list.
func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func stopTargets(targets []*target) {
	processes := make([]*process.Process, len(targets))
	for i, t := range targets {
		t.disconnect()
		processes[i] = t.process
	}
	process.StopAll(processes)
}
