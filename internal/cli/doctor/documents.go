package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
)

// functionPrefix begins the names of all our functions.
const functionPrefix = "penstock_"

// examineDocuments looks at what is published. Independent servers each have their own.
func (e *examination) examineDocuments(ctx context.Context) {
	var primaries []*server
	for _, s := range e.servers {
		if s.primary() {
			primaries = append(primaries, s)
		}
	}
	if e.cfg.Topology == policy.TopologyIndependent {
		e.each(primaries, func(s *server) { e.lookAtPublication(ctx, []*server{s}) })
		return
	}
	if len(primaries) > 0 {
		e.lookAtPublication(ctx, primaries)
	}
}

// publication is what a group of servers holds together.
type publication struct {
	*examination
	group []*server
	// of gets the findings where the group is one server of several independent ones.
	of *server
}

func (p *publication) tell(severity Severity, check, what, why, remedy string) {
	if p.of != nil {
		p.find(p.of, severity, check, what, why, remedy)
		return
	}
	p.store(severity, check, what, why, remedy)
}

// routed asks the server that has the key's slot: all others of a cluster say that it is not theirs.
func (p *publication) routed(ctx context.Context, ask func(context.Context, *redis.Client) error) error {
	var err error
	for _, s := range p.group {
		bounded, cancel := waiting(ctx)
		err = ask(bounded, s.client)
		cancel()
		if !moved(err) {
			return err
		}
	}
	return err
}

func moved(err error) bool {
	reply, is := errors.AsType[redis.Error](err)
	return is && (strings.HasPrefix(reply.Error(), "MOVED ") || strings.HasPrefix(reply.Error(), "ASK ") || strings.HasPrefix(reply.Error(), "CLUSTERDOWN"))
}

// forbidden tells of an error that a right is missing, which is told of among the rights.
func forbidden(err error) bool { return redisops.Classify(err) == redisops.Configuration }

func (e *examination) lookAtPublication(ctx context.Context, group []*server) {
	p := &publication{examination: e, group: group}
	if e.cfg.Topology == policy.TopologyIndependent {
		p.of = group[0]
	}
	set := p.lookAtPolicies(ctx)
	p.lookAtOwner(ctx, set)
	p.lookAtTTLs(ctx)
	p.lookAtLibrary(ctx, set)
	p.lookAtReplicas(ctx, set)
	p.lookAtBalances(set)
}

// lookAtPolicies gives the published set, nil when there is none that can be read.
func (p *publication) lookAtPolicies(ctx context.Context) *policy.Set {
	var set *policy.Set
	err := p.routed(ctx, func(ctx context.Context, client *redis.Client) (err error) {
		set, err = policystore.Read(ctx, client)
		return err
	})
	switch {
	case err == nil:
		p.tell(OK, CheckPolicies, fmt.Sprintf("%s published, set %s", areOrIsPublished(len(set.RateLimits)), set.Hash), "", "")
		return set
	case errors.Is(err, policystore.ErrNoPolicies):
		p.tell(Note, CheckPolicies, "no policies are published", "penstockd is not ready before there are, unless it has a snapshot of its own", "apply a RedisStore and RateLimits that use it, and look at the status of the RedisStore")
	case errors.Is(err, policy.ErrNewerFormat):
		p.tell(Warning, CheckPolicies, "the policies were published by a newer version of Penstock than this", "what they are is not known here", "use a doctor of that version")
	case forbidden(err):
		p.tell(Note, CheckPolicies, "reading penstock:policies is not permitted", "what is published was not looked at", "add the rules +get and %R~penstock:policies")
	case redisops.Classify(err) == redisops.WrongType || !isTransport(err):
		p.tell(Error, CheckPolicies, "penstock:policies holds something else than policies", "penstockd keeps its last good set, and a new one is not ready", "delete the key; the operator publishes again within 30 s")
	default:
		p.tell(Warning, CheckPolicies, "penstock:policies could not be read", "what is published was not looked at", "see what was said of the servers")
	}
	return nil
}

func areOrIsPublished(n int) string {
	if n == 1 {
		return "1 policy is"
	}
	return fmt.Sprintf("%d policies are", n)
}

// isTransport tells of an error that it came from a server, or the way to it, and not from reading what it gave.
func isTransport(err error) bool {
	if _, replied := errors.AsType[redis.Error](err); replied {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, redisops.ErrNotExecuted) || redisops.Classify(err) == redisops.NotExecuted
}

