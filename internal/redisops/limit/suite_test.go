package limit_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// world is a real server with policies, and a Limiter in one of the modes.
type world struct {
	tb       failer
	server   *redistest.Server
	client   *redis.Client
	mode     library.Mode
	limiter  *limit.Limiter
	policies map[string]*policy.RateLimit
	// steered tells that the Lua takes its time from steer.
	steered bool
}

// failer is what testing.TB and rapid.T have in common.
type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// start starts a server with the policies. With steered, time stands at t0 until steer.
func start(tb testing.TB, mode library.Mode, steered bool, policies ...policy.RateLimit) *world {
	tb.Helper()
	return startOn(tb, redistest.Start(tb), mode, steered, policies...)
}

// startOn empties a server that is there already, which is faster.
func startOn(tb testing.TB, server *redistest.Server, mode library.Mode, steered bool, policies ...policy.RateLimit) *world {
	tb.Helper()
	server.Do("FLUSHALL")
	server.Do("SCRIPT", "FLUSH")
	server.Do("FUNCTION", "FLUSH")
	w := &world{tb: tb, server: server, client: server.Client(), mode: mode, steered: steered, policies: map[string]*policy.RateLimit{}}
	w.limiter = limit.New(direct{w.client, steered}, w.client, mode)
	if steered {
		w.steer(0)
	}
	w.publish(policies...)
	return w
}

// inBothModes runs a test on functions and on scripts.
func inBothModes(t *testing.T, run func(t *testing.T, mode library.Mode)) {
	for _, mode := range []library.Mode{library.ModeFunctions, library.ModeScripts} {
		t.Run(mode.String(), func(t *testing.T) { run(t, mode) })
	}
}

// publish makes these the policies, beside those that are there already under other names.
func (w *world) publish(policies ...policy.RateLimit) {
	w.tb.Helper()
	for _, p := range policies {
		sealed := zoned(p).Sealed()
		if err := sealed.Validate(); err != nil {
			w.tb.Fatalf("policy %s: %v", p.Name, err)
		}
		w.policies[p.Name] = &sealed
	}
	if w.mode == library.ModeScripts {
		return
	}
	text := w.text()
	document := library.NewDocument(text).Marshal()
	if err := w.client.Set(context.Background(), library.DocumentKey, document, 0).Err(); err != nil {
		w.tb.Fatal(err)
	}
	if err := library.Load(context.Background(), w.client, text, true); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) text() string {
	w.tb.Helper()
	var all []policy.RateLimit
	for _, p := range w.policies {
		all = append(all, *p)
	}
	text, err := library.Render(policy.NewSet(all))
	if err != nil {
		w.tb.Fatal(err)
	}
	if w.steered {
		text = steerable(text)
	}
	return text
}

// t0 is where steered time begins: 2027-01-15T08:00:00Z, in microseconds. It is a multiple of an hour.
const t0 = int64(1_800_000_000_000_000)

const nowKey = "test:now"

// steer sets the time that the Lua sees to t0 + since.
func (w *world) steer(since time.Duration) {
	w.tb.Helper()
	if err := w.client.Set(context.Background(), nowKey, strconv.FormatInt(t0+since.Microseconds(), 10), 0).Err(); err != nil {
		w.tb.Fatal(err)
	}
}

// untilKey tells until when, in steered time, strings with a TTL are there.
const untilKey = "test:until"

// steering stands before the Lua under test and gives it another TIME. Real time goes on, so what expires by the steered
// time must not be gone before: TTLs are an hour longer than the Lua asks for, and told to be an hour shorter. Strings
// (the records of decisions) are gone when steered time says so; of the other keys the Lua may not rely on that.
const steering = `local redis = (function()
  local function instead(name)
    return function(command, key, ttl, ...)
      if command == 'TIME' then
        local now = redis.call('GET', '` + nowKey + `')
        return {string.sub(now, 1, -7), string.sub(now, -6)}
      elseif command == 'SET' then
        local form, ms = ...
        local till = redis.call('GET', '` + nowKey + `') + ms * 1000
        redis.call('HSET', '` + untilKey + `', key, string.format('%.0f', till))
        return redis[name](command, key, ttl, form, string.format('%.0f', ms + 3600000))
      elseif command == 'GET' then
        local till = redis.call('HGET', '` + untilKey + `', key)
        if till and tonumber(till) <= tonumber(redis.call('GET', '` + nowKey + `')) then
          return false
        end
        return redis[name](command, key)
      elseif command == 'PEXPIRE' then
        return redis[name](command, key, string.format('%.0f', ttl + 3600000))
      elseif command == 'PTTL' then
        local left = redis[name](command, key)
        return left > 0 and left - 3600000 or left
      elseif ttl then
        return redis[name](command, key, ttl, ...)
      elseif key then
        return redis[name](command, key)
      end
      return redis[name](command)
    end
  end
  return {
    call = instead('call'), pcall = instead('pcall'),
    error_reply = function(text) return redis.error_reply(text) end,
    register_function = function(...) return redis.register_function(...) end,
  }
end)()
`

func steerable(text string) string {
	head, rest, _ := strings.Cut(text, "\n")
	return head + "\n" + steering + rest
}

// direct is a Caller without pipelines. With steered it sends the scripts with steering.
type direct struct {
	client  redis.UniversalClient
	steered bool
}

