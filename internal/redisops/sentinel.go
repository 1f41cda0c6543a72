package redisops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
)

const (
	// followEvery is how often the sentinels are asked without a need, for a primary that was replaced and does not know.
	followEvery = time.Second
	// dissentWait is how long the first answer of a sentinel waits for others that may know better.
	dissentWait = 200 * time.Millisecond
	// sentinelConnections is the most connections to one sentinel.
	sentinelConnections = 2
)

// sentinels are those who know which server is the primary.
//
// Not go-redis' failover client: that one keeps to one sentinel, the first that answered. One that is cut off gives the
// address of then for ever, and for one that went silent it keeps waiting, since its own timeout is that of the caller. Here all
// are asked each time, and the most tell.
type sentinels struct {
	master  string
	clients []*redis.Client
	// timeout bounds one question; there has to be time left for the dial.
	timeout time.Duration
	asking  singleflight.Group
}

func newSentinels(cfg Config, client func(cfg Config, address string) *redis.Client) *sentinels {
	s := &sentinels{master: cfg.MasterName, timeout: cfg.DialTimeout / 2}
	cfg.Username, cfg.Password, cfg.DB = cfg.SentinelUsername, cfg.SentinelPassword, 0
	cfg.Protocol, cfg.MaxConnections, cfg.DialTimeout = DefaultProtocol, sentinelConnections, s.timeout
	for _, address := range cfg.Addresses {
		s.clients = append(s.clients, client(cfg, address))
	}
	return s
}

// primary asks which server is the primary, and gives its address.
func (s *sentinels) primary(ctx context.Context) (string, error) {
	// Those who ask at once share a question.
	asked := s.asking.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		return s.ask(ctx)
	})
	select {
	case answer := <-asked:
		if answer.Err != nil {
			return "", answer.Err
		}
		return answer.Val.(string), nil
	case <-ctx.Done():
		return "", fmt.Errorf("%w: asking the sentinels: %w", ErrNotExecuted, ctx.Err())
	}
}

// ask gives the address that more than half of the sentinels tell, or the most of those who answer in time.
func (s *sentinels) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		address string
		err     error
	}
	answers := make(chan answer, len(s.clients))
	for _, client := range s.clients {
		go func() {
			address, err := s.askOne(ctx, client)
			answers <- answer{address, err}
		}()
	}
	told := make(map[string]int)
	best := ""
	var errs []error
	var enough <-chan time.Time
	for range s.clients {
		select {
		case a := <-answers:
			if a.err != nil {
				errs = append(errs, a.err)
				continue
			}
			if told[a.address]++; told[a.address] > told[best] {
				best = a.address
			}
			if 2*told[best] > len(s.clients) {
				return best, nil
			}
			if enough == nil {
				enough = time.After(dissentWait)
			}
		case <-enough:
			return best, nil
		}
	}
	if best != "" {
		return best, nil
	}
	return "", fmt.Errorf("%w: %w: %w", ErrNotExecuted, ErrNoSentinel, errors.Join(errs...))
}

func (s *sentinels) askOne(ctx context.Context, sentinel *redis.Client) (string, error) {
	parts, err := sentinel.Do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.master).StringSlice()
	switch {
	case errors.Is(err, redis.Nil):
		return "", fmt.Errorf("%w: the sentinel %s: %w: %q; mend masterName", ErrMisconfigured, sentinel.Options().Addr, ErrUnknownMaster, s.master)
	case err != nil:
		return "", fmt.Errorf("the sentinel %s: %w", sentinel.Options().Addr, err)
	case len(parts) != 2:
		return "", fmt.Errorf("%w: %s: %w; mend addresses", ErrMisconfigured, sentinel.Options().Addr, ErrNotSentinel)
	}
	return net.JoinHostPort(parts[0], parts[1]), nil
}

// replicas gives the addresses of the replicas that the first sentinel to answer takes for reachable.
func (s *sentinels) replicas(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	type answer struct {
		replicas []map[string]string
		err      error
	}
	answers := make(chan answer, len(s.clients))
	for _, sentinel := range s.clients {
		go func() {
			command := redis.NewMapStringStringSliceCmd(ctx, "SENTINEL", "REPLICAS", s.master)
			err := sentinel.Process(ctx, command)
			answers <- answer{command.Val(), err}
		}()
	}
	var errs []error
	for range s.clients {
		a := <-answers
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		var addresses []string
		for _, replica := range a.replicas {
			if !isDown(replica["flags"]) {
				addresses = append(addresses, net.JoinHostPort(replica["ip"], replica["port"]))
			}
		}
		return addresses, nil
	}
	return nil, fmt.Errorf("%w: no sentinel tells the replicas: %w", ErrNotExecuted, errors.Join(errs...))
}

func isDown(flags string) bool {
	for flag := range strings.SplitSeq(flags, ",") {
		switch flag {
		case "s_down", "o_down", "disconnected":
			return true
		}
	}
	return false
}

func (s *sentinels) close() {
	for _, client := range s.clients {
		_ = client.Close()
	}
}

// What sentinels say, or do not. The first two are ErrNotExecuted, the others ErrMisconfigured.
var (
	// ErrNoSentinel tells that none of them answers with a primary; why not is wrapped beside it.
	ErrNoSentinel = errors.New("no sentinel tells which server is the primary")
	// ErrNoPrimary tells that they know less than the server.
	ErrNoPrimary = errors.New("the server that the sentinels tell is no primary")
	// ErrUnknownMaster tells that one monitors no primary of the name that Config.MasterName gives.
	ErrUnknownMaster = errors.New("it knows no primary of that name")
	// ErrNotSentinel tells that what answers there is none.
	ErrNotSentinel = errors.New("it does not answer as a sentinel")
)

// provePrimary makes the opening of a connection to a replica fail. HELLO needs no permission; a server without it tells by
// READONLY, later. The connection stays with its protocol, since HELLO sets that anew.
func provePrimary(ctx context.Context, connection *redis.Conn, protocol int) error {
	hello, err := connection.Hello(ctx, protocol, "", "", "").Result()
	if err != nil {
		if Classify(err) == UnknownOutcome {
			return fmt.Errorf("%w: asking a new connection for its role: %w", ErrNotExecuted, err)
		}
		return nil
	}
	if role, is := hello["role"].(string); is && role != "master" {
		// Wrapped twice, since go-redis takes one wrapping off.
		return fmt.Errorf("%w: %w", ErrNotExecuted, ErrNoPrimary)
	}
	return nil
}