func (p *publication) lookAtOwner(ctx context.Context, set *policy.Set) {
	var owner string
	err := p.routed(ctx, func(ctx context.Context, client *redis.Client) (err error) {
		owner, err = client.Get(ctx, policystore.OwnerKey).Result()
		return err
	})
	switch {
	case errors.Is(err, redis.Nil):
		if set != nil {
			p.tell(Warning, CheckOwner, "penstock:owner is not there, and policies are", "whoever publishes first owns this Redis", "let the operator publish again: it does within 30 s")
		}
	case forbidden(err):
		p.tell(Note, CheckOwner, "reading penstock:owner is not permitted", "who publishes here was not looked at", "add the rules +get and %R~penstock:owner")
	case err != nil:
		p.tell(Warning, CheckOwner, "penstock:owner could not be read", "who publishes here was not looked at", "see what was said of the servers")
	case p.options.Owner != "" && !strings.HasSuffix(owner, p.options.Owner):
		p.tell(Error, CheckOwner, fmt.Sprintf("this Redis belongs to %q and not to RedisStore %s", owner, strings.TrimPrefix(p.options.Owner, "/")),
			"the operator publishes nothing into a Redis of another owner", "use another Redis, or take it over with the annotation penstock.dev/take-over: "+owner)
	default:
		p.tell(OK, CheckOwner, fmt.Sprintf("%q publishes here", owner), "", "")
	}
}

// lookAtTTLs tells which documents somebody lets expire.
func (p *publication) lookAtTTLs(ctx context.Context) {
	for _, key := range []string{policystore.OwnerKey, policystore.PoliciesKey, library.DocumentKey} {
		var left time.Duration
		err := p.routed(ctx, func(ctx context.Context, client *redis.Client) (err error) {
			left, err = client.PTTL(ctx, key).Result()
			return err
		})
		if err == nil && left >= 0 {
			p.tell(Error, CheckPolicies, fmt.Sprintf("%s has a TTL of %v", key, left.Round(time.Second)), "it will be gone, and with it what new replicas and new primaries need",
				"find out who sets it (EXPIRE), and have it removed with PERSIST "+key)
		}
	}
}

// loadedLibrary is a function library of a server.
type loadedLibrary struct {
	name, text string
	functions  []string
}

func libraries(ctx context.Context, s *server) ([]loadedLibrary, error) {
	ctx, cancel := waiting(ctx)
	defer cancel()
	// The texts of others may be large, and are none of our business.
	all, err := s.client.FunctionList(ctx, redis.FunctionListQuery{}).Result()
	if err != nil {
		return nil, err
	}
	var found []loadedLibrary
	for i := range all {
		l := loadedLibrary{name: all[i].Name}
		for _, function := range all[i].Functions {
			l.functions = append(l.functions, function.Name)
		}
		found = append(found, l)
	}
	if text, is, err := library.Loaded(ctx, s.client); err != nil {
		return nil, err
	} else if is {
		for i := range found {
			if found[i].name == library.Name {
				found[i].text = text
			}
		}
	}
	return found, nil
}

// lookAtLibrary compares the library of each primary with the published one, and that one with the policies.
func (p *publication) lookAtLibrary(ctx context.Context, set *policy.Set) {
	var functions []*server
	for _, s := range p.group {
		if s.functions {
			functions = append(functions, s)
		}
	}
	if len(functions) == 0 {
		return
	}
	document, published := p.readLibrary(ctx, set)
	if published && set != nil {
		p.compareWithPolicies(document, set)
	}
	var same []string
	for _, s := range functions {
		if p.lookAtLoaded(ctx, s, document, published, set) {
			same = append(same, s.address)
		}
	}
	if len(same) > 0 && len(same) == len(functions) {
		p.tell(OK, CheckLibrary, fmt.Sprintf("the published library %s is loaded in %s", document.Hash, counted(len(same), "server")), "", "")
	}
}

// readLibrary gives the published library.
func (p *publication) readLibrary(ctx context.Context, set *policy.Set) (library.Document, bool) {
	var document library.Document
	err := p.routed(ctx, func(ctx context.Context, client *redis.Client) (err error) {
		document, err = library.ReadDocument(ctx, client)
		return err
	})
	switch {
	case err == nil:
		return document, true
	case errors.Is(err, library.ErrNoDocument):
		if set != nil {
			p.tell(Error, CheckLibrary, "penstock:library is not there, and policies are", "a new or restarted server stays without functions until the operator publishes again", "let the operator publish again: it does within 30 s")
		}
	case forbidden(err):
		p.tell(Note, CheckLibrary, "reading penstock:library is not permitted", "whether the servers run it was not looked at", "add the rules +get and %R~penstock:library")
	case isTransport(err) && redisops.Classify(err) != redisops.WrongType:
		p.tell(Warning, CheckLibrary, "penstock:library could not be read", "whether the servers run it was not looked at", "see what was said of the servers")
	default:
		p.tell(Error, CheckLibrary, "penstock:library holds something else than a library", "a new or restarted server stays without functions", "delete the key; the operator publishes again within 30 s")
	}
	return library.Document{}, false
}

