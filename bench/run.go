package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
	"github.com/penstock-dev/penstock/bench/internal/process"
)

// plan is what a run does.
type plan struct {
	targets  []string
	callers  int
	subjects int
	rounds   int
	// warm is before every measurement, measure the measurement itself.
	warm, measure time.Duration
	// shares are the rates of the open loop, in percent of what was reached in the closed loop; none for no open loop.
	shares []int
	// inFlight is how many checks of the open loop may be under way.
	inFlight int
}

// openRounds is how often every rate is measured: half as often as the closed loop, since there are several rates.
func (p plan) openRounds() int {
	if len(p.shares) == 0 {
		return 0
	}
	return (p.rounds + 1) / 2
}

// budget is how long the run may take before it is given up: thrice what it should, for starting and verifying.
func (p plan) budget() time.Duration {
	measurements := (p.rounds + p.openRounds()*len(p.shares)) * len(p.targets)
	return 2*time.Minute + 3*time.Duration(measurements)*(p.warm+p.measure)
}

// round is one measurement of one target.
type round struct {
	// ChecksPerSecond counts answers that are not failures.
	ChecksPerSecond float64       `json:"checksPerSecond"`
	P50             time.Duration `json:"p50Ns"`
	P99             time.Duration `json:"p99Ns"`
	// CPU time per check.
	ServerCPU time.Duration `json:"serverCPUNsPerCheck"`
	RedisCPU  time.Duration `json:"redisCPUNsPerCheck"`
	ClientCPU time.Duration `json:"loadCPUNsPerCheck"`
	// What the server allocated per check, those of the warm-up included; missing when it did not tell.
	Allocations    *float64 `json:"allocationsPerCheck,omitempty"`
	AllocatedBytes *float64 `json:"allocatedBytesPerCheck,omitempty"`
	// Foreign is the share of the machine's CPU time that neither the bench nor its servers used, or that the hypervisor
	// withheld: 0 to 1.
	Foreign   float64 `json:"foreignShareOfCPU"`
	OK        int64   `json:"ok"`
	OverLimit int64   `json:"overLimit"`
	Failed    int64   `json:"failed"`
}

// outcome is all that is known of one target.
type outcome struct {
	Name         string        `json:"name"`
	Role         role          `json:"role"`
	Rounds       []round       `json:"rounds"`
	Open         []openRound   `json:"openRounds,omitempty"`
	Verification *verification `json:"verification,omitempty"`
	// HeapUnknown says why allocations are missing, if they are.
	HeapUnknown string `json:"allocationsUnknown,omitempty"`
	// FirstError is one of the failures under load, if any.
	FirstError string `json:"firstError,omitempty"`
}

// runner measures targets that are up.
type runner struct {
	plan    plan
	redis   *process.Redis
	targets []*target
	load    load
	open    openLoad
	cores   int
	// progress gets a line for each step.
	progress io.Writer
}

// run fills, measures the closed loop in rounds, then the open one by what was reached, and verifies.
func (r *runner) run(ctx context.Context) ([]*outcome, error) {
	outcomes := make([]*outcome, len(r.targets))
	for i, t := range r.targets {
		outcomes[i] = &outcome{Name: t.name, Role: t.role}
		if t.role != roleCeiling {
			v, err := r.fill(ctx, t)
			if err != nil {
				return nil, err
			}
			outcomes[i].Verification = v
		}
	}
	for n := range r.plan.rounds {
		// Rotated, so that no target always comes after the same other.
		for k := range r.targets {
			i := (k + n) % len(r.targets)
			if err := r.measure(ctx, n, r.targets[i], outcomes[i]); err != nil {
				return nil, err
			}
		}
	}
	if err := r.measureOpenRounds(ctx, outcomes); err != nil {
		return nil, err
	}
	for i, t := range r.targets {
		v := outcomes[i].Verification
		if v == nil {
			continue
		}
		if err := r.verify(ctx, t, v); err != nil {
			return nil, err
		}
	}
	return outcomes, nil
}

