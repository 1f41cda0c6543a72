package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/bench/internal/process"
)

// keeping are options of a server that has its data and functions again after it was killed.
var keeping = []string{"--appendonly", "yes", "--appendfsync", "no"}

// startRedis starts a server in a folder of its own.
func (r *runner) startRedis(ctx context.Context, options ...string) (*process.Redis, error) {
	dir, err := os.MkdirTemp(r.dir, "redis-")
	if err != nil {
		return nil, fmt.Errorf("starting redis-server: %w", err)
	}
	return process.StartRedis(ctx, r.plan.redis, dir, options...)
}

// group is several servers that belong together.
type group []*process.Redis

// start adds one.
func (g *group) start(ctx context.Context, r *runner, options ...string) (*process.Redis, error) {
	server, err := r.startRedis(ctx, options...)
	if err == nil {
		*g = append(*g, server)
	}
	return server, err
}

func (g group) stop() {
	var processes []*process.Process
	for _, server := range g {
		_ = server.Client.Close()
		processes = append(processes, server.Process)
	}
	process.StopAll(processes)
}

func (g group) addresses() []string {
	var all []string
	for _, server := range g {
		all = append(all, server.Address)
	}
	return all
}

// eventually calls ready until it succeeds or 30 s have passed.
func eventually(ctx context.Context, pause time.Duration, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if ended := wait(ctx, pause); ended != nil {
			return fmt.Errorf("waiting until %s: %w", what, errors.Join(ended, err))
		}
	}
}

// promoted tells whether a server is a primary.
func promoted(ctx context.Context, server *process.Redis) error {
	role, err := server.Client.Do(ctx, "ROLE").Slice()
	if err != nil {
		return err
	}
	if len(role) == 0 || role[0] != "master" {
		return errors.New("it is a replica")
	}
	return nil
}

// awaitPromotion gives the step that begins when a server says that it is a primary.
func awaitPromotion(server *process.Redis, watched time.Duration) step {
	return step{"the replica is promoted", func(ctx context.Context) error {
		return eventually(ctx, 5*time.Millisecond, "the replica is promoted", func(ctx context.Context) error { return promoted(ctx, server) })
	}, watched}
}

// awaitTold waits until one of the sentinels tells that a server is the primary.
func awaitTold(ctx context.Context, sentinels group, server *process.Redis) error {
	return eventually(ctx, 5*time.Millisecond, "a Sentinel tells of the promotion", func(ctx context.Context) error {
		for _, sentinel := range sentinels {
			told, err := sentinel.Client.Do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).StringSlice()
			if err != nil {
				return err
			}
			if strings.Join(told, ":") == server.Address {
				return nil
			}
		}
		return errors.New("none does yet")
	})
}

// replicating tells whether a replica has all that its primary has.
func replicating(ctx context.Context, server *process.Redis) error {
	info, err := server.Client.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	if status := process.InfoField(info, "master_link_status"); status != "up" {
		return fmt.Errorf("the link to its primary is %q", status)
	}
	return nil
}

// masterName is what the sentinels call the primary.
const masterName = "limits"

// downAfter is how long sentinels and nodes of a cluster wait before they take a server for down.
const downAfter = time.Second

// startSentinel starts a primary, a replica, and three sentinels that know each other and the replica.
func (r *runner) startSentinel(ctx context.Context) (servers, sentinels group, err error) {
	defer func() {
		if err != nil {
			servers.stop()
			sentinels.stop()
		}
	}()
	primary, err := servers.start(ctx, r)
	if err != nil {
		return servers, sentinels, err
	}
	replica, err := servers.start(ctx, r)
	if err != nil {
		return servers, sentinels, err
	}
	host, port, _ := net.SplitHostPort(primary.Address)
	if err := replica.Client.Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		return servers, sentinels, fmt.Errorf("starting a replica: %w", err)
	}
	if err := eventually(ctx, 50*time.Millisecond, "the replica has all", func(ctx context.Context) error { return replicating(ctx, replica) }); err != nil {
		return servers, sentinels, err
	}
	for i := range 3 {
		file := filepath.Join(r.dir, fmt.Sprintf("sentinel-%s-%d.conf", port, i))
		lines := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 2\nsentinel down-after-milliseconds %[1]s %[4]d\nsentinel failover-timeout %[1]s 5000\n",
			masterName, host, port, downAfter.Milliseconds())
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			return servers, sentinels, fmt.Errorf("starting a sentinel: %w", err)
		}
		if _, err := sentinels.start(ctx, r, file, "--sentinel"); err != nil {
			return servers, sentinels, err
		}
	}
	for _, sentinel := range sentinels {
		err := eventually(ctx, 100*time.Millisecond, "the sentinels know each other", func(ctx context.Context) error {
			info, err := sentinel.Client.Info(ctx, "sentinel").Result()
			if err == nil && !strings.Contains(info, "status=ok") || !strings.Contains(info, "slaves=1,sentinels=3") {
				err = errors.Join(err, errors.New("it does not know all yet"))
			}
			return err
		})
		if err != nil {
			return servers, sentinels, err
		}
	}
	return servers, sentinels, nil
}

