package doctor

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// The modes of a server.
const (
	modeStandalone = "standalone"
	modeCluster    = "cluster"
	modeSentinel   = "sentinel"
)

// fewestSentinels is how many it takes so that one may be lost and the others still agree.
const fewestSentinels = 3

// discover connects to all that is configured and all that those tell of.
func (e *examination) discover(ctx context.Context) {
	var given []*server
	for _, address := range e.cfg.Addresses {
		if s, isNew := e.add(address); isNew {
			given = append(given, s)
		}
	}
	sentinel := e.cfg.Topology == policy.TopologySentinel
	reached := make([]bool, len(given))
	e.each(given, func(s *server) { reached[slices.Index(given, s)] = e.connect(ctx, s, sentinel) })
	var answering []*server
	for i, s := range given {
		if reached[i] {
			answering = append(answering, s)
		}
	}
	switch e.cfg.Topology {
	case policy.TopologySentinel:
		e.discoverBySentinels(ctx, answering)
	case policy.TopologyCluster:
		e.discoverCluster(ctx, answering)
	case policy.TopologyIndependent:
		e.lookAtIndependent(answering)
	default:
		for _, s := range answering {
			e.lookAtStandalone(ctx, s)
		}
	}
	for _, s := range e.servers {
		role := "primary"
		if s.replica {
			role = "replica"
		}
		e.find(s, OK, CheckReachable, strings.TrimSpace(strings.Join([]string{s.engine, s.version, s.mode, role}, " ")), "", "")
	}
}

// serves keeps a server for further questions.
func (e *examination) serves(s *server) { e.servers = append(e.servers, s) }

func (e *examination) lookAtStandalone(ctx context.Context, s *server) {
	switch {
	case s.mode == modeSentinel:
		remedy := "use topology Sentinel with this address and the name of the primary"
		if known := s.masters(ctx); len(known) > 0 {
			remedy += ", which is " + strings.Join(known, " or ")
		}
		e.find(s, Error, CheckTopology, "it is a sentinel and no server", "it holds no data", remedy)
		return
	case s.mode == modeCluster:
		e.find(s, Error, CheckTopology, "it is a node of a Redis Cluster, and the topology is Standalone", "keys of other nodes are answered with MOVED", "use topology Cluster")
	case s.replica:
		primary := "its primary"
		if host := s.get("master_host"); host != "" {
			primary = net.JoinHostPort(host, s.get("master_port"))
		}
		e.find(s, Error, CheckTopology, "it is a replica of "+primary, "it refuses all writes (READONLY), and so all decisions", "use the address of the primary, or one that follows it")
	}
	e.serves(s)
}

// lookAtIndependent is for servers that must have nothing to do with each other.
func (e *examination) lookAtIndependent(answering []*server) {
	runs := make(map[string]string)
	for _, s := range answering {
		if s.mode != modeStandalone {
			e.find(s, Error, CheckTopology, "it is "+article(s.mode)+", and the topology is Independent", "quorum locks need servers of their own", "use servers that are neither sentinels nor nodes of a cluster")
			if s.mode == modeSentinel {
				continue
			}
		}
		if s.replica {
			e.find(s, Error, CheckTopology, "it is a replica of "+net.JoinHostPort(s.get("master_host"), s.get("master_port")), "a majority of copies of one server is no majority",
				"make it a primary (REPLICAOF NO ONE), or name another server")
		}
		if run := s.get("run_id"); run != "" {
			if other := runs[run]; other != "" {
				e.find(s, Error, CheckTopology, fmt.Sprintf("it is the same server as %s", other), "a majority of addresses of one server is no majority", "name each server once")
			}
			runs[run] = s.address
		}
		e.serves(s)
	}
	if n := len(e.cfg.Addresses); n < 3 || n%2 == 0 {
		e.store(Note, CheckTopology, fmt.Sprintf("there are %d independent servers", n), "an odd number from 3 on loses fewest locks when one is away", "use 3, 5 or 7")
	}
}

func article(mode string) string {
	if mode == modeSentinel {
		return "a sentinel"
	}
	return "a node of a Redis Cluster"
}

