package dev

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/translate"
)

// begin publishes for the first time.
func (s *session) begin(ctx context.Context, l loaded) error {
	if err := s.store.claimable(ctx, s.owner); err != nil {
		return err
	}
	// What an earlier session left is what paused objects keep.
	published, err := policystore.Read(ctx, s.store.client)
	if err != nil && !errors.Is(err, policystore.ErrNoPolicies) {
		return fmt.Errorf("%s: %w", s.store.name, err)
	}
	s.set, s.good = published, l
	if _, err := s.publish(ctx, l); err != nil {
		return err
	}
	s.shown, s.shownNotes = s.set, s.notes // by the banner
	return nil
}

// publish makes a set of the objects, in which one store serves all, and publishes it.
func (s *session) publish(ctx context.Context, l loaded) (policystore.Result, error) {
	assembly := translate.Assemble(translate.Input{RateLimits: l.rateLimits, Published: s.set, SingleStore: true})
	result, err := policystore.Publish(ctx, s.store.servers, policystore.Publication{
		Owner: s.owner, Set: assembly.Set, Mode: s.store.mode,
		// In a cluster a set that drops most policies waits for a confirmation; here the files were just edited.
		ConfirmShrink: assembly.Set.Hash,
	})
	if owned, is := errors.AsType[*policystore.OwnedError](err); is {
		return result, s.store.owned(owned.Owner)
	}
	if err != nil {
		return result, fmt.Errorf("%s: %w", s.store.name, err)
	}
	s.set, s.notes = assembly.Set, notes(l, assembly)
	return result, nil
}

// notes say what became of objects that are valid, and still not what they seem.
func notes(l loaded, assembly translate.Assembly) []string {
	var list []string
	for i := range l.rateLimits {
		rl := &l.rateLimits[i]
		key := types.NamespacedName{Namespace: rl.Namespace, Name: rl.Name}
		outcome := assembly.Outcomes[key]
		if !outcome.Accepted {
			what := "is not in force"
			if outcome.ContentHash != "" {
				what = "stays as it was"
			}
			list = append(list, fmt.Sprintf("%s %s: %s", key, what, outcome.Message))
		}
		for _, name := range outcome.Restarts {
			list = append(list, fmt.Sprintf("%s: limit %s counts anew, since its algorithm, window, calendar or time zone is another", key, name))
		}
	}
	if l.stores > 0 {
		list = append(list, "RedisStores in the files are checked and not used: one Redis serves every policy here.")
	}
	return list
}

// awaitInForce waits until the engine decides by the published set.
func (s *session) awaitInForce(ctx context.Context) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	for {
		if set := s.engine.Set(); set != nil && set.Hash == s.set.Hash {
			return nil
		}
		select {
		case <-s.inForce:
		case <-deadline.C:
			return fmt.Errorf("%s: the policies that were just published did not come back within %s; does somebody else publish there?", s.store.name, startTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// compare gives a line for each policy that is new (+), another (~) or gone (-).
func compare(before, after *policy.Set) []string {
	var lines []string
	for i := range after.RateLimits {
		p := &after.RateLimits[i]
		old := before.RateLimit(p.Name)
		switch {
		case old == nil:
			lines = append(lines, "+ "+describe(p))
		case old.ContentHash != p.ContentHash:
			lines = append(lines, "~ "+describe(p))
		}
	}
	for i := range before.RateLimits {
		if p := &before.RateLimits[i]; after.RateLimit(p.Name) == nil {
			lines = append(lines, "- "+p.Name)
		}
	}
	return lines
}

// describe is a policy on one line: name, limits, and what is counted.
func describe(p *policy.RateLimit) string {
	var tuple []string
	for _, d := range p.Descriptors {
		entry := d.Key
		if d.Value != "" {
			entry += "=" + d.Value
		}
		// Quoted, so that no character of a file does anything to a terminal; but the quotes would only be in the way.
		tuple = append(tuple, strings.Trim(strconv.Quote(entry), `"`))
	}
	counted := "all requests together"
	if len(tuple) > 0 {
		counted = "by " + strings.Join(tuple, ", ")
	}
	line := fmt.Sprintf("%s  %s  %s (domain %s)", p.Name, translate.Summary(p), counted, p.Domain)
	switch p.OnStoreFailure {
	case policy.FailureDeny:
		line += ", denied while Redis is gone"
	case policy.FailureLocalShare:
		line += ", counted in here while Redis is gone"
	}
	return line
}
