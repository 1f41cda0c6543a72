package redistest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Slots is the number of hash slots of a cluster.
const Slots = 16384

// Cluster is a Redis Cluster of real processes that ends with the test. Kill, Run, Pause and Resume of a node are those
// of the Server. Its methods are for one goroutine at a time.
type Cluster struct {
	// Nodes are all that were ever part of it: first the primaries of the start, each with about the same number of slots
	// in ascending order, then the replicas of the first primary, of the second one, …, then added ones.
	Nodes []*Server

	tb      testing.TB
	options []string
	ids     map[*Server]string
}

// StartCluster starts a cluster and waits until it is ready. Options go to every node, after those set here: a node is
// taken for failed after 1.5 s, slots of others are served while some are lost, and replicas stay with their primary.
func StartCluster(tb testing.TB, primaries, replicasEach int, options ...string) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, options: options, ids: map[*Server]string{}}
	for range primaries * (1 + replicasEach) {
		c.spawn()
	}
	for i, node := range c.Nodes {
		c.identify(node)
		node.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i < primaries {
			node.Do("CLUSTER", "ADDSLOTSRANGE", i*Slots/primaries, (i+1)*Slots/primaries-1)
		}
	}
	// Each meets each: quicker than to wait until they hear of each other.
	for i, node := range c.Nodes {
		for _, other := range c.Nodes[:i] {
			c.meet(node, other)
		}
	}
	for i, node := range c.Nodes[primaries:] {
		c.replicate(node, c.Nodes[i/replicasEach])
	}
	c.WaitReady()
	return c
}

// spawn starts the process of one more node, which knows no other.
func (c *Cluster) spawn() *Server {
	c.tb.Helper()
	options := []string{
		"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
		"--cluster-announce-ip", "127.0.0.1", "--cluster-node-timeout", "1500", "--cluster-require-full-coverage", "no",
		"--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no",
	}
	if option(c.options, "--masterauth") == "" && option(c.options, "--requirepass") != "" {
		options = append(options, "--masterauth", option(c.options, "--requirepass"))
	}
	if option(c.options, "--tls-cert-file") != "" {
		options = append(options, "--tls-cluster", "yes")
	}
	node := newServer(c.tb, append(options, c.options...))
	node.spawn()
	c.Nodes = append(c.Nodes, node)
	return node
}

func (c *Cluster) identify(node *Server) {
	c.tb.Helper()
	node.awaitAnswer()
	c.ids[node], _ = node.Do("CLUSTER", "MYID").(string)
}

func (c *Cluster) meet(node, other *Server) {
	c.tb.Helper()
	host, port, _ := net.SplitHostPort(other.Addr)
	node.Do("CLUSTER", "MEET", host, port, option(other.args, "--cluster-port"))
}

// replicate makes a node without slots the replica of a primary, as soon as it knows that one.
func (c *Cluster) replicate(replica, primary *Server) {
	c.tb.Helper()
	replica.await(replica.Addr+" becomes a replica of "+primary.Addr, func() error {
		_, err := replica.try("CLUSTER", "REPLICATE", c.ids[primary])
		return err
	})
}

// Addresses are those of all nodes, as a client takes them to find the cluster.
func (c *Cluster) Addresses() []string {
	addresses := make([]string, 0, len(c.Nodes))
	for _, node := range c.Nodes {
		addresses = append(addresses, node.Addr)
	}
	return addresses
}

// WaitReady waits until all nodes that run agree: on each other, on who serves each of the 16384 slots (nodes that run,
// so that after Kill of a primary this waits for its failover), and until the link of each replica is up.
func (c *Cluster) WaitReady() {
	c.tb.Helper()
	await(c.tb, "the cluster is ready", c.ready)
}

func (c *Cluster) ready() error {
	var agreed map[string]string
	var first *Server
	for _, node := range c.running() {
		reply, err := node.try("CLUSTER", "INFO")
		if err != nil {
			return fmt.Errorf("%s: %w", node.Addr, err)
		}
		if info, _ := reply.(string); !strings.Contains(info, "cluster_state:ok") {
			return fmt.Errorf("%s: its state is not ok; output: %s", node.Addr, node.output)
		}
		view, err := c.view(node)
		if err != nil {
			return fmt.Errorf("%s: %w", node.Addr, err)
		}
		if agreed == nil {
			agreed, first = view, node
		}
		if !maps.Equal(agreed, view) {
			return fmt.Errorf("%s and %s disagree: %v and %v", first.Addr, node.Addr, agreed, view)
		}
	}
	return nil
}

