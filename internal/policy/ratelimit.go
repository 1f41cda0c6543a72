package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Answers while Redis cannot be asked.
const (
	FailureAllow = "Allow"
	FailureDeny  = "Deny"
	// FailureLocalShare has each replica of penstockd enforce its share of the limits by itself. It is for limits that refill
	// with time.
	FailureLocalShare = "LocalShare"
)

// Headers of a Response.
const (
	// HeaderDraft is RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11.
	HeaderDraft = "Draft"
	// HeaderLegacy is X-RateLimit-Limit, -Remaining and -Reset.
	HeaderLegacy = "Legacy"
	// HeaderRetryAfter is Retry-After of RFC 9110, on denials.
	HeaderRetryAfter = "RetryAfter"
)

// Bounds of a RateLimit; the schema of the kind has the same.
const (
	MaxDescriptors = 8
	MaxOverrides   = 100
	MaxWhen        = 8
	// MaxTimeZones bounds the time zones of the calendars of one policy, overrides included.
	MaxTimeZones = 32
	// MaxOffsets bounds the offsets of one time zone.
	MaxOffsets = 128
	// MaxWildcards is how many * a value may hold.
	MaxWildcards = 8
	// MaxExpressionBytes bounds the text of one CEL expression.
	MaxExpressionBytes = 1024
	// MaxPenaltyDenials bounds how many denials a penalty waits for.
	MaxPenaltyDenials = 1_000_000
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
	// Overrides are other limits for some subjects: the first that matches applies. They stand in the order of
	// SortOverrides.
	Overrides []Override `json:"overrides,omitempty"`
	// TimeZones has the offsets from UTC of CalendarZones, and of no other zones: {since when, offset}, both in seconds,
	// the first of them since the beginning of time; each of the others is later than the one before.
	TimeZones map[string][][2]int64 `json:"timeZones,omitempty"`
	// When are CEL expressions that must all be true for the policy to apply.
	When []string `json:"when,omitempty"`
	// Cost is what a request costs whose caller says nothing: 1 to MaxInteger; 0 stands for 1.
	Cost int64 `json:"cost,omitempty"`
	// CostExpression is a CEL expression in the place of Cost; empty is none.
	CostExpression string `json:"costExpression,omitempty"`
	// ShadowPercent is the share of subjects, 0 to 100, that are decided and counted but never denied.
	ShadowPercent int64 `json:"shadowPercent,omitempty"`
	// Penalty blocks subjects that go on after they were denied; nil is none.
	Penalty *Penalty `json:"penalty,omitempty"`
	// Response is how HTTP doors answer; nil is the default.
	Response *Response `json:"response,omitempty"`
	// OnStoreFailure is FailureAllow, FailureDeny or FailureLocalShare.
	OnStoreFailure string `json:"onStoreFailure"`
}

// Descriptor is one entry of the tuple.
type Descriptor struct {
	Key string `json:"key"`
	// Value is the pattern that the value must match: empty matches all, * any run of bytes.
	Value string `json:"value,omitempty"`
	// Shared makes all values that match a pattern with wildcards share one budget: the subject holds the pattern in the
	// place of the value.
	Shared bool `json:"shared,omitempty"`
}

// Override is other limits for the subjects that it matches.
type Override struct {
	// Values are patterns as of a Descriptor, one for each of the policy's descriptors, in their order; empty matches all.
	// That of a shared descriptor is empty: values that have one budget have one limit.
	Values []string `json:"values"`
	// Limits are in the place of the policy's; empty when Unlimited.
	Limits []Limit `json:"limits,omitempty"`
	// Unlimited lets the subjects pass uncounted.
	Unlimited bool `json:"unlimited,omitempty"`
}

// Penalty blocks a subject for ForMs once it was denied Denials times in WithinMs. A block that begins within MaxMs after
// the end of the one before lasts twice as long as that one, at most MaxMs.
type Penalty struct {
	// Denials is 1 to MaxPenaltyDenials.
	Denials int64 `json:"denials"`
	// WithinMs, ForMs and MaxMs are milliseconds, within the bounds of windows; MaxMs is at least ForMs.
	WithinMs int64 `json:"withinMs"`
	ForMs    int64 `json:"forMs"`
	MaxMs    int64 `json:"maxMs"`
}

