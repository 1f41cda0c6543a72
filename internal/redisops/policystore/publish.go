// Package policystore keeps the compiled policies of a store in Redis: the operator publishes them, penstockd reads and
// watches them.
package policystore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// What is written into Redis, beside the function library.
const (
	// OwnerKey holds who publishes: "<cluster id>/<namespace of the store>/<name of the store>".
	OwnerKey = "penstock:owner"
	// PoliciesKey holds the policies in force, as policy.Set.Marshal writes them.
	PoliciesKey = "penstock:policies"
	// NamesKey holds the names of those policies, one a line, where there is no library that tells them (script mode): for
	// ShrinkHeldError, when PoliciesKey is lost.
	NamesKey = "penstock:names"
	// Channel gets the hash of each new set.
	Channel = "penstock:changed"
)

// ErrReadBack tells that Redis does not hold what was just written: somebody else writes there too.
var ErrReadBack = errors.New("redis does not hold what was just published")

// OwnedError tells that another publisher owns this Redis. Nothing was written, unless it took the place while a Cluster, or
// several Independent servers, were being written to.
type OwnedError struct {
	// Owner is the present owner, which a take-over has to name.
	Owner string
}

// Error says who the owner is.
func (e *OwnedError) Error() string {
	return fmt.Sprintf("%s is %q: another publisher owns this Redis", OwnerKey, e.Owner)
}

// ReplicaError tells that a server which was to be written to is a replica. Its class is ReadOnly, as that of the refusal
// which a replica gives unless it was made to take writes.
type ReplicaError struct {
	// Address of the replica.
	Address string
}

// Error begins as the refusal of a replica does.
func (e *ReplicaError) Error() string {
	return "READONLY " + e.Address + " is a replica: nothing was written there"
}

// RedisError makes the error one of a server.
func (*ReplicaError) RedisError() {}

// Publication is what is to be in Redis.
type Publication struct {
	// Owner is who publishes. It claims a Redis that has no owner.
	Owner string
	// TakeOver, when it equals the present owner, lets Owner take its place; else it changes nothing.
	TakeOver string
	// Set is all policies of the store.
	Set *policy.Set
	// Dropped are the names of policies that earlier publications removed lately ("<namespace>/<name>"). For ShrinkHeldError
	// they count as if they were still published, so that many small steps are held like a large one.
	Dropped []string
	// ConfirmShrink is the hash of a set that may drop most of the policies; see ShrinkHeldError.
	ConfirmShrink string
	// Mode is how the servers run our Lua; see library.ProbeAll.
	Mode library.Mode
	// Parse gives the set of a document; nil means policy.Parse. It is for those who remember what they parsed last.
	Parse func(document string) (*policy.Set, error)
}

// Result tells what Publish did.
type Result struct {
	// Changed tells whether anything was written, scripts included. With Previous.Hash == Set.Hash it was a repair: of the owner, of a
	// document, or of the library.
	Changed bool
	// Document is the set as PoliciesKey is to hold it.
	Document string
	// Previous is the set that was in force before; nil when there was none, or what was there could not be read.
	Previous *policy.Set
	// Dropped are the names of the policies that this publication removed, sorted; with an error those that it may have
	// removed.
	Dropped []string
	// Missing are the addresses of primaries that do not have the set, since they could not be reached (in time, or are
	// no primary any more). The others have it, and the error says what is wrong with these.
	Missing []string
}

// publishAttempts bounds how often Publish starts again because somebody wrote one of the documents meanwhile.
const publishAttempts = 3

// Publish makes Redis hold and enforce the set, and writes nothing when it does already: the owner, the documents without a
// TTL, the library on every primary (a new one, one that was promoted, restarted empty or flushed), in script mode the
// scripts on every server; and it announces the set. What was written is read back.
//
// Standalone and Sentinel: everything is written in one transaction, so that a server that runs out of memory, or a second
// publisher, leaves the set in force as it was. Independent: likewise on each server, in the order of their addresses, after
// all that can be reached were found to be ours or nobody's; so of two publishers at once one gets all of them.
//
// Cluster: the owner is claimed, then the documents are written, each only over what was found before, then the library goes
// to every primary, then the set is announced. Before the first of it, each primary is asked whether it takes such a
// library; when one refuses it nevertheless, what was written is put back. Without the primaries that serve the documents
// nothing is written; others that cannot be reached hold nobody up (Result.Missing).
//
// Errors: *OwnedError, *ShrinkHeldError, library.ErrTooLarge, ErrReadBack; policy.ErrNewerFormat when a newer version
// published last; otherwise errors for redisops.Classify, of which OutOfMemory means that Redis is full and the set in
// force stays. After an UnknownOutcome, or with Missing, call it again: it looks first.
func Publish(ctx context.Context, servers *redisops.Servers, p Publication) (Result, error) {
	if p.Owner == "" || p.Set == nil {
		return Result{}, errors.New("publish: want an owner and a set")
	}
	want, text, err := wanted(p)
	if err != nil {
		return Result{}, fmt.Errorf("publish: %w", err)
	}
	if p.Parse == nil {
		p.Parse = func(document string) (*policy.Set, error) { return policy.Parse([]byte(document)) }
	}
	w := &publishing{servers: servers, Publication: p, want: want, text: text}
	var result Result
	for attempt := 1; ; attempt++ {
		one, err := w.publish(ctx)
		// What earlier attempts did was done; only who is missing is seen anew.
		result.Missing = nil
		result.add(one)
		if err != nil && attempt < publishAttempts && errors.Is(err, redis.TxFailedErr) {
			continue
		}
		if err == nil && p.Mode == library.ModeScripts {
			err = w.loadScripts(ctx, &result)
		}
		if err != nil {
			err = fmt.Errorf("publish: %w", err)
		}
		return result, err
	}
}

