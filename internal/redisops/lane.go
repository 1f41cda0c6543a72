package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	// mostMoves is how often a command is sent to where another node of a cluster said.
	mostMoves = 5
	// maxQueued bounds the commands that wait to be sent to one server; further ones get ErrOverloaded at once.
	maxQueued = 4096
	// maxBatch bounds the commands of one pipeline.
	maxBatch = 256
	// baseBatches is how many batches are on the wire at once while the server answers fast; see gate.
	baseBatches = 1
	// mostBatches is how many there are at most. With maxLinger and the default CommandTimeout they cover any round trip
	// that leaves time for the reply: 16 × 0.5 ms is 80 % of 10 ms.
	mostBatches = 16
	maxLinger   = 500 * time.Microsecond
	// longEnough is how long a caller has to have waited in vain for the breaker to count it, at most.
	longEnough = 10 * time.Millisecond
)

var (
	// A caller's timeout or cancellation, before and after its command was sent.
	errNotSentInTime = fmt.Errorf("%w: not sent in time: %w", ErrNotExecuted, context.DeadlineExceeded)
	errNoReplyInTime = fmt.Errorf("%w: no reply in time: %w", ErrUnknownOutcome, context.DeadlineExceeded)
	errNotSentCancel = fmt.Errorf("%w: the caller went away: %w", ErrNotExecuted, context.Canceled)
	errNoReplyCancel = fmt.Errorf("%w: the caller went away: %w", ErrUnknownOutcome, context.Canceled)
	errOverloaded    = fmt.Errorf("%w: %w", ErrNotExecuted, ErrOverloaded)
	errClosed        = fmt.Errorf("%w: %w", ErrNotExecuted, ErrCallerClosed)
	// errLeft is for a server that is no primary of its cluster any more.
	errLeft = fmt.Errorf("%w: the server left the cluster", ErrNotExecuted)
	// errLateProbe is a probe whose answer came after CommandTimeout.
	errLateProbe = errors.New("the probe was answered late")
)

// lane is the way to one server: commands wait in a queue of its own, and workers of its own send them in pipelines over
// the connections of one client. So a server that is slow or gone holds up only what it has to serve itself.
type lane struct {
	client         *redis.Client
	address        string
	router         *router // of a cluster
	dropIdle       func()  // what stands of connections
	log            *slog.Logger
	commandTimeout time.Duration
	batchTimeout   time.Duration

	queue chan *call
	gate  *gate
	calls sync.Pool

	breaker *breaker
	warmer  *warmer
	batches atomic.Int64
	// stop ends what the warmer and the prober are doing.
	stop context.CancelFunc

	closing chan struct{}
	closed  chan struct{}
	once    sync.Once
	workers sync.WaitGroup
	// ended is what calls get that come later; it is set before closing is closed.
	ended error
	// seen is how many batches there were at the last look of the router.
	seen int64
}

// bounds are the sizes of a lane.
type bounds struct {
	base, most int // batches on the wire; see gate
	queued     int // commands waiting to be sent
	warm       int // connections that are kept open
}

var defaultBounds = bounds{base: baseBatches, most: mostBatches, queued: maxQueued, warm: mostBatches}