// Response is how HTTP doors answer. Its zero value is the default.
type Response struct {
	// Status is that of a denial, 400 to 599; 0 stands for 429.
	Status int `json:"status,omitempty"`
	// Headers are of the constants Header…; nil stands for Draft and RetryAfter, and an empty list for none.
	Headers []string `json:"headers"`
	// Type, Title and Detail replace the members of that name in the body, application/problem+json; empty is the default.
	Type   string `json:"type,omitempty"`
	Title  string `json:"title,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// DefaultHeaders are those of a policy without Response.Headers.
var DefaultHeaders = []string{HeaderDraft, HeaderRetryAfter}

// Sealed gives the policy with its content hash.
func (r RateLimit) Sealed() RateLimit {
	r.ContentHash = ""
	r.ContentHash = contentHash(r)
	return r
}

// NeedsDoor tells whether somebody has to evaluate expressions before Redis is asked, which direct callers of a function
// cannot.
func (r *RateLimit) NeedsDoor() bool { return len(r.When) > 0 || r.CostExpression != "" }

// FixedCost is what a request costs whose caller says nothing, unless there is a CostExpression.
func (r *RateLimit) FixedCost() int64 { return max(1, r.Cost) }

// Holds tells whether any limit of the policy or of its overrides is of the algorithm.
func (r *RateLimit) Holds(algorithm string) bool {
	of := func(l Limit) bool { return l.Algorithm == algorithm }
	return slices.ContainsFunc(r.Limits, of) ||
		slices.ContainsFunc(r.Overrides, func(o Override) bool { return slices.ContainsFunc(o.Limits, of) })
}

// CalendarZones gives the names of the time zones of all calendars of the policy and of its overrides: each once, sorted.
func (r *RateLimit) CalendarZones() []string {
	var zones []string
	add := func(limits []Limit) {
		for i := range limits {
			if l := &limits[i]; l.Calendar != "" {
				zones = append(zones, l.TimeZone)
			}
		}
	}
	add(r.Limits)
	for i := range r.Overrides {
		add(r.Overrides[i].Limits)
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

// IsConcurrency tells whether the policy counts what is under way, so that callers acquire and release slots.
func (r *RateLimit) IsConcurrency() bool { return r.Limits[0].Algorithm == Concurrency }

// format is the oldest document format whose readers decide rightly by the policy.
func (r *RateLimit) format() int {
	if r.OnStoreFailure == FailureLocalShare {
		return 3
	}
	newer := len(r.Overrides) > 0 || r.NeedsDoor() || r.Cost > 1 || r.ShadowPercent > 0 || r.Penalty != nil ||
		slices.ContainsFunc(r.Descriptors, func(d Descriptor) bool { return d.Shared }) ||
		slices.ContainsFunc(r.Limits, func(l Limit) bool { return !l.original() })
	if newer {
		return 2
	}
	return 1
}

// SortOverrides puts overrides in the order in which they are tried: the most specific first, equal ones as they were.
// Descriptor by descriptor, in the policy's order, an exact value is more specific than one with wildcards, and that more
// than any value; with these alike, the one with more bytes that are no wildcards.
func SortOverrides(overrides []Override) { slices.SortStableFunc(overrides, compareOverrides) }

func compareOverrides(a, b Override) int {
	for i := range min(len(a.Values), len(b.Values)) {
		if d := rank(b.Values[i]) - rank(a.Values[i]); d != 0 {
			return d
		}
	}
	return literals(b.Values) - literals(a.Values)
}

func rank(pattern string) int {
	switch {
	case pattern == "":
		return 0
	case strings.Contains(pattern, "*"):
		return 1
	default:
		return 2
	}
}

func literals(patterns []string) int {
	n := 0
	for _, p := range patterns {
		n += len(p) - strings.Count(p, "*")
	}
	return n
}

var (
	policyName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	hashText   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	limitName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// Validate checks everything that deciding relies on. That the expressions compile is not among it: this package knows no
// CEL.
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
		if d.Key == "" || strings.Count(d.Value, "*") > MaxWildcards {
			return fmt.Errorf("descriptors[%d]: want a key, and at most %d wildcards in the value", i, MaxWildcards)
		}
		if d.Shared && rank(d.Value) != 1 {
			return fmt.Errorf("descriptors[%d]: shared is for values with a wildcard", i)
		}
	}
	if err := validateLimits(r.Limits); err != nil {
		return err
	}
	for _, check := range []func() error{
		r.validateOverrides, r.validateTimeZones, r.validateExpressions, r.validatePenalty, r.validateResponse,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	if r.Cost < 0 || r.Cost > MaxInteger {
		return fmt.Errorf("cost %d: want 0 to %d", r.Cost, int64(MaxInteger))
	}
	if r.ShadowPercent < 0 || r.ShadowPercent > 100 {
		return fmt.Errorf("shadowPercent %d: want 0 to 100", r.ShadowPercent)
	}
	return r.validateOnStoreFailure()
}

func (r *RateLimit) validateOnStoreFailure() error {
	switch r.OnStoreFailure {
	case FailureAllow, FailureDeny:
		return nil
	case FailureLocalShare:
		for _, algorithm := range []string{Balance, Concurrency} {
			if r.Holds(algorithm) {
				return fmt.Errorf("onStoreFailure %s: not with %s, which time does not refill", FailureLocalShare, algorithm)
			}
		}
		return nil
	default:
		return fmt.Errorf("onStoreFailure %q: want %s, %s or %s", r.OnStoreFailure, FailureAllow, FailureDeny, FailureLocalShare)
	}
}

func (r *RateLimit) validateOverrides() error {
	if len(r.Overrides) > MaxOverrides {
		return fmt.Errorf("overrides: %d, want at most %d", len(r.Overrides), MaxOverrides)
	}
	for i := range r.Overrides {
		o := &r.Overrides[i]
		if len(o.Values) != len(r.Descriptors) || strings.Join(o.Values, "") == "" {
			return fmt.Errorf("overrides[%d].values: want one for each of the %d descriptors, of which one at least is not empty", i, len(r.Descriptors))
		}
		for v, pattern := range o.Values {
			if strings.Count(pattern, "*") > MaxWildcards {
				return fmt.Errorf("overrides[%d].values[%d]: want at most %d wildcards", i, v, MaxWildcards)
			}
			if pattern != "" && r.Descriptors[v].Shared {
				return fmt.Errorf("overrides[%d].values[%d]: want none, since the descriptor is shared", i, v)
			}
		}
		if o.Unlimited != (len(o.Limits) == 0) {
			return fmt.Errorf("overrides[%d]: want either limits or unlimited", i)
		}
		if o.Unlimited {
			continue
		}
		if err := validateLimits(o.Limits); err != nil {
			return fmt.Errorf("overrides[%d].%w", i, err)
		}
		if (o.Limits[0].Algorithm == Concurrency) != r.IsConcurrency() {
			return fmt.Errorf("overrides[%d].limits: want %s exactly when the policy's limit is", i, Concurrency)
		}
	}
	if !slices.IsSortedFunc(r.Overrides, compareOverrides) {
		return errors.New("overrides: want the most specific first")
	}
	return nil
}

func (r *RateLimit) validateTimeZones() error {
	zones := r.CalendarZones()
	if len(zones) > MaxTimeZones {
		return fmt.Errorf("calendars of %d time zones, want at most %d", len(zones), MaxTimeZones)
	}
	for _, zone := range zones {
		if err := validateOffsets(r.TimeZones[zone]); err != nil {
			return fmt.Errorf("timeZones[%q]: %w", zone, err)
		}
	}
	if len(r.TimeZones) != len(zones) {
		return fmt.Errorf("timeZones: %d, want the %d of calendars only", len(r.TimeZones), len(zones))
	}
	return nil
}

func validateOffsets(offsets [][2]int64) error {
	if len(offsets) < 1 || len(offsets) > MaxOffsets {
		return fmt.Errorf("%d offsets, want 1 to %d", len(offsets), MaxOffsets)
	}
	const day = 24 * 60 * 60
	for i, o := range offsets {
		if o[1] <= -day || o[1] >= day || i > 0 && o[0] <= offsets[i-1][0] || o[0] > MaxInteger/1_000_000 || o[0] < -MaxInteger/1_000_000 {
			return fmt.Errorf("offsets[%d]: want a later time than the one before, and less than a day", i)
		}
	}
	return nil
}

func (r *RateLimit) validateExpressions() error {
	if len(r.When) > MaxWhen {
		return fmt.Errorf("when: %d, want at most %d", len(r.When), MaxWhen)
	}
	for i, text := range r.When {
		if text == "" || len(text) > MaxExpressionBytes {
			return fmt.Errorf("when[%d]: want 1 to %d bytes", i, MaxExpressionBytes)
		}
	}
	if len(r.CostExpression) > MaxExpressionBytes {
		return fmt.Errorf("costExpression: want at most %d bytes", MaxExpressionBytes)
	}
	if r.CostExpression != "" && r.Cost != 0 {
		return errors.New("cost and costExpression: want one of them")
	}
	return nil
}

func (r *RateLimit) validatePenalty() error {
	p := r.Penalty
	if p == nil {
		return nil
	}
	if p.Denials < 1 || p.Denials > MaxPenaltyDenials {
		return fmt.Errorf("penalty.denials %d: want 1 to %d", p.Denials, MaxPenaltyDenials)
	}
	for _, d := range []struct {
		name string
		ms   int64
	}{{"within", p.WithinMs}, {"for", p.ForMs}, {"max", p.MaxMs}} {
		if d.ms < MinWindow.Milliseconds() || d.ms > MaxWindow.Milliseconds() {
			return fmt.Errorf("penalty.%sMs %d: want %d to %d", d.name, d.ms, MinWindow.Milliseconds(), MaxWindow.Milliseconds())
		}
	}
	if p.MaxMs < p.ForMs {
		return fmt.Errorf("penalty.maxMs %d: want at least forMs, %d", p.MaxMs, p.ForMs)
	}
	if r.IsConcurrency() {
		return fmt.Errorf("penalty: not with %s, whose callers wait for slots", Concurrency)
	}
	return nil
}

func (r *RateLimit) validateResponse() error {
	p := r.Response
	if p == nil {
		return nil
	}
	if p.Status != 0 && (p.Status < 400 || p.Status > 599) {
		return fmt.Errorf("response.status %d: want 400 to 599", p.Status)
	}
	for i, h := range p.Headers {
		if !slices.Contains([]string{HeaderDraft, HeaderLegacy, HeaderRetryAfter}, h) || slices.Contains(p.Headers[:i], h) {
			return fmt.Errorf("response.headers[%d] %q: want each of %s, %s and %s at most once", i, h, HeaderDraft, HeaderLegacy, HeaderRetryAfter)
		}
	}
	for _, text := range []string{p.Type, p.Title, p.Detail} {
		if len(text) > 1024 {
			return errors.New("response: want at most 1024 bytes in each of type, title and detail")
		}
	}
	return nil
}
