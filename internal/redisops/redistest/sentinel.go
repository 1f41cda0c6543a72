package redistest

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sentinels is their number; two of them agree that a primary is down.
const sentinels = 3

// Sentinel is a primary with replicas, watched by three sentinels, all real processes that end with the test. Its
// methods are for one goroutine at a time.
type Sentinel struct {
	// MasterName is the name by which the sentinels know the primary.
	MasterName string
	// Servers are the primary of the start and then its replicas. A server that was killed and runs again is an empty
	// primary until the sentinels have made it a replica.
	Servers []*Server
	// Sentinels answer at Addr as the servers do; Kill, Run, Pause and Resume work too.
	Sentinels []*Server

	tb testing.TB
}

// SentinelOptions are further command-line options of the processes; the zero value is fine.
type SentinelOptions struct {
	// Redis are for each server. TLS options (see TLS.Options) hold for the sentinels too.
	Redis []string
	// Sentinels are for each sentinel. With requirepass they authenticate with it to each other as well.
	Sentinels []string
}

// StartSentinel starts a primary with so many replicas and three sentinels, and waits until they all know each other.
// A server is taken for down after 1 s.
func StartSentinel(tb testing.TB, replicas int, options SentinelOptions) *Sentinel {
	tb.Helper()
	s := &Sentinel{MasterName: "limits", tb: tb}
	redis := slices.Clone(options.Redis)
	if option(redis, "--masterauth") == "" && option(redis, "--requirepass") != "" {
		redis = append(redis, "--masterauth", option(redis, "--requirepass"))
	}
	for range 1 + replicas {
		server := newServer(tb, redis)
		server.spawn()
		s.Servers = append(s.Servers, server)
	}
	host, port, _ := net.SplitHostPort(s.Servers[0].Addr)
	for i, server := range s.Servers {
		server.awaitAnswer()
		if i > 0 {
			server.Do("REPLICAOF", host, port)
		}
	}
	for _, server := range s.Servers[1:] {
		server.await(server.Addr+" replicates "+s.Servers[0].Addr, server.replicating)
	}
	for range sentinels {
		sentinel := newSentinel(tb, s.MasterName, s.Servers[0], append(tlsOptions(redis), options.Sentinels...))
		sentinel.spawn()
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	for _, sentinel := range s.Sentinels {
		sentinel.awaitAnswer()
		hurry(sentinel)
	}
	s.WaitReady()
	return s
}

// hurry has a sentinel look and tell more often than by default, until it is started again, and not rest for 30 s after
// the machine was too busy to let it run. A replica of which there was no word for five pings, or three times
// info-period, is not promoted: less than this is too little on a busy machine.
func hurry(sentinel *Server) {
	sentinel.tb.Helper()
	sentinel.Do("SENTINEL", "DEBUG", "info-period", 1000, "ping-period", 500, "ask-period", 200, "publish-period", 200,
		"tilt-period", 1000)
}

// newSentinel prepares a sentinel. It has its configuration in a file, since it writes there what it learns.
func newSentinel(tb testing.TB, name string, primary *Server, options []string) *Server {
	tb.Helper()
	s := newServer(tb, options)
	host, port, _ := net.SplitHostPort(primary.Addr)
	lines := []string{
		fmt.Sprintf("sentinel monitor %s %s %s 2", name, host, port),
		fmt.Sprintf("sentinel down-after-milliseconds %s 1000", name),
		fmt.Sprintf("sentinel failover-timeout %s 2000", name),
	}
	if primary.username != "" {
		lines = append(lines, fmt.Sprintf("sentinel auth-user %s %s", name, primary.username))
	}
	if primary.password != "" {
		lines = append(lines, fmt.Sprintf("sentinel auth-pass %s %s", name, strconv.Quote(primary.password)))
	}
	file := filepath.Join(tb.TempDir(), "sentinel.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	s.args = slices.Concat([]string{file, "--sentinel"}, s.args)
	return s
}

// Addresses are those of the sentinels, as a client takes them to find the primary.
func (s *Sentinel) Addresses() []string {
	addresses := make([]string, 0, len(s.Sentinels))
	for _, sentinel := range s.Sentinels {
		addresses = append(addresses, sentinel.Addr)
	}
	return addresses
}

// WaitReady waits until all sentinels that run agree on a primary that runs and is one, know each other, and know the
// replicas that run, whose links are up.
func (s *Sentinel) WaitReady() {
	s.tb.Helper()
	await(s.tb, "the sentinels are ready", s.ready)
}

func (s *Sentinel) ready() error {
	primary, err := s.agreed()
	if err != nil {
		return err
	}
	for _, sentinel := range running(s.Sentinels) {
		for kind, known := range map[string][]*Server{"REPLICAS": s.Servers, "SENTINELS": s.Sentinels} {
			reply, err := sentinel.try("SENTINEL", kind, s.MasterName)
			if err != nil {
				return fmt.Errorf("%s: %w", sentinel.Addr, err)
			}
			good := goodInstances(reply)
			for _, server := range running(known) {
				if server != primary && server != sentinel && !good[server.Addr] {
					return fmt.Errorf("%s does not know %s as one in good state: %v", sentinel.Addr, server.Addr, reply)
				}
			}
		}
		if _, err := sentinel.try("SENTINEL", "CKQUORUM", s.MasterName); err != nil {
			return fmt.Errorf("%s: %w", sentinel.Addr, err)
		}
	}
	return nil
}

// goodInstances are the addresses in a reply of SENTINEL REPLICAS or SENTINEL SENTINELS that are in good state.
func goodInstances(reply any) map[string]bool {
	good := map[string]bool{}
	instances, _ := reply.([]any)
	for _, instance := range instances {
		fields, _ := instance.([]any)
		of := map[any]any{}
		for pair := range slices.Chunk(fields, 2) {
			of[pair[0]] = pair[len(pair)-1]
		}
		if of["flags"] == "sentinel" || of["flags"] == "slave" && of["master-link-status"] == "ok" {
			good[fmt.Sprintf("%s:%s", of["ip"], of["port"])] = true
		}
	}
	return good
}

// agreed is the primary on which all sentinels that run agree, and that itself says that it is one.
func (s *Sentinel) agreed() (*Server, error) {
	told := map[string]bool{}
	for _, sentinel := range running(s.Sentinels) {
		reply, err := sentinel.try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.MasterName)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", sentinel.Addr, err)
		}
		if address, is := reply.([]any); is && len(address) == 2 {
			told[fmt.Sprintf("%s:%s", address...)] = true
		}
	}
	for _, server := range running(s.Servers) {
		if !told[server.Addr] || len(told) != 1 {
			continue
		}
		reply, err := server.try("ROLE")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server.Addr, err)
		}
		if role, is := reply.([]any); !is || role[0] != "master" {
			return nil, fmt.Errorf("%s is not a primary: %v", server.Addr, reply)
		}
		return server, nil
	}
	return nil, fmt.Errorf("the sentinels do not agree on a primary that runs: %v", slices.Sorted(maps.Keys(told)))
}

