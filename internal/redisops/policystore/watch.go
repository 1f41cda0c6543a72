package policystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// DefaultResync is how often the set is read again without being told.
const DefaultResync = 30 * time.Second

// resyncJitter is how far a resync may be from its time, so that replicas do not ask together.
const resyncJitter = 0.2

// subscribeTimeout bounds the waiting for the confirmation of a subscription.
const subscribeTimeout = 5 * time.Second

// WatchOptions are for Watch; zero values stand for the defaults.
type WatchOptions struct {
	// Resync is how often the set is read again without being told: DefaultResync, ± 20 %.
	Resync time.Duration
	// MinBackoff and MaxBackoff bound the pauses between attempts to subscribe again: 50ms to 2s.
	MinBackoff, MaxBackoff time.Duration
	// Logger gets one record per transition, from working to failing and back. Default slog.Default().
	Logger *slog.Logger
	// Refresh, when set, has the set read again by each value that is sent to it; who sends spaces them. Nil is never.
	Refresh <-chan struct{}
	// OnError, when set, is called with every failure, and with nil when reading and being told work again.
	OnError func(error)
}

// Watch reads the published set, gives it to use, and then gives every set that differs from the one before, within
// milliseconds of its publication while Redis can be reached. On any error, be it that Redis is gone or that the document cannot be
// read (ErrNoPolicies and policy.ErrNewerFormat too), the last good set stays and Watch goes on trying: soon where Redis
// cannot be asked, else at the next announcement or resync.
//
// It calls use from one goroutine at a time, and returns nil when ctx ends.
func Watch(ctx context.Context, servers *redisops.Servers, options WatchOptions, use func(*policy.Set)) error {
	w := &watcher{servers: servers, options: options.withDefaults(), use: use}
	w.pauses = backoff{least: w.options.MinBackoff, most: w.options.MaxBackoff}
	w.rereads = w.pauses
	w.reading = transition{what: "read the published policies", watcher: w}
	w.listening = transition{what: "listen for changed policies", watcher: w}
	for ctx.Err() == nil {
		w.refresh(ctx)
		err := w.listen(ctx)
		if ctx.Err() != nil {
			break
		}
		w.listening.report(ctx, err)
		w.pause(ctx)
	}
	return nil
}

// pause waits before it is tried again to listen.
func (w *watcher) pause(ctx context.Context) {
	over := time.After(w.pauses.next())
	for {
		select {
		case <-over:
			return
		case _, open := <-w.options.Refresh:
			w.asked(ctx, open)
		case <-ctx.Done():
			return
		}
	}
}

// asked reads the set because of a receive from Refresh.
func (w *watcher) asked(ctx context.Context, open bool) {
	if !open {
		w.options.Refresh = nil // else it would be received from for ever
		return
	}
	w.refresh(ctx)
}

func (o WatchOptions) withDefaults() WatchOptions {
	if o.Resync <= 0 {
		o.Resync = DefaultResync
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = redisops.DefaultMinBackoff
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = redisops.DefaultMaxBackoff
	}
	o.MaxBackoff = max(o.MinBackoff, o.MaxBackoff)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	return o
}

type watcher struct {
	servers *redisops.Servers
	options WatchOptions
	use     func(*policy.Set)

	document []byte // of the set in use
	hash     string // of the set in use
	pauses   backoff
	turn     int // which of several servers to listen to

	// reread tells when to read the set again, since Redis could not be asked; nil while it could.
	reread  <-chan time.Time
	rereads backoff

	reading, listening transition
}

// refresh reads the set and hands it on when it is another one.
func (w *watcher) refresh(ctx context.Context) {
	document, err := w.read(ctx)
	if err != nil && !errors.Is(err, ErrNoPolicies) && away(err) {
		w.reread = time.After(w.rereads.next())
	} else {
		w.reread = nil
		w.rereads.reset()
	}
	if err == nil && !bytes.Equal(document, w.document) {
		var set *policy.Set
		if set, err = parse(document); err == nil {
			w.document = document
			if set.Hash != w.hash {
				w.hash = set.Hash
				w.use(set)
			}
		}
	}
	if ctx.Err() == nil {
		w.reading.report(ctx, err)
	}
}

