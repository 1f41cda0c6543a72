package redisops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// refreshEvery is how often the nodes of a cluster are asked for anew, without a reason.
	refreshEvery = 10 * time.Second
	// refreshPause is the least time between two reasons to do so.
	refreshPause = 100 * time.Millisecond
	// lackFor is how long Primary gives the node that lacks the library, after it said so.
	lackFor = time.Second
	// mostFollowed bounds the calls that go-redis itself takes to a node that is not known yet.
	mostFollowed = 16
)

// router finds the server of a Cluster for each call: a lane for each primary. go-redis knows which there are; what of that
// takes the network is done here, and not by those who call.
type router struct {
	cluster *redis.ClusterClient
	servers *Servers
	bounds  bounds
	log     *slog.Logger

	// lanes by the client of the node; a map is never changed.
	lanes atomic.Pointer[map[*redis.Client]*lane]
	// nodes has the client (*redis.Client) of each node that go-redis made one for, by its address.
	nodes sync.Map
	// lacking has, by slot, the node (lack) that a call was redirected to and that does not have the function.
	lacking sync.Map
	// unknown is what calls get as long as no node has told of the others; then nil.
	unknown atomic.Pointer[error]
	reason  chan struct{} // to load
	follow  chan struct{} // a place for each call that is taken along

	loading sync.Mutex // one at a time
	mu      sync.Mutex // of lanes
	closed  bool

	stop    context.CancelFunc
	running sync.WaitGroup
	once    sync.Once
}

func newRouter(cluster *redis.ClusterClient, servers *Servers, b bounds, log *slog.Logger) *router {
	r := &router{
		cluster: cluster, servers: servers, bounds: b, log: log,
		reason: make(chan struct{}, 1), follow: make(chan struct{}, mostFollowed),
	}
	r.lanes.Store(&map[*redis.Client]*lane{})
	r.ignorant(errors.New("none has been asked yet"))
	cluster.OnNewNode(r.known)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.running.Go(func() { r.run(ctx) })
	return r
}

func (r *router) known(node *redis.Client) { r.nodes.Store(node.Options().Addr, node) }

func (r *router) ignorant(cause error) {
	err := fmt.Errorf("%w: the nodes of the cluster are not known: %w", ErrNotExecuted, proven(cause))
	r.unknown.Store(&err)
}

// route gives the lane where calls for the key go. It neither waits for the network nor, for a lane that exists, allocates.
func (r *router) route(key string) (*lane, error) {
	client, err := r.primary(key)
	if err != nil {
		return nil, err
	}
	if l := (*r.lanes.Load())[client]; l != nil {
		return l, nil
	}
	return r.lane(client)
}

func (r *router) primary(key string) (*redis.Client, error) {
	if unknown := r.unknown.Load(); unknown != nil {
		return nil, *unknown
	}
	client, err := r.cluster.MasterForKey(context.Background(), key)
	if err != nil {
		return nil, fmt.Errorf("%w: finding the server of a key: %w", ErrNotExecuted, err)
	}
	return client, nil
}

// lack is a node without the library.
type lack struct {
	node *redis.Client
	at   time.Time
}

// lacks remembers the node that a call was redirected to and that does not have its function or script: while a slot moves,
// that is another one than the primary of the slot.
func (r *router) lacks(args []any, node *redis.Client, err error) {
	if class := Classify(err); class != NoFunction && class != NoScript {
		return
	}
	if key, err := firstKey(args); err == nil {
		r.lacking.Store(Slot(key), lack{node, time.Now()})
	}
}

// library gives the client of the server where the library of a call for the key has to be loaded.
func (r *router) library(key string) (*redis.Client, error) {
	slot := Slot(key)
	if found, is := r.lacking.Load(slot); is {
		if l := found.(lack); time.Since(l.at) < lackFor {
			return l.node, nil
		}
		r.lacking.CompareAndDelete(slot, found)
	}
	return r.primary(key)
}

