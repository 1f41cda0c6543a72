package policystore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// shrinkFree is how many policies may be dropped without a confirmation, whatever part of all they are.
const shrinkFree = 10

// ShrinkHeldError tells that the set was not published, because it drops more than 10 of the policies and more than half of them,
// counting those that earlier publications dropped (Publication.Dropped). A bad prune or a deleted CRD looks like that.
// Nothing was written.
type ShrinkHeldError struct {
	// Hash of the set, which a confirmation has to name.
	Hash string
	// Removed policies, of so many that are published or were dropped lately.
	Removed, Of int
}

// Error says what was held and how to confirm it.
func (e *ShrinkHeldError) Error() string {
	return fmt.Sprintf("the new set %s drops %d of %d policies; held until that hash is confirmed", e.Hash, e.Removed, e.Of)
}

func checkShrink(published []string, p Publication) error {
	if p.ConfirmShrink == p.Set.Hash {
		return nil
	}
	all := slices.Concat(published, p.Dropped)
	slices.Sort(all)
	all = slices.Compact(all)
	removed := len(missing(all, p.Set))
	if removed > shrinkFree && 2*removed > len(all) {
		return &ShrinkHeldError{Hash: p.Set.Hash, Removed: removed, Of: len(all)}
	}
	return nil
}

// missing gives those of the names that the set does not have, in their order.
func missing(names []string, set *policy.Set) []string {
	var gone []string
	for _, name := range names {
		if set.RateLimit(name) == nil {
			gone = append(gone, name)
		}
	}
	return gone
}

// setNames gives the names of a set's policies, sorted.
func setNames(set *policy.Set) []string {
	names := make([]string, len(set.RateLimits))
	for i := range set.RateLimits {
		names[i] = set.RateLimits[i].Name
	}
	return names
}

// lostNames gives the sorted names of the policies in force when the published set cannot be read: those that the libraries
// were rendered with, loaded ones and the document, or those of the list. A document that somebody deleted must not let a
// publication drop everything.
func lostNames(have state, loaded []string) []string {
	var all []string
	for _, text := range loaded {
		all = append(all, library.PolicyNames(text)...)
	}
	if have.library.text != nil {
		if document, err := library.ParseDocument([]byte(*have.library.text)); err == nil {
			all = append(all, library.PolicyNames(document.Text)...)
		}
	}
	if have.names.text != nil && *have.names.text != "" {
		all = append(all, strings.Split(*have.names.text, "\n")...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
