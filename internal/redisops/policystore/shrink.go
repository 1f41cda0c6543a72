package policystore

import (
	"fmt"

	"github.com/penstock-dev/penstock/internal/policy"
)

// shrinkFree is how many policies a publication may drop without a confirmation, whatever part of all they are.
const shrinkFree = 10

// ShrinkHeldError tells that the set was not published, because it drops more than 10 of the published policies and more than half
// of them, which a bad prune or a deleted CRD looks like. Nothing was written.
type ShrinkHeldError struct {
	// Hash of the set, which a confirmation has to name.
	Hash string
	// Removed policies, of so many published ones.
	Removed, Of int
}

// Error says what was held and how to confirm it.
func (e *ShrinkHeldError) Error() string {
	return fmt.Sprintf("the new set %s drops %d of %d policies; held until that hash is confirmed", e.Hash, e.Removed, e.Of)
}

func checkShrink(previous, next *policy.Set, confirmed string) error {
	if previous == nil || confirmed == next.Hash {
		return nil
	}
	removed := 0
	for i := range previous.RateLimits {
		if next.RateLimit(previous.RateLimits[i].Name) == nil {
			removed++
		}
	}
	of := len(previous.RateLimits)
	if removed > shrinkFree && 2*removed > of {
		return &ShrinkHeldError{Hash: next.Hash, Removed: removed, Of: of}
	}
	return nil
}