// Primary waits until the sentinels agree on a primary that runs, and gives it.
func (s *Sentinel) Primary() *Server {
	s.tb.Helper()
	return s.WaitFailover(nil)
}

// Replicas are the servers that run now and are not the primary.
func (s *Sentinel) Replicas() []*Server {
	s.tb.Helper()
	primary := s.Primary()
	return slices.DeleteFunc(running(s.Servers), func(server *Server) bool { return server == primary })
}

// WaitFailover waits until the sentinels agree on another primary than this one, and gives it.
func (s *Sentinel) WaitFailover(from *Server) *Server {
	s.tb.Helper()
	var primary *Server
	await(s.tb, "the sentinels agree on a primary", func() error {
		var err error
		if primary, err = s.agreed(); err == nil && primary == from {
			err = errors.New("it is still " + from.Addr)
		}
		return err
	})
	return primary
}

// Failover has the sentinels replace the primary, and gives the new one.
func (s *Sentinel) Failover() *Server {
	s.tb.Helper()
	from := s.Primary()
	await(s.tb, "a sentinel starts a failover", func() error {
		_, err := running(s.Sentinels)[0].try("SENTINEL", "FAILOVER", s.MasterName)
		return err // NOGOODSLAVE while it had no word of the replicas for too long
	})
	return s.WaitFailover(from)
}