// masters gives the names that a sentinel knows.
func (s *server) masters(ctx context.Context) []string {
	reply, err := do(ctx, s.client, "SENTINEL", "MASTERS")
	list, is := reply.([]any)
	if err != nil || !is {
		return nil
	}
	var known []string
	for _, master := range list {
		if name := pairs(master)["name"]; name != "" {
			known = append(known, strconv.Quote(name))
		}
	}
	slices.Sort(known)
	return known
}

// watched is what one sentinel says.
type watched struct {
	sentinel *server
	primary  string
}

func (e *examination) discoverBySentinels(ctx context.Context, answering []*server) {
	var views []watched
	sentinels := 0
	for _, s := range answering {
		if s.mode != modeSentinel {
			e.find(s, Error, CheckTopology, "it is "+kind(s)+" and no sentinel", "it does not know which server is the primary", "use the address of a sentinel (its port is 26379 unless configured), or topology Standalone")
			continue
		}
		sentinels++
		e.find(s, OK, CheckReachable, strings.TrimSpace(strings.Join([]string{s.engine, s.version, s.mode}, " ")), "", "")
		if primary, is := e.askForPrimary(ctx, s); is {
			views = append(views, watched{s, primary})
			e.lookAtMaster(ctx, s)
		}
	}
	if len(e.cfg.Addresses) < fewestSentinels {
		e.store(Warning, CheckTopology, areOrIs(len(e.cfg.Addresses)), "when those are away nobody finds the primary after a failover", "run three or more, and name them all")
	}
	if len(views) == 0 {
		if sentinels == 0 {
			e.store(Error, CheckTopology, "no sentinel answers", "nobody says which server is the primary", "see what was said of each")
		}
		return
	}
	e.agree(views)
	addresses := []string{views[0].primary}
	for _, view := range views {
		addresses = append(addresses, view.primary)
		addresses = append(addresses, e.replicasOf(ctx, view.sentinel)...)
	}
	e.connectAll(ctx, addresses)
	e.lookAtPrimary(views[0].primary)
}

func areOrIs(n int) string {
	if n == 1 {
		return "only 1 of the sentinels is named"
	}
	return fmt.Sprintf("only %d of the sentinels are named", n)
}

func kind(s *server) string {
	if s.mode == modeCluster {
		return "a node of a Redis Cluster"
	}
	return "a server"
}