// lane gives the lane over the client of a node, which it makes when there is none.
func (r *router) lane(client *redis.Client) (*lane, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := *r.lanes.Load()
	if l := before[client]; l != nil {
		return l, nil
	}
	if r.closed {
		return nil, errClosed
	}
	l := newLane(client, client.Options().Addr, r.servers.Config(), r.bounds, r, func() { r.servers.dropIdle(client) }, r.log)
	after := maps.Clone(before)
	after[client] = l
	r.lanes.Store(&after)
	return l, nil
}

// reload lets the nodes be asked for soon, in the background.
func (r *router) reload() {
	select {
	case r.reason <- struct{}{}:
	default:
	}
}

func (r *router) run(ctx context.Context) {
	cfg := r.servers.Config()
	backoff := cfg.MinBackoff
	for {
		err := r.load(ctx)
		pause := refreshPause
		if err != nil {
			pause = backoff + upTo(backoff/2)
			backoff = min(2*backoff, max(cfg.MinBackoff, min(cfg.MaxBackoff, mostProbePause)))
		} else {
			backoff = cfg.MinBackoff
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if err != nil {
			continue
		}
		select {
		case <-r.reason:
		case <-time.After(refreshEvery):
		case <-ctx.Done():
			return
		}
	}
}

// load asks which primaries there are, makes lanes for new ones and ends those of others. The error is why nothing is known.
func (r *router) load(ctx context.Context) error {
	r.loading.Lock()
	defer r.loading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 4*r.servers.Config().DialTimeout)
	defer cancel()
	var mu sync.Mutex
	primaries := map[*redis.Client]bool{}
	err := r.cluster.ForEachMaster(ctx, func(_ context.Context, primary *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		primaries[primary] = true
		return nil
	})
	if err == nil && len(primaries) == 0 {
		err = errors.New("the cluster serves no slot")
	}
	if err != nil {
		if r.unknown.Load() != nil {
			r.ignorant(err)
		}
		return fmt.Errorf("asking for the nodes of the cluster: %w", err)
	}
	for primary := range primaries {
		r.known(primary)
		if _, err := r.lane(primary); err != nil {
			return err
		}
	}
	r.unknown.Store(nil)
	r.prune(primaries)
	return nil
}

// prune ends the lanes of nodes that are no primaries, but for those that are in use: one that takes its first slot over has
// none yet.
func (r *router) prune(primaries map[*redis.Client]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	after := maps.Clone(*r.lanes.Load())
	for client, l := range after {
		sent := l.batches.Load()
		idle := sent == l.seen || l.breaker.current.Load().state != BreakerClosed
		l.seen = sent
		if idle && !primaries[client] {
			delete(after, client)
			r.running.Go(func() { l.end(errLeft) })
		}
	}
	r.lanes.Store(&after)
}

// forget ends the lane over a client that go-redis closed, after its node had left.
func (r *router) forget(client *redis.Client) {
	r.nodes.CompareAndDelete(client.Options().Addr, client)
	r.mu.Lock()
	defer r.mu.Unlock()
	l := (*r.lanes.Load())[client]
	if l == nil || r.closed {
		return
	}
	after := maps.Clone(*r.lanes.Load())
	delete(after, client)
	r.lanes.Store(&after)
	r.running.Go(func() { l.end(errLeft) })
}