// read reads the document: of several servers that know nothing of each other, from the first that has one.
func (w *watcher) read(ctx context.Context) ([]byte, error) {
	if w.servers.Config().Topology != policy.TopologyIndependent {
		return readDocument(ctx, w.servers.Client())
	}
	nodes, err := w.servers.Primaries(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the servers: %w", err)
	}
	var failures []error
	for _, node := range nodes {
		document, err := readDocument(ctx, node.Client)
		if err == nil {
			return document, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", node.Address, err))
	}
	return nil, errors.Join(failures...)
}

// subscribe gives a subscription to nothing yet, and tells whether its server may go on telling: a former primary that is
// cut off is told of nothing. Where there are several servers, it is each in turn, since one that is away must not keep us
// from being told. In a cluster every node tells what any of them was told.
func (w *watcher) subscribe(ctx context.Context) (*redis.PubSub, func(context.Context) bool, error) {
	nodes, err := w.servers.Primaries(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("find the servers: %w", err)
	}
	if len(nodes) == 0 {
		return nil, nil, fmt.Errorf("find the servers: %w: none has a slot", redisops.ErrNotExecuted)
	}
	node := nodes[w.turn%len(nodes)]
	w.turn++
	belongs := func(ctx context.Context) bool {
		nodes, err := w.servers.Primaries(ctx)
		return err != nil || slices.ContainsFunc(nodes, func(n redisops.Node) bool { return n.Address == node.Address })
	}
	return node.Client.Subscribe(ctx), belongs, nil
}

// listen subscribes on a connection of its own and reads the set again on every change, on every resync, and once when
// the subscription stands, for what came before it. It returns when the connection breaks, or ctx ends.
//
// Receive and not Channel: that one drops messages when the reader is slow.
func (w *watcher) listen(ctx context.Context) error {
	pubsub, belongs, err := w.subscribe(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = pubsub.Close() }()
	// A blocking read takes no notice of ctx.
	defer context.AfterFunc(ctx, func() { _ = pubsub.Close() })()

	if err := pubsub.Subscribe(ctx, Channel); err != nil {
		return fmt.Errorf("subscribe to %s: %w", Channel, err)
	}
	if _, err := pubsub.ReceiveTimeout(ctx, subscribeTimeout); err != nil {
		return fmt.Errorf("subscribe to %s: %w", Channel, err)
	}
	w.pauses.reset()
	w.listening.report(ctx, nil)
	w.refresh(ctx)

	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan received)
	var receiving sync.WaitGroup
	receiving.Go(func() { receive(ctx, pubsub, messages) })
	defer receiving.Wait()
	// Before the waiting: a blocking read ends with its connection.
	defer func() { cancel(); _ = pubsub.Close() }()

	resync := time.NewTimer(w.resyncPause())
	defer resync.Stop()
	for pinged := false; ; {
		select {
		case r := <-messages:
			if r.err != nil {
				return fmt.Errorf("listen on %s: %w", Channel, r.err)
			}
			pinged = false
			// The same set is announced again when its document was repaired.
			if m, is := r.message.(*redis.Message); is && (m.Payload != w.hash || w.reading.failing) {
				w.refresh(ctx)
			}
		case _, open := <-w.options.Refresh:
			w.asked(ctx, open)
		case <-w.reread:
			w.refresh(ctx)
		case <-resync.C:
			// A connection that is dead without having been closed would keep silent for ever.
			if pinged {
				return fmt.Errorf("listen on %s: no answer to a ping within %v", Channel, w.options.Resync)
			}
			if !belongs(ctx) {
				return fmt.Errorf("listen on %s: the server is no primary of the store any more", Channel)
			}
			w.refresh(ctx)
			if err := pubsub.Ping(ctx); err != nil {
				return fmt.Errorf("ping on the subscription to %s: %w", Channel, err)
			}
			pinged = true
			resync.Reset(w.resyncPause())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// received is a message of a subscription, or why there will be no more.
type received struct {
	message any
	err     error
}

// receive hands on what comes until the connection breaks, or ctx ends.
func receive(ctx context.Context, pubsub *redis.PubSub, to chan<- received) {
	for {
		message, err := pubsub.ReceiveTimeout(ctx, 0)
		select {
		case to <- received{message, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (w *watcher) resyncPause() time.Duration {
	return time.Duration(float64(w.options.Resync) * (1 - resyncJitter + 2*resyncJitter*rand.Float64()))
}

// transition logs when something begins to fail and when it works again, and nothing between.
type transition struct {
	what    string
	watcher *watcher
	failing bool
}

func (t *transition) report(ctx context.Context, err error) {
	options := t.watcher.options
	switch {
	case err != nil:
		if !t.failing {
			t.failing = true
			options.Logger.WarnContext(ctx, "cannot "+t.what+"; the last good set stays in force",
				"error", err, "set", t.watcher.hash)
		}
		options.OnError(err)
	case t.failing:
		t.failing = false
		options.Logger.InfoContext(ctx, "can "+t.what+" again", "set", t.watcher.hash)
		if !t.watcher.reading.failing && !t.watcher.listening.failing {
			options.OnError(nil)
		}
	}
}