// publishing is one call of Publish.
type publishing struct {
	Publication
	servers *redisops.Servers
	want    state
	text    string // of the library
}

func (w *publishing) publish(ctx context.Context) (Result, error) {
	primaries, err := w.servers.Primaries(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("find the primaries: %w", err)
	}
	switch w.servers.Config().Topology {
	case policy.TopologyCluster:
		return w.publishCluster(ctx, primaries)
	case policy.TopologyIndependent:
		return w.publishEach(ctx, primaries)
	default:
		return w.publishServer(ctx, primaries[0])
	}
}

// finding is what a look at Redis before a publication gave.
type finding struct {
	have state
	// previous is the set in force, nil when there is none that can be read.
	previous *policy.Set
	// published are the names of the policies in force.
	published []string
}

// examine tells whether the set may be published over what is there. texts gives the texts of the libraries that are loaded.
func (w *publishing) examine(have state, texts func() ([]string, error)) (finding, error) {
	found := finding{have: have}
	if owner := have.owner.text; owner != nil && *owner != w.Owner && *owner != w.TakeOver {
		return found, &OwnedError{Owner: *owner}
	}
	var err error
	if found.previous, err = w.previous(have); err != nil {
		return found, err
	}
	if found.previous != nil {
		found.have.hash = found.previous.Hash
		found.published = setNames(found.previous)
	} else {
		var loaded []string
		if w.Mode == library.ModeFunctions {
			if loaded, err = texts(); err != nil {
				return found, err
			}
		}
		found.published = lostNames(have, loaded)
	}
	return found, checkShrink(found.published, w.Publication)
}

// previous gives the published set. What is no set of ours (somebody wrote there) counts as none and is overwritten, but
// not what a newer version wrote: it may hold what this one would drop.
func (w *publishing) previous(have state) (*policy.Set, error) {
	if have.policies.text == nil {
		return nil, nil
	}
	set, err := w.Parse(*have.policies.text)
	if errors.Is(err, policy.ErrNewerFormat) {
		return nil, fmt.Errorf("%s: %w; to let this version publish, delete the key", PoliciesKey, err)
	}
	if err != nil {
		return nil, nil
	}
	return set, nil
}

// conflicts tells of an error that what is in Redis, and no server, stands against the publication.
func conflicts(err error) bool {
	return errors.As(err, new(*OwnedError)) || errors.As(err, new(*ShrinkHeldError)) ||
		errors.Is(err, policy.ErrNewerFormat) || errors.Is(err, ErrReadBack) || errors.Is(err, redis.TxFailedErr)
}

// away tells of an error that it is one of a server which cannot be written to for now, and of no other.
func away(err error) bool {
	if conflicts(err) {
		return false
	}
	switch redisops.Classify(err) {
	case redisops.NotExecuted, redisops.UnknownOutcome, redisops.Unavailable, redisops.ReadOnly:
		return true
	default:
		return false
	}
}

// checkRole fails with a ReplicaError on a replica: one that takes writes would not say so. HELLO needs no right. The
// connection is given up then, since its address may lead to the primary by now.
func checkRole(ctx context.Context, server redis.Cmdable, address string) error {
	hello := redis.NewCmd(ctx, "hello")
	_, _ = server.Pipelined(ctx, func(pipe redis.Pipeliner) error { return pipe.Process(ctx, hello) })
	reply, err := hello.Result()
	if err != nil {
		if _, answered := errors.AsType[redis.Error](err); answered {
			return nil // It does not know HELLO; then a replica refuses the write.
		}
		return fmt.Errorf("ask %s for its role: %w", address, err)
	}
	if role := helloRole(reply); role != "replica" && role != "slave" {
		return nil
	}
	_, _ = server.Pipelined(ctx, func(pipe redis.Pipeliner) error { return pipe.Process(ctx, redis.NewCmd(ctx, "quit")) })
	return &ReplicaError{Address: address}
}

// helloRole gives the role from the reply to HELLO: a map, in RESP2 a list.
func helloRole(reply any) any {
	switch fields := reply.(type) {
	case map[any]any:
		return fields["role"]
	case []any:
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "role" {
				return fields[i+1]
			}
		}
	}
	return nil
}

// addMissing adds addresses to those that are missing, each once, sorted.
func (r *Result) addMissing(addresses ...string) {
	r.Missing = append(r.Missing, addresses...)
	slices.Sort(r.Missing)
	r.Missing = slices.Compact(r.Missing)
}
