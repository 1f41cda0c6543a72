package acl_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

const (
	user     = "tried"
	password = "tried-password"
	owner    = "cluster/shop/default"
)

// site is a store in one of the topologies, and whoever may do everything there.
type site struct {
	t *testing.T
	// config reaches it as the user who may do everything.
	config redisops.Config
	// servers are all that hold data, sentinels those that do not.
	servers, sentinels []*redistest.Server
	// nodes is the cluster, where it is one.
	nodes *redistest.Cluster
	// moves counts the slots that were moved.
	moves int
	mode  library.Mode
	// takeAway tells which rules are tried without there, where it need not be all: those that other sites do not try without.
	takeAway func(role, rule string) bool
	admin    *redisops.Servers
	clients  []*redis.Client
}

// asOld makes a server look as one before 7.0: rules about functions are unknown there.
var asOld = []string{"--rename-command", "FUNCTION", "", "--rename-command", "FCALL", "", "--rename-command", "FCALL_RO", ""}

// sites starts the store in a topology.
var sites = map[string]func(*testing.T) *site{
	"Standalone": func(t *testing.T) *site {
		server := redistest.Start(t)
		return &site{servers: []*redistest.Server{server}, config: redisops.Config{Addresses: []string{server.Addr}}}
	},
	"Standalone, old": func(t *testing.T) *site {
		server := redistest.Start(t, asOld...)
		return &site{servers: []*redistest.Server{server}, config: redisops.Config{Addresses: []string{server.Addr}}, mode: library.ModeScripts}
	},
	"Sentinel": func(t *testing.T) *site {
		s := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
		return &site{
			servers: s.Servers, sentinels: s.Sentinels,
			config:   redisops.Config{Topology: policy.TopologySentinel, Addresses: s.Addresses(), MasterName: s.MasterName},
			takeAway: func(string, string) bool { return false }, // what sentinels are asked is tried below
		}
	},
	"Independent": func(t *testing.T) *site {
		s := &site{
			config:   redisops.Config{Topology: policy.TopologyIndependent},
			takeAway: func(string, string) bool { return false }, // each is as a single server
		}
		for range 3 {
			server := redistest.Start(t)
			s.servers, s.config.Addresses = append(s.servers, server), append(s.config.Addresses, server.Addr)
		}
		return s
	},
	"Cluster": func(t *testing.T) *site {
		c := redistest.StartCluster(t, 3, 0)
		return &site{servers: c.Nodes, nodes: c, config: redisops.Config{Topology: policy.TopologyCluster, Addresses: c.Addresses()}}
	},
	"Cluster, old": func(t *testing.T) *site {
		c := redistest.StartCluster(t, 3, 0, asOld...)
		return &site{
			servers: c.Nodes, nodes: c, mode: library.ModeScripts,
			config:   redisops.Config{Topology: policy.TopologyCluster, Addresses: c.Addresses()},
			takeAway: func(role, rule string) bool { return slices.Contains(rulesOf(t, role, cluster), rule) },
		}
	},
}

func start(t *testing.T, topology string) *site {
	t.Helper()
	s := sites[topology](t)
	s.t = t
	s.config.CommandTimeout = 2 * time.Second
	s.admin = redisopstest.Open(t, s.config)
	for _, server := range s.servers {
		s.clients = append(s.clients, server.Client())
	}
	return s
}

// headings gives where the rules of the store are.
func (s *site) headings() []string {
	headings := []string{functions}
	if s.mode == library.ModeScripts {
		headings = []string{scripts}
	}
	if s.config.Topology == policy.TopologyCluster {
		headings = append(headings, cluster)
	}
	return headings
}

// has tells whether a role has anything to do there.
func (s *site) has(role string) bool {
	switch role {
	case "application":
		// Before 7.0 there is nothing to call.
		return !s.old() && s.config.Topology != policy.TopologyIndependent
	case "penstockd":
		// RateLimits on such a store are refused.
		return s.config.Topology != policy.TopologyIndependent
	}
	return true
}

// old tells whether the servers are older than 7.0, or look so.
func (s *site) old() bool { return s.mode == library.ModeScripts }

