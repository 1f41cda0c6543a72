package limit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// ErrNoPolicy tells that Redis serves no policy of the name, so it was deleted or renamed since the charge's set was
// read. Nothing was written. The reply, which names the policy, is wrapped beside it.
var ErrNoPolicy = errors.New("redis serves no such policy")

// WrongTypeError tells that a key which is ours by its name holds something else. Nothing was written.
type WrongTypeError struct {
	// Key is a charge's key or one of its logs.
	Key string
}

// Error names the key.
func (e *WrongTypeError) Error() string {
	return fmt.Sprintf("key %s holds something else than a counter of ours", e.Key)
}

// Caller sends commands, each once; see redisops.Caller.
type Caller interface {
	Do(ctx context.Context, args []any) (any, error)
	// Within bounds what is sent after the first command of a decision, which began at start.
	Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc)
}

// Limiter decides by asking Redis. It is safe for concurrent use.
type Limiter struct {
	caller Caller
	mode   library.Mode
	loader loader

	flagged, plain scripts
	// noFlags is set once the server did not compile a script that begins with #!lua.
	noFlags atomic.Bool
	known   preparations
}

// scripts are what one kind of server takes, ready to be sent.
type scripts struct {
	limit, many, peek script
}

type script struct {
	name, text, sha any
}

// New gives a Limiter. Decisions go through the caller; the client is for loading a library that the server lacks.
func New(caller Caller, client redis.UniversalClient, mode library.Mode) *Limiter {
	l := &Limiter{caller: caller, mode: mode, loader: loader{client: client}}
	convert := func(s library.Script) script { return script{name: s.Name, text: s.Text, sha: s.SHA} }
	l.flagged = scripts{
		limit: convert(library.LimitScript), many: convert(library.LimitManyScript), peek: convert(library.LimitPeekScript),
	}
	l.plain = scripts{
		limit: convert(library.LimitScript.Plain()), many: convert(library.LimitManyScript.Plain()),
		peek: convert(library.LimitPeekScript.Plain()),
	}
	return l
}

// Decide charges all charges or none, in one round trip, and gives a row for each. Rows of a decision in which one was
// denied say what each would have answered. Several charges of one key have to fit together; the row of a later one
// speaks of it and the earlier ones together.
//
// Errors: ErrNoPolicy, *WrongTypeError, else for redisops.Classify. A script or library that the server lacks is loaded,
// and the call repeated, all within the time of one command; a call that may have run never is.
func (l *Limiter) Decide(ctx context.Context, charges []Charge) ([]Row, error) {
	switch len(charges) {
	case 0:
		return nil, nil
	case 1:
		rows := make([]Row, 1)
		reply, err := l.call(ctx, charges, func(s *scripts) *script { return &s.limit }, false)
		if err == nil {
			rows[0], err = parseRow(reply)
		}
		if err != nil {
			return nil, fmt.Errorf("limit %s: %w", charges[0].Policy.Name, err)
		}
		return rows, nil
	default:
		reply, err := l.call(ctx, charges, func(s *scripts) *script { return &s.many }, false)
		if err != nil {
			return nil, fmt.Errorf("limit %d charges: %w", len(charges), err)
		}
		rows, err := parseRows(reply, len(charges))
		if err != nil {
			return nil, fmt.Errorf("limit %d charges: %w", len(charges), err)
		}
		return rows, nil
	}
}

// Within gives the context for deciding again, or less, in the place of a Decide that failed and began at start: both
// together take no longer than one may.
func (l *Limiter) Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	return l.caller.Within(ctx, start)
}

// Peek gives for each charge the row that Decide would give for it alone, and writes nothing. Errors: see Decide.
func (l *Limiter) Peek(ctx context.Context, charges []Charge) ([]Row, error) {
	rows := make([]Row, len(charges))
	for i := range charges {
		reply, err := l.call(ctx, charges[i:i+1], func(s *scripts) *script { return &s.peek }, true)
		if err == nil {
			rows[i], err = parseRow(reply)
		}
		if err != nil {
			return nil, fmt.Errorf("peek %s: %w", charges[i].Policy.Name, err)
		}
	}
	return rows, nil
}

func (l *Limiter) call(ctx context.Context, charges []Charge, pick func(*scripts) *script, readOnly bool) (any, error) {
	var reply any
	var err error
	if l.mode == library.ModeFunctions {
		reply, err = l.callFunction(ctx, charges, pick(&l.flagged), readOnly)
	} else {
		reply, err = l.callScript(ctx, charges, pick)
	}
	if err != nil {
		return nil, typed(err)
	}
	return reply, nil
}

func (l *Limiter) callFunction(ctx context.Context, charges []Charge, s *script, readOnly bool) (any, error) {
	command := any("fcall")
	if readOnly {
		command = "fcall_ro"
	}
	args, err := l.arguments(command, s.name, charges)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	reply, err := l.caller.Do(ctx, args)
	if err == nil || redisops.Classify(err) != redisops.NoFunction {
		return reply, err
	}
	ctx, cancel := l.caller.Within(ctx, start)
	defer cancel()
	if failed := l.loader.load(ctx); failed != nil {
		// In this order, since the reason for not loading says more to redisops.Classify (NOPERM, for example).
		return nil, fmt.Errorf("loading the function library: %w, after: %w", failed, err)
	}
	return l.caller.Do(ctx, args)
}

func (l *Limiter) callScript(ctx context.Context, charges []Charge, pick func(*scripts) *script) (any, error) {
	known := &l.flagged
	if l.noFlags.Load() {
		known = &l.plain
	}
	start := time.Now()
	reply, err := l.evaluate(ctx, charges, pick(known), start)
	if err != nil && known == &l.flagged && library.IsNotCompiled(err) {
		l.noFlags.Store(true)
		ctx, cancel := l.caller.Within(ctx, start)
		defer cancel()
		return l.evaluate(ctx, charges, pick(&l.plain), start)
	}
	return reply, err
}

func (l *Limiter) evaluate(ctx context.Context, charges []Charge, s *script, start time.Time) (any, error) {
	args, err := l.arguments("evalsha", s.sha, charges)
	if err != nil {
		return nil, err
	}
	reply, err := l.caller.Do(ctx, args)
	if err == nil || redisops.Classify(err) != redisops.NoScript {
		return reply, err
	}
	ctx, cancel := l.caller.Within(ctx, start)
	defer cancel()
	// Not in args: what was sent belongs to the caller.
	args = append([]any{"eval", s.text}, args[2:]...)
	return l.caller.Do(ctx, args)
}

// typed makes errors of the replies that somebody decides on.
func typed(err error) error {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return err
	}
	text := reply.Error()
	if strings.HasPrefix(text, "PENSTOCK_NOPOLICY ") {
		return fmt.Errorf("%w: %w", ErrNoPolicy, err)
	}
	if rest, is := strings.CutPrefix(text, "PENSTOCK_WRONGTYPE "); is {
		key, _, _ := strings.Cut(rest, " ")
		return &WrongTypeError{Key: key}
	}
	return err
}