// redirect takes a call that did not run on one lane to another, where the error tells which. It tells whether the call is
// out of the hands of the lane, and whether it is to end with its error otherwise.
func (r *router) redirect(from *lane, call *call, err error) (moved, ends bool) {
	var to *redis.Client
	address, asks := redis.IsAskError(err)
	if !asks {
		address, moved = redis.IsMovedError(err)
	}
	switch {
	case asks, moved:
		if moved {
			r.reload()
		}
		node, _ := r.nodes.Load(nodeAddress(address, from.address))
		to, _ = node.(*redis.Client)
	case errors.Is(err, redis.ErrClosed):
		r.forget(from.client)
		key, keyErr := firstKey(call.Cmd.Args())
		if keyErr != nil {
			return false, true
		}
		if to, _ = r.primary(key); to == nil {
			return false, true
		}
	default:
		return false, false
	}
	if call.redirects >= mostMoves || !call.wanted() {
		return false, true
	}
	call.redirects++
	from.report(call.pass, err)
	switch {
	case to == nil:
		return r.takeAlong(from, call, nodeAddress(address, from.address)), true
	case to == from.client:
		return false, false
	}
	target, laneErr := r.lane(to)
	if laneErr != nil {
		return false, true
	}
	target.takeOver(call, asks)
	return true, true
}

// nodeAddress gives the address in a redirection as go-redis writes it: without a host it is the one that was asked.
func nodeAddress(address, asked string) string {
	at := strings.LastIndexByte(address, ':')
	if at < 0 {
		return address
	}
	host, port := strings.Trim(address[:at], "[]"), address[at+1:] // of IPv6 without brackets
	if host == "" {
		host, _, _ = net.SplitHostPort(asked)
	}
	return net.JoinHostPort(host, port)
}

// takeOver lets a lane send a call that another was told to send here. Nothing is tried here: while the breaker is not closed
// the call ends.
func (l *lane) takeOver(call *call, asks bool) {
	pass := l.breaker.current.Load()
	if pass.state != BreakerClosed {
		call.finish(nil, pass.refusal)
		return
	}
	call.moved.Store(true)
	call.lane, call.pass, call.asking = l, pass, nil
	if asks {
		call.asking = asking()
	}
	call.prepare(call.Cmd.Args())
	if !call.back() {
		return
	}
	select {
	case l.queue <- call:
	default:
		if call.take() {
			call.finish(nil, errOverloaded)
		}
	}
}

func asking() *redis.Cmd { return redis.NewCmd(context.Background(), "asking") }

// takeAlong lets go-redis follow a redirection to a node that it has no client for yet; it makes one, for the calls after it.
func (r *router) takeAlong(from *lane, call *call, address string) bool {
	select {
	case r.follow <- struct{}{}:
	default:
		return false
	}
	call.moved.Store(true)
	call.pass = new(period) // the outcome is that of another server
	call.asking = nil
	call.prepare(call.Cmd.Args())
	r.running.Go(func() {
		defer func() { <-r.follow }()
		ctx, cancel := context.WithTimeout(context.Background(), from.batchTimeout)
		defer cancel()
		value, err := call.outcome(guarded(func() error { return r.cluster.Process(ctx, call) }))
		if node, is := r.nodes.Load(address); is {
			if l, laneErr := r.lane(node.(*redis.Client)); laneErr == nil {
				call.lane = l
			}
		}
		call.finish(value, err)
	})
	return true
}

// warm waits until the connections to all primaries stand.
func (r *router) warm(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	lanes := *r.lanes.Load()
	errs := make(chan error, len(lanes))
	for _, l := range lanes {
		go func() { errs <- l.warmer.warm(ctx, false) }()
	}
	var failed error
	for range lanes {
		if err := <-errs; err != nil {
			failed = err
		}
	}
	return failed
}

func (r *router) shards() []Shard {
	lanes := *r.lanes.Load()
	shards := make([]Shard, 0, len(lanes))
	for _, l := range lanes {
		shards = append(shards, l.shard())
	}
	slices.SortFunc(shards, func(a, b Shard) int { return strings.Compare(a.Address, b.Address) })
	return shards
}

func (r *router) close() {
	r.once.Do(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		r.unknown.Store(&errClosed)
		r.stop()
		var lanes sync.WaitGroup
		for _, l := range *r.lanes.Load() {
			lanes.Go(func() { l.end(errClosed) })
		}
		lanes.Wait()
	})
	r.running.Wait()
}