// rules reads what a role needs there. What an old server does not know it needs not.
func (s *site) rules(role string) []string {
	s.t.Helper()
	var all []string
	for _, heading := range s.headings() {
		all = append(all, rulesOf(s.t, role, heading)...)
	}
	if s.old() {
		all = slices.DeleteFunc(all, func(rule string) bool {
			return strings.HasPrefix(rule, "+function|") || strings.HasPrefix(rule, "+fcall")
		})
	}
	return all
}

// as gives the configuration of the user who is tried.
func (s *site) as() redisops.Config {
	config := s.config
	config.Username, config.Password = user, password
	return config
}

// each does something with each server that holds data.
func (s *site) each(do func(context.Context, *redis.Client) error) {
	s.t.Helper()
	for _, client := range s.clients {
		if err := do(s.t.Context(), client); err != nil {
			s.t.Fatal(err)
		}
	}
}

// permit makes the user one with exactly these rules, on each server: users are not replicated.
func (s *site) permit(rules []string) {
	s.t.Helper()
	s.each(func(ctx context.Context, client *redis.Client) error {
		args := []any{"ACL", "SETUSER", user, "reset", "on", ">" + password}
		for _, rule := range rules {
			args = append(args, rule)
		}
		if err := client.Do(ctx, args...).Err(); err != nil {
			return fmt.Errorf("ACL SETUSER with %v: %w", rules, err)
		}
		return client.Do(ctx, "ACL", "LOG", "RESET").Err()
	})
}

// denied gives what the servers refused to the user.
func (s *site) denied() []string {
	s.t.Helper()
	denied := map[string]bool{}
	s.each(func(ctx context.Context, client *redis.Client) error {
		entries, err := client.ACLLog(ctx, 128).Result()
		for _, entry := range entries {
			if entry.Username == user {
				denied[fmt.Sprintf("%s (%s, %s)", entry.Object, entry.Reason, entry.Context)] = true
			}
		}
		return err
	})
	return slices.Sorted(maps.Keys(denied))
}

// empty empties the store.
func (s *site) empty() {
	s.t.Helper()
	primaries, err := s.admin.Primaries(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, primary := range primaries {
		commands := [][]any{{"FLUSHALL"}, {"SCRIPT", "FLUSH"}}
		if s.mode == library.ModeFunctions {
			commands = append(commands, []any{"FUNCTION", "FLUSH"})
		}
		for _, command := range commands {
			if err := primary.Client.Do(s.t.Context(), command...).Err(); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// publish publishes as whoever may do everything.
func (s *site) publish(set *policy.Set) {
	s.t.Helper()
	if _, err := policystore.Publish(s.t.Context(), s.admin, policystore.Publication{Owner: owner, Set: set, Mode: s.mode}); err != nil {
		s.t.Fatal(err)
	}
}

// whileItsSlotMoves does something while the slot of a key is on its way to another node, which has its keys already and not
// yet the slot: whoever asks for them is told to ask there.
func (s *site) whileItsSlotMoves(key string, do func() error) error {
	s.t.Helper()
	if s.nodes == nil {
		return nil
	}
	slot := redisops.Slot(key)
	from := s.nodes.Owner(slot)
	to := s.nodes.Nodes[0]
	if to == from {
		to = s.nodes.Nodes[1]
	}
	s.nodes.StartMigration(slot, from, to)
	for s.nodes.MigrateKeys(slot, from, to, 100) > 0 {
		continue
	}
	err := do()
	s.nodes.FinishMigration(slot, to)
	// Before it is moved again, all have to know where it is.
	s.nodes.WaitReady()
	return err
}

// soonUnlessRefused waits as soon, and no longer once the server has refused something to the user: then it does not come.
func (s *site) soonUnlessRefused(within time.Duration, is func() bool) bool {
	s.t.Helper()
	return soon(within, func() bool { return is() || len(s.denied()) > 0 }) && is()
}

// soon waits until something is so, and tells whether it became so in time.
func soon(within time.Duration, is func() bool) bool {
	deadline := time.Now().Add(within)
	for !is() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}
