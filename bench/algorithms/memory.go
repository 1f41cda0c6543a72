package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/penstock-dev/penstock/bench/internal/process"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// The algorithms whose memory is measured.
var memoryAlgorithms = []algorithm{
	{"SlidingLog", slidingLog}, {"SlidingCounter", slidingCounter}, {"FixedWindow", fixedWindow},
	{"FixedWindow, calendar", calendarDay}, {"TokenBucket", fullBucket}, {"Concurrency", concurrency}, {"Balance", balance},
}

const (
	// memoryName is the policy's name in all cases, since a key holds it.
	memoryName = "shop/api-per-ip"
	// memoryLimit is the limit of those who made a single request.
	memoryLimit = 1000
	// mostEntries bounds the entries of all logs together, so that no case needs more than some 50 MB.
	mostEntries = 200_000
)

// Limits whose whole budget is used.
var fullBudgets = []int64{10, 100, 1000}

// memoryFigure is what a subject takes.
type memoryFigure struct {
	Case string `json:"case"`
	// Used of Limit requests were used.
	Used     int64 `json:"used"`
	Limit    int64 `json:"limit"`
	Subjects int   `json:"subjects"`
	// BytesPerSubject is the growth of used_memory, so the keyspace's own share is in it.
	BytesPerSubject float64 `json:"bytesPerSubject"`
	// MemoryUsage is what MEMORY USAGE says of the keys of one subject, in bytes.
	MemoryUsage int64 `json:"memoryUsage"`
}

// memoryCase is one state that subjects are brought into.
type memoryCase struct {
	name        string
	used, limit int64
	policy      *policy.RateLimit
	// fill gives the commands for subject i.
	fill func(i int, s subject) [][]any
}

func memoryCases() []memoryCase {
	var cases []memoryCase
	for _, a := range memoryAlgorithms {
		cases = append(cases, usedCase(a, 1, memoryLimit))
		for _, requests := range fullBudgets {
			cases = append(cases, usedCase(a, requests, requests))
		}
	}
	blocked := newPolicy(memoryName, fixedWindow(10))
	blocked.Penalty = &policy.Penalty{
		Denials: 1, WithinMs: window.Milliseconds(), ForMs: window.Milliseconds(), MaxMs: window.Milliseconds(),
	}
	return append(cases,
		memoryCase{name: caseID, used: 1, limit: memoryLimit, policy: newPolicy(memoryName, fixedWindow(memoryLimit)),
			fill: func(i int, s subject) [][]any { return [][]any{s.fcall(library.LimitScript, 1, uuid(i))} }},
		memoryCase{name: casePenalty, used: 10, limit: 10, policy: blocked,
			fill: func(_ int, s subject) [][]any { return [][]any{s.charge(10), s.charge(1)} }},
	)
}

// Cases beside those of the algorithms.
const (
	caseID      = "FixedWindow, one decision with an id"
	casePenalty = "FixedWindow, blocked by a penalty"
)

// usedCase is a budget of which so much is used.
func usedCase(a algorithm, used, limit int64) memoryCase {
	c := memoryCase{name: a.name, used: used, limit: limit, policy: newPolicy(memoryName, a.limit(limit))}
	c.fill = func(_ int, s subject) [][]any { return [][]any{s.charge(used)} }
	if c.policy.IsConcurrency() {
		c.fill = func(_ int, s subject) [][]any {
			var commands [][]any
			for n := range int(used) {
				commands = append(commands, s.fcall(library.SlotAcquireScript, uuid(n), ""))
			}
			return commands
		}
	}
	return c
}

// uuid gives an id of the length of a UUID.
func uuid(n int) string { return fmt.Sprintf("6fa459ea-ee8a-3ca4-894e-%012x", n) }

func (r *runner) measureMemory(ctx context.Context) ([]memoryFigure, error) {
	var figures []memoryFigure
	for _, c := range memoryCases() {
		figure, err := r.measureCase(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("%s, %d of %d: %w", c.name, c.used, c.limit, err)
		}
		figures = append(figures, figure)
		fmt.Fprintf(r.progress, "memory  %-38s %4d of %4d  %8.0f bytes per subject\n", c.name, c.used, c.limit, figure.BytesPerSubject)
	}
	return figures, nil
}

func (r *runner) measureCase(ctx context.Context, c memoryCase) (memoryFigure, error) {
	if err := r.client.FlushAll(ctx).Err(); err != nil {
		return memoryFigure{}, err
	}
	if err := publish(ctx, r.client, asItIs, c.policy); err != nil {
		return memoryFigure{}, err
	}
	// Of the logs' entries there are at most so many.
	n := r.plan.subjects
	if newSubject(c.policy, "").logKey() != "" {
		n = max(min(n, mostEntries/int(c.used)), 1)
	}
	subjects := numbered(c.policy, n)
	// The first one makes the server prepare the policy, and is not counted.
	if _, err := send(ctx, r.client, c.fill(n, newSubject(c.policy, "first"))); err != nil {
		return memoryFigure{}, err
	}
	before, err := r.usedMemory(ctx)
	if err != nil {
		return memoryFigure{}, err
	}
	if err := r.sendAbout(ctx, subjects, c.fill); err != nil {
		return memoryFigure{}, err
	}
	// Each look-up moves the keyspace's table a step further to its new size.
	look := func(_ int, s subject) [][]any { return [][]any{{"exists", s.key}} }
	if err := r.sendAbout(ctx, subjects, look); err != nil {
		return memoryFigure{}, err
	}
	after, err := r.usedMemory(ctx)
	if err != nil {
		return memoryFigure{}, err
	}
	one, err := r.memoryUsage(ctx, c, subjects[0])
	if err != nil {
		return memoryFigure{}, err
	}
	return memoryFigure{
		Case: c.name, Used: c.used, Limit: c.limit, Subjects: n,
		BytesPerSubject: float64(after-before) / float64(n), MemoryUsage: one,
	}, nil
}

// sendAbout sends commands about each subject, without holding all of them at once.
func (r *runner) sendAbout(ctx context.Context, subjects []subject, commands func(i int, s subject) [][]any) error {
	var waiting [][]any
	for i, s := range subjects {
		waiting = append(waiting, commands(i, s)...)
		if len(waiting) >= 20*pipelined || i == len(subjects)-1 {
			if _, err := send(ctx, r.client, waiting); err != nil {
				return err
			}
			waiting = waiting[:0]
		}
	}
	return nil
}

func (r *runner) usedMemory(ctx context.Context) (int64, error) {
	info, err := r.client.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	used, err := strconv.ParseInt(process.InfoField(info, "used_memory"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading used_memory: %w", err)
	}
	return used, nil
}

// memoryUsage adds up what the server says of a subject's keys.
func (r *runner) memoryUsage(ctx context.Context, c memoryCase, s subject) (int64, error) {
	keys := []string{s.key}
	if log := s.logKey(); log != "" {
		keys = append(keys, log)
	}
	if c.name == caseID {
		keys = append(keys, s.key+"#"+uuid(0))
	}
	var sum int64
	for _, key := range keys {
		size, err := r.client.MemoryUsage(ctx, key, 0).Result()
		if err != nil {
			return 0, fmt.Errorf("MEMORY USAGE: %w", err)
		}
		sum += size
	}
	return sum, nil
}