// view is what a node tells of all that run: by address the role and, for primaries, the slots. It gives an error
// when that is not all well.
func (c *Cluster) view(node *Server) (map[string]string, error) {
	lines, err := c.lines(node)
	if err != nil {
		return nil, err
	}
	view, served := map[string]string{}, 0
	for _, other := range c.running() {
		i := slices.IndexFunc(lines, func(l nodeLine) bool { return l.id == c.ids[other] })
		if i < 0 {
			return nil, fmt.Errorf("%s is unknown", other.Addr)
		}
		line := lines[i]
		if !line.linked || line.has("fail") || line.has("fail?") || line.has("handshake") || line.has("noaddr") {
			return nil, fmt.Errorf("%s is not in good state: %v", other.Addr, line.flags)
		}
		if other == node && line.has("slave") {
			if err := node.replicating(); err != nil {
				return nil, err
			}
		}
		view[other.Addr] = fmt.Sprint(line.has("master"), line.primary, line.ranges)
		for _, r := range line.ranges {
			served += r[1] - r[0] + 1
		}
	}
	if served != Slots {
		return nil, fmt.Errorf("%d of %d slots are served by nodes that run", served, Slots)
	}
	return view, nil
}

func (c *Cluster) running() []*Server {
	return slices.DeleteFunc(running(c.Nodes), func(s *Server) bool { return c.ids[s] == "" })
}

// nodeLine is one line of CLUSTER NODES.
type nodeLine struct {
	id      string
	flags   []string
	primary string // id; "-" for a primary
	epoch   int
	linked  bool
	ranges  [][2]int
}

func (l nodeLine) has(flag string) bool { return slices.Contains(l.flags, flag) }

func (l nodeLine) serves(slot int) bool {
	return slices.ContainsFunc(l.ranges, func(r [2]int) bool { return r[0] <= slot && slot <= r[1] })
}

