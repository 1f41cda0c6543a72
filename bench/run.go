package main

import (
	"context"
	"fmt"
	"io"
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
}

// budget is how long the run may take before it is given up: thrice what it should, for starting and verifying.
func (p plan) budget() time.Duration {
	return 2*time.Minute + 3*time.Duration(p.rounds*len(p.targets))*(p.warm+p.measure)
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
	Verification *verification `json:"verification,omitempty"`
	// FirstError is one of the failures under load, if any.
	FirstError string `json:"firstError,omitempty"`
}

// runner measures targets that are up.
type runner struct {
	plan    plan
	redis   *process.Redis
	targets []*target
	load    load
	cores   int
	// progress gets a line for each step.
	progress io.Writer
}

// run fills, measures in rounds, and verifies.
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
	o.Rounds = append(o.Rounds, result)
	fmt.Fprintf(r.progress, "round %d/%d  %-18s %8.0f checks/s  p99 %5.2f ms  server %5.1f µs/check\n",
		n+1, r.plan.rounds, t.name, result.ChecksPerSecond, figures.Milliseconds(result.P99), figures.Microseconds(result.ServerCPU))
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
	p50, p99 := percentiles(m.latencies)
	return round{
		ChecksPerSecond: float64(answered) / m.elapsed.Seconds(),
		P50:             p50, P99: p99,
		ServerCPU: perCheck(spent.server), RedisCPU: perCheck(spent.redis), ClientCPU: perCheck(spent.client),
		Foreign: min(1, spent.foreign().Seconds()/(m.elapsed.Seconds()*float64(cores))),
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
