package policystore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
)

const (
	// invalidations is where a server tells of changed keys. What comes there without keys tells of a FLUSHALL.
	invalidations = "__redis__:invalidate"
	// rejoinEvery is how often it is asked which primaries there are.
	rejoinEvery = 2 * time.Second
	// silence is how long a connection may say nothing before it is asked for a sign of life, and how long it has to answer.
	silence = 5 * time.Second
)

// ErrNoTracking tells that a server does not tell of changed keys: it does not know how, or may not. The reply is wrapped
// beside it.
var ErrNoTracking = errors.New("the server does not tell of changed keys")

// WatchDrift calls changed when anybody, the publisher itself included, writes, deletes, expires or flushes one of our
// documents on any primary; and whenever a connection to a primary stands (again), since everything may have changed before
// it did. So changed is called soon after WatchDrift was, and after a restart, a failover, or when a primary joins. What
// happens while changed runs is told by one call after it. FUNCTION FLUSH and SCRIPT FLUSH are not told: they are for a
// resync.
//
// It holds one connection to each primary, and asks every 2 s which there are. It returns nil when ctx ends, and
// ErrNoTracking when a server refuses; then a resync alone has to do.
func WatchDrift(ctx context.Context, servers *redisops.Servers, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	d := &drift{servers: servers, told: make(chan struct{}, 1), refused: make(chan error, 1)}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	primaries := make(chan []redisops.Node)
	running.Go(func() { d.find(ctx, primaries) })
	followed := make(map[string]context.CancelFunc)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-d.refused:
			return err
		case <-d.told:
			changed()
		case nodes := <-primaries:
			d.join(ctx, &running, followed, nodes)
		}
	}
}

type drift struct {
	servers *redisops.Servers
	// told holds at most one, which stands for all that came since it was taken out.
	told    chan struct{}
	refused chan error
}

func (d *drift) tell() {
	select {
	case d.told <- struct{}{}:
	default:
	}
}

// find asks which primaries there are until ctx ends. Those that were known stay when nobody answers.
func (d *drift) find(ctx context.Context, to chan<- []redisops.Node) {
	tick := time.NewTicker(rejoinEvery)
	defer tick.Stop()
	for {
		if nodes, err := d.servers.Primaries(ctx); err == nil {
			select {
			case to <- nodes:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// join follows these primaries, and no others any more.
func (d *drift) join(ctx context.Context, running *sync.WaitGroup, followed map[string]context.CancelFunc, nodes []redisops.Node) {
	present := make(map[string]bool)
	for _, node := range nodes {
		present[node.Address] = true
		if followed[node.Address] == nil {
			following, cancel := context.WithCancel(ctx)
			followed[node.Address] = cancel
			running.Go(func() { d.follow(following, node) })
		}
	}
	for address, leave := range followed {
		if !present[address] {
			leave()
			delete(followed, address)
		}
	}
}

// follow listens to one primary until ctx ends.
func (d *drift) follow(ctx context.Context, node redisops.Node) {
	client := trackingClient(node.Client)
	defer func() { _ = client.Close() }()
	config := d.servers.Config()
	pauses := backoff{least: config.MinBackoff, most: config.MaxBackoff}
	for ctx.Err() == nil {
		err := d.listen(ctx, client, &pauses)
		if errors.Is(err, ErrNoTracking) {
			select {
			case d.refused <- fmt.Errorf("%s: %w", node.Address, err):
			default:
			}
			return
		}
		select {
		case <-time.After(pauses.next()):
		case <-ctx.Done():
		}
	}
}

// listen holds one connection, and tells what comes, until it breaks or ctx ends.
func (d *drift) listen(ctx context.Context, client *redis.Client, pauses *backoff) error {
	pubsub := client.Subscribe(ctx)
	defer func() { _ = pubsub.Close() }()
	// A blocking read takes no notice of ctx.
	defer context.AfterFunc(ctx, func() { _ = pubsub.Close() })()
	err := pubsub.Subscribe(ctx, invalidations)
	if err == nil {
		_, err = pubsub.ReceiveTimeout(ctx, subscribeTimeout)
	}
	if err != nil {
		return refusal(err)
	}
	pauses.reset()
	d.tell()

	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan received)
	var receiving sync.WaitGroup
	receiving.Go(func() { receive(ctx, pubsub, messages) })
	defer receiving.Wait()
	// Before the waiting: a blocking read ends with its connection.
	defer func() { cancel(); _ = pubsub.Close() }()

	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for pinged := false; ; {
		select {
		case r := <-messages:
			if r.err != nil {
				// Also FLUSHALL, which go-redis cannot read: it is told when the next connection stands.
				return r.err
			}
			if _, is := r.message.(*redis.Message); is {
				d.tell()
			}
			pinged = false
		case <-quiet.C:
			// A connection that is dead without having been closed would keep silent for ever.
			if pinged {
				return fmt.Errorf("no answer to a ping within %v", silence)
			}
			if err := pubsub.Ping(ctx); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
			pinged = true
		case <-ctx.Done():
			return ctx.Err()
		}
		quiet.Reset(silence)
	}
}

// trackingClient gives a client whose connections are told of our documents on themselves, as RESP2 messages: what comes as
// a push of RESP3 go-redis reads only beside the replies to commands.
func trackingClient(client *redis.Client) *redis.Client {
	options := *client.Options()
	connected := options.OnConnect
	options.Protocol, options.MaxRetries, options.DialerRetries = 2, -1, 1
	options.OnConnect = func(ctx context.Context, connection *redis.Conn) error {
		if connected != nil {
			if err := connected(ctx, connection); err != nil {
				return err
			}
		}
		return track(ctx, connection)
	}
	return redis.NewClient(&options)
}

// track names our documents, and not the prefix of all that is ours: beats would be told every few seconds.
func track(ctx context.Context, connection *redis.Conn) error {
	id, err := connection.ClientID(ctx).Result()
	if err != nil {
		return refusal(err)
	}
	args := []any{"client", "tracking", "on", "redirect", id, "bcast", "noloop"}
	for _, key := range documentKeys {
		args = append(args, "prefix", key)
	}
	return refusal(connection.Do(ctx, args...).Err())
}

// refusal makes an ErrNoTracking of a reply by which a server refuses for good.
func refusal(err error) error {
	if reply, is := errors.AsType[redis.Error](err); is && !errors.Is(err, ErrNoTracking) {
		if text := reply.Error(); strings.HasPrefix(text, "NOPERM") || strings.HasPrefix(text, "ERR unknown") || strings.HasPrefix(text, "ERR Unknown") {
			return fmt.Errorf("%w: %w", ErrNoTracking, err)
		}
	}
	return err
}