func (c *Cluster) lines(node *Server) ([]nodeLine, error) {
	reply, err := node.try("CLUSTER", "NODES")
	if err != nil {
		return nil, err
	}
	text, _ := reply.(string)
	var lines []nodeLine
	for row := range strings.Lines(text) {
		fields := strings.Fields(row)
		if len(fields) < 8 {
			return nil, fmt.Errorf("CLUSTER NODES has the line %q", row)
		}
		line := nodeLine{id: fields[0], flags: strings.Split(fields[2], ","), primary: fields[3], linked: fields[7] == "connected"}
		line.epoch, _ = strconv.Atoi(fields[6])
		for _, field := range fields[8:] {
			if strings.HasPrefix(field, "[") { // a slot that moves; it is in a range as well
				continue
			}
			from, to, isRange := strings.Cut(field, "-")
			if !isRange {
				to = from
			}
			low, _ := strconv.Atoi(from)
			high, _ := strconv.Atoi(to)
			line.ranges = append(line.ranges, [2]int{low, high})
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// myself is what a node tells of itself.
func (c *Cluster) myself(node *Server) (nodeLine, error) {
	lines, err := c.lines(node)
	if err != nil {
		return nodeLine{}, err
	}
	for _, line := range lines {
		if line.has("myself") {
			return line, nil
		}
	}
	return nodeLine{}, errors.New("CLUSTER NODES does not tell who the node is")
}

// Slot is the hash slot of a key, as Redis tells it.
func (c *Cluster) Slot(key string) int {
	c.tb.Helper()
	slot, _ := c.running()[0].Do("CLUSTER", "KEYSLOT", key).(int64)
	return int(slot)
}

// Primary is the node that serves a key now.
func (c *Cluster) Primary(key string) *Server {
	c.tb.Helper()
	return c.Owner(c.Slot(key))
}

// Owner is the node that serves a slot now. Nodes are asked about themselves, so there is no waiting until word has
// spread; where two still claim the slot, it is the one that took it last. The test fails when none that runs does.
func (c *Cluster) Owner(slot int) *Server {
	c.tb.Helper()
	owner := c.owner(slot)
	if owner == nil {
		c.tb.Fatalf("redistest: no node that runs serves slot %d", slot)
	}
	return owner
}

func (c *Cluster) owner(slot int) *Server {
	var owner *Server
	epoch := -1
	for _, node := range c.running() {
		line, err := c.myself(node)
		if err == nil && line.serves(slot) && line.epoch > epoch {
			owner, epoch = node, line.epoch
		}
	}
	return owner
}

// Replicas are the replicas of a node that run now.
func (c *Cluster) Replicas(primary *Server) []*Server {
	c.tb.Helper()
	var replicas []*Server
	for _, node := range c.running() {
		if line, err := c.myself(node); err == nil && line.primary == c.ids[primary] {
			replicas = append(replicas, node)
		}
	}
	return replicas
}

// WaitFailover waits until another node than this one serves the slot, and gives that node.
func (c *Cluster) WaitFailover(slot int, from *Server) *Server {
	c.tb.Helper()
	var owner *Server
	await(c.tb, fmt.Sprintf("slot %d left %s", slot, from.Addr), func() error {
		if owner = c.owner(slot); owner == nil || owner == from {
			return errors.New("no other node serves it")
		}
		return nil
	})
	return owner
}

// AddNode adds an empty primary and waits until all know it.
func (c *Cluster) AddNode() *Server {
	c.tb.Helper()
	known := c.running()
	node := c.spawn()
	c.identify(node)
	for _, other := range known {
		c.meet(node, other)
	}
	c.WaitReady()
	return node
}

// AddReplica adds a replica and waits until it has all that its primary has.
func (c *Cluster) AddReplica(primary *Server) *Server {
	c.tb.Helper()
	node := c.AddNode()
	c.replicate(node, primary)
	c.WaitReady()
	return node
}

// Remove kills a node and lets all others forget it. Slots that it still serves are lost.
func (c *Cluster) Remove(node *Server) {
	c.tb.Helper()
	node.Kill()
	c.Nodes = slices.DeleteFunc(c.Nodes, func(s *Server) bool { return s == node })
	for _, other := range c.running() {
		other.Do("CLUSTER", "FORGET", c.ids[node])
	}
}

// StartMigration is the first step of moving a slot: from answers ASK for keys that it does not have, and to takes
// them after ASKING.
func (c *Cluster) StartMigration(slot int, from, to *Server) {
	c.tb.Helper()
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", c.ids[from])
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", c.ids[to])
}

// MigrateKeys is the second step, to be repeated until it gives 0: it moves at most so many keys, and gives how many.
func (c *Cluster) MigrateKeys(slot int, from, to *Server, most int) int {
	c.tb.Helper()
	keys, _ := from.Do("CLUSTER", "GETKEYSINSLOT", slot, most).([]any)
	if len(keys) == 0 {
		return 0
	}
	host, port, _ := net.SplitHostPort(to.Addr)
	migrate := []any{"MIGRATE", host, port, "", 0, patience.Milliseconds()}
	switch {
	case to.username != "":
		migrate = append(migrate, "AUTH2", to.username, to.password)
	case to.password != "":
		migrate = append(migrate, "AUTH", to.password)
	}
	from.Do(append(append(migrate, "KEYS"), keys...)...)
	return len(keys)
}

// FinishMigration is the last step: the slot belongs to the node from now on, on every primary.
func (c *Cluster) FinishMigration(slot int, to *Server) {
	c.tb.Helper()
	to.Do("CLUSTER", "SETSLOT", slot, "NODE", c.ids[to])
	for _, node := range c.running() {
		if line, err := c.myself(node); node != to && err == nil && line.has("master") {
			node.Do("CLUSTER", "SETSLOT", slot, "NODE", c.ids[to])
		}
	}
}

// MoveSlot moves a slot with all its keys from the node that serves it.
func (c *Cluster) MoveSlot(slot int, to *Server) {
	c.tb.Helper()
	from := c.Owner(slot)
	c.StartMigration(slot, from, to)
	for c.MigrateKeys(slot, from, to, 100) > 0 {
		continue
	}
	c.FinishMigration(slot, to)
}

// Failover lets a replica take over from its primary in agreement with it, and waits until it has.
func (c *Cluster) Failover(replica *Server) {
	c.tb.Helper()
	c.failover(replica)
}

// Takeover lets a replica take over without asking anybody, as when most primaries are gone, and waits until it has.
func (c *Cluster) Takeover(replica *Server) {
	c.tb.Helper()
	c.failover(replica, "TAKEOVER")
}

func (c *Cluster) failover(replica *Server, how ...any) {
	c.tb.Helper()
	replica.Do(append([]any{"CLUSTER", "FAILOVER"}, how...)...)
	replica.await(replica.Addr+" is a primary", func() error {
		line, err := c.myself(replica)
		if err == nil && !line.has("master") {
			err = errors.New("it is a replica")
		}
		return err
	})
}
