package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/figures"
	"github.com/penstock-dev/penstock/bench/internal/process"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

const (
	// speedSubjects is how many subjects the decisions are about, in turn.
	speedSubjects = 200
	// plenty is a limit that is never reached.
	plenty = 1_000_000
	// logEntries are in each log before it is measured: half of what one holds at most.
	logEntries = policy.MaxSlidingLogRequests / 2
)

// Modes of a case; plain are commands that count without deciding anything.
const (
	modeFunctions = "functions"
	modeScripts   = "scripts"
	modePlain     = "plain"
)

// floorCase is INCR and PEXPIRE, the least that a counter with a TTL takes.
const floorCase = "INCR + PEXPIRE"

// Outcomes of a case.
const (
	outcomeAllowed = "allowed"
	outcomeDenied  = "denied"
)

// speedFigure is what a decision costs.
type speedFigure struct {
	Case    string `json:"case"`
	Outcome string `json:"outcome"`
	Mode    string `json:"mode"`
	// RedisMicroseconds are those of INFO commandstats for each decision: of the server's one thread, without reading and
	// writing on the network.
	RedisMicroseconds figures.Spread `json:"redisMicroseconds"`
	// OfFloor divides the least of them by the least of the floor: what the machine takes when nothing comes between.
	OfFloor float64 `json:"timesTheFloor"`
	// PerSecond is how many decisions one connection got, 50 at a time.
	PerSecond figures.Spread `json:"decisionsPerSecond"`
}

// speedCase is one kind of decision.
type speedCase struct {
	name, outcome string
	policy        *policy.RateLimit
	script        library.Script
	// prepare gives the command that brings a subject into the state that is measured; nil for none.
	prepare func(s subject) []any
	// arguments are those of decision n of all, between policy and value.
	arguments func(n int) []any
	// before gives a command that has to precede decision n, and is not measured; nil for none.
	before func(s subject, n int) []any
}

// speedPolicy names each case's policy.
func speedPolicy(n int, limits ...policy.Limit) *policy.RateLimit {
	return newPolicy(fmt.Sprintf("bench/case-%02d", n), limits...)
}

func costOne(int) []any { return []any{1, ""} }

func slotID(n int) string { return "slot-" + strconv.Itoa(n) }

func speedCases() []speedCase {
	var cases []speedCase
	add := func(c speedCase, limits ...policy.Limit) *speedCase {
		c.policy = speedPolicy(len(cases), limits...)
		if c.script.Name == "" {
			c.script = library.LimitScript
		}
		if c.arguments == nil {
			c.arguments = costOne
		}
		cases = append(cases, c)
		return &cases[len(cases)-1]
	}
	spend := func(cost int64) func(subject) []any { return func(s subject) []any { return s.charge(cost) } }

	add(speedCase{name: "SlidingLog, 500 entries", outcome: outcomeAllowed, prepare: spend(logEntries)}, slidingLog(policy.MaxSlidingLogRequests))
	add(speedCase{name: "SlidingLog, 500 entries", outcome: outcomeDenied, prepare: spend(logEntries)}, slidingLog(logEntries))
	for _, a := range []algorithm{
		{"SlidingCounter", slidingCounter}, {"FixedWindow", fixedWindow}, {"FixedWindow, calendar", calendarDay},
		// A token an hour: none comes back in time.
		{"TokenBucket", func(burst int64) policy.Limit { return tokenBucket(1, burst) }}, {"Balance", balance},
	} {
		add(speedCase{name: a.name, outcome: outcomeAllowed}, a.limit(plenty))
		add(speedCase{name: a.name, outcome: outcomeDenied, prepare: spend(10)}, a.limit(10))
	}

	acquire := func(n int) []any { return []any{slotID(n), ""} }
	hold := func(s subject) []any { return s.fcall(library.SlotAcquireScript, "held", "") }
	add(speedCase{name: "Concurrency, acquire", outcome: outcomeAllowed, script: library.SlotAcquireScript, arguments: acquire},
		concurrency(policy.MaxSlots))
	add(speedCase{name: "Concurrency, acquire", outcome: outcomeDenied, script: library.SlotAcquireScript, prepare: hold, arguments: acquire},
		concurrency(1))
	add(speedCase{name: "Concurrency, release", outcome: outcomeAllowed, script: library.SlotReleaseScript,
		arguments: func(n int) []any { return []any{slotID(n)} },
		before:    func(s subject, n int) []any { return s.fcall(library.SlotAcquireScript, slotID(n), "") },
	}, concurrency(policy.MaxSlots))

	add(speedCase{name: "FixedWindow, with an id", outcome: outcomeAllowed, arguments: func(n int) []any { return []any{1, uuid(n)} }}, fixedWindow(plenty))
	penalized := add(speedCase{name: "FixedWindow, with a penalty", outcome: outcomeAllowed}, fixedWindow(plenty))
	penalized.policy.Penalty = &policy.Penalty{Denials: 10, WithinMs: 60_000, ForMs: 60_000, MaxMs: 3_600_000}
	second := fixedWindow(plenty)
	second.Name = "second"
	add(speedCase{name: "FixedWindow, two limits", outcome: outcomeAllowed}, fixedWindow(plenty), second)
	return cases
}