func newLane(client *redis.Client, address string, cfg Config, b bounds, r *router, dropIdle func(), log *slog.Logger) *lane {
	most := min(b.most, cfg.MaxConnections)
	l := &lane{
		client:         client,
		address:        address,
		router:         r,
		dropIdle:       dropIdle,
		log:            log,
		commandTimeout: cfg.CommandTimeout,
		// One for opening a connection, one for the batch.
		batchTimeout: 2 * cfg.DialTimeout,
		queue:        make(chan *call, b.queued),
		gate:         newGate(min(b.base, most), most, min(cfg.CommandTimeout/20, maxLinger)),
		calls:        sync.Pool{New: func() any { return newCall() }},
		closing:      make(chan struct{}),
		closed:       make(chan struct{}),
	}
	l.breaker = newBreaker(cfg.MinBackoff, cfg.MaxBackoff, time.Now, upTo, l.breakerChanged)
	l.warmer = &warmer{
		client: client, want: min(b.warm, most), timeout: l.batchTimeout, min: cfg.MinBackoff, max: cfg.MaxBackoff,
		breaker: l.breaker, kick: make(chan struct{}, 1),
	}
	for range most {
		l.workers.Go(l.work)
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	if b.warm > 0 {
		l.workers.Go(func() { l.warmer.run(ctx, l.batches.Load) })
	}
	l.workers.Go(func() { l.probe(ctx) })
	return l
}

// upTo gives a random duration from 0 to d.
func upTo(d time.Duration) time.Duration { return rand.N(d + 1) }

// do sends the command and waits for the reply, for so long; see Caller.Do.
func (l *lane) do(ctx context.Context, args []any, wait time.Duration) (any, error) {
	select {
	case <-l.closing:
		return nil, l.ended
	default:
	}
	pass, err := l.breaker.admit()
	if err != nil {
		return nil, err
	}
	call := l.calls.Get().(*call)
	call.enter(l, pass, args)
	select {
	case l.queue <- call:
	default:
		l.breaker.release(pass)
		return nil, errOverloaded
	}

	call.timer.Reset(wait)
	for closed := l.closed; ; {
		select {
		case <-call.done:
			return l.collect(call)
		case <-call.timer.C:
			return l.giveUp(call, pass, errNotSentInTime, errNoReplyInTime, wait)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return l.giveUp(call, pass, errNotSentInTime, errNoReplyInTime, wait)
			}
			return l.giveUp(call, pass, errNotSentCancel, errNoReplyCancel, 0)
		case <-closed:
			if call.moved.Load() {
				closed = nil // another lane has it
				continue
			}
			// It came into the queue after the last worker had left, or has its answer.
			return l.giveUp(call, pass, l.ended, ErrUnknownOutcome, 0)
		}
	}
}

// collect takes the answer out of a call that is done, and keeps the call for another.
func (l *lane) collect(call *call) (any, error) {
	call.timer.Stop()
	value, err := call.value, call.err
	call.lane.report(call.pass, err)
	if err != nil && call.moved.Load() {
		l.router.lacks(call.Cmd.Args(), call.lane.client, err)
	}
	call.Cmd, call.value, call.err, call.asking = nil, nil, nil, nil
	call.lane, call.pass = nil, nil
	l.calls.Put(call)
	return value, err
}

// giveUp leaves the call to the workers, which may still hold it; so it is not used for another. The caller waited so long.
func (l *lane) giveUp(call *call, pass *period, notSent, noReply error, waited time.Duration) (any, error) {
	err := notSent
	if !call.abandon() {
		select {
		case <-call.done:
			return l.collect(call)
		default:
			err = noReply
		}
	}
	call.timer.Stop()
	if waited >= min(l.commandTimeout, longEnough) && !call.moved.Load() {
		l.breaker.fail(pass, err)
	} else {
		l.breaker.release(pass)
	}
	return nil, err
}

// report tells the breaker the outcome of a call. Connections that break are told by the worker, once for all calls in the
// batch; but a trial tells its own.
func (l *lane) report(pass *period, err error) {
	switch judged := judge(err); {
	case judged == served:
		l.breaker.succeed(pass)
	case judged == unsaid, judged == broken && pass.state == BreakerClosed:
		l.breaker.release(pass)
	default:
		l.breaker.fail(pass, err)
	}
}

// end refuses further commands with that error, lets those on the wire end, and returns when all goroutines have ended.
func (l *lane) end(reason error) {
	l.once.Do(func() {
		l.ended = reason
		close(l.closing)
		l.stop()
		l.workers.Wait()
		for {
			select {
			case call := <-l.queue:
				if call.take() {
					call.finish(nil, reason)
				}
			default:
				close(l.closed)
				return
			}
		}
	})
	<-l.closed
}

func (l *lane) work() {
	batch := make([]*call, 0, maxBatch)
	commands := make([]redis.Cmder, 0, maxBatch)
	for {
		select {
		case <-l.gate.turn:
		case <-l.closing:
			return
		}
		for hasTurn := true; hasTurn; hasTurn = l.gate.arrive() {
			if batch = l.gather(batch[:0]); len(batch) == 0 {
				return
			}
			l.gate.depart()
			l.send(batch, commands)
			clear(batch)
			clear(commands[:cap(commands)])
		}
	}
}

