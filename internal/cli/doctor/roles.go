package doctor

import (
	"slices"
	"strings"
)

// Role is who uses a Redis for what.
type Role string

// The roles.
const (
	// RoleOperator publishes.
	RoleOperator Role = "operator"
	// RolePenstockd decides for others.
	RolePenstockd Role = "penstockd"
	// RoleApplication calls the functions itself.
	RoleApplication Role = "application"
	// RoleDoctor looks.
	RoleDoctor Role = "doctor"
)

// Roles gives all roles.
func Roles() []Role { return []Role{RoleOperator, RolePenstockd, RoleApplication, RoleDoctor} }

// Situation is what rights depend on beside the role.
type Situation struct {
	// Scripts: the server has no functions, and so is older than 7.0.
	Scripts bool
	// Cluster: the server is a node of a cluster.
	Cluster bool
}

// Right is one rule of an ACL, and how to find out whether it is there.
type Right struct {
	// Rule is what ACL SETUSER takes: +command, ~keys, %R~keys, &channels.
	Rule string
	// Needed is what for.
	Needed string
	// Optional tells what is lost without it; empty: all of the role.
	Optional string

	// try is a command that needs the right and has no effect: it is refused for its arguments, or finds nothing.
	try []any
	// session marks commands that change what a connection is for.
	session bool
	// only tells where it is needed; nil is everywhere.
	only func(Situation) bool
}

func functions(s Situation) bool { return !s.Scripts }
func scripts(s Situation) bool   { return s.Scripts }
func cluster(s Situation) bool   { return s.Cluster }
func functionsOnCluster(s Situation) bool {
	return s.Cluster && !s.Scripts
}

// nobody is a counter that nobody has: a digest is longer.
const nobody = "rl:{doctor}:penstock/doctor"

// counting are what functions and scripts do with counters. Lua runs with the rights of its caller.
var counting = []Right{
	{Rule: "~rl:*", Needed: "the counters", try: []any{"EXISTS", nobody}},
	{Rule: "+del", Needed: "decisions, in Lua", try: []any{"DEL", nobody}},
	{Rule: "+exists", Needed: "decisions, in Lua", try: []any{"EXISTS", nobody}},
	{Rule: "+get", Needed: "decisions by id, in Lua", try: []any{"GET", nobody}},
	{Rule: "+hget", Needed: "decisions, in Lua", try: []any{"HGET", nobody, "f"}},
	{Rule: "+hmget", Needed: "decisions of several limits, in Lua", try: []any{"HMGET", nobody, "f"}},
	{Rule: "+hset", Needed: "decisions, in Lua", try: []any{"HSET", nobody, "f", "v", "odd"}},
	{Rule: "+persist", Needed: "balances, in Lua", try: []any{"PERSIST", nobody}},
	{Rule: "+pexpire", Needed: "decisions, in Lua", try: []any{"PEXPIRE", nobody, "1"}},
	{Rule: "+pttl", Needed: "decisions, in Lua", try: []any{"PTTL", nobody}},
	{Rule: "+set", Needed: "decisions by id, in Lua", try: []any{"SET", nobody, "v", "nosuch"}},
	{Rule: "+time", Needed: "decisions, in Lua", try: []any{"TIME"}},
	{Rule: "+zadd", Needed: "SlidingLog and Concurrency, in Lua", try: []any{"ZADD", nobody, "nan", "m"}},
	{Rule: "+zcard", Needed: "refunds of SlidingLog, in Lua", try: []any{"ZCARD", nobody}},
	{Rule: "+zcount", Needed: "SlidingLog and Concurrency, in Lua", try: []any{"ZCOUNT", nobody, "0", "0"}},
	{Rule: "+zrange", Needed: "SlidingLog and Concurrency, in Lua", try: []any{"ZRANGE", nobody, "0", "0"}},
	{Rule: "+zrangebyscore", Needed: "SlidingLog and Concurrency, in Lua", try: []any{"ZRANGEBYSCORE", nobody, "0", "0"}},
	{Rule: "+zrem", Needed: "refunds of SlidingLog, releases of Concurrency, in Lua", try: []any{"ZREM", nobody, "m"}},
	{Rule: "+zremrangebyrank", Needed: "refunds of SlidingLog without an id, in Lua", try: []any{"ZREMRANGEBYRANK", nobody, "0", "0"}},
	{Rule: "+zremrangebyscore", Needed: "SlidingLog and Concurrency, in Lua", try: []any{"ZREMRANGEBYSCORE", nobody, "0", "0"}},
	{Rule: "+zscore", Needed: "refunds by id of SlidingLog, slots, in Lua", try: []any{"ZSCORE", nobody, "m"}},
}

// everybody needs these on a cluster.
var onCluster = []Right{
	{Rule: "+asking", Needed: "keys of slots that are being moved", try: []any{"ASKING"}, only: cluster, session: true},
	{Rule: "+cluster|slots", Needed: "finding the nodes", try: []any{"CLUSTER", "SLOTS"}, only: cluster},
}

var rights = map[Role][]Right{
	RoleOperator:    operatorRights,
	RolePenstockd:   penstockdRights,
	RoleApplication: applicationRights,
	RoleDoctor:      doctorRights,
}

// RightsOf gives what a role needs, keys and channels first, then commands by name.
func RightsOf(role Role, s Situation) []Right {
	var found []Right
	for _, right := range rights[role] {
		if right.only != nil && !right.only(s) {
			continue
		}
		if s.Scripts {
			// Before 7.0 keys are given for reading and writing alike.
			right.Rule = strings.TrimPrefix(strings.TrimPrefix(right.Rule, "%R"), "%W")
		}
		if i := slices.IndexFunc(found, func(r Right) bool { return r.Rule == right.Rule }); i >= 0 {
			if right.Optional == "" {
				found[i].Optional = ""
			}
			continue
		}
		found = append(found, right)
	}
	slices.SortStableFunc(found, func(a, b Right) int {
		if byKind := rank(a.Rule) - rank(b.Rule); byKind != 0 {
			return byKind
		}
		return strings.Compare(strings.TrimLeft(a.Rule, "%RW~&+"), strings.TrimLeft(b.Rule, "%RW~&+"))
	})
	return found
}

func rank(rule string) int { return int(kindOf(rule)) }

// kindOfRule is what a rule is about.
type kindOfRule int

const (
	ofKeys kindOfRule = iota
	ofChannels
	ofCommands
)

func kindOf(rule string) kindOfRule {
	switch rule[0] {
	case '+':
		return ofCommands
	case '&':
		return ofChannels
	}
	return ofKeys
}

// RulesOf gives the rules of one or several roles that share a user, as ACL SETUSER takes them.
func RulesOf(roles []Role, s Situation) []string {
	var rules []string
	for _, role := range roles {
		for _, right := range RightsOf(role, s) {
			if !slices.Contains(rules, right.Rule) {
				rules = append(rules, right.Rule)
			}
		}
	}
	slices.SortStableFunc(rules, func(a, b string) int { return rank(a) - rank(b) })
	return rules
}
