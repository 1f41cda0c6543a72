package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// window is that of all limits: long enough that no key expires during a run.
const window = time.Hour

const (
	limitName  = "default"
	descriptor = "remote_address"
)

// algorithm is one as the report lists it.
type algorithm struct {
	name string
	// limit gives one of that many requests in the window.
	limit func(requests int64) policy.Limit
}

func slidingLog(requests int64) policy.Limit {
	return policy.Limit{Name: limitName, Algorithm: policy.SlidingLog, Requests: requests, WindowMs: window.Milliseconds()}
}

func slidingCounter(requests int64) policy.Limit {
	return policy.Limit{Name: limitName, Algorithm: policy.SlidingCounter, Requests: requests, WindowMs: window.Milliseconds()}
}

func fixedWindow(requests int64) policy.Limit {
	return policy.Limit{Name: limitName, Algorithm: policy.FixedWindow, Requests: requests, WindowMs: window.Milliseconds()}
}

func calendarDay(requests int64) policy.Limit {
	return policy.Limit{
		Name: limitName, Algorithm: policy.FixedWindow, Requests: requests,
		WindowMs: policy.CalendarWindow(policy.CalendarDay).Milliseconds(), Calendar: policy.CalendarDay, TimeZone: "Europe/Berlin",
	}
}

// clockChanges gives the offsets of a zone that changes its clocks, as many as a compiled policy has.
func clockChanges() [][2]int64 {
	var offsets [][2]int64
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	const halfYear = 26 * 7 * 24 * 60 * 60
	for i := range int64(41) {
		offsets = append(offsets, [2]int64{began + i*halfYear, 3600 * (1 + i%2)})
	}
	return offsets
}

func tokenBucket(requests, burst int64) policy.Limit {
	return policy.Limit{
		Name: limitName, Algorithm: policy.TokenBucket, Requests: requests, WindowMs: window.Milliseconds(),
		Burst: max(burst, 1), TickUs: policy.TickFor(window.Milliseconds()),
	}
}

func fullBucket(requests int64) policy.Limit  { return tokenBucket(requests, requests) }
func smallBucket(requests int64) policy.Limit { return tokenBucket(requests, requests/10) }

func balance(requests int64) policy.Limit {
	return policy.Limit{Name: limitName, Algorithm: policy.Balance, Requests: requests}
}

func concurrency(slots int64) policy.Limit {
	return policy.Limit{Name: limitName, Algorithm: policy.Concurrency, Requests: slots, SlotTTLMs: window.Milliseconds()}
}

// newPolicy gives a policy of one descriptor, so that each value of it is a subject.
func newPolicy(name string, limits ...policy.Limit) *policy.RateLimit {
	p := &policy.RateLimit{
		Name: name, Domain: "bench", Descriptors: []policy.Descriptor{{Key: descriptor}}, Limits: limits,
		TimeZones: map[string][][2]int64{}, OnStoreFailure: policy.FailureDeny,
	}
	for _, zone := range p.CalendarZones() {
		p.TimeZones[zone] = clockChanges()
	}
	return p
}

// publish seals the policies and makes them those of the server. rewrite is applied to the library's text.
func publish(ctx context.Context, client *redis.Client, rewrite func(string) string, policies ...*policy.RateLimit) error {
	sealed := make([]policy.RateLimit, len(policies))
	for i, p := range policies {
		*p = p.Sealed()
		sealed[i] = *p
	}
	set := policy.NewSet(sealed)
	if err := set.Validate(); err != nil {
		return fmt.Errorf("the benchmark's policies: %w", err)
	}
	text, err := library.Render(set)
	if err != nil {
		return err
	}
	return library.Load(ctx, client, rewrite(text), true)
}

func asItIs(text string) string { return text }

// subject is who is counted by a policy.
type subject struct {
	policy     *policy.RateLimit
	value, key string
}

func newSubject(p *policy.RateLimit, value string) subject {
	return subject{policy: p, value: value, key: redisops.CounterKey(p.Name, []redisops.Entry{{Key: descriptor, Value: value}})}
}

// numbered gives n subjects with addresses as values.
func numbered(p *policy.RateLimit, n int) []subject {
	subjects := make([]subject, n)
	for i := range subjects {
		subjects[i] = newSubject(p, fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255))
	}
	return subjects
}

// logKey is where the subject's log or slots are; empty when it has none.
func (s subject) logKey() string {
	if s.policy.Holds(policy.SlidingLog) || s.policy.IsConcurrency() {
		return redisops.LogKey(s.key, limitName)
	}
	return ""
}

// call gives the command that calls a function about the subject, or the script in its place, with the arguments between
// policy and value, as penstockd sends it.
func (s subject) call(mode library.Mode, script library.Script, arguments ...any) ([]any, error) {
	command, name, about := "fcall", script.Name, s.policy.Name
	if mode == library.ModeScripts {
		document, err := library.PolicyDocument(s.policy)
		if err != nil {
			return nil, err
		}
		command, name, about = "evalsha", script.SHA, document
	}
	args := []any{command, name, 1, s.key}
	if log := s.logKey(); log != "" {
		args = []any{command, name, 2, s.key, log}
	}
	args = append(append(args, about), arguments...)
	return append(args, s.value), nil
}

// fcall gives the call of a function.
func (s subject) fcall(script library.Script, arguments ...any) []any {
	args, err := s.call(library.ModeFunctions, script, arguments...)
	if err != nil {
		panic(fmt.Sprintf("a call without a document: %v", err)) // only a document can fail
	}
	return args
}

// charge gives the command that charges a cost.
func (s subject) charge(cost int64) []any { return s.fcall(library.LimitScript, cost, "") }

// pipelined is how many commands go to the server at once.
const pipelined = 50

// send sends the commands in pipelines and gives their replies. It fails with the first error reply.
func send(ctx context.Context, client *redis.Client, commands [][]any) ([]any, error) {
	replies := make([]any, 0, len(commands))
	for len(commands) > 0 {
		n := min(pipelined, len(commands))
		pipe := client.Pipeline()
		for _, command := range commands[:n] {
			pipe.Do(ctx, command...)
		}
		sent, err := pipe.Exec(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range sent {
			replies = append(replies, c.(*redis.Cmd).Val())
		}
		commands = commands[n:]
	}
	return replies, nil
}

// answer is what a row says.
type answer struct {
	allowed    bool
	retryAfter time.Duration
}

// parseAnswer reads a row as docs/redis.md describes it.
func parseAnswer(reply any) (answer, error) {
	row, is := reply.([]any)
	if !is || len(row) < 8 {
		return answer{}, fmt.Errorf("want a row, got %v", reply)
	}
	allowed, isAllowed := row[0].(int64)
	retryAfter, isTime := row[4].(int64)
	if !isAllowed || !isTime {
		return answer{}, fmt.Errorf("want a row, got %v", row)
	}
	return answer{allowed: allowed == 1, retryAfter: time.Duration(retryAfter) * time.Millisecond}, nil
}
