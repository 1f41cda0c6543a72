package redisops

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// AnswerMargin is kept of a caller's deadline, for what it does with the answer.
	AnswerMargin = 2 * time.Millisecond
	// maxRepeats is how often a command is sent again after a reply that proves that it did not run. The second is for READONLY:
	// the first may meet the connection that is to be dropped.
	maxRepeats = 2
	// maxQueued bounds the commands that wait to be sent; further ones get ErrOverloaded at once.
	maxQueued = 4096
	// maxBatch bounds the commands of one pipeline.
	maxBatch = 256
	// baseBatches is how many batches are on the wire at once while the server answers fast; see gate.
	baseBatches = 1
	// mostBatches is how many there are at most. With maxLinger and the default CommandTimeout they cover any round trip
	// that leaves time for the reply: 16 × 0.5 ms is 80 % of 10 ms.
	mostBatches = 16
	maxLinger   = 500 * time.Microsecond
)

var (
	errNoTime = fmt.Errorf("%w: no time left before the deadline: %w", ErrNotExecuted, context.DeadlineExceeded)
	// A caller's timeout or cancellation, before and after its command was sent.
	errNotSentInTime = fmt.Errorf("%w: not sent in time: %w", ErrNotExecuted, context.DeadlineExceeded)
	errNoReplyInTime = fmt.Errorf("%w: no reply in time: %w", ErrUnknownOutcome, context.DeadlineExceeded)
	errNotSentCancel = fmt.Errorf("%w: the caller went away: %w", ErrNotExecuted, context.Canceled)
	errNoReplyCancel = fmt.Errorf("%w: the caller went away: %w", ErrUnknownOutcome, context.Canceled)
	errOverloaded    = fmt.Errorf("%w: %w", ErrNotExecuted, ErrOverloaded)
	errClosed        = fmt.Errorf("%w: %w", ErrNotExecuted, ErrCallerClosed)
)

// Caller sends mutating commands, each once, in pipelines that concurrent callers share. Its I/O has timeouts of its
// own: a caller that stops waiting does not break the connection for the others, and a command on the wire is never
// called back.
type Caller struct {
	client         redis.UniversalClient
	commandTimeout time.Duration
	batchTimeout   time.Duration

	queue chan *call
	gate  *gate
	calls sync.Pool

	warmer  *warmer
	batches atomic.Int64
	// stop ends what the warmer is doing.
	stop context.CancelFunc

	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
	workers sync.WaitGroup
}

// NewCaller gives a Caller over a client of NewClient with the same configuration. It begins to open connections, and
// keeps them open; see Warm. Close ends its goroutines; the client stays open.
func NewCaller(client redis.UniversalClient, cfg Config) *Caller {
	cfg = cfg.WithDefaults()
	return newCaller(client, cfg, bounds{base: baseBatches, most: mostBatches, queued: maxQueued, warm: mostBatches})
}

// bounds are the sizes of a Caller.
type bounds struct {
	base, most int // batches on the wire; see gate
	queued     int // commands waiting to be sent
	warm       int // connections that are kept open
}

func newCaller(client redis.UniversalClient, cfg Config, b bounds) *Caller {
	most := min(b.most, cfg.MaxConnections)
	c := &Caller{
		client:         client,
		commandTimeout: cfg.CommandTimeout,
		// One for opening a connection, one for the batch.
		batchTimeout: 2 * cfg.DialTimeout,
		queue:        make(chan *call, b.queued),
		gate:         newGate(min(b.base, most), most, min(cfg.CommandTimeout/20, maxLinger)),
		calls:        sync.Pool{New: func() any { return newCall() }},
		closing:      make(chan struct{}),
		closed:       make(chan struct{}),
	}
	for range most {
		c.workers.Go(c.work)
	}
	c.warmer = &warmer{
		client: client, want: min(b.warm, most), timeout: c.batchTimeout, min: cfg.MinBackoff, max: cfg.MaxBackoff,
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	if b.warm > 0 {
		c.workers.Go(func() { c.warmer.run(ctx, c.batches.Load) })
	}
	return c
}

// Do sends the command (its name and arguments: strings, byte slices, integers) and waits for the reply, until
// CommandTimeout or 2 ms before the deadline of ctx, whichever is first, or until ctx is cancelled. The args must not be
// changed afterwards, even when Do has returned an error: the command may still be on its way.
//
// Errors: an error reply as it came (see Classify); ErrNotExecuted or ErrUnknownOutcome with the cause wrapped. A command that
// certainly did not run is repeated at once, at most twice, while its caller waits. An empty reply is nil, nil.
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
	select {
	case <-c.closing:
		return nil, errClosed
	default:
	}

	call := c.calls.Get().(*call)
	call.state.Store(callWaiting)
	call.prepare(args)
	select {
	case c.queue <- call:
	default:
		return nil, errOverloaded
	}

	call.timer.Reset(wait)
	select {
	case <-call.done:
		return c.collect(call)
	case <-call.timer.C:
		return c.giveUp(call, errNotSentInTime, errNoReplyInTime)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return c.giveUp(call, errNotSentInTime, errNoReplyInTime)
		}
		return c.giveUp(call, errNotSentCancel, errNoReplyCancel)
	case <-c.closed:
		// It came into the queue after the last worker had left, or has its answer.
		return c.giveUp(call, errClosed, ErrUnknownOutcome)
	}
}