// gather waits for a call and takes all that wait with it; none when the lane ends.
func (l *lane) gather(batch []*call) []*call {
	for len(batch) == 0 {
		select {
		case call := <-l.queue:
			if call.take() {
				batch = append(batch, call)
			}
		case <-l.closing:
			return nil
		}
	}
	for len(batch) < maxBatch {
		select {
		case call := <-l.queue:
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
func (l *lane) send(batch []*call, commands []redis.Cmder) {
	ctx, cancel := context.WithTimeout(context.Background(), l.batchTimeout)
	defer cancel()
	l.batches.Add(1)
	for len(batch) > 0 {
		commands = commands[:0]
		for _, call := range batch {
			if call.asking != nil {
				commands = append(commands, call.asking)
			}
			commands = append(commands, call)
		}
		pass := l.breaker.current.Load()
		err := l.exchange(ctx, commands)
		if cause := breakage(batch, err); cause != nil && pass.state == BreakerClosed {
			l.breaker.fail(pass, cause)
		}

		again := batch[:0]
		for _, call := range batch {
			value, callErr := call.outcome(err)
			if callErr != nil && l.further(call, callErr, &again) {
				continue
			}
			call.finish(value, callErr)
		}
		batch = again
	}
}

// breakage gives the error of a connection that broke under the batch, or could not be opened for it.
func breakage(batch []*call, batchErr error) error {
	if batchErr == nil {
		return nil
	}
	for _, call := range batch {
		if _, err := call.outcome(batchErr); judge(err) == broken {
			return err
		}
	}
	return nil
}

// further tells whether the call goes on: it comes into again, or another lane has it now.
func (l *lane) further(call *call, err error, again *[]*call) bool {
	class := Classify(err)
	if class == ReadOnly {
		l.dropIdle()
	}
	if l.router != nil && class.Repeatable() {
		if moved, done := l.router.redirect(l, call, err); done {
			return moved
		}
	}
	if !class.Repeatable() || call.repeats >= maxRepeats || !call.wanted() {
		return false
	}
	call.repeats++
	if call.asking != nil {
		call.asking = asking() // it counts for one command
	}
	call.prepare(call.Cmd.Args())
	*again = append(*again, call)
	return true
}

// exchange writes the commands and reads their replies.
func (l *lane) exchange(ctx context.Context, commands []redis.Cmder) error {
	return guarded(func() error {
		pipeline := l.client.Pipeline()
		_ = pipeline.BatchProcess(ctx, commands...)
		_, err := pipeline.Exec(ctx)
		return err
	})
}

// guarded lets what a reply makes go-redis panic with cost its batch, and not the process: the outcome of what has no answer
// yet is unknown.
func guarded(send func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic in go-redis: %v", reason)
		}
	}()
	return send()
}

// probe asks the server while the breaker is not closed, until ctx ends.
func (l *lane) probe(ctx context.Context) {
	for {
		var due <-chan time.Time
		switch l.breaker.current.Load().state {
		case BreakerOpen:
			due = time.After(l.breaker.nextPause())
		case BreakerHalfOpen:
			due = time.After(idleTrial)
		case BreakerClosed:
		}
		select {
		case <-due:
		case <-l.breaker.opening:
			continue
		case <-ctx.Done():
			return
		}
		err := l.ping(ctx)
		if errors.Is(err, errLateProbe) {
			// A reply that comes late tells when a slow spell ends: perhaps just now.
			err = l.ping(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if judge(err) == broken && !errors.Is(err, errLateProbe) {
			// What stands may lead to a server that is gone without a word, while a new connection finds another in its place.
			l.dropIdle()
		}
		if err != nil && l.router != nil {
			l.router.reload()
		}
		l.breaker.probed(err)
	}
}

// ping gives an error when the server does not serve, or not in time, or does not let us in. It waits for longer than a caller
// would: for one that is far, a connection takes too long to open, and so they never hear by themselves why it is refused.
func (l *lane) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.batchTimeout)
	defer cancel()
	start := time.Now()
	err := l.client.Ping(ctx).Err()
	switch {
	case judge(err) != served, Classify(err) == Configuration && !redis.IsPermissionError(err):
		return fmt.Errorf("probing: %w", err)
	case time.Since(start) > l.commandTimeout:
		return errLateProbe
	}
	return nil
}

// breakerChanged logs when a server stops and begins to serve; the attempts in between are no news.
func (l *lane) breakerChanged(from, to *period) {
	switch {
	case from.state == BreakerClosed:
		l.log.Warn("Redis does not serve decisions: they are answered without it", "server", l.address, "cause", to.cause)
		if l.router != nil {
			l.router.reload()
		}
	case to.state == BreakerClosed:
		l.log.Info("Redis serves decisions again", "server", l.address, "after", to.since.Sub(from.since).Round(time.Millisecond).String())
		l.warmer.wake()
	}
}

// shard gives the state for those who look from outside.
func (l *lane) shard() Shard {
	p := l.breaker.current.Load()
	return Shard{Address: l.address, Breaker: p.state, Since: p.since, Err: p.cause, Opened: l.breaker.opened.Load()}
}
