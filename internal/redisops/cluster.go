package redisops

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// mostRedirects is how often a command follows the slot that it is for.
const mostRedirects = 3

// newCluster gives a client for a Redis Cluster whose nodes have clients as newClient makes them. It follows MOVED and ASK,
// and repeats what certainly did not run; see once.
func newCluster(cfg Config, node func(address string) *redis.Client) *redis.ClusterClient {
	cluster := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:     cfg.Addresses,
		NewClient: func(o *redis.Options) *redis.Client { return node(o.Addr) },

		MaxRedirects: mostRedirects,
		// By the tables of what this version of Redis has, commands would go to all primaries and the replies be summed up.
		DisableRoutingPolicies: true,

		// For what goes past the clients of the nodes: pipelines and subscriptions.
		Protocol:                 cfg.Protocol,
		ContextTimeoutEnabled:    true,
		DialTimeout:              cfg.DialTimeout,
		DialerRetries:            1,
		ReadTimeout:              cfg.DialTimeout,
		WriteTimeout:             cfg.DialTimeout,
		MinRetryBackoff:          cfg.MinBackoff,
		MaxRetryBackoff:          cfg.MaxBackoff,
		PoolSize:                 cfg.MaxConnections,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	cluster.AddHook(once{})
	return cluster
}

// once keeps a ClusterClient from sending a command again that may have run, as it does after lost replies, and has
// commands without a key go to a primary, where they would go to any node, be it dead.
type once struct{}

// DialHook changes nothing.
func (once) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook is for one command.
func (once) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		return next(ctx, onceCommand{routed(command)})
	}
}

// ProcessPipelineHook is for a pipeline or a transaction.
func (once) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		wrapped := make([]redis.Cmder, len(commands))
		for i, command := range commands {
			wrapped[i] = onceCommand{routed(command)}
		}
		return next(ctx, wrapped)
	}
}

// onceCommand is a command that is not repeated.
type onceCommand struct{ redis.Cmder }

// NoRetry tells go-redis so.
func (onceCommand) NoRetry() bool { return true }

// keyless are the commands without a key that are sent to a cluster.
var keyless = []string{"acl", "client", "config", "dbsize", "echo", "function", "info", "ping", "publish", "script", "time"}

// nowhere is behind the arguments of all commands; go-redis takes any slot for the one of a key that stands there.
const nowhere = 127

func routed(command redis.Cmder) redis.Cmder {
	if slices.Contains(keyless, command.Name()) || callsWithoutKeys(command) {
		command.SetFirstKeyPos(nowhere)
	}
	return command
}

func callsWithoutKeys(command redis.Cmder) bool {
	switch command.Name() {
	case "eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro":
		args := command.Args()
		return len(args) > 2 && len(args) <= nowhere && isZero(args[2])
	default:
		return false
	}
}

func isZero(arg any) bool { return arg == 0 || arg == int64(0) || arg == "0" }

// clusterNodes gives the primaries with slots, and with all the replicas too.
func clusterNodes(ctx context.Context, cluster *redis.ClusterClient, all bool) ([]Node, error) {
	found := make(chan Node)
	collect := func(primary bool) func(context.Context, *redis.Client) error {
		return func(_ context.Context, client *redis.Client) error {
			found <- Node{Address: client.Options().Addr, Primary: primary, Client: client}
			return nil
		}
	}
	var err error
	go func() {
		defer close(found)
		if err = cluster.ForEachMaster(ctx, collect(true)); err == nil && all {
			err = cluster.ForEachSlave(ctx, collect(false))
		}
	}()
	var nodes []Node
	for node := range found {
		nodes = append(nodes, node)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(nodes, compareNodes)
	return nodes, nil
}