// Warm waits until the connections stand that a growing load will need (16, or MaxConnections), without which the first
// decisions on a far server are too late. A Caller sees to it by itself, from the beginning and after an outage; Warm is for
// those who want to be ready first. The error is for Classify.
func (c *Caller) Warm(ctx context.Context) error { return c.warmer.warm(ctx, false) }

// Within gives the context for the further commands of a decision that began at start, so that all of them together take
// no longer than one may: CommandTimeout, or what ctx has left. Loading what the server lacks counts too. The caller
// calls the CancelFunc when it has its answer.
func (c *Caller) Within(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	return context.WithDeadline(ctx, start.Add(c.commandTimeout+AnswerMargin))
}

// collect takes the answer out of a call that is done, and keeps the call for another.
func (c *Caller) collect(call *call) (any, error) {
	call.timer.Stop()
	value, err := call.value, call.err
	call.Cmd, call.value, call.err = nil, nil, nil
	c.calls.Put(call)
	return value, err
}

// giveUp leaves the call to the workers, which may still hold it; so it is not used for another.
func (c *Caller) giveUp(call *call, notSent, noReply error) (any, error) {
	if call.abandon() {
		call.timer.Stop()
		return nil, notSent
	}
	select {
	case <-call.done:
		return c.collect(call)
	default:
		call.timer.Stop()
		return nil, noReply
	}
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

// Close refuses further commands, lets those on the wire end, and returns when all goroutines have ended, which takes at
// most twice DialTimeout.
func (c *Caller) Close() {
	c.once.Do(func() {
		close(c.closing)
		c.stop()
		c.workers.Wait()
		for {
			select {
			case call := <-c.queue:
				if call.take() {
					call.finish(nil, errClosed)
				}
			default:
				close(c.closed)
				return
			}
		}
	})
	<-c.closed
}

func (c *Caller) work() {
	batch := make([]*call, 0, maxBatch)
	commands := make([]redis.Cmder, 0, maxBatch)
	for {
		select {
		case <-c.gate.turn:
		case <-c.closing:
			return
		}
		for hasTurn := true; hasTurn; hasTurn = c.gate.arrive() {
			if batch = c.gather(batch[:0]); len(batch) == 0 {
				return
			}
			c.gate.depart()
			c.send(batch, commands)
			clear(batch)
			clear(commands[:cap(commands)])
		}
	}
}

// gather waits for a call and takes all that wait with it; none when the caller closes.
func (c *Caller) gather(batch []*call) []*call {
	for len(batch) == 0 {
		select {
		case call := <-c.queue:
			if call.take() {
				batch = append(batch, call)
			}
		case <-c.closing:
			return nil
		}
	}
	for len(batch) < maxBatch {
		select {
		case call := <-c.queue:
			if call.take() {
				batch = append(batch, call)
			}
		default:
			return batch
		}
	}
	return batch
}

// send executes the batch, gives each call its outcome, and sends those again that did not run and may.
func (c *Caller) send(batch []*call, commands []redis.Cmder) {
	ctx, cancel := context.WithTimeout(context.Background(), c.batchTimeout)
	defer cancel()
	c.batches.Add(1)
	for repeats := 0; len(batch) > 0; repeats++ {
		commands = commands[:0]
		for _, call := range batch {
			commands = append(commands, call)
		}
		err := c.exchange(ctx, commands)

		again := batch[:0]
		for _, call := range batch {
			value, callErr := call.outcome(err)
			if callErr != nil && repeats < maxRepeats && Classify(callErr).Repeatable() && call.wanted() {
				call.prepare(call.Cmd.Args())
				again = append(again, call)
				continue
			}
			call.finish(value, callErr)
		}
		batch = again
	}
}

// exchange writes the commands and reads their replies. What a reply makes go-redis panic with costs its batch, and not the
// process: the outcome of what has no answer yet is unknown.
func (c *Caller) exchange(ctx context.Context, commands []redis.Cmder) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic in go-redis: %v", reason)
		}
	}()
	pipeline := c.client.Pipeline()
	_ = pipeline.BatchProcess(ctx, commands...)
	_, err = pipeline.Exec(ctx)
	return err
}
