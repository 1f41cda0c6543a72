package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/bench/internal/machine"
)

// plan is what a run does.
type plan struct {
	parts    []string
	subjects int
	rounds   int
	// batch is how many decisions a measurement of speed makes.
	batch   int
	windows int
}

// runner measures on one server, which it empties.
type runner struct {
	plan   plan
	client *redis.Client
	// pid is that of the server.
	pid int
	// progress gets a line for each step.
	progress io.Writer
}

func (r *runner) run(ctx context.Context) (*report, error) {
	result := &report{
		Subjects: r.plan.subjects, Rounds: r.plan.rounds, Batch: r.plan.batch, Windows: r.plan.windows, Requests: accuracyRequests,
	}
	if slices.Contains(r.plan.parts, partMemory) {
		var err error
		if result.Memory, err = r.measureMemory(ctx); err != nil {
			return nil, fmt.Errorf("measuring memory: %w", err)
		}
	}
	if slices.Contains(r.plan.parts, partAccuracy) {
		var err error
		if result.Accuracy, result.Held, err = r.measureAccuracy(ctx); err != nil {
			return nil, fmt.Errorf("measuring accuracy: %w", err)
		}
	}
	if slices.Contains(r.plan.parts, partSpeed) {
		foreign, err := r.foreignShare(func() (err error) { result.Speed, err = r.measureSpeed(ctx); return err })
		if err != nil {
			return nil, fmt.Errorf("measuring speed: %w", err)
		}
		result.Foreign = foreign
	}
	result.judge()
	return result, nil
}

// foreignShare gives the share of the machine's CPU time, 0 to 1, that others than this program and its server had, or
// the hypervisor withheld, while work was done.
func (r *runner) foreignShare(work func() error) (float64, error) {
	before, err := r.readClocks()
	if err != nil {
		return 0, err
	}
	started := time.Now()
	if err := work(); err != nil {
		return 0, err
	}
	elapsed := time.Since(started)
	after, err := r.readClocks()
	if err != nil {
		return 0, err
	}
	others := max(0, (after.whole.Busy-before.whole.Busy)-(after.own-before.own)) + after.whole.Stolen - before.whole.Stolen
	return min(1, others.Seconds()/(elapsed.Seconds()*float64(runtime.NumCPU()))), nil
}

// clocks are CPU times: of the whole machine, and of this program and its server.
type clocks struct {
	whole machine.Time
	own   time.Duration
}

func (r *runner) readClocks() (clocks, error) {
	var c clocks
	for _, pid := range []int{os.Getpid(), r.pid} {
		spent, err := machine.CPUTime(pid)
		if err != nil {
			return clocks{}, err
		}
		c.own += spent
	}
	var err error
	c.whole, err = machine.ReadTime()
	return c, err
}
