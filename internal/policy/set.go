package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Format is the newest document format that this code reads. It is raised when a reader that ignores what is new would
// decide wrongly; a set is written in the oldest format that its policies allow, so that older readers take it as long as
// they can.
const Format = 3

// MaxInteger is 2^53-1, the largest integer that Lua and every JSON parser hold exactly.
const MaxInteger = 1<<53 - 1

// ErrNewerFormat tells that a document was written by a newer version: the reader keeps the set that it has.
var ErrNewerFormat = errors.New("the document has a newer format than this version reads")

// Set is all policies of one store.
type Set struct {
	// Format is the version of the document.
	Format int `json:"format"`
	// Hash identifies the content: 32 hexadecimal digits.
	Hash string `json:"hash"`
	// RateLimits are sorted by name.
	RateLimits []RateLimit `json:"rateLimits"`
}

// NewSet sorts the policies and seals the set with its hash.
func NewSet(limits []RateLimit) *Set {
	s := &Set{Format: 1, RateLimits: slices.Clone(limits)}
	if s.RateLimits == nil {
		s.RateLimits = []RateLimit{}
	}
	for i := range s.RateLimits {
		s.Format = max(s.Format, s.RateLimits[i].format())
	}
	slices.SortFunc(s.RateLimits, func(a, b RateLimit) int { return strings.Compare(a.Name, b.Name) })
	s.Hash = s.hash()
	return s
}

// Parse reads a document and checks all of it, since what is in Redis may have been written by anybody. It fails with
// ErrNewerFormat, or with an error that names what is wrong.
func Parse(document []byte) (*Set, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(document, &head); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	if head.Format > Format {
		return nil, fmt.Errorf("policy set: format %d: %w", head.Format, ErrNewerFormat)
	}
	var s Set
	if err := json.Unmarshal(document, &s); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("policy set: %w", err)
	}
	return &s, nil
}

// Marshal gives the document.
func (s *Set) Marshal() []byte {
	return mustMarshal(s)
}

// Validate checks the set and each of its policies.
func (s *Set) Validate() error {
	if s.Format < 1 {
		return fmt.Errorf("format %d: want 1 to %d", s.Format, Format)
	}
	for i := range s.RateLimits {
		if i > 0 && s.RateLimits[i-1].Name >= s.RateLimits[i].Name {
			return fmt.Errorf("rateLimits[%d]: %q does not sort after %q", i, s.RateLimits[i].Name, s.RateLimits[i-1].Name)
		}
		if err := s.RateLimits[i].Validate(); err != nil {
			return fmt.Errorf("rateLimits[%d] %q: %w", i, s.RateLimits[i].Name, err)
		}
	}
	if want := s.hash(); s.Hash != want {
		return fmt.Errorf("hash %q does not fit the content (%s)", s.Hash, want)
	}
	return nil
}

// RateLimit gives the policy of that name ("<namespace>/<name>"), or nil.
func (s *Set) RateLimit(name string) *RateLimit {
	i, found := slices.BinarySearchFunc(s.RateLimits, name, func(r RateLimit, name string) int { return strings.Compare(r.Name, name) })
	if !found {
		return nil
	}
	return &s.RateLimits[i]
}

func (s *Set) hash() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", s.Format)
	for i := range s.RateLimits {
		fmt.Fprintf(h, "RateLimit %s %s\n", s.RateLimits[i].Name, s.RateLimits[i].ContentHash)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// contentHash is the first 128 bits of the SHA-256 of the JSON form, in hexadecimal.
func contentHash(v any) string {
	sum := sha256.Sum256(mustMarshal(v))
	return hex.EncodeToString(sum[:16])
}

// mustMarshal is for values of this package, which hold nothing that JSON cannot.
func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("policy: marshalling %T: %v", v, err))
	}
	return b
}
