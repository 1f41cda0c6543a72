package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// envoyTimeout is how long Envoy waits for its rate limit service.
	envoyTimeout = 20 * time.Millisecond
	// pings is how many round trips are measured.
	pings = 50
	// mostSkew is how far clocks may be apart.
	mostSkew = time.Second
	// mostLag is how far in seconds a replica may be behind.
	mostLag = 10
)

// examine asks one server all that concerns it alone.
func (e *examination) examine(ctx context.Context, s *server) {
	e.measure(ctx, s)
	e.lookAtVersion(ctx, s)
	if s.info == nil {
		e.find(s, Note, CheckACL, "INFO is not permitted", "memory, persistence and replication were not looked at", "add the rule +info for the doctor")
	} else {
		e.lookAtMemory(s)
		e.lookAtPersistence(ctx, s)
		e.lookAtReplication(ctx, s)
	}
	e.readClock(ctx, s)
	e.lookAtAuth(s)
	e.lookAtRights(ctx, s)
}

// measure tells how long a round trip takes. An error reply is one, too.
func (e *examination) measure(ctx context.Context, s *server) {
	ctx, cancel := waiting(ctx)
	defer cancel()
	took := make([]time.Duration, 0, pings)
	for range pings {
		begin := time.Now()
		err := s.client.Ping(ctx).Err()
		if _, replied := errors.AsType[redis.Error](err); err != nil && !replied {
			break
		}
		took = append(took, time.Since(begin))
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	figures := fmt.Sprintf("a round trip takes %v (p50), %v (p99)", rounded(p50), rounded(p99))
	wait := e.cfg.CommandTimeout
	switch {
	case p50 >= wait:
		e.find(s, Error, CheckLatency, fmt.Sprintf("%s, and a caller waits %v", figures, wait), "most decisions go by onStoreFailure", "raise timeouts.command (--command-timeout), or move nearer to it")
	case p99 >= wait:
		e.find(s, Warning, CheckLatency, fmt.Sprintf("%s, and a caller waits %v", figures, wait), "some decisions go by onStoreFailure", "raise timeouts.command (--command-timeout), or look what makes it slow (SLOWLOG, LATENCY DOCTOR)")
	case p99 >= envoyTimeout:
		e.find(s, Warning, CheckLatency, figures, fmt.Sprintf("Envoy waits %v for its rate limit service unless told otherwise", envoyTimeout), "raise the timeout of the callers, or move nearer to it")
	default:
		e.find(s, OK, CheckLatency, figures, "", "")
	}
	// TCP, TLS, HELLO, PING: what opening a connection takes.
	if dial := e.cfg.DialTimeout; dial < 5*p99 {
		e.find(s, Warning, CheckTimeouts, fmt.Sprintf("opening a connection may take %v, which is less than 5 round trips", dial), "new connections fail", "raise timeouts.dial (--dial-timeout)")
	}
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func (e *examination) lookAtVersion(ctx context.Context, s *server) {
	v, known := parseVersion(s.version)
	if !known || (s.engine != engineRedis && s.engine != engineValkey) {
		e.find(s, Note, CheckVersion, fmt.Sprintf("it calls itself %q %q", s.engine, s.version), "whether that version has known holes is not known here", "ask its vendor")
	}
	// Each way it shows that it knows FCALL; EVAL, by which library.Probe goes on, would leave a script behind.
	_, err := do(ctx, s.client, "FCALL_RO", functionPrefix+"policy", 0)
	s.noFunctions = unknownCommand(err) || (known && v.before(functionVersion))
	s.functions = !s.noFunctions && !forbidden(err)
	switch {
	case known && s.engine == engineRedis && v.before(oldestVersion):
		e.find(s, Error, CheckVersion, fmt.Sprintf("%s %s is older than %v", s.engine, s.version, oldestVersion), "it is not supported: nobody mends its Lua any more", "update it, to 7.0 or newer for functions")
	case s.noFunctions:
		e.find(s, Note, CheckVersion, "it has no functions (Redis 7.0)", "policies go along with each call, as scripts, and applications cannot call FCALL themselves", "update it for functions")
	case !s.functions:
		// The rights that are missing are told of below.
		e.find(s, Note, CheckVersion, "it could not be tried whether it has functions", "they decide in one round trip without sending the policy", "see what is said of its ACL")
	case known:
		e.find(s, OK, CheckVersion, fmt.Sprintf("%s %s has functions", s.engine, s.version), "", "")
	}
	if open, fixed := knownHoles(s.engine, v, e.cfg.TLS != nil); known && len(open) > 0 {
		var names []string
		for _, h := range open {
			names = append(names, h.name)
		}
		e.find(s, Warning, CheckHoles, fmt.Sprintf("%s %s has known holes: %s", s.engine, s.version, strings.Join(names, ", ")),
			"who may run scripts or functions, or merely connect, may be able to take it over or to stop it",
			fmt.Sprintf("update it to %v or newer, unless your distribution has backported the fixes", fixed))
	}
}

// lookAtMemory says what can be evicted. Replicas evict nothing by themselves.
func (e *examination) lookAtMemory(s *server) {
	eviction, most := s.get("maxmemory_policy"), s.get("maxmemory")
	if most == "0" && s.primary() {
		e.find(s, Note, CheckMemory, "maxmemory is 0", "the server grows until its host ends it, which loses what is not persisted", "set maxmemory below what the host or container allows")
	}
	switch {
	case eviction == "" || s.replica && e.cfg.Topology != "":
		return
	case eviction == "noeviction":
		e.find(s, OK, CheckEviction, "maxmemory-policy is noeviction", "", "")
	case strings.HasPrefix(eviction, "allkeys-"):
		severity, what := Warning, "maxmemory-policy is "+eviction
		if most == "0" {
			severity, what = Note, what+", which takes effect once maxmemory is set"
		}
		e.find(s, severity, CheckEviction, what, "counters can be lost, so that limits let more pass; balances and slots too, and penstock:policies and penstock:library", "use a Redis of its own with maxmemory-policy noeviction")
	default:
		severity, what := Warning, "maxmemory-policy is "+eviction
		if most == "0" {
			severity, what = Note, what+", which takes effect once maxmemory is set"
		}
		e.find(s, severity, CheckEviction, what, "counters, slots and ids of decisions have a TTL and can be lost, so that limits let more pass; balances and the policies have none and stay", "use a Redis of its own with maxmemory-policy noeviction")
	}
}

func (e *examination) lookAtPersistence(ctx context.Context, s *server) {
	if s.get("loading") == "1" || s.get("async_loading") == "1" {
		e.find(s, Error, CheckPersistence, "it is loading its data", "until it is done it refuses commands (LOADING)", "wait")
	}
	aof := s.get("aof_enabled") == "1"
	save, known := s.setting(ctx, "save")
	rdb := known && save != ""
	if last := s.get("rdb_last_bgsave_status"); last != "" && last != "ok" {
		stops, knownStops := s.setting(ctx, "stop-writes-on-bgsave-error")
		switch {
		case known && !rdb:
			// Nobody waits for it: a replica asked for it, or an operator.
			e.find(s, Warning, CheckPersistence, "the last snapshot failed", "replicas cannot be filled", "look at the log of the server: mostly the disk is full, or memory cannot be doubled for a fork")
		case !knownStops || stops == "yes":
			e.find(s, Error, CheckPersistence, "the last snapshot failed", "the server refuses all writes (MISCONF), and so all decisions, until one succeeds", "look at the log of the server: mostly the disk is full, or memory cannot be doubled for a fork")
		default:
			e.find(s, Warning, CheckPersistence, "the last snapshot failed", "what is counted since is lost with the server", "look at the log of the server")
		}
	}
	if aof && s.get("aof_last_write_status") == "err" {
		e.find(s, Error, CheckPersistence, "the append-only file could not be written", "the server refuses all writes (MISCONF), and so all decisions", "make room on its disk")
	}
	if aof && s.get("aof_last_bgrewrite_status") == "err" {
		e.find(s, Warning, CheckPersistence, "the append-only file could not be rewritten", "it grows until the disk is full", "look at the log of the server")
	}
	switch {
	case aof && rdb:
		e.find(s, OK, CheckPersistence, "there is an append-only file, and there are snapshots", "", "")
	case aof:
		e.find(s, OK, CheckPersistence, "there is an append-only file", "", "")
	case rdb:
		e.find(s, Note, CheckPersistence, "there are snapshots, and no append-only file", "a crash loses what was counted since the last one, of balances too", "set appendonly yes where balances or long windows must survive")
	case known:
		e.find(s, Note, CheckPersistence, "there is no persistence", "a restart loses all counters, balances and slots; the policies are published again", "set appendonly yes where balances or long windows must survive")
	default:
		e.find(s, Note, CheckPersistence, "whether there are snapshots is not known: CONFIG GET is not permitted", "", "add the rule +config|get for the doctor")
	}
}

func (e *examination) lookAtReplication(ctx context.Context, s *server) {
	if s.replica {
		e.lookAtReplica(s)
		return
	}
	connected, _ := strconv.Atoi(s.get("connected_slaves"))
	for i := range connected {
		told, is := s.info["slave"+strconv.Itoa(i)]
		if !is {
			break // there are no more, whatever their number is said to be
		}
		at := fields(told)
		where := at["ip"] + ":" + at["port"]
		if state := at["state"]; state != "" && state != "online" {
			e.find(s, Warning, CheckReplication, fmt.Sprintf("its replica %s is not in step yet (%s)", where, state), "a failover to it would lose more", "wait, or look at the log of the replica")
		} else if lag, err := strconv.Atoi(at["lag"]); err == nil && lag > mostLag {
			e.find(s, Warning, CheckReplication, fmt.Sprintf("its replica %s was last heard of more than %d s ago", where, mostLag), "a failover to it would lose more", "look at the replica, and at the network between them")
		}
	}
	want, known := s.setting(ctx, "min-replicas-to-write")
	if least, err := strconv.Atoi(want); known && err == nil && least > 0 {
		good, _ := strconv.Atoi(s.get("min_slaves_good_slaves"))
		if good < least {
			e.find(s, Error, CheckReplication, fmt.Sprintf("min-replicas-to-write is %d, and %d are in step", least, good), "it refuses all writes (NOREPLICAS), and so all decisions", "bring the replicas back, or lower min-replicas-to-write")
			return
		}
	}
	if e.cfg.Topology == "Cluster" && connected == 0 && s.mode == modeCluster {
		e.find(s, Warning, CheckReplication, "it has no replica", "when it is lost, its slots are", "give it one")
		return
	}
	e.find(s, OK, CheckReplication, "it is a primary with "+replicas(connected), "", "")
}

func replicas(n int) string {
	switch n {
	case 0:
		return "no replicas"
	case 1:
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

func (e *examination) lookAtReplica(s *server) {
	if s.get("master_link_status") != "up" {
		e.find(s, Warning, CheckReplication, "its link to the primary is down", "a failover to it would lose all that was counted since", "look at the primary, at masterauth and masteruser, and at the network between them")
	} else {
		e.find(s, OK, CheckReplication, "it is a replica in step", "", "")
	}
	if s.get("slave_read_only") == "0" {
		e.find(s, Warning, CheckReplication, "it takes writes although it is a replica", "what is written there is lost without a word", "set replica-read-only yes")
	}
}

// fields reads ip=127.0.0.1,port=1,state=online.
func fields(text string) map[string]string {
	found := make(map[string]string)
	for part := range strings.SplitSeq(text, ",") {
		if name, value, is := strings.Cut(part, "="); is {
			found[name] = value
		}
	}
	return found
}

// readClock compares a server's clock with the local one.
func (e *examination) readClock(ctx context.Context, s *server) {
	ctx, cancel := waiting(ctx)
	defer cancel()
	before := e.options.Clock()
	at, err := s.client.Time(ctx).Result()
	after := e.options.Clock()
	if err != nil {
		return // missing rights are told of with the others
	}
	s.uncertain = after.Sub(before) / 2
	s.offset, s.clocked = at.Sub(before.Add(s.uncertain)), true
	if skew := s.offset.Abs() - s.uncertain; skew > mostSkew {
		direction := "ahead of"
		if s.offset < 0 {
			direction = "behind"
		}
		e.find(s, Warning, CheckClock, fmt.Sprintf("its clock is %v %s the one of this machine", s.offset.Abs().Round(time.Second), direction),
			"Redis' clock is the only one that counts, also for the days and months of calendar windows", "have both kept by NTP")
		return
	}
	e.find(s, OK, CheckClock, fmt.Sprintf("its clock is within %v of the one of this machine", mostSkew), "", "")
}

// compareClocks compares the servers' clocks with each other.
func (e *examination) compareClocks() {
	var first, last *server
	for _, s := range e.servers {
		if !s.clocked {
			continue
		}
		if first == nil || s.offset < first.offset {
			first = s
		}
		if last == nil || s.offset > last.offset {
			last = s
		}
	}
	if first == nil || last.offset-first.offset-first.uncertain-last.uncertain <= mostSkew {
		return
	}
	e.store(Warning, CheckClock, fmt.Sprintf("the clock of %s is %v ahead of the one of %s", last.address, (last.offset-first.offset).Round(time.Second), first.address),
		"a failover from one to the other would move all windows by that much", "have them kept by NTP")
}
