// Package policystore keeps the compiled policies of a store in Redis: the operator publishes them, penstockd reads and
// watches them.
package policystore

import (
	"context"
	"errors"
	"fmt"

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
	// Channel gets the hash of each new set.
	Channel = "penstock:changed"
)

// ErrReadBack tells that Redis does not hold what was just written: somebody else writes there too.
var ErrReadBack = errors.New("redis does not hold what was just published")

// OwnedError tells that another publisher owns this Redis. Nothing was written.
type OwnedError struct {
	// Owner is the present owner, which a take-over has to name.
	Owner string
}

// Error says who the owner is.
func (e *OwnedError) Error() string {
	return fmt.Sprintf("%s is %q: another publisher owns this Redis", OwnerKey, e.Owner)
}

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
	// Mode is how the server runs our Lua; see library.Probe.
	Mode library.Mode
}

// Result tells what Publish did.
type Result struct {
	// Changed tells whether anything was written. With Previous.Hash == Set.Hash it was a repair: of the owner, of a
	// document, or of the library.
	Changed bool
	// Previous is the set that was in force before; nil when there was none, or what was there could not be read.
	Previous *policy.Set
	// Dropped are the names of the policies that this publication removed, sorted; with an error of class UnknownOutcome
	// those that it may have removed.
	Dropped []string
}

// publishAttempts bounds how often Publish starts again because somebody wrote one of the documents meanwhile.
const publishAttempts = 3

// Publish makes Redis hold and enforce the set, and writes nothing when it does already.
//
// Everything is written in one transaction (owner, documents, library, announcement), so that a server that runs out of
// memory, or a second publisher, leaves the set in force as it was; then it is read back.
//
// Errors: *OwnedError, *ShrinkHeldError, library.ErrTooLarge, ErrReadBack; policy.ErrNewerFormat when a newer version
// published last; otherwise errors for redisops.Classify, of which OutOfMemory means that Redis is full and the set in
// force stays. After an UnknownOutcome, call it again: it looks first.
func Publish(ctx context.Context, client redis.UniversalClient, p Publication) (Result, error) {
	if p.Owner == "" || p.Set == nil {
		return Result{}, errors.New("publish: want an owner and a set")
	}
	want, err := wanted(p)
	if err != nil {
		return Result{}, fmt.Errorf("publish: %w", err)
	}
	for attempt := 1; ; attempt++ {
		result, err := publishOnce(ctx, client, p, want)
		if err == nil || attempt == publishAttempts || !errors.Is(err, redis.TxFailedErr) {
			return result, err
		}
	}
}

func publishOnce(ctx context.Context, client redis.UniversalClient, p Publication, want state) (Result, error) {
	var result Result
	err := client.Watch(ctx, func(tx *redis.Tx) error {
		have, err := readState(ctx, tx, client, p.Mode)
		if err != nil {
			return err
		}
		if !mayPublish(p, have.owner) {
			return &OwnedError{Owner: *have.owner}
		}
		if result.Previous, err = previous(have); err != nil {
			return err
		}
		if result.Previous != nil {
			have.hash = result.Previous.Hash
		}
		published := names(have, result.Previous)
		if err := checkShrink(published, p); err != nil {
			return err
		}
		if len(differences(have, want)) == 0 {
			return nil
		}
		err = write(ctx, tx, client, p.Mode, have, want)
		if err == nil || redisops.Classify(err) == redisops.UnknownOutcome {
			result.Dropped = missing(published, p.Set)
		}
		result.Changed = err == nil
		return err
	}, OwnerKey, PoliciesKey, library.DocumentKey)
	if err != nil {
		return Result{Previous: result.Previous, Dropped: result.Dropped}, fmt.Errorf("publish: %w", err)
	}
	if !result.Changed {
		return result, nil
	}
	got, err := readState(ctx, client, client, p.Mode)
	if err != nil {
		return result, fmt.Errorf("read back: %w", err)
	}
	if differ := differences(got, want); len(differ) > 0 {
		return result, fmt.Errorf("%w: %v differ", ErrReadBack, differ)
	}
	return result, nil
}

func mayPublish(p Publication, owner *string) bool {
	return owner == nil || *owner == p.Owner || *owner == p.TakeOver
}

// previous gives the published set. What is no set of ours (somebody wrote there) counts as none and is overwritten, but
// not what a newer version wrote: it may hold what this one would drop.
func previous(have state) (*policy.Set, error) {
	if have.policies == nil {
		return nil, nil
	}
	set, err := policy.Parse([]byte(*have.policies))
	if errors.Is(err, policy.ErrNewerFormat) {
		return nil, fmt.Errorf("%s: %w; to let this version publish, delete the key", PoliciesKey, err)
	}
	if err != nil {
		return nil, nil
	}
	return set, nil
}

// write puts into Redis what differs, all or nothing.
func write(ctx context.Context, tx *redis.Tx, client redis.UniversalClient, mode library.Mode, have, want state) error {
	if mode == library.ModeScripts {
		if err := library.LoadScripts(ctx, client); err != nil {
			return fmt.Errorf("load scripts: %w", err)
		}
	}
	var load *redis.StringCmd
	commands, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		setDocuments(ctx, pipe, have, want)
		if want.loaded != nil && !equal(have.loaded, want.loaded) {
			load = pipe.FunctionLoadReplace(ctx, *want.loaded)
		}
		// Also for a repair: a set that penstockd could not read may be readable now.
		pipe.Publish(ctx, Channel, want.hash)
		return nil
	})
	if err == nil {
		return nil
	}
	if load == nil || load.Err() == nil || redisops.Classify(err) == redisops.UnknownOutcome || !executed(commands, load) {
		return firstError(commands, err)
	}
	// The transaction ran, all but the library: the server refuses it. The documents follow the library that is in force.
	err = fmt.Errorf("load the library: %w", load.Err())
	if _, restoring := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		setDocuments(ctx, pipe, want, have)
		if have.hash != "" {
			pipe.Publish(ctx, Channel, have.hash)
		}
		return nil
	}); restoring != nil {
		return errors.Join(err, fmt.Errorf("and put the former documents back: %w", restoring))
	}
	return err
}

// executed tells whether the transaction ran: then no command but the refused one has an error.
func executed(commands []redis.Cmder, refused redis.Cmder) bool {
	for _, command := range commands {
		if command != refused && command.Err() != nil {
			return false
		}
	}
	return true
}

// firstError gives the error that made the server discard a transaction, where it is known: EXECABORT alone does not tell
// that Redis is full.
func firstError(commands []redis.Cmder, err error) error {
	for _, command := range commands {
		if cause := command.Err(); cause != nil && !redis.IsExecAbortError(cause) && redisops.Classify(cause) != redisops.UnknownOutcome {
			return fmt.Errorf("%s: %w", command.Name(), cause)
		}
	}
	return err
}

func setDocuments(ctx context.Context, pipe redis.Pipeliner, from, to state) {
	for _, document := range []struct {
		key      string
		from, to *string
	}{
		{OwnerKey, from.owner, to.owner},
		{library.DocumentKey, from.library, to.library},
		{PoliciesKey, from.policies, to.policies},
	} {
		switch {
		case equal(document.from, document.to):
		case document.to == nil:
			pipe.Del(ctx, document.key)
		default:
			pipe.Set(ctx, document.key, *document.to, 0)
		}
	}
}
