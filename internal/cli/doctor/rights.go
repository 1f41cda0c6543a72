package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// lookAtAuth tells who everybody is.
func (e *examination) lookAtAuth(s *server) {
	if e.cfg.Username == "" && e.cfg.Password == "" {
		e.find(s, Warning, CheckAuth, "it asks for no password", "whoever reaches it can lift all limits, or have it run Lua", "give users a password (docs/acl.md), and turn the user default off")
	}
}

// trial finds out what a user may do on one server.
type trial struct {
	client *redis.Client
	user   string
	// dry tells that ACL DRYRUN is there and permitted.
	dry bool
	// connection is for what is not tried dry.
	connection *redis.Conn
	inMulti    bool
}

// verdict is what came of trying a command.
type verdict int

const (
	// unknown: it could not be tried, or the server does not know the command.
	unknown verdict = iota
	granted
	deniedCommand
	deniedKey
	deniedChannel
)

// lookAtRights tries what the roles need. ACLs are not replicated, so replicas are asked too.
func (e *examination) lookAtRights(ctx context.Context, s *server) {
	opened, err := redisops.Open(e.node(s.address, false))
	if err != nil {
		return // said of the configuration
	}
	defer func() { _ = opened.Close() }()
	nodes, err := opened.Primaries(ctx)
	if err != nil || len(nodes) != 1 {
		return
	}
	t := &trial{client: nodes[0].Client, user: e.options.User}
	if !e.prepare(ctx, s, t) {
		return
	}
	situation := Situation{Scripts: s.noFunctions, Cluster: s.mode == modeCluster}
	more, missing := t.more(ctx), 0
	var untried []string
	for _, wanted := range e.rights(situation) {
		got := t.try(ctx, wanted.Right)
		if got == unknown {
			untried = append(untried, wanted.Rule)
		}
		if !got.denies(wanted.Right) {
			continue
		}
		missing++
		severity, why := Error, fmt.Sprintf("%s needs it: %s", wanted.whose, wanted.Needed)
		if wanted.Optional != "" {
			severity, why = Note, "without it: "+wanted.Optional
		}
		e.find(s, severity, CheckACL, fmt.Sprintf("user %q lacks %s", t.user, wanted.Rule), why, fmt.Sprintf("ACL SETUSER %s %s", t.user, wanted.Rule))
	}
	roles := join(e.options.Roles)
	// For a user of its own: with these rules alone the one who was looked at could not do what else it is for.
	line := "ACL SETUSER penstock on >PASSWORD resetchannels " + strings.Join(RulesOf(e.options.Roles, situation), " ")
	if missing > 0 {
		e.find(s, Note, CheckACL, "all rules of "+roles+", for a new user", "", line)
		return
	}
	if len(untried) > 0 {
		e.find(s, Note, CheckACL, fmt.Sprintf("whether user %q has these rights could not be tried: %s", t.user, strings.Join(untried, " ")),
			"the others of "+roles+" are there", "look with a user who may ACL DRYRUN, by --user "+t.user)
	} else {
		e.find(s, OK, CheckACL, fmt.Sprintf("user %q has all rights of %s", t.user, roles), "", "")
	}
	if more != "" {
		e.find(s, Note, CheckACL, fmt.Sprintf("user %q may do far more: %s", t.user, more), "whoever gets its password can do that too", "make a user for Penstock alone: "+line)
	}
}

