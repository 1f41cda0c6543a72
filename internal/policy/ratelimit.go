package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Algorithms of a Limit.
const (
	SlidingLog  = "SlidingLog"
	FixedWindow = "FixedWindow"
	TokenBucket = "TokenBucket"
)

// Answers while Redis cannot be asked.
const (
	FailureAllow = "Allow"
	FailureDeny  = "Deny"
)

// Bounds of a RateLimit; the schema of the kind has the same.
const (
	MaxDescriptors        = 8
	MaxLimits             = 8
	MaxSlidingLogRequests = 1000
	MinWindow             = 100 * time.Millisecond
	MaxWindow             = 744 * time.Hour
)

// RateLimit is a compiled RateLimit.
type RateLimit struct {
	// Name is "<namespace>/<name>".
	Name string `json:"name"`
	// ContentHash identifies all the other fields: 32 hexadecimal digits.
	ContentHash string `json:"contentHash"`
	// Domain is the Envoy rate limit domain.
	Domain string `json:"domain"`
	// Descriptors is the tuple that is matched and counted by, in order. Empty: one budget for all.
	Descriptors []Descriptor `json:"descriptors,omitempty"`
	// Limits must all hold.
	Limits []Limit `json:"limits"`
	// OnStoreFailure is FailureAllow or FailureDeny.
	OnStoreFailure string `json:"onStoreFailure"`
}

// Descriptor is one entry of the tuple.
type Descriptor struct {
	Key string `json:"key"`
	// Value is the pattern that the value must match: empty matches all, * any run of bytes.
	Value string `json:"value,omitempty"`
}

// Limit is one limit of a policy.
type Limit struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	// Requests per window, 0 to MaxInteger.
	Requests int64 `json:"requests"`
	// WindowMs is the window in milliseconds.
	WindowMs int64 `json:"windowMs"`
	// Burst is the capacity of a TokenBucket in tokens; 0 for other algorithms.
	Burst int64 `json:"burst,omitempty"`
	// TickUs is the unit of time of a TokenBucket in microseconds (see TickFor); 0 for other algorithms.
	TickUs int64 `json:"tickUs,omitempty"`
}

// TickFor gives the unit of time, in microseconds, in which a TokenBucket with that window counts.
//
// A bucket keeps what was used in units of token/window, so that refilling by the tokens of one tick is adding an
// integer and nothing is ever rounded: used tokens × ticks per window must stay within MaxInteger. The unit depends on the window
// only, so that a changed number of requests keeps what was used.
func TickFor(windowMs int64) int64 {
	switch {
	case windowMs <= time.Minute.Milliseconds():
		return 1
	case windowMs <= 24*time.Hour.Milliseconds():
		return 1_000
	default:
		return 1_000_000
	}
}

// MaxBurst gives the largest capacity that a TokenBucket with that window can count exactly (see TickFor): at least
// 10^8 tokens for every window.
func MaxBurst(windowMs int64) int64 {
	return MaxInteger / max(1, windowTicks(windowMs))
}

func windowTicks(windowMs int64) int64 {
	return windowMs * 1000 / TickFor(windowMs)
}

// Sealed gives the policy with its content hash.
func (r RateLimit) Sealed() RateLimit {
	r.ContentHash = ""
	r.ContentHash = contentHash(r)
	return r
}

var (
	policyName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	hashText   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	limitName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// Validate checks everything that deciding relies on.
func (r *RateLimit) Validate() error {
	if !policyName.MatchString(r.Name) {
		return errors.New("name: want <namespace>/<name> in lower-case letters, digits, dots and hyphens")
	}
	// Not computed anew: a newer writer may have hashed fields that this reader does not know.
	if !hashText.MatchString(r.ContentHash) {
		return fmt.Errorf("contentHash %q: want 32 hexadecimal digits", r.ContentHash)
	}
	if r.Domain == "" || len(r.Domain) > 256 {
		return errors.New("domain: want 1 to 256 bytes")
	}
	if len(r.Descriptors) > MaxDescriptors {
		return fmt.Errorf("descriptors: %d, want at most %d", len(r.Descriptors), MaxDescriptors)
	}
	for i, d := range r.Descriptors {
		if d.Key == "" || strings.Count(d.Value, "*") > 8 {
			return fmt.Errorf("descriptors[%d]: want a key, and at most 8 wildcards in the value", i)
		}
	}
	if len(r.Limits) < 1 || len(r.Limits) > MaxLimits {
		return fmt.Errorf("limits: %d, want 1 to %d", len(r.Limits), MaxLimits)
	}
	names := make(map[string]bool, len(r.Limits))
	for i := range r.Limits {
		l := &r.Limits[i]
		if err := l.validate(); err != nil {
			return fmt.Errorf("limits[%d]: %w", i, err)
		}
		if names[l.Name] {
			return fmt.Errorf("limits[%d]: name %q is there twice", i, l.Name)
		}
		names[l.Name] = true
	}
	if r.OnStoreFailure != FailureAllow && r.OnStoreFailure != FailureDeny {
		return fmt.Errorf("onStoreFailure %q: want %s or %s", r.OnStoreFailure, FailureAllow, FailureDeny)
	}
	return nil
}

func (l *Limit) validate() error {
	if !limitName.MatchString(l.Name) {
		return fmt.Errorf("name %q: want lower-case letters, digits and -", l.Name)
	}
	if l.Requests < 0 || l.Requests > MaxInteger {
		return fmt.Errorf("requests %d: want 0 to %d", l.Requests, int64(MaxInteger))
	}
	if l.WindowMs < MinWindow.Milliseconds() || l.WindowMs > MaxWindow.Milliseconds() {
		return fmt.Errorf("windowMs %d: want %d to %d", l.WindowMs, MinWindow.Milliseconds(), MaxWindow.Milliseconds())
	}
	switch l.Algorithm {
	case SlidingLog:
		if l.Requests > MaxSlidingLogRequests {
			return fmt.Errorf("requests %d: want at most %d for SlidingLog", l.Requests, MaxSlidingLogRequests)
		}
	case FixedWindow:
	case TokenBucket:
		if most := MaxBurst(l.WindowMs); l.Requests > most || l.Burst > most || l.Burst < 1 {
			return fmt.Errorf("requests %d, burst %d: want at most %d for this window, and a burst of at least 1", l.Requests, l.Burst, most)
		}
		if l.TickUs != TickFor(l.WindowMs) {
			return fmt.Errorf("tickUs %d: want %d", l.TickUs, TickFor(l.WindowMs))
		}
		return nil
	default:
		return fmt.Errorf("algorithm %q: want %s, %s or %s", l.Algorithm, SlidingLog, FixedWindow, TokenBucket)
	}
	if l.Burst != 0 || l.TickUs != 0 {
		return fmt.Errorf("burst and tickUs are for %s only", TokenBucket)
	}
	return nil
}