func (d direct) Do(ctx context.Context, args []any) (any, error) {
	if d.steered && args[0] == "evalsha" {
		for _, s := range library.Scripts() {
			if args[1] == s.SHA {
				args = append([]any{"eval", steerable(s.Text)}, args[2:]...)
			}
		}
	}
	return d.client.Do(ctx, args...).Result()
}

func (direct) Slotted() bool { return false }

func (d direct) Primary(context.Context, string) (*redis.Client, error) {
	client, is := d.client.(*redis.Client)
	if !is {
		return nil, redisops.ErrNotExecuted
	}
	return client, nil
}

func (direct) Within(ctx context.Context, _ time.Time) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}

// charge gives a charge of the policy for a subject that is the values.
func (w *world) charge(name string, cost int64, values ...string) limit.Charge {
	w.tb.Helper()
	p := w.policies[name]
	if p == nil || len(values) != len(p.Descriptors) {
		w.tb.Fatalf("no policy %s with %d descriptors", name, len(values))
	}
	return limit.Charge{Policy: p, Key: w.key(name, values...), Values: values, Cost: cost}
}

func (w *world) key(name string, values ...string) string {
	var subject []redisops.Entry
	for i, d := range w.policies[name].Descriptors {
		subject = append(subject, redisops.Entry{Key: d.Key, Value: values[i]})
	}
	return redisops.CounterKey(name, subject)
}

func (w *world) decide(charges ...limit.Charge) []limit.Row {
	w.tb.Helper()
	rows, err := w.limiter.Decide(context.Background(), charges)
	if err != nil {
		w.tb.Fatal(err)
	}
	return rows
}

func (w *world) peek(charge limit.Charge) limit.Row {
	w.tb.Helper()
	rows, err := w.limiter.Peek(context.Background(), []limit.Charge{charge})
	if err != nil {
		w.tb.Fatal(err)
	}
	return rows[0]
}

// raw calls a function, or the script in its place, as any client could. An argument that is the name of a policy becomes
// its document for a script.
func (w *world) raw(function string, keys []string, args ...any) (any, error) {
	w.tb.Helper()
	command := []any{"FCALL", function, len(keys)}
	if w.mode == library.ModeScripts {
		for _, s := range library.Scripts() {
			if s.Name == function {
				command = []any{"EVAL", s.Text, len(keys)}
			}
		}
	}
	for _, key := range keys {
		command = append(command, key)
	}
	for _, arg := range args {
		if p := w.policies[fmt.Sprint(arg)]; p != nil && w.mode == library.ModeScripts {
			document, err := library.PolicyDocument(p)
			if err != nil {
				w.tb.Fatal(err)
			}
			arg = document
		}
		command = append(command, arg)
	}
	return w.client.Do(context.Background(), command...).Result()
}

// do runs a command and fails the test on an error.
func (w *world) do(args ...any) any {
	w.tb.Helper()
	return w.server.Do(args...)
}

// dump gives all keys but the test's and the library's, with type, value and whether there is a TTL.
func (w *world) dump() string {
	w.tb.Helper()
	ctx := context.Background()
	var out []string
	keys, err := w.client.Keys(ctx, "*").Result()
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, key := range keys {
		if key == nowKey || key == untilKey || key == library.DocumentKey {
			continue
		}
		value, err := w.client.Dump(ctx, key).Result()
		if err != nil {
			w.tb.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s=%q ttl %v", key, value, w.client.PTTL(ctx, key).Val() > 0))
	}
	// KEYS has no order.
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// show gives a row in short: allow 9/10 reset 1m0s.
func show(r limit.Row) string {
	if r.Allowed {
		return fmt.Sprintf("allow %d/%d reset %v", r.Remaining, r.Limit, r.Reset)
	}
	return fmt.Sprintf("deny %d/%d reset %v retry %v", r.Remaining, r.Limit, r.Reset, r.RetryAfter)
}

// one gives a policy without descriptors.
func one(name string, limits ...policy.Limit) policy.RateLimit {
	return policy.RateLimit{Name: name, Domain: "shop", Limits: limits, OnStoreFailure: policy.FailureAllow}
}

func fixedWindow(requests int64, window time.Duration) policy.Limit {
	return policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: requests, WindowMs: window.Milliseconds()}
}

func slidingLog(requests int64, window time.Duration) policy.Limit {
	return policy.Limit{Name: "default", Algorithm: policy.SlidingLog, Requests: requests, WindowMs: window.Milliseconds()}
}

func tokenBucket(requests int64, window time.Duration, burst int64) policy.Limit {
	return policy.Limit{
		Name: "default", Algorithm: policy.TokenBucket, Requests: requests, WindowMs: window.Milliseconds(), Burst: burst,
		TickUs: policy.TickFor(window.Milliseconds()),
	}
}

func slidingCounter(requests int64, window time.Duration) policy.Limit {
	return policy.Limit{Name: "default", Algorithm: policy.SlidingCounter, Requests: requests, WindowMs: window.Milliseconds()}
}

func balance(requests int64) policy.Limit {
	return policy.Limit{Name: "default", Algorithm: policy.Balance, Requests: requests}
}

func concurrency(slots int64, ttl time.Duration) policy.Limit {
	return policy.Limit{Name: "default", Algorithm: policy.Concurrency, Requests: slots, SlotTTLMs: ttl.Milliseconds()}
}

func named(name string, l policy.Limit) policy.Limit {
	l.Name = name
	return l
}

func limitRow(w *world, charge limit.Charge, peek bool) limit.Row {
	w.tb.Helper()
	if peek {
		return w.peek(charge)
	}
	return w.decide(charge)[0]
}
