package translate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

// MaxSetBytes is how large the policies of one store may be together, as JSON: Redis stands still while it loads them.
const MaxSetBytes = 2 << 20

// KeptNote ends the message of an invalid object whose former entry stays in the set.
const KeptNote = " (the last valid content stays in force)"

// Input is everything that decides the set of one store.
type Input struct {
	// Store is the RedisStore whose set is wanted.
	Store types.NamespacedName
	// Topology is that of Store. On policy.TopologyIndependent no RateLimit is accepted: its servers know nothing of each
	// other, so that each would count for itself.
	Topology policy.Topology
	// StoreExists tells whether there is a RedisStore of that name.
	StoreExists func(types.NamespacedName) bool
	// OperatorNamespace is where the RedisStore default for all namespaces is looked for.
	OperatorNamespace string
	// RateLimits are all of the cluster; those of other stores are left out.
	RateLimits []v1.RateLimit
	// Published is the set that the store holds, or nil: objects that are invalid or paused keep the entry they have in
	// it.
	Published *policy.Set
	// SingleStore makes one store serve every object, whatever it refers to (`penstock dev`, `penstock compile`): Store,
	// StoreExists and OperatorNamespace do not count, and no access is checked.
	SingleStore bool
	// MaxBytes is how large the policies may be together, as JSON; 0 means MaxSetBytes.
	MaxBytes int
	// Compilations are those of the call before, and become those of this one; nil compiles every object.
	Compilations *Compilations
}

// Assembly is the set of a store, and what became of each object that refers to it.
type Assembly struct {
	Set      *policy.Set
	Outcomes map[types.NamespacedName]Outcome
}

// Outcome is what became of one object in its store.
type Outcome struct {
	// UID, Generation and Paused tell which state of the object this speaks of.
	UID        types.UID
	Generation int64
	Paused     bool
	// Store is the RedisStore that was resolved; empty with Input.SingleStore.
	Store types.NamespacedName
	// Permitted tells whether that store lets the object in.
	Permitted bool
	// Accepted tells whether the object's present content is in the set. When it is not, Reason is one of api/v1
	// (Invalid, RefNotPermitted, StoreFull) and Message names the field, or what stands against it, and the remedy.
	Accepted bool
	Reason   string
	Message  string
	// ContentHash is that of the object's entry in the set: its present content when Accepted, else the entry that it
	// keeps, else "".
	ContentHash string
	// Summary and Domain describe the present content. Summary is empty for an invalid object, Domain where it is too
	// long for a status.
	Summary string
	Domain  string
	// Restarts are the limits that start anew with this content, since their algorithm, window, calendar or time zone is
	// another than in the published set.
	Restarts []string
}

// Assemble decides the set of a store. It is pure: the same input gives the same assembly.
//
// One bad object never blocks the others: what is invalid or paused keeps the entry it had in the published set, if any;
// what is not permitted or is being deleted has none. When the policies are larger together than a store may hold, the
// newest objects (by creation, then by name) are left out as StoreFull.
func Assemble(in Input) Assembly {
	if in.MaxBytes == 0 {
		in.MaxBytes = MaxSetBytes
	}
	if in.Compilations == nil {
		in.Compilations = &Compilations{}
	}
	in.Compilations.begin(len(in.RateLimits))
	assembly := Assembly{Outcomes: make(map[types.NamespacedName]Outcome, len(in.RateLimits))}
	var entries []entry
	for i := range in.RateLimits {
		rl := &in.RateLimits[i]
		if !rl.DeletionTimestamp.IsZero() {
			continue
		}
		outcome, mine := in.resolve(rl)
		if !mine {
			continue
		}
		compiled := in.compile(rl, &outcome)
		assembly.Outcomes[types.NamespacedName{Namespace: rl.Namespace, Name: rl.Name}] = outcome
		if compiled.policy != nil {
			compiled.object, compiled.kept = rl, !outcome.Accepted
			entries = append(entries, compiled)
		}
	}
	in.Compilations.end()
	assembly.Set = policy.NewSet(in.fit(entries, assembly.Outcomes))
	return assembly
}

// resolve begins the outcome of an object, and tells whether it is an object of this store.
func (in *Input) resolve(rl *v1.RateLimit) (Outcome, bool) {
	outcome := Outcome{
		UID: rl.UID, Generation: rl.Generation, Paused: Paused(rl.Annotations), Permitted: true,
		Accepted: true, Reason: v1.ReasonAccepted, Message: "the policy is valid",
	}
	if domain := Domain(rl); len(domain) <= maxTextBytes {
		outcome.Domain = domain
	}
	if in.SingleStore {
		return outcome, true
	}
	store, err := ResolveStore(rl.Namespace, rl.Spec.StoreRef, rl.Status.StoreRef, in.OperatorNamespace, in.StoreExists)
	outcome.Store = store
	return outcome, err == nil && store == in.Store
}