func join(roles []Role) string {
	names := make([]string, len(roles))
	for i, role := range roles {
		names[i] = string(role)
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// wantedRight is a right, and the roles that need it.
type wantedRight struct {
	Right
	whose string
}

// rights gives what the roles need together, what changes a connection last: MULTI first of that, so that what follows is queued,
// and not done.
func (e *examination) rights(situation Situation) []wantedRight {
	var plain, session []wantedRight
	for _, rule := range RulesOf(e.options.Roles, situation) {
		var whose []Role
		var found Right
		for _, role := range e.options.Roles {
			for _, right := range RightsOf(role, situation) {
				if right.Rule != rule {
					continue
				}
				if len(whose) == 0 || right.Optional == "" {
					found = right
				}
				whose = append(whose, role)
			}
		}
		if found.session {
			session = append(session, wantedRight{found, join(whose)})
		} else {
			plain = append(plain, wantedRight{found, join(whose)})
		}
	}
	slices.SortStableFunc(session, func(a, b wantedRight) int { return before(a.try) - before(b.try) })
	return append(plain, session...)
}

// before gives the order of what changes a connection.
func before(command []any) int {
	switch command[0] {
	case "MULTI":
		return 0
	case "SUBSCRIBE": // not every server queues it
		return 2
	}
	return 1
}

// prepare finds out who the user is, and how to try.
func (e *examination) prepare(ctx context.Context, s *server, t *trial) bool {
	if t.user == "" {
		if name, err := do(ctx, t.client, "ACL", "WHOAMI"); err == nil {
			t.user = fmt.Sprint(name)
		} else if t.user = e.cfg.Username; t.user == "" {
			t.user = "default"
		}
	}
	err := errors.New("there is no ACL DRYRUN before 7.0")
	if !s.noFunctions {
		_, err = do(ctx, t.client, "ACL", "DRYRUN", t.user, "PING")
	}
	reply, replied := errors.AsType[redis.Error](err)
	switch {
	case err == nil:
		t.dry = true
	case replied && strings.Contains(reply.Error(), "not found"):
		e.find(s, Error, CheckACL, fmt.Sprintf("there is no user %q", t.user), "users are not replicated: each server needs its own", "create it there too (ACL SETUSER, or the server's aclfile)")
		return false
	case e.options.User != "":
		e.find(s, Note, CheckACL, fmt.Sprintf("what user %q may do cannot be looked at", t.user), "ACL DRYRUN (Redis 7.0) is not permitted or not known", "add the rule +acl|dryrun for the doctor, or connect as that user")
		return false
	case !replied && !s.noFunctions:
		return false
	}
	if !t.dry {
		t.connection = t.client.Conn() // given up with the client
	}
	return true
}

// denies tells whether the right is certainly missing.
func (got verdict) denies(right Right) bool {
	switch kindOf(right.Rule) {
	case ofCommands:
		return got == deniedCommand
	case ofChannels:
		return got == deniedChannel
	default:
		return got == deniedKey
	}
}

// try finds out about one command without an effect: dry, or refused for its arguments, or queued and given up.
func (t *trial) try(ctx context.Context, right Right) verdict {
	if t.dry {
		reply, err := do(ctx, t.client, append([]any{"ACL", "DRYRUN", t.user}, right.try...)...)
		if err != nil {
			return unknown
		}
		text, _ := reply.(string)
		if text == "OK" {
			return granted
		}
		return judge(text)
	}
	if right.try[0] == "PUBLISH" && !t.inMulti {
		return unknown
	}
	ctx, cancel := waiting(ctx)
	defer cancel()
	err := t.connection.Do(ctx, right.try...).Err()
	reply, replied := errors.AsType[redis.Error](err)
	switch {
	case err != nil && !replied && !errors.Is(err, redis.Nil):
		return unknown
	case replied && strings.Contains(reply.Error(), "NOPERM "): // EXEC puts words of its own before
		return judge(reply.Error())
	case replied && strings.Contains(reply.Error(), "unknown command"):
		return unknown
	}
	t.inMulti = t.inMulti || right.try[0] == "MULTI"
	return granted
}

// judge reads what a server says of a command that is not permitted.
func judge(text string) verdict {
	switch {
	case strings.Contains(text, " channel"):
		return deniedChannel
	case strings.Contains(text, " keys used as arguments"), strings.Contains(text, " key") && !strings.Contains(text, " command"):
		return deniedKey
	case strings.Contains(text, " command"):
		return deniedCommand
	}
	return unknown
}

// more tells what the user may do that nobody here needs. Whoever may do more may do that dry; of the others each attempt
// would be a refusal in ACL LOG.
func (t *trial) more(ctx context.Context) string {
	if !t.dry {
		return ""
	}
	var more []string
	if t.try(ctx, Right{try: []any{"ACL", "HELP"}}) == granted {
		more = append(more, "administer the server (+@all)")
	}
	if t.try(ctx, Right{try: []any{"GET", "penstock-doctor-none"}}) == granted {
		more = append(more, "use all keys (~*)")
	}
	return strings.Join(more, " and ")
}