// fill asks about every subject once, so that no measurement pays for new keys, and sees that they are in Redis.
func (r *runner) fill(ctx context.Context, t *target) (*verification, error) {
	before, err := r.keys(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := t.sweep(ctx, r.load.callers, r.load.requests); err != nil {
		return nil, err
	}
	after, err := r.keys(ctx)
	if err != nil {
		return nil, err
	}
	return &verification{KeysAdded: after - before}, nil
}

func (r *runner) measure(ctx context.Context, n int, t *target, o *outcome) error {
	heapBefore, heapErr := t.heap.read(ctx)
	var before, after usage
	m, err := r.load.run(ctx, t.clients, r.plan.warm, r.plan.measure,
		func() (err error) { before, err = readUsage(t.process.PID(), r.redis.Process.PID()); return err },
		func() (err error) { after, err = readUsage(t.process.PID(), r.redis.Process.PID()); return err })
	if ended := t.process.Alive(); ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("measuring %s: %w", t.name, err)
	}
	t.sent.add(m.all)
	if m.firstError != nil && o.FirstError == "" {
		o.FirstError = m.firstError.Error()
	}
	result := summarize(m, after.since(before), r.cores)
	if heapErr == nil {
		heapErr = result.addHeap(ctx, t.heap, heapBefore, m.all.total())
	}
	if heapErr != nil && o.HeapUnknown == "" {
		o.HeapUnknown = heapErr.Error()
	}
	o.Rounds = append(o.Rounds, result)
	fmt.Fprintf(r.progress, "round %d/%d  %-18s %8.0f checks/s  p99 %5.2f ms  server %5.1f µs/check\n",
		n+1, r.plan.rounds, t.name, result.ChecksPerSecond, figures.Milliseconds(result.P99), figures.Microseconds(result.ServerCPU))
	return nil
}

// addHeap fills in the allocations of so many checks, that all are answered. Both readings are taken without load, so that
// neither disturbs a measurement and no check is between them and the count.
func (r *round) addHeap(ctx context.Context, source heapSource, before heap, checks int64) error {
	now, err := source.read(ctx)
	if err != nil {
		return err
	}
	grown, n := now.since(before), float64(max(1, checks))
	objects, bytes := grown.objects/n, grown.bytes/n
	r.Allocations, r.AllocatedBytes = &objects, &bytes
	return nil
}

// verify compares what was counted with what was asked.
func (r *runner) verify(ctx context.Context, t *target, v *verification) (err error) {
	v.ProbeLimit = probeLimit
	if v.ProbeAllowed, v.ProbeAsked, err = t.probe(ctx, r.load.callers); err != nil {
		return err
	}
	if v.Counted, err = t.sweep(ctx, r.load.callers, r.load.requests); err != nil {
		return err
	}
	v.Acknowledged, v.Unsure = t.sent.ok, t.sent.overLimit+t.sent.failed
	v.judge(int64(len(r.load.requests)))
	return nil
}

// summarize turns a measurement into a round.
func summarize(m measurement, spent usage, cores int) round {
	answered := m.measured.ok + m.measured.overLimit
	perCheck := func(d time.Duration) time.Duration { return d / time.Duration(max(1, answered)) }
	slices.Sort(m.latencies)
	return round{
		ChecksPerSecond: float64(answered) / m.elapsed.Seconds(),
		P50:             rank(m.latencies, 500), P99: rank(m.latencies, 990),
		ServerCPU: perCheck(spent.server), RedisCPU: perCheck(spent.redis), ClientCPU: perCheck(spent.client),
		Foreign: spent.foreignShare(m.elapsed, cores),
		OK:      m.measured.ok, OverLimit: m.measured.overLimit, Failed: m.measured.failed,
	}
}

// keys counts the keys in the server.
func (r *runner) keys(ctx context.Context) (int64, error) {
	n, err := r.redis.Client.DBSize(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("counting the keys in Redis: %w", err)
	}
	return n, nil
}