// compile gives the object's entry: of its present content, else the one that it keeps, else one without a policy.
func (in *Input) compile(rl *v1.RateLimit, outcome *Outcome) entry {
	if !in.SingleStore {
		if remedy, ok := permitted(in.Store, rl.Namespace); !ok {
			outcome.Permitted = false
			outcome.refuse(v1.ReasonRefNotPermitted, remedy)
			return entry{}
		}
	}
	if in.Topology == policy.TopologyIndependent {
		outcome.refuse(v1.ReasonInvalid, fmt.Sprintf("RedisStore %s has topology Independent, which is for quorum locks only: each of its servers would count for itself; "+
			"create a new RateLimit with spec.storeRef of a RedisStore with another topology", in.Store))
		return entry{}
	}
	published := in.published(rl)
	compiled := in.Compilations.of(rl)
	switch {
	case outcome.Paused:
		// Whatever its content: it stands still, with the entry that it has.
		outcome.keep(published)
		outcome.Summary = compiled.summary
		outcome.Accepted = false
		outcome.Reason, outcome.Message = v1.ReasonPaused, "annotation "+v1.AnnotationPaused+" holds the object still"
		return kept(published)
	case compiled.invalid != "":
		message := compiled.invalid
		if published != nil {
			message += KeptNote
		}
		outcome.refuse(v1.ReasonInvalid, message)
		outcome.keep(published)
		return kept(published)
	}
	outcome.ContentHash = compiled.policy.ContentHash
	outcome.Summary = compiled.summary
	outcome.Restarts = restarts(published, &compiled.policy)
	return entry{policy: &compiled.policy, size: compiled.size}
}

func (in *Input) published(rl *v1.RateLimit) *policy.RateLimit {
	if in.Published == nil {
		return nil
	}
	return in.Published.RateLimit(PolicyName(rl.Namespace, rl.Name))
}

func (o *Outcome) refuse(reason, message string) {
	o.Accepted, o.Reason, o.Message = false, reason, message
}

func (o *Outcome) keep(published *policy.RateLimit) {
	if published != nil {
		o.ContentHash = published.ContentHash
	}
}

// entry is a policy that wants into the set.
type entry struct {
	object *v1.RateLimit
	policy *policy.RateLimit
	// size is what the policy takes in the document of a set, with its comma.
	size int
	// kept marks an entry of the published set that stays as it is.
	kept bool
}

// kept is the entry of a policy of the published set, if there is one.
func kept(published *policy.RateLimit) entry {
	if published == nil {
		return entry{}
	}
	return entry{policy: published, size: entrySize(published)}
}

// fit takes entries, kept ones and then the oldest first, as long as there is room. A smaller one may still fit after a
// large one did not.
func (in *Input) fit(entries []entry, outcomes map[types.NamespacedName]Outcome) []policy.RateLimit {
	slices.SortFunc(entries, func(a, b entry) int {
		if a.kept != b.kept {
			if a.kept {
				return -1
			}
			return 1
		}
		return cmp.Or(a.object.CreationTimestamp.Compare(b.object.CreationTimestamp.Time), cmp.Compare(a.policy.Name, b.policy.Name))
	})
	taken, used := make([]policy.RateLimit, 0, len(entries)), 0
	for _, e := range entries {
		if used+e.size > in.MaxBytes && !e.kept {
			key := types.NamespacedName{Namespace: e.object.Namespace, Name: e.object.Name}
			outcome := outcomes[key]
			outcome.refuse(v1.ReasonStoreFull, fmt.Sprintf(
				"the policies of the store are larger together than %d KiB, and this is among the newest; remove policies, or use a further RedisStore", in.MaxBytes>>10))
			outcome.ContentHash, outcome.Restarts = "", nil
			outcomes[key] = outcome
			continue
		}
		used += e.size
		taken = append(taken, *e.policy)
	}
	return taken
}

// entrySize is what a policy takes in the document of a set, with its comma.
func entrySize(p *policy.RateLimit) int {
	document, err := json.Marshal(p)
	if err != nil {
		// A policy holds strings and integers only.
		return 0
	}
	return len(document) + 1
}

// restarts names the limits whose state does not fit their new algorithm or windows, so that they start anew.
func restarts(before, after *policy.RateLimit) []string {
	if before == nil {
		return nil
	}
	names := restarted(before.Limits, after.Limits)
	add := func(restarted []string) {
		for _, name := range restarted {
			// Not of which override: the values that it matches belong to users.
			if name += " of an override"; !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for i := range after.Overrides {
		o := &after.Overrides[i]
		add(restarted(limitsFor(before, o), o.Limits))
	}
	for i := range before.Overrides {
		o := &before.Overrides[i]
		add(restarted(o.Limits, limitsFor(after, o)))
	}
	return names
}

// limitsFor gives the limits that a policy has for the subjects of an override: those of its most specific override that
// matches all of them, else those of everybody. Of two patterns only equal ones are known to.
func limitsFor(p *policy.RateLimit, of *policy.Override) []policy.Limit {
	for i := range p.Overrides {
		covered := len(p.Overrides[i].Values) == len(of.Values)
		for v := range of.Values {
			covered = covered && covers(p.Overrides[i].Values[v], of.Values[v])
		}
		if covered {
			return p.Overrides[i].Limits
		}
	}
	return p.Limits
}

// covers tells whether a pattern matches all that the other one does.
func covers(pattern, other string) bool {
	if pattern == "" || pattern == other {
		return true
	}
	if other == "" || strings.Contains(other, "*") {
		return false
	}
	quoted := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	matched, err := regexp.MatchString("(?s)^"+quoted+"$", other)
	return err == nil && matched // bytes that are no UTF-8 are not to be met: objects are JSON
}

func restarted(before, after []policy.Limit) []string {
	var names []string
	for i := range after {
		l := &after[i]
		at := slices.IndexFunc(before, func(old policy.Limit) bool { return old.Name == l.Name })
		if at >= 0 && !sameWindows(&before[at], l) {
			names = append(names, l.Name)
		}
	}
	return names
}

// sameWindows tells whether what one limit counted means the same to the other.
func sameWindows(a, b *policy.Limit) bool {
	return a.Algorithm == b.Algorithm && a.WindowMs == b.WindowMs && a.Calendar == b.Calendar && a.TimeZone == b.TimeZone
}

// Paused tells whether an object's annotations hold it still.
func Paused(annotations map[string]string) bool {
	return annotations[v1.AnnotationPaused] == "true"
}
