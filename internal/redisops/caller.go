package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

var errNoTime = fmt.Errorf("%w: no time left before the deadline: %w", ErrNotExecuted, context.DeadlineExceeded)

// Caller sends mutating commands, each once, in pipelines that concurrent callers share. Its I/O has timeouts of its
// own: a caller that stops waiting does not break the connection for the others, and a command on the wire is never
// called back. Each server that decides has queue, connections and breaker of its own: the one of a Standalone or Sentinel
// store, the first of an Independent one, and each primary of a Cluster.
type Caller struct {
	commandTimeout time.Duration
	// One of these.
	only   *lane
	router *router
}

// CallerOptions are for NewCaller; zero values stand for the defaults.
type CallerOptions struct {
	// Logger gets one record when a server stops serving decisions, and one when it serves them again. Default
	// slog.Default().
	Logger *slog.Logger
}

// Shard is the state of one of the servers that decide.
type Shard struct {
	// Address is host:port; for a Sentinel store it is the name of the primary.
	Address string
	Breaker BreakerState
	// Since is when the breaker came into its state; while half-open, when it opened.
	Since time.Time
	// Err is why the breaker is not closed, as of the last attempt; nil while it is.
	Err error
	// Opened is how often the breaker opened so far.
	Opened uint64
}

// NewCaller gives a Caller over these servers. It begins to open connections, and keeps them open; see Warm. Close ends its
// goroutines; the servers stay open.
func NewCaller(servers *Servers, options CallerOptions) *Caller {
	return newCaller(servers, options, defaultBounds)
}

func newCaller(servers *Servers, options CallerOptions, b bounds) *Caller {
	log := options.Logger
	if log == nil {
		log = slog.Default()
	}
	cfg := servers.Config()
	c := &Caller{commandTimeout: cfg.CommandTimeout}
	switch client := servers.Client().(type) {
	case *redis.ClusterClient:
		c.router = newRouter(client, servers, b, log)
	case *redis.Client:
		address := cfg.MasterName
		if address == "" {
			address = cfg.Addresses[0]
		}
		c.only = newLane(client, address, cfg, b, nil, func() { servers.dropIdle(client) }, log)
	}
	return c
}

// Do sends the command (its name and arguments: strings, byte slices, integers) and waits for the reply, until
// CommandTimeout or 2 ms before the deadline of ctx, whichever is first, or until ctx is cancelled. The args must not be
// changed afterwards, even when Do has returned an error: the command may still be on its way. In a Cluster the command is
// one whose second argument is the number of its keys (EVALSHA, FCALL), and goes where the first of them is.
//
// Errors: an error reply as it came (see Classify); ErrNotExecuted or ErrUnknownOutcome with the cause wrapped. A command that
// certainly did not run is repeated at once, at most twice, and follows at most five redirections of a Cluster, while its
// caller waits. ErrBreakerOpen comes at once when the server failed of late. An empty reply is nil, nil.
func (c *Caller) Do(ctx context.Context, args []any) (any, error) {
	if err := checkArgs(args); err != nil {
		return nil, err
	}
	wait := c.commandTimeout
	if deadline, has := ctx.Deadline(); has {
		wait = min(wait, time.Until(deadline)-AnswerMargin)
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, errNotSentCancel
	case wait <= 0:
		return nil, errNoTime
	}
	if c.only != nil {
		return c.only.do(ctx, args, wait)
	}
	key, err := firstKey(args)
	if err != nil {
		return nil, err
	}
	l, err := c.router.route(key)
	if err != nil {
		return nil, err
	}
	value, err := l.do(ctx, args, wait)
	if errors.Is(err, errLeft) {
		// It left between the two steps, or with the command in its queue.
		if l, err = c.router.route(key); err != nil {
			return nil, err
		}
		return l.do(ctx, args, wait)
	}
	return value, err
}

// Warm waits until the connections stand that a growing load will need (to each server 16, or MaxConnections), without which
// the first decisions on a far server are too late. A Caller sees to it by itself, from the beginning and after an outage;
// Warm is for those who want to be ready first. The error is for Classify.
func (c *Caller) Warm(ctx context.Context) error {
	if c.only != nil {
		return c.only.warmer.warm(ctx, false)
	}
	return c.router.warm(ctx)
}

// Within gives the context for the further commands of a decision that began at start, so that all of them together take
// no longer than one may: CommandTimeout, or what ctx has left. Loading what the server lacks counts too. The caller
// calls the CancelFunc when it has its answer.
func (c *Caller) Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	return context.WithDeadline(ctx, start.Add(c.commandTimeout+AnswerMargin))
}

// Slotted tells whether the keys of one call must share a hash slot; see Slot.
func (c *Caller) Slotted() bool { return c.router != nil }

// Primary gives the client of the server where calls for the key go now; for loading the library there. While a slot of a
// Cluster moves, and the last call for it met a node without its function, it is that node. It does not wait for the network. The error is ErrNotExecuted while the server is not known.
func (c *Caller) Primary(_ context.Context, key string) (*redis.Client, error) {
	if c.only != nil {
		return c.only.client, nil
	}
	return c.router.library(key)
}

// Shards gives the state of each server that decides. Of a Cluster there is none as long as its nodes are not known.
func (c *Caller) Shards() []Shard {
	if c.only != nil {
		return []Shard{c.only.shard()}
	}
	return c.router.shards()
}

// Close refuses further commands, lets those on the wire end, and returns when all goroutines have ended, which takes at
// most twice DialTimeout.
func (c *Caller) Close() {
	if c.only != nil {
		c.only.end(errClosed)
		return
	}
	c.router.close()
}

// checkArgs refuses what go-redis could not write: it would break the batch for everybody in it.
func checkArgs(args []any) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: no command", ErrNotExecuted)
	}
	for i, arg := range args {
		switch arg.(type) {
		case string, []byte, int, int64:
		default:
			return fmt.Errorf("%w: argument %d is a %T, want string, []byte, int or int64", ErrNotExecuted, i, arg)
		}
	}
	return nil
}

// firstKey gives the key that tells where a command goes.
func firstKey(args []any) (string, error) {
	if len(args) > 3 && keyed(args[2]) {
		switch key := args[3].(type) {
		case string:
			return key, nil
		case []byte:
			return string(key), nil
		}
	}
	return "", fmt.Errorf("%w: the command has no key that tells which server of the cluster serves it", ErrNotExecuted)
}

// keyed tells whether a number of keys is above zero.
func keyed(count any) bool {
	switch n := count.(type) {
	case int:
		return n > 0
	case int64:
		return n > 0
	case string:
		parsed, err := strconv.Atoi(n)
		return err == nil && parsed > 0
	default:
		return false
	}
}