// compareWithPolicies tells whether the library is that of the policies.
func (p *publication) compareWithPolicies(document library.Document, set *policy.Set) {
	var want []string
	for i := range set.RateLimits {
		want = append(want, set.RateLimits[i].Name)
	}
	have := library.PolicyNames(document.Text)
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		p.tell(Error, CheckLibrary, fmt.Sprintf("penstock:library holds other policies than penstock:policies (%d and %d)", len(have), len(want)),
			"Redis answers PENSTOCK_NOPOLICY to some decisions, and those go by onStoreFailure", "let the operator publish again: it does within 30 s")
		return
	}
	if text, err := library.Render(set); err == nil && text != document.Text {
		p.tell(Note, CheckLibrary, "penstock:library is not what this version would make of the policies", "another version of Penstock published it", "use a doctor of that version to compare them")
	}
}

// lookAtLoaded looks at the libraries of one primary, and tells whether it runs the published one.
func (p *publication) lookAtLoaded(ctx context.Context, s *server, document library.Document, published bool, set *policy.Set) bool {
	found, err := libraries(ctx, s)
	if err != nil {
		if forbidden(err) {
			p.find(s, Note, CheckLibrary, "FUNCTION LIST is not permitted", "whether it runs the published library was not looked at", "add the rule +function|list")
			return false
		}
		p.find(s, Warning, CheckLibrary, "its libraries could not be read", "whether it runs the published one was not looked at", "see what else was said of it")
		return false
	}
	loaded := ""
	for _, l := range found {
		if l.name == library.Name {
			loaded = l.text
			continue
		}
		clashing := slices.DeleteFunc(slices.Clone(l.functions), func(name string) bool { return !strings.HasPrefix(name, functionPrefix) })
		if len(clashing) > 0 {
			slices.Sort(clashing)
			p.find(s, Error, CheckLibrary, fmt.Sprintf("library %q has functions of our names: %s", l.name, strings.Join(clashing, ", ")), "ours cannot be loaded beside it",
				"delete that library (FUNCTION DELETE "+l.name+") or rename its functions")
		}
	}
	switch {
	case loaded == "" && !published:
		return false
	case loaded == "":
		p.find(s, Warning, CheckLibrary, "it has no library penstock", "the first decision there loads it, which takes longer; applications that call FCALL fail until then", "let the operator publish again: it does within 30 s")
	case !published && set == nil:
		p.find(s, Warning, CheckLibrary, "it has a library penstock, and none is published", "penstockd cannot load it into a new or restarted server", "let the operator publish again; if nobody uses Penstock here, FUNCTION DELETE penstock")
	case published && loaded != document.Text:
		p.find(s, Error, CheckLibrary, fmt.Sprintf("it runs library %s, and %s is published", library.Hash(loaded), document.Hash), "it decides by other policies than the others",
			"let the operator publish again: it does within 30 s; if it does not, look at the status of the RedisStore")
	default:
		return published
	}
	return false
}

// lookAtBalances says which policies keep what nothing brings back.
func (p *publication) lookAtBalances(set *policy.Set) {
	if set == nil {
		return
	}
	var holders []string
	for i := range set.RateLimits {
		if set.RateLimits[i].Holds(policy.Balance) {
			holders = append(holders, set.RateLimits[i].Name)
		}
	}
	if len(holders) == 0 {
		return
	}
	for _, s := range p.group {
		if s.info != nil && s.get("aof_enabled") == "0" {
			p.find(s, Warning, CheckPersistence, fmt.Sprintf("%s with an algorithm Balance, such as %s, and there is no append-only file", havePolicies(len(holders)), holders[0]),
				"after a crash balances are as of the last snapshot, or begin anew", "set appendonly yes")
		}
	}
}

func havePolicies(n int) string {
	if n == 1 {
		return "there is 1 policy"
	}
	return fmt.Sprintf("there are %d policies", n)
}