// measured is a case in one mode, with its figures by round.
type measured struct {
	speedCase
	mode         string
	subjects     []subject
	next         int
	microseconds []float64
	perSecond    []float64
}

func (r *runner) measureSpeed(ctx context.Context) ([]speedFigure, error) {
	if err := r.client.FlushAll(ctx).Err(); err != nil {
		return nil, err
	}
	all, err := r.prepareSpeed(ctx)
	if err != nil {
		return nil, err
	}
	for n := range r.plan.rounds {
		fmt.Fprintf(r.progress, "speed  round %d of %d\n", n+1, r.plan.rounds)
		// Rotated, so that none always comes after the same other.
		for k := range all {
			m := all[(k+n)%len(all)]
			if err := r.measureOnce(ctx, m); err != nil {
				return nil, fmt.Errorf("%s, %s, %s: %w", m.name, m.outcome, m.mode, err)
			}
		}
	}
	result := make([]speedFigure, len(all))
	for i, m := range all {
		result[i] = speedFigure{
			Case: m.name, Outcome: m.outcome, Mode: m.mode,
			RedisMicroseconds: spreadOf(m.microseconds), OfFloor: slices.Min(m.microseconds) / slices.Min(all[0].microseconds),
			PerSecond: spreadOf(m.perSecond),
		}
	}
	return result, nil
}

func spreadOf(values []float64) figures.Spread {
	return figures.SpreadOf(values, func(v float64) float64 { return v })
}

// prepareSpeed publishes the policies and brings the subjects of each case into its state. The floor comes first.
func (r *runner) prepareSpeed(ctx context.Context) ([]*measured, error) {
	all := []*measured{{speedCase: speedCase{name: floorCase, outcome: outcomeAllowed}, mode: modePlain}}
	var policies []*policy.RateLimit
	for _, c := range speedCases() {
		policies = append(policies, c.policy)
		all = append(all, &measured{speedCase: c, mode: modeFunctions}, &measured{speedCase: c, mode: modeScripts})
	}
	if err := publish(ctx, r.client, asItIs, policies...); err != nil {
		return nil, err
	}
	if err := library.LoadScripts(ctx, r.client); err != nil {
		return nil, err
	}
	for i, m := range all {
		if m.mode == modePlain {
			continue
		}
		// Functions and scripts have subjects of their own.
		for n := range speedSubjects {
			m.subjects = append(m.subjects, newSubject(m.policy, fmt.Sprintf("10.%d.%d.%d", i, n>>8&255, n&255)))
		}
		if m.prepare == nil {
			continue
		}
		prepare := func(_ int, s subject) [][]any { return [][]any{m.prepare(s)} }
		if err := r.sendAbout(ctx, m.subjects, prepare); err != nil {
			return nil, fmt.Errorf("preparing %s, %s: %w", m.name, m.outcome, err)
		}
	}
	return all, nil
}

