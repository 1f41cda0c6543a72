package main

import (
	"context"
	"fmt"
	"time"
)

const (
	// warm is load that does not count.
	warm = time.Second
	// calm is the load without a fault, with which the one under a fault is compared.
	calm = 4 * time.Second
)

// step is a part of a trial: something happens, and then the load goes on for a while.
type step struct {
	name string
	// begin is what happens; nil is nothing.
	begin func(context.Context) error
	// length is for how long it is watched after that.
	length time.Duration
}

// passed is a step that is over, in times since the load began.
type passed struct {
	// span is the whole step; begun is when what happens had happened.
	span
	begun time.Duration
}

// trial is a load during which something happened.
type trial struct {
	*recording
	callers int
	calm    span
	steps   []passed
	samples []sample
}

// try loads penstockd: a while without a fault, and then the steps.
func (r *runner) try(ctx context.Context, d *daemon, about []question, steps ...step) (*trial, error) {
	load := startLoad(ctx, d.asker, about, r.plan.callers, r.plan.rate)
	watch := d.startSampler(ctx, load)
	t := &trial{callers: r.plan.callers}
	err := func() error {
		if err := wait(ctx, warm); err != nil {
			return err
		}
		t.calm.from = load.now()
		if err := wait(ctx, calm); err != nil {
			return err
		}
		t.calm.to = load.now()
		for _, s := range steps {
			p := passed{span: span{from: load.now()}}
			if s.begin != nil {
				if err := s.begin(ctx); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
			p.begun = load.now()
			r.say("  %6.2f s  %s", p.begun.Seconds(), s.name)
			if err := wait(ctx, s.length); err != nil {
				return err
			}
			p.to = load.now()
			t.steps = append(t.steps, p)
		}
		return d.process.Alive()
	}()
	t.recording = load.finish()
	var sampleErr error
	t.samples, sampleErr = watch.finish()
	if err == nil {
		err = sampleErr
	}
	return t, err
}

// from gives the span from the begin of a step to the end of another one.
func (t *trial) from(first, last int) span { return span{t.steps[first].from, t.steps[last].to} }

// The figures that several scenarios have. Baselines are of the calm part of the same trial.

// calmly gives the answers without a fault.
func (t *trial) calmly() []answer { return between(t.answers, t.calm) }

// answered tells how answers came, all together: never as errors, and soon.
func (t *trial) answered(what string, answers []answer) []figure {
	quiet := t.calmly()
	return []figure{
		number("answers "+what, len(answers)).beside(number("", len(quiet))),
		number("  errors", count(answers, failed)).beside(number("", count(quiet, failed))).exactly(0),
		number("  degraded", count(answers, degraded)).beside(number("", count(quiet, degraded))),
		ms("  longest", longest(answers)).beside(ms("", longest(quiet))).most(25),
		ms("  p50", quantile(answers, 0.5)).beside(ms("", quantile(quiet, 0.5))),
		ms("  p99", quantile(answers, 0.99)).beside(ms("", quantile(quiet, 0.99))),
	}
}

// recovered tells when answers were normal after an event, and whether they stayed so.
func (t *trial) recovered(from string, event, bound time.Duration) []figure {
	first, came := firstAfter(t.answers, event)
	took, happened := normalAfter(t.answers, event)
	all := []figure{
		after("first answer enforced after "+from, first, came),
		after("all answers enforced after "+from, took, happened).most(bound.Seconds()),
	}
	if happened {
		later := between(t.answers, span{event + took, 1<<63 - 1})
		all = append(all, number("  degraded later, of "+fmt.Sprint(len(later)), count(later, degraded)).beside(number("", count(t.calmly(), degraded))))
	}
	return all
}

// kept tells what penstockd held during a span and at the end. Each caller may have one call under way more than it had before, and
// the connections to Redis are at most 64 by default.
func (t *trial) kept(during span) []figure {
	end := span{t.steps[len(t.steps)-1].to - 3*samplePause, 1<<63 - 1}
	before, most, last := mostOf(t.samples, t.calm, goroutines), mostOf(t.samples, during, goroutines), mostOf(t.samples, end, goroutines)
	filesBefore, filesMost := mostOf(t.samples, t.calm, files), mostOf(t.samples, during, files)
	const redisConnections = 64
	return []figure{
		number("goroutines, at most", most).beside(number("", before)).most(float64(before + t.callers)),
		number("goroutines at the end", last).beside(number("", before)).most(float64(before + t.callers)),
		number("open files and connections, at most", filesMost).beside(number("", filesBefore)).most(float64(filesBefore + redisConnections)),
		number("answers after more than 20 ms by penstockd's own clock", overdue(t.samples, span{t.calm.to, 1<<63 - 1})).
			beside(number("", overdue(t.samples, t.calm))),
		number("breaker opened", mostOf(t.samples, span{0, 1<<63 - 1}, opened)-mostOf(t.samples, t.calm, opened)).
			beside(number("", mostOf(t.samples, t.calm, opened))),
	}
}

// overdue gives how many decisions of a span took more than 20 ms by penstockd's own clock. The load's waiting for CPU time is not
// in them.
func overdue(samples []sample, within span) int {
	late := func(s sample) int { return s.decided - s.soon }
	return mostOf(samples, within, late) - mostOf(samples, span{0, within.from}, late)
}

// conclude adds what explains the figures.
func (s *scenario) conclude(t *trial, d *daemon) {
	if t.firstError != nil {
		s.FirstError = t.firstError.Error()
	}
	s.Log = d.process.Output()
}
