package redisstore

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// Facts are what the primaries of a store are. What they do not permit to ask is empty.
type Facts struct {
	// Engine is redis or valkey, Version its version: those of the primary with the oldest one.
	Engine, Version string
	// Identity is the master_replid of the primary, or a digest of those of several.
	Identity string
	// Mode is how the servers are made to decide.
	Mode library.Mode
	// Capabilities that all have, found by trial.
	Capabilities []string
	// MaxmemoryPolicy is the primaries' maxmemory-policy: the one that may evict most.
	MaxmemoryPolicy string
	// Persistence is None, RDB, AOF or RDB+AOF: the least of all primaries.
	Persistence string
	// Primaries are those that were asked, and Unreached those that could not be.
	Primaries []Primary
	Unreached []Unreached
}

// lost gives the error for the primaries that could not be asked; nil when there are none.
func (f *Facts) lost() error {
	if len(f.Unreached) == 0 {
		return nil
	}
	return &UnreachedError{Primaries: len(f.Primaries) + len(f.Unreached), Unreached: f.Unreached}
}

// Primary is one server that was asked.
type Primary struct {
	// Address is host:port, Identity its master_replid.
	Address, Identity string
	// Empty tells that it has no function library of ours although it knows functions.
	Empty bool
}

// Unreached is one primary that could not be asked.
type Unreached struct {
	Address string
	Err     error
}

// UnreachedError tells that some primaries of a store, or all, could not be asked.
type UnreachedError struct {
	// Primaries is how many there are, Unreached those that could not be asked.
	Primaries int
	Unreached []Unreached
}

// Error names the primaries.
func (e *UnreachedError) Error() string {
	return fmt.Sprintf("%s (%d of %d primaries): %v", strings.Join(e.addresses(), ", "), len(e.Unreached), e.Primaries, e.Unwrap())
}

// Unwrap gives the error that tells most: what somebody has to put right, else the first.
func (e *UnreachedError) Unwrap() error {
	i := slices.IndexFunc(e.Unreached, func(u Unreached) bool { return redisops.Classify(u.Err) == redisops.Configuration })
	return e.Unreached[max(i, 0)].Err
}

func (e *UnreachedError) addresses() []string {
	all := make([]string, len(e.Unreached))
	for i := range e.Unreached {
		all[i] = e.Unreached[i].Address
	}
	slices.Sort(all)
	return all
}

// The names of capabilities.
const (
	capabilityFunctions   = "functions"
	capabilityScriptFlags = "script-flags"
	capabilityTracking    = "tracking"
)

// sighting is what one primary was found to be.
type sighting struct {
	address                    string
	library                    library.Capabilities
	tracking, empty            bool
	engine, version, identity  string
	maxmemoryPolicy, persisted string
}

// merge puts together what several primaries are. There is at least one.
func merge(seen []sighting) Facts {
	oldest := slices.MinFunc(seen, func(a, b sighting) int { return compareVersions(a.version, b.version) })
	facts := Facts{
		Engine: oldest.engine, Version: oldest.version, Identity: identity(seen),
		MaxmemoryPolicy: worst(seen, evicts, func(s *sighting) string { return s.maxmemoryPolicy }),
		Persistence:     worst(seen, loses, func(s *sighting) string { return s.persisted }),
	}
	all := library.Capabilities{Functions: true, ScriptFlags: true}
	tracking := true
	for i := range seen {
		s := &seen[i]
		all.Functions = all.Functions && s.library.Functions
		all.ScriptFlags = all.ScriptFlags && s.library.ScriptFlags
		tracking = tracking && s.tracking
		facts.Primaries = append(facts.Primaries, Primary{Address: s.address, Identity: s.identity, Empty: s.empty})
	}
	facts.Mode = all.Mode()
	for _, c := range []struct {
		name string
		has  bool
	}{{capabilityFunctions, all.Functions}, {capabilityScriptFlags, all.ScriptFlags}, {capabilityTracking, tracking}} {
		if c.has {
			facts.Capabilities = append(facts.Capabilities, c.name)
		}
	}
	return facts
}

// identity gives the identity of all data together; empty when one does not tell its own.
func identity(seen []sighting) string {
	if len(seen) == 1 {
		return seen[0].identity
	}
	all := make(map[string]bool, len(seen))
	for i := range seen {
		if seen[i].identity == "" {
			return ""
		}
		all[seen[i].identity] = true
	}
	digest := sha256.Sum256([]byte(strings.Join(slices.Sorted(maps.Keys(all)), " ")))
	return hex.EncodeToString(digest[:20])
}

// worst gives the value of the primary that ranks highest, the first of equals.
func worst(seen []sighting, rank func(string) int, of func(*sighting) string) string {
	value := of(&seen[0])
	for i := range seen {
		if v := of(&seen[i]); rank(v) > rank(value) {
			value = v
		}
	}
	return value
}

// evicts ranks maxmemory policies by what they may evict; not to know is better than to know of an eviction only.
func evicts(maxmemoryPolicy string) int {
	switch {
	case maxmemoryPolicy == "noeviction":
		return 0
	case maxmemoryPolicy == "":
		return 1
	case strings.HasPrefix(maxmemoryPolicy, "allkeys-"):
		return 3
	}
	return 2
}

// loses ranks what persistence keeps of the counters over a restart, likewise.
func loses(persistence string) int {
	return slices.Index([]string{"RDB+AOF", "AOF", "RDB", "", "None"}, persistence)
}

// compareVersions compares versions such as 7.0.15 number by number; one that is not known is the newest.
func compareVersions(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(b, a)
	}
	left, right := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(left), len(right)) {
		x, _ := strconv.Atoi(left[i])
		y, _ := strconv.Atoi(right[i])
		if x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(left), len(right))
}

// describe fills in what INFO tells.
func (s *sighting) describe(info map[string]string) {
	s.engine, s.version = "redis", info["redis_version"]
	if version := info["valkey_version"]; version != "" {
		s.engine, s.version = "valkey", version
	}
	s.identity = info["master_replid"]
	s.maxmemoryPolicy = info["maxmemory_policy"]
	switch info["aof_enabled"] {
	case "1":
		s.persisted = "AOF"
	case "0":
		s.persisted = "None"
	}
}

// persistence puts together what INFO tells of the append-only file and CONFIG of snapshots; empty when it is not known
// whether there is any.
func persistence(aof, rdb, rdbKnown bool) string {
	switch {
	case aof && rdb:
		return "RDB+AOF"
	case aof:
		return "AOF"
	case rdb:
		return "RDB"
	case rdbKnown:
		return "None"
	}
	return ""
}
