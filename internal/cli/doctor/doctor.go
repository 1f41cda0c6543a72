package doctor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

const (
	// DefaultTimeout bounds an examination.
	DefaultTimeout = 30 * time.Second
	// mostDial bounds the opening of one connection, and mostWait one question.
	mostDial, mostWait = 5 * time.Second, 5 * time.Second
	// mostReplyBytes is more than the documents of the largest set have.
	mostReplyBytes = 16 << 20
	// mostAtOnce is how many servers are asked at a time.
	mostAtOnce = 8
	// mostServers is how many servers are looked at: as many nodes as a Redis Cluster should have at most. Whoever tells of
	// more would keep the doctor busy.
	mostServers = 1000
)

// Options say what is examined; zero values stand for the defaults.
type Options struct {
	// Config is how the store is reached.
	Config redisops.Config
	// Roles are whose rights are looked at; none: RoleOperator and RolePenstockd, whose user a store has in common.
	Roles []Role
	// User is the ACL user whose rights are looked at; empty is the one who connects. Another needs the right to ACL DRYRUN.
	User string
	// Owner is the end of what should be the owner of the store ("/<namespace>/<name>"); empty is whichever.
	Owner string
	// Timeout bounds the examination: DefaultTimeout.
	Timeout time.Duration
	// Clock is the local clock: time.Now.
	Clock func() time.Time
}

// Examine looks at all that can be reached, and gives what it found.
func Examine(ctx context.Context, options Options) Report {
	if options.Timeout <= 0 {
		options.Timeout = DefaultTimeout
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if len(options.Roles) == 0 {
		options.Roles = []Role{RoleOperator, RolePenstockd}
	}
	ctx, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()

	e := &examination{options: options, cfg: options.Config.WithDefaults()}
	defer e.close()
	if e.configured() {
		e.discover(ctx)
		e.each(e.servers, func(s *server) { e.examine(ctx, s) })
		e.compareClocks()
		e.examineDocuments(ctx)
	}
	if ctx.Err() != nil {
		e.store(Error, CheckReachable, fmt.Sprintf("not all could be looked at within %v", options.Timeout), "what is missing here may be wrong",
			"mend what is slow or away, or give it more time with --timeout")
	}
	return Report{Findings: sorted(e.findings, e.addresses())}
}

// examination is one run.
type examination struct {
	options Options
	cfg     redisops.Config

	mu       sync.Mutex
	findings []Finding
	// known are all servers and sentinels in the order in which they were met.
	known []*server
	// servers are those that answer and hold data.
	servers []*server
}

// server is one Redis, or one sentinel.
type server struct {
	address string
	// opened is nil as long as the server does not answer.
	opened *redisops.Servers
	client *redis.Client

	// mode is standalone, cluster or sentinel.
	mode    string
	replica bool
	engine  string
	version string
	// info is what INFO says; nil when it is not permitted.
	info map[string]string
	// offset is how far the server's clock is ahead of the local one, give or take uncertain.
	offset, uncertain time.Duration
	clocked           bool
	// functions tells that the server knows them, noFunctions that it does not: it may not permit to try.
	functions, noFunctions bool
}

func (s *server) primary() bool { return !s.replica }

// find adds a finding about a server.
func (e *examination) find(s *server, severity Severity, check, what, why, remedy string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.findings = append(e.findings, Finding{
		Severity: severity, Check: check, Servers: []string{printable(s.address)}, What: printable(what), Why: printable(why), Remedy: printable(remedy),
	})
}

// store adds a finding about the store.
func (e *examination) store(severity Severity, check, what, why, remedy string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.findings = append(e.findings, Finding{Severity: severity, Check: check, What: printable(what), Why: printable(why), Remedy: printable(remedy)})
}

func (e *examination) addresses() []string {
	var addresses []string
	for _, s := range e.known {
		addresses = append(addresses, printable(s.address))
	}
	return addresses
}

func (e *examination) close() {
	for _, s := range e.known {
		if s.opened != nil {
			_ = s.opened.Close() // all is said
		}
	}
}

// each does something with several servers at a time.
func (e *examination) each(servers []*server, do func(*server)) {
	var busy sync.WaitGroup
	slots := make(chan struct{}, mostAtOnce)
	for _, s := range servers {
		slots <- struct{}{}
		busy.Go(func() {
			defer func() { <-slots }()
			do(s)
		})
	}
	busy.Wait()
}

// configured tells whether there is anything to connect to.
func (e *examination) configured() bool {
	opened, err := redisops.Open(e.cfg)
	if err != nil {
		e.store(Error, CheckConfiguration, err.Error(), "nothing connects with it", "")
		return false
	}
	_ = opened.Close() // nothing was opened yet
	e.lookAtClientCertificate()
	e.lookAtTimeouts()
	return true
}

func (e *examination) lookAtTimeouts() {
	if e.cfg.CommandTimeout >= envoyTimeout {
		e.store(Note, CheckTimeouts, fmt.Sprintf("a caller waits up to %v for a decision", e.cfg.CommandTimeout),
			fmt.Sprintf("Envoy waits %v for its rate limit service unless told otherwise, and lets the request pass then", envoyTimeout),
			"set timeouts.command below the timeouts of all callers, or raise theirs")
	}
}

// node gives the configuration that leads to one server alone.
func (e *examination) node(address string, sentinel bool) redisops.Config {
	cfg := e.cfg
	cfg.Topology, cfg.Addresses, cfg.MasterName = policy.TopologyStandalone, []string{address}, ""
	if sentinel {
		cfg.Username, cfg.Password, cfg.DB = cfg.SentinelUsername, cfg.SentinelPassword, 0
	}
	cfg.SentinelUsername, cfg.SentinelPassword = "", ""
	cfg.MaxConnections = 4
	cfg.MaxReplyBytes = mostReplyBytes
	cfg.DialTimeout = min(cfg.DialTimeout, mostDial)
	return cfg
}

// waiting bounds one question.
func waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, mostWait)
}

// do asks one question.
func do(ctx context.Context, client *redis.Client, args ...any) (any, error) {
	ctx, cancel := waiting(ctx)
	defer cancel()
	return client.Do(ctx, args...).Result()
}

// get reads a server's INFO, field by field; empty where it is not known.
func (s *server) get(field string) string { return s.info[field] }

// setting reads a parameter of the server's configuration, and tells whether it is known.
func (s *server) setting(ctx context.Context, name string) (string, bool) {
	ctx, cancel := waiting(ctx)
	defer cancel()
	values, err := s.client.ConfigGet(ctx, name).Result()
	if err != nil {
		return "", false
	}
	value, known := values[name]
	return value, known
}

// add makes a server known, once for each address.
func (e *examination) add(address string) (s *server, isNew bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.IndexFunc(e.known, func(s *server) bool { return s.address == address }); i >= 0 {
		return e.known[i], false
	}
	s = &server{address: address}
	e.known = append(e.known, s)
	return s, true
}
