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
	// Slotted tells that all keys of one command must be of one hash slot.
	Slotted() bool
	// Primary gives the server that commands for the key go to now.
	Primary(ctx context.Context, key string) (*redis.Client, error)
}

// Limiter decides by asking Redis. It is safe for concurrent use.
type Limiter struct {
	caller Caller
	mode   library.Mode
	loader loader
	known  preparations
	// documents are for calls with a policy that is not published.
	documents preparations
	// noFlags is set once the server did not compile a script that begins with #!lua.
	noFlags atomic.Bool
	// ids makes the ids of charges that are decided apart.
	ids ids

	limit, many, peek, refund, credit, reset, acquire, release operation
}

// operation is one function, and the script in its place.
type operation struct {
	// flagged begins with #!lua, plain does not.
	flagged, plain script
	// decides tells that the policy's expressions matter for it, bare that it takes no cost and no id, and readOnly that
	// it writes nothing.
	decides, bare, readOnly bool
}

type script struct {
	name, text, sha any
}

// New gives a Limiter. Decisions go through the caller; documents is where the published library is read that a server
// lacks.
func New(caller Caller, documents redis.UniversalClient, mode library.Mode) *Limiter {
	l := &Limiter{caller: caller, mode: mode, loader: loader{caller: caller, documents: documents}, ids: newIDs()}
	for _, o := range []struct {
		operation *operation
		script    library.Script
	}{
		{&l.limit, library.LimitScript}, {&l.many, library.LimitManyScript}, {&l.peek, library.LimitPeekScript},
		{&l.refund, library.LimitRefundScript}, {&l.credit, library.LimitCreditScript}, {&l.reset, library.LimitResetScript},
		{&l.acquire, library.SlotAcquireScript}, {&l.release, library.SlotReleaseScript},
	} {
		plain := o.script.Plain()
		o.operation.flagged = script{name: o.script.Name, text: o.script.Text, sha: o.script.SHA}
		o.operation.plain = script{name: plain.Name, text: plain.Text, sha: plain.SHA}
	}
	for _, o := range []*operation{&l.limit, &l.many, &l.peek, &l.acquire} {
		o.decides = true
	}
	l.peek.readOnly, l.reset.bare = true, true
	return l
}

// Decide charges all charges or none, in one round trip, and gives a row for each. Rows of a decision in which one was
// denied say what each would have answered. Several charges of one key have to fit together; the row of a later one
// speaks of it and the earlier ones together.
//
// Where the keys of a command must be of one slot, charges of several slots are decided side by side, those of each slot
// together: then some may be charged though another was denied. What each charged is undone by Undo, for which there is
// Row.Undo. When only some could be decided, the error is a *PartialError, and the rows of the others hold.
//
// Errors: ErrNoPolicy, *WrongTypeError, *PartialError, else for redisops.Classify. A script or library that the server lacks
// is loaded, and the call repeated, all within the time of one command; a call that may have run never is.
func (l *Limiter) Decide(ctx context.Context, charges []Charge) ([]Row, error) {
	if len(charges) > 1 && l.caller.Slotted() {
		if parts := bySlot(charges); len(parts) > 1 {
			return l.decideApart(ctx, charges, parts)
		}
	}
	return l.decideTogether(ctx, charges)
}

// decideTogether decides charges by one call.
func (l *Limiter) decideTogether(ctx context.Context, charges []Charge) ([]Row, error) {
	switch len(charges) {
	case 0:
		return nil, nil
	case 1:
		row, err := l.one(ctx, &l.limit, charges)
		if err != nil {
			return nil, err
		}
		return []Row{row}, nil
	default:
		along := unpublished(charges)
		reply, err := l.call(ctx, &l.many, along, func(command, script any) ([]any, error) {
			return l.arguments(&l.many, command, script, charges, along)
		})
		if errors.Is(err, redisops.ErrBreakerOpen) {
			return nil, err
		}
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

// arranger gives the arguments of a call by that command of that function or script. What was sent belongs to the caller,
// so each time they are new.
type arranger func(command, script any) ([]any, error)

// call makes a call of a function, or of the script in its place where the server has no functions or the policies go along.
func (l *Limiter) call(ctx context.Context, o *operation, along bool, arrange arranger) (any, error) {
	var reply any
	var err error
	if l.mode == library.ModeFunctions && !along {
		reply, err = l.callFunction(ctx, o, arrange)
	} else {
		reply, err = l.callScript(ctx, o, arrange)
	}
	if err != nil {
		return nil, typed(err)
	}
	return reply, nil
}

func (l *Limiter) callFunction(ctx context.Context, o *operation, arrange arranger) (any, error) {
	command := any("fcall")
	if o.readOnly {
		command = "fcall_ro"
	}
	args, err := arrange(command, o.flagged.name)
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
	if failed := l.loader.load(ctx, args[3].(string)); failed != nil {
		// In this order, since the reason for not loading says more to redisops.Classify (NOPERM, for example).
		return nil, fmt.Errorf("loading the function library: %w, after: %w", failed, err)
	}
	return l.caller.Do(ctx, args)
}

func (l *Limiter) callScript(ctx context.Context, o *operation, arrange arranger) (any, error) {
	known := &o.flagged
	if l.noFlags.Load() {
		known = &o.plain
	}
	start := time.Now()
	reply, err := l.evaluate(ctx, known, arrange, start)
	if err != nil && known == &o.flagged && library.IsNotCompiled(err) {
		l.noFlags.Store(true)
		ctx, cancel := l.caller.Within(ctx, start)
		defer cancel()
		return l.evaluate(ctx, &o.plain, arrange, start)
	}
	return reply, err
}

func (l *Limiter) evaluate(ctx context.Context, s *script, arrange arranger, start time.Time) (any, error) {
	args, err := arrange("evalsha", s.sha)
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