// askForPrimary asks a sentinel where the primary is.
func (e *examination) askForPrimary(ctx context.Context, s *server) (string, bool) {
	reply, err := do(ctx, s.client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", e.cfg.MasterName)
	if pair, is := reply.([]any); err == nil && is && len(pair) == 2 {
		return net.JoinHostPort(fmt.Sprint(pair[0]), fmt.Sprint(pair[1])), true
	}
	switch {
	case redisops.Classify(err) == redisops.None:
		remedy := "correct the name (--redis-master-name, spec.sentinel.masterName)"
		if known := s.masters(ctx); len(known) > 0 {
			remedy += "; it knows " + strings.Join(known, " and ")
		}
		e.find(s, Error, CheckTopology, fmt.Sprintf("it knows no primary %q", e.cfg.MasterName), "it cannot say where to go", remedy)
	case redisops.Classify(err) == redisops.Configuration:
		e.find(s, Error, CheckACL, "SENTINEL GET-MASTER-ADDR-BY-NAME is not permitted there", "it cannot say where to go", "add the rule +sentinel|get-master-addr-by-name")
	default:
		e.find(s, Error, CheckTopology, "it does not say where the primary is", "it cannot say where to go", "look at the log of the sentinel")
	}
	return "", false
}

// lookAtMaster says what a sentinel thinks of the primary.
func (e *examination) lookAtMaster(ctx context.Context, s *server) {
	reply, err := do(ctx, s.client, "SENTINEL", "MASTER", e.cfg.MasterName)
	if err != nil {
		e.find(s, Note, CheckACL, "SENTINEL MASTER is not permitted there", "whether the sentinels could fail over was not looked at", "add the rule +sentinel|master for the doctor")
		return
	}
	master := pairs(reply)
	if flags := strings.Split(master["flags"], ","); slices.Contains(flags, "s_down") || slices.Contains(flags, "o_down") {
		e.find(s, Error, CheckTopology, "it holds the primary for down", "until a replica is promoted nothing is decided by Redis", "look at the primary, and whether there is a replica to promote")
	}
	others, _ := strconv.Atoi(master["num-other-sentinels"])
	quorum, _ := strconv.Atoi(master["quorum"])
	switch all := others + 1; {
	case quorum > all:
		e.find(s, Error, CheckTopology, fmt.Sprintf("its quorum is %d, and there are %d sentinels", quorum, all), "they can never agree that the primary is down", "lower the quorum, or run more sentinels")
	case all < fewestSentinels:
		e.find(s, Warning, CheckTopology, fmt.Sprintf("it knows %s in all", counted(all, "sentinel")), "with one away there is no majority, and no failover", "run three or more")
	}
	if master["num-slaves"] == "0" {
		e.find(s, Warning, CheckTopology, "it knows no replica of the primary", "nothing can be promoted when the primary is lost", "run a replica")
	}
}

// agree tells whether the sentinels name the same primary.
func (e *examination) agree(views []watched) {
	said := make(map[string][]string)
	for _, view := range views {
		said[view.primary] = append(said[view.primary], view.sentinel.address)
	}
	if len(said) == 1 {
		e.store(OK, CheckTopology, fmt.Sprintf("%s agree on the primary %s", counted(len(views), "sentinel"), views[0].primary), "", "")
		return
	}
	var sides []string
	for primary, sentinels := range said {
		sides = append(sides, fmt.Sprintf("%s say %s", strings.Join(sentinels, " and "), primary))
	}
	slices.Sort(sides)
	e.store(Error, CheckTopology, "the sentinels disagree on the primary: "+strings.Join(sides, "; "), "some clients count on one server and some on another",
		"wait for a failover to end; otherwise make them watch the same server (SENTINEL REMOVE, SENTINEL MONITOR)")
}

// replicasOf gives the replicas that a sentinel knows and does not hold for lost.
func (e *examination) replicasOf(ctx context.Context, s *server) []string {
	reply, err := do(ctx, s.client, "SENTINEL", "REPLICAS", e.cfg.MasterName)
	list, is := reply.([]any)
	if err != nil || !is {
		return nil
	}
	var found []string
	for _, replica := range list {
		if at := pairs(replica); at["ip"] != "" {
			found = append(found, net.JoinHostPort(at["ip"], at["port"]))
		}
	}
	slices.Sort(found)
	return found
}

// lookAtPrimary tells whether the server that should be the primary is one.
func (e *examination) lookAtPrimary(address string) {
	for _, s := range e.servers {
		if s.address == address && s.replica {
			e.find(s, Error, CheckTopology, "the sentinels hold it for the primary, and it is a replica", "it refuses all writes (READONLY)", "wait for a failover to end; otherwise look at the logs of the sentinels")
		}
	}
}

// connectAll connects to servers that others told of.
func (e *examination) connectAll(ctx context.Context, addresses []string) {
	var told []*server
	if n := len(addresses); n > mostServers {
		e.store(Warning, CheckTopology, fmt.Sprintf("%d servers were told of, and only %d are looked at", n, mostServers), "what is missing here may be wrong", "look at the topology that the servers tell")
		addresses = addresses[:mostServers]
	}
	for _, address := range addresses {
		if s, isNew := e.add(address); isNew {
			told = append(told, s)
		}
	}
	reached := make([]bool, len(told))
	e.each(told, func(s *server) { reached[slices.Index(told, s)] = e.connect(ctx, s, false) })
	lost := 0
	for i, s := range told {
		if reached[i] {
			e.serves(s)
		} else {
			lost++
		}
	}
	if lost > 0 && lost == len(told) {
		e.store(Error, CheckTopology, "none of the servers that were told of can be reached", "clients go to the addresses that the servers announce",
			"have them announce addresses that are reachable from here (cluster-announce-ip, replica-announce-ip, sentinel announce-ip)")
	}
}

// slots is how many slots a cluster has.
const slots = 16384

func (e *examination) discoverCluster(ctx context.Context, answering []*server) {
	var addresses []string
	for _, s := range answering {
		if s.mode != modeCluster {
			if s.mode == modeSentinel {
				e.find(s, Error, CheckTopology, "it is a sentinel, and the topology is Cluster", "it holds no data", "use topology Sentinel, or the addresses of nodes of a cluster")
				continue
			}
			e.find(s, Error, CheckTopology, "it is no node of a Redis Cluster (cluster_enabled is 0)", "it does not say which node has which slots", "use topology Standalone, or the addresses of nodes of a cluster")
			e.serves(s)
			continue
		}
		e.serves(s)
		addresses = append(addresses, e.nodesOf(ctx, s)...)
	}
	slices.Sort(addresses)
	e.connectAll(ctx, slices.Compact(addresses))
	e.each(e.servers, func(s *server) { e.lookAtCluster(ctx, s) })

	primaries := 0
	for _, s := range e.servers {
		if s.mode == modeCluster && s.primary() {
			primaries++
		}
	}
	if primaries > 0 && primaries < 3 {
		e.store(Note, CheckTopology, fmt.Sprintf("the cluster has %s that can be reached", counted(primaries, "primary node")), "fewer than 3 cannot agree that one of them failed, so no replica is promoted", "run 3 or more")
	}
}

// nodesOf gives the addresses of all nodes that a node tells of.
func (e *examination) nodesOf(ctx context.Context, s *server) []string {
	reply, err := do(ctx, s.client, "CLUSTER", "SLOTS")
	if err != nil {
		if redisops.Classify(err) == redisops.Configuration {
			e.find(s, Error, CheckACL, "CLUSTER SLOTS is not permitted there", "nobody finds the other nodes", "add the rule +cluster|slots")
		}
		return nil
	}
	ranges, _ := reply.([]any)
	var found []string
	for _, entry := range ranges {
		parts, _ := entry.([]any)
		for i := 2; i < len(parts); i++ {
			node, _ := parts[i].([]any)
			if len(node) < 2 {
				continue
			}
			host, _ := node[0].(string)
			if host == "" { // the one that was asked
				host, _, _ = net.SplitHostPort(s.address)
			}
			found = append(found, net.JoinHostPort(host, fmt.Sprint(node[1])))
		}
	}
	return found
}

// lookAtCluster says how a node sees the cluster.
func (e *examination) lookAtCluster(ctx context.Context, s *server) {
	if s.mode != modeCluster {
		return
	}
	reply, err := do(ctx, s.client, "CLUSTER", "INFO")
	text, is := reply.(string)
	if err != nil || !is {
		e.find(s, Note, CheckACL, "CLUSTER INFO is not permitted there", "the state of the cluster was not looked at", "add the rule +cluster|info for the doctor")
		return
	}
	info := redisops.ParseInfo(text)
	assigned, _ := strconv.Atoi(info["cluster_slots_assigned"])
	failing, _ := strconv.Atoi(info["cluster_slots_fail"])
	doubtful, _ := strconv.Atoi(info["cluster_slots_pfail"])
	if state := info["cluster_state"]; state != "ok" {
		e.find(s, Error, CheckTopology, "it holds the cluster for down (cluster_state:"+state+")", "it refuses all keys (CLUSTERDOWN)", "see CLUSTER NODES; promote a replica of the node that is lost, or give its slots to another")
	}
	switch {
	case assigned < slots:
		e.find(s, Error, CheckTopology, fmt.Sprintf("%d of %d slots belong to no node", slots-assigned, slots), "subjects whose counters are in them are decided by onStoreFailure", "give them to a node (redis-cli --cluster fix)")
	case failing > 0:
		e.find(s, Error, CheckTopology, fmt.Sprintf("the nodes of %d slots have failed", failing), "subjects whose counters are in them are decided by onStoreFailure", "bring the nodes back, or promote their replicas")
	case doubtful > 0:
		e.find(s, Warning, CheckTopology, fmt.Sprintf("the nodes of %d slots do not answer it", doubtful), "they may be about to fail", "look at those nodes, and at the network between them")
	case info["cluster_state"] == "ok":
		e.find(s, OK, CheckTopology, fmt.Sprintf("all %d slots are served", slots), "", "")
	}
}