// slots is the number of hash slots of a cluster.
const slots = 16384

// primaries of a cluster.
const primaries = 3

// slotsOf gives the first and the last slot of a primary.
func slotsOf(primary int) (first, last int) {
	return primary * slots / primaries, (primary+1)*slots/primaries - 1
}

// startCluster starts three primaries, and so many replicas of the first one, which stand behind them.
func (r *runner) startCluster(ctx context.Context, replicas int) (nodes group, err error) {
	defer func() {
		if err != nil {
			nodes.stop()
		}
	}()
	busPorts := map[*process.Redis]string{}
	for range primaries + replicas {
		bus, err := process.FreeAddress()
		if err != nil {
			return nodes, err
		}
		_, busPort, _ := net.SplitHostPort(bus)
		// Others' slots are served while some are lost.
		node, err := nodes.start(ctx, r, append([]string{
			"--cluster-enabled", "yes", "--cluster-port", busPort, "--cluster-announce-ip", "127.0.0.1",
			"--cluster-node-timeout", strconv.FormatInt(downAfter.Milliseconds(), 10),
			"--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0",
		}, keeping...)...)
		if err != nil {
			return nodes, err
		}
		busPorts[node] = busPort
	}
	for i, node := range nodes {
		commands := [][]any{{"CLUSTER", "SET-CONFIG-EPOCH", i + 1}}
		if i < primaries {
			first, last := slotsOf(i)
			commands = append(commands, []any{"CLUSTER", "ADDSLOTSRANGE", first, last})
		}
		for _, other := range nodes[:i] {
			host, port, _ := net.SplitHostPort(other.Address)
			commands = append(commands, []any{"CLUSTER", "MEET", host, port, busPorts[other]})
		}
		for _, command := range commands {
			if err := node.Client.Do(ctx, command...).Err(); err != nil {
				return nodes, fmt.Errorf("making a cluster: %w", err)
			}
		}
	}
	first, err := nodes[0].Client.Do(ctx, "CLUSTER", "MYID").Text()
	if err != nil {
		return nodes, fmt.Errorf("making a cluster: %w", err)
	}
	for _, replica := range nodes[primaries:] {
		err := eventually(ctx, 50*time.Millisecond, "a node becomes a replica", func(ctx context.Context) error {
			return replica.Client.Do(ctx, "CLUSTER", "REPLICATE", first).Err()
		})
		if err != nil {
			return nodes, err
		}
	}
	for i, node := range nodes {
		err := eventually(ctx, 100*time.Millisecond, "the cluster is ready", func(ctx context.Context) error {
			if err := joined(ctx, node.Client, len(nodes), replicas); err != nil || i < primaries {
				return err
			}
			return replicating(ctx, node)
		})
		if err != nil {
			return nodes, err
		}
	}
	return nodes, nil
}

// joined tells whether a node knows so many nodes, replicas among them, and who serves each slot.
func joined(ctx context.Context, node *redis.Client, nodes, replicas int) error {
	info, err := node.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	for field, want := range map[string]string{
		"cluster_state": "ok", "cluster_slots_ok": strconv.Itoa(slots), "cluster_known_nodes": strconv.Itoa(nodes),
	} {
		if got := process.InfoField(info, field); got != want {
			return fmt.Errorf("%s is %s, not yet %s", field, got, want)
		}
	}
	known, err := node.ClusterNodes(ctx).Result()
	if err != nil {
		return err
	}
	if n := strings.Count(known, "slave "); n != replicas || strings.Contains(known, "fail") || strings.Contains(known, "handshake") {
		return errors.New("not all nodes are known as what they are")
	}
	return nil
}