// measureOnce makes a batch of decisions, and adds to the figures.
func (r *runner) measureOnce(ctx context.Context, m *measured) error {
	before, commands, err := m.commands(r.plan.batch)
	if err != nil {
		return err
	}
	if _, err := send(ctx, r.client, before); err != nil {
		return err
	}
	if err := r.client.ConfigResetStat(ctx).Err(); err != nil {
		return err
	}
	started := time.Now()
	replies, err := send(ctx, r.client, commands)
	elapsed := time.Since(started)
	if err != nil {
		return err
	}
	if m.mode != modePlain {
		if err := m.check(replies); err != nil {
			return err
		}
	}
	spent, err := r.spentOn(ctx, commands)
	if err != nil {
		return err
	}
	m.microseconds = append(m.microseconds, spent/float64(r.plan.batch))
	m.perSecond = append(m.perSecond, float64(r.plan.batch)/elapsed.Seconds())
	return nil
}

// commands gives those of the next batch, and those that have to precede them.
func (m *measured) commands(batch int) (before, commands [][]any, err error) {
	for range batch {
		n := m.next
		m.next++
		if m.mode == modePlain {
			key := "bench:floor:" + strconv.Itoa(n%speedSubjects)
			commands = append(commands, []any{"incr", key}, []any{"pexpire", key, window.Milliseconds()})
			continue
		}
		s, mode := m.subjects[n%speedSubjects], library.ModeFunctions
		if m.mode == modeScripts {
			mode = library.ModeScripts
		}
		if m.before != nil {
			before = append(before, m.before(s, n))
		}
		command, err := s.call(mode, m.script, m.arguments(n)...)
		if err != nil {
			return nil, nil, err
		}
		commands = append(commands, command)
	}
	return before, commands, nil
}

// check fails when a reply is not what is measured.
func (m *measured) check(replies []any) error {
	for _, reply := range replies {
		a, err := parseAnswer(reply)
		if err != nil {
			return err
		}
		if a.allowed != (m.outcome == outcomeAllowed) {
			return fmt.Errorf("got %v, want all to be %s", reply, m.outcome)
		}
	}
	return nil
}

// spentOn gives the microseconds that the server spent on the commands, which since CONFIG RESETSTAT were the only ones
// of their names.
func (r *runner) spentOn(ctx context.Context, commands [][]any) (float64, error) {
	info, err := r.client.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	calls := map[string]int{}
	for _, command := range commands {
		calls[command[0].(string)]++
	}
	var sum float64
	for name, want := range calls {
		got, spent, err := parseStat(process.InfoField(info, "cmdstat_"+name))
		if err != nil {
			return 0, fmt.Errorf("INFO commandstats of %s: %w", name, err)
		}
		if got != want {
			return 0, fmt.Errorf("INFO commandstats has %d calls of %s, want %d: somebody else uses this server", got, name, want)
		}
		sum += spent
	}
	return sum, nil
}

// parseStat reads calls and microseconds of calls=1,usec=2,usec_per_call=2.00,…
func parseStat(stat string) (calls int, spent float64, err error) {
	found := map[string]float64{}
	for part := range strings.SplitSeq(stat, ",") {
		name, text, _ := strings.Cut(part, "=")
		if name != "calls" && name != "usec" {
			continue
		}
		if found[name], err = strconv.ParseFloat(text, 64); err != nil {
			return 0, 0, err
		}
	}
	if len(found) < 2 {
		return 0, 0, fmt.Errorf("%q has no calls and usec", stat)
	}
	return int(found["calls"]), found["usec"], nil
}
