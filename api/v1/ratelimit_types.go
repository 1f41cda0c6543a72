package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Algorithm is how a limit counts.
//
// +kubebuilder:validation:Enum=SlidingLog;SlidingCounter;FixedWindow;TokenBucket;Concurrency;Balance
type Algorithm string

const (
	// AlgorithmSlidingLog keeps the time of every request of the last window: exact, at the price of memory in
	// proportion to requests.
	AlgorithmSlidingLog Algorithm = "SlidingLog"
	// AlgorithmSlidingCounter keeps the counts of the present and of the previous fixed window, and takes the requests of
	// the previous one for evenly spread.
	AlgorithmSlidingCounter Algorithm = "SlidingCounter"
	// AlgorithmFixedWindow counts in windows that begin at multiples of window since 1970-01-01T00:00Z, or with the
	// minute, hour, day, week or month of a time zone. Around the edge of two windows up to twice the limit can pass.
	AlgorithmFixedWindow Algorithm = "FixedWindow"
	// AlgorithmTokenBucket refills requests tokens per window, evenly, up to burst.
	AlgorithmTokenBucket Algorithm = "TokenBucket"
	// AlgorithmConcurrency holds what is under way: callers acquire a slot and release it, and slots that are not
	// released expire.
	AlgorithmConcurrency Algorithm = "Concurrency"
	// AlgorithmBalance is spent and never refilled by time: somebody credits it.
	AlgorithmBalance Algorithm = "Balance"
)

// Calendar is a unit of the calendar that windows begin with.
//
// +kubebuilder:validation:Enum=Minute;Hour;Day;Week;Month
type Calendar string

const (
	// CalendarMinute begins a window with each minute.
	CalendarMinute Calendar = "Minute"
	// CalendarHour begins a window with each hour.
	CalendarHour Calendar = "Hour"
	// CalendarDay begins a window at each midnight.
	CalendarDay Calendar = "Day"
	// CalendarWeek begins a window with each Monday (ISO 8601).
	CalendarWeek Calendar = "Week"
	// CalendarMonth begins a window with the first day of each month.
	CalendarMonth Calendar = "Month"
)

// Mode tells whether a policy denies.
//
// +kubebuilder:validation:Enum=Enforce;Shadow
type Mode string

const (
	// ModeEnforce denies what exceeds a limit.
	ModeEnforce Mode = "Enforce"
	// ModeShadow decides and counts, but lets everything pass.
	ModeShadow Mode = "Shadow"
)

// FailureMode is the answer while Redis cannot be asked.
//
// +kubebuilder:validation:Enum=Allow;Deny;LocalShare
type FailureMode string

const (
	// FailureModeAllow lets requests pass, uncounted.
	FailureModeAllow FailureMode = "Allow"
	// FailureModeDeny refuses them.
	FailureModeDeny FailureMode = "Deny"
	// FailureModeLocalShare has each replica of penstockd let its share of the limits pass, counted in its own memory.
	FailureModeLocalShare FailureMode = "LocalShare"
)

// ResponseHeader is a group of headers that tell a caller of its limit.
//
// +kubebuilder:validation:Enum=Draft;Legacy;RetryAfter
type ResponseHeader string

const (
	// ResponseHeaderDraft is RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11.
	ResponseHeaderDraft ResponseHeader = "Draft"
	// ResponseHeaderLegacy is X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset.
	ResponseHeaderLegacy ResponseHeader = "Legacy"
	// ResponseHeaderRetryAfter is Retry-After of RFC 9110, on denials.
	ResponseHeaderRetryAfter ResponseHeader = "RetryAfter"
)

// Descriptor is one entry of the tuple that a policy matches and counts by.
//
// +kubebuilder:validation:XValidation:rule="!has(self.shared) || !self.shared || has(self.value) && self.value.contains('*')",message="shared is for a value with a wildcard (*), whose matches then have one budget together; put a * into value, or remove shared"
type Descriptor struct {
	// key of the entry, as the proxy sends it (for example generic_key or remote_address).
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Key string `json:"key,omitempty"`

	// value that the entry must have. Omitted: any value, and each distinct value has a budget of its own. A * stands
	// for any run of characters: at the end it makes the value a prefix. At most 8 of them.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.split('*').size() <= 9",message="value may hold at most 8 wildcards (*); use a shorter pattern"
	Value string `json:"value,omitempty"`

	// shared makes all values that match a value with a wildcard share one budget. Omitted or false: each of them has a
	// budget of its own. Overrides do not match such a descriptor, since what has one budget has the same limits.
	//
	// +optional
	Shared *bool `json:"shared,omitempty"`
}

// Limit is one limit of a policy.
//
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'SlidingLog' || self.requests <= 1000",message="SlidingLog keeps one entry per request, so requests may be at most 1000; use algorithm SlidingCounter, FixedWindow or TokenBucket for more"
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'SlidingCounter' || self.requests <= 8589934592",message="a SlidingCounter counts exactly up to 8589934592 (2^33) requests; use algorithm FixedWindow or TokenBucket for more"
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'Concurrency' || self.requests <= 100000",message="a Concurrency keeps one entry per slot, so requests may be at most 100000; use a more specific descriptor"
// +kubebuilder:validation:XValidation:rule="has(self.window) || has(self.calendar) || self.algorithm in ['Concurrency', 'Balance']",message="want the length of time that requests speaks of, such as 1m (a FixedWindow may have a calendar in its place)",reason=FieldValueRequired,fieldPath=".window"
// +kubebuilder:validation:XValidation:rule="!has(self.window) || !(self.algorithm in ['Concurrency', 'Balance'])",message="a Concurrency counts what is under way, and a Balance is not refilled: neither has a window; remove window"
// +kubebuilder:validation:XValidation:rule="!has(self.window) || !has(self.calendar)",message="a calendar has windows of its own; remove window, or remove calendar"
// +kubebuilder:validation:XValidation:rule="!has(self.calendar) || self.algorithm == 'FixedWindow'",message="calendar is for algorithm FixedWindow only; remove calendar or set algorithm: FixedWindow"
// +kubebuilder:validation:XValidation:rule="!has(self.timeZone) || has(self.calendar)",message="timeZone is for a limit with a calendar only; remove timeZone, or set calendar in the place of window"
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || self.algorithm == 'TokenBucket'",message="burst is for algorithm TokenBucket only; remove burst or set algorithm: TokenBucket"
// +kubebuilder:validation:XValidation:rule="!has(self.slotTTL) || self.algorithm == 'Concurrency'",message="slotTTL is for algorithm Concurrency only; remove slotTTL or set algorithm: Concurrency"
type Limit struct {
	// name of the limit within its policy. State is kept by name, so limits may be reordered freely.
	//
	// +optional
	// +default="default"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="want lower-case letters, digits and hyphens, with a letter or digit at both ends, such as per-minute"
	Name string `json:"name,omitempty"`

	// requests that may pass in one window: 0 to 9007199254740991 (2^53-1, the largest integer that every JSON parser
	// and Lua hold exactly). 0 denies all. Of a Concurrency it is the number of slots, of a Balance what a subject has
	// at first.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9007199254740991
	Requests *int64 `json:"requests,omitempty"`

	// window is the length of time that requests speaks of: 100ms to 744h (31 days). Required, but for a FixedWindow with
	// a calendar, a Concurrency and a Balance, which have none.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('744h')",message="window must be from 100ms to 744h (31 days)"
	Window Duration `json:"window,omitempty"`

	// algorithm is how requests are counted.
	//
	// +optional
	// +default="SlidingLog"
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// calendar makes the windows of a FixedWindow begin with each minute, hour, day, week (on Monday) or month of
	// timeZone. It is in the place of window.
	//
	// +optional
	Calendar Calendar `json:"calendar,omitempty"`

	// timeZone is the IANA name of the time zone of calendar, such as Europe/Berlin. Omitted: UTC.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local'",message="Local is another time zone on each machine; want the IANA name of a time zone, such as Europe/Berlin"
	TimeZone string `json:"timeZone,omitempty"`

	// burst is the most tokens a TokenBucket holds: what may pass at once after a quiet time. 1 to 9007199254740991.
	// Omitted: as many as requests.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=9007199254740991
	Burst *int64 `json:"burst,omitempty"`

	// slotTTL is how long a slot of a Concurrency is held at most, when nobody releases it: 100ms to 744h (31 days).
	// Omitted: 1m.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('744h')",message="slotTTL must be from 100ms to 744h (31 days)"
	SlotTTL Duration `json:"slotTTL,omitempty"`
}

// DescriptorMatch tells which values of a descriptor an override is for.
type DescriptorMatch struct {
	// key of the descriptor: one of spec.descriptors, which has it once and is not shared.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Key string `json:"key,omitempty"`

	// value that the entry must have. A * stands for any run of characters: at the end it makes the value a prefix. At
	// most 8 of them.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.split('*').size() <= 9",message="value may hold at most 8 wildcards (*); use a shorter pattern"
	Value string `json:"value,omitempty"`
}

// Override is other limits for some subjects.
//
// +kubebuilder:validation:XValidation:rule="has(self.limits) != (has(self.unlimited) && self.unlimited)",message="an override has either limits, or unlimited: true; add one of them, or remove one"
type Override struct {
	// match is what the subjects have: all of it must hold. Descriptors that it does not name may have any value.
	//
	// +required
	// +listType=map
	// +listMapKey=key
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Match []DescriptorMatch `json:"match,omitempty"`

	// limits are in the place of the policy's, all of them.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.size() == 1 || !self.exists(l, l.algorithm == 'Concurrency')",message="a Concurrency must be the only limit; remove the others, or move them to a RateLimit of their own"
	Limits []Limit `json:"limits,omitempty"`

	// unlimited lets the subjects pass uncounted.
	//
	// +optional
	Unlimited *bool `json:"unlimited,omitempty"`
}

// Penalty blocks subjects that go on after they were denied.
//
// +kubebuilder:validation:XValidation:rule="!has(self.max) || !self.max.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || !self.__for__.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self.max) >= duration(self.__for__)",message="max must not be shorter than for; raise max, or remove it"
type Penalty struct {
	// denials that begin a block: 1 to 1000000.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Denials int32 `json:"denials,omitempty"`

	// within is the length of time in which so many denials begin a block: 100ms to 744h (31 days).
	//
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('744h')",message="within must be from 100ms to 744h (31 days)"
	Within Duration `json:"within,omitempty"`

	// for is how long the subject is blocked: 100ms to 744h (31 days).
	//
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('744h')",message="for must be from 100ms to 744h (31 days)"
	For Duration `json:"for,omitempty"`

	// max bounds blocks that double: a block that begins within max after the end of the one before lasts twice as long
	// as that one, at most max. 100ms to 744h (31 days). Omitted: as long as for, so that blocks do not double.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('744h')",message="max must be from 100ms to 744h (31 days)"
	Max Duration `json:"max,omitempty"`
}

// Problem is members of the body of a denial, application/problem+json (RFC 9457).
type Problem struct {
	// type is a URI reference that identifies the kind of problem. Omitted: penstockd's own.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[][._~:/?#@!$&()*+,;=%a-zA-Z0-9-]+$')",message="want a URI reference, such as https://shop.example/problems/too-many-requests; percent-encode spaces, quotes and letters beyond ASCII"
	Type string `json:"type,omitempty"`

	// title is a short text for people, the same for each problem of this type. Omitted: penstockd's own.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Title string `json:"title,omitempty"`

	// detail is a text for people that helps to put the problem right. Omitted: penstockd's own.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Detail string `json:"detail,omitempty"`
}

// Response is how HTTP doors answer for a policy.
type Response struct {
	// status is the code of a denial: 400 to 599.
	//
	// +optional
	// +default=429
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Status int32 `json:"status,omitempty"`

	// headers that tell a caller of its limit: Draft (RateLimit and RateLimit-Policy of
	// draft-ietf-httpapi-ratelimit-headers-11), Legacy (X-RateLimit-Limit, -Remaining and -Reset) and, on denials,
	// RetryAfter. An empty list is none.
	//
	// +optional
	// +default=["Draft","RetryAfter"]
	// +listType=set
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=3
	Headers *[]ResponseHeader `json:"headers,omitempty"`

	// problem replaces members of the body of a denial.
	//
	// +optional
	Problem *Problem `json:"problem,omitempty"`
}

// RateLimitSpec declares a rate limit.
//
// +kubebuilder:validation:XValidation:rule="has(self.storeRef) == has(oldSelf.storeRef) && (!has(self.storeRef) || self.storeRef == oldSelf.storeRef)",message="storeRef is immutable; create a new object to use another store"
// +kubebuilder:validation:XValidation:rule="has(self.domain) == has(oldSelf.domain) && (!has(self.domain) || self.domain == oldSelf.domain)",message="domain is immutable; create a new object to answer for another domain"
// +kubebuilder:validation:XValidation:rule="!has(self.overrides) || self.overrides.all(o, o.match.all(m, has(self.descriptors) && self.descriptors.exists(d, d.key == m.key)))",message="match names a key that is none of spec.descriptors; use one of theirs, or add a descriptor",fieldPath=".overrides"
// +kubebuilder:validation:XValidation:rule="!has(self.overrides) || !has(self.descriptors) || self.overrides.all(o, o.match.all(m, !self.descriptors.exists(d, has(d.shared) && d.shared && d.key == m.key)))",message="match names a shared descriptor, whose values have one budget and so the same limits; match another descriptor, or remove shared",fieldPath=".overrides"
// +kubebuilder:validation:XValidation:rule="!has(self.overrides) || self.overrides.all(o, !has(o.limits) || o.limits.exists(l, l.algorithm == 'Concurrency') == self.limits.exists(l, l.algorithm == 'Concurrency'))",message="overrides of a Concurrency have one limit, of algorithm Concurrency, and no other overrides have such a limit; set the algorithm that spec.limits has",fieldPath=".overrides"
// +kubebuilder:validation:XValidation:rule="!has(self.penalty) || !self.limits.exists(l, l.algorithm == 'Concurrency')",message="penalty is not for a Concurrency, whose callers wait for slots; remove penalty",fieldPath=".penalty"
// +kubebuilder:validation:XValidation:rule="!has(self.onStoreFailure) || self.onStoreFailure != 'LocalShare' || !self.limits.exists(l, l.algorithm in ['Balance', 'Concurrency']) && (!has(self.overrides) || self.overrides.all(o, !has(o.limits) || !o.limits.exists(l, l.algorithm in ['Balance', 'Concurrency'])))",message="LocalShare is for limits that refill with time, not for a Balance or a Concurrency; use Allow or Deny",fieldPath=".onStoreFailure"
type RateLimitSpec struct {
	// storeRef names the RedisStore that keeps the counters. Omitted: the RedisStore "default" of this namespace, else
	// that of the operator's namespace. Immutable.
	//
	// +optional
	StoreRef *StoreReference `json:"storeRef,omitempty"`

	// domain is the Envoy rate limit domain that this policy answers for. Omitted: the namespace. Immutable.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Domain string `json:"domain,omitempty"`

	// descriptors is the tuple that a request must carry, in this order, and by whose values it is counted. Empty: one
	// budget for the whole domain.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Descriptors []Descriptor `json:"descriptors,omitempty"`

	// limits must all hold. They are decided and charged as one step: a request that one of them refuses is charged by
	// none. A Concurrency must be the only one.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.size() == 1 || !self.exists(l, l.algorithm == 'Concurrency')",message="a Concurrency must be the only limit; remove the others, or move them to a RateLimit of their own"
	Limits []Limit `json:"limits,omitempty"`

	// overrides are other limits for some subjects. The most specific that matches applies: descriptor by descriptor, in
	// the order of descriptors, an exact value before one with wildcards before any value; with these alike, the one with
	// more characters that are no wildcards, then the earlier one. The calendars of limits and overrides have at most 32
	// time zones together.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Overrides []Override `json:"overrides,omitempty"`

	// when are CEL expressions over request that must all be true for the policy to apply, such as
	// request.method == 'POST'. Such a policy answers through penstockd only.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	When []string `json:"when,omitempty"`

	// cost is what a request costs whose caller says nothing: an integer from 1 to 2147483647, or a CEL expression over
	// request of at most 1024 bytes. Bound what a client can write, on both sides:
	// 'x-items' in request.header ? math.greatest(1, math.least(int(request.header['x-items']), 100)) : 1.
	// A request that the expression has no value for costs 1, and the condition Degraded tells of it.
	//
	// +optional
	// +default=1
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 2147483647 : self.size() > 0",message="want an integer from 1 to 2147483647, or a CEL expression, such as 'x-items' in request.header ? math.greatest(1, math.least(int(request.header['x-items']), 100)) : 1"
	Cost *intstr.IntOrString `json:"cost,omitempty"`

	// mode tells whether the policy denies (Enforce), or only decides and counts (Shadow).
	//
	// +optional
	// +default="Enforce"
	Mode Mode `json:"mode,omitempty"`

	// enforcePercent is the share of subjects, 0 to 100, that mode Enforce enforces the policy for; the others are treated
	// as in mode Shadow. A subject is always in or out, by its digest, and raising the percentage only adds subjects.
	//
	// +optional
	// +default=100
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	EnforcePercent *int32 `json:"enforcePercent,omitempty"`

	// penalty blocks subjects that go on after they were denied. Omitted: none.
	//
	// +optional
	Penalty *Penalty `json:"penalty,omitempty"`

	// response is how HTTP doors answer.
	//
	// +optional
	Response *Response `json:"response,omitempty"`

	// onStoreFailure is the answer while Redis cannot be asked: Allow lets requests pass, Deny refuses them, LocalShare has
	// each replica of penstockd let its share of the limits pass. Either way the answer says that it is degraded.
	// LocalShare is not for a Balance or a Concurrency.
	//
	// +optional
	// +default="Allow"
	OnStoreFailure FailureMode `json:"onStoreFailure,omitempty"`
}

// RateLimitStatus is what the operator observed of a RateLimit.
type RateLimitStatus struct {
	PolicyStatus `json:",inline"`

	// domain that the policy answers for: spec.domain, or the namespace.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Domain string `json:"domain,omitempty"`
}

// RateLimit limits how many requests pass in a length of time, for each distinct subject.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rl,categories=penstock
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Limit",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Domain",type=string,JSONPath=`.status.domain`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RateLimit struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	//
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// spec is what is asked for.
	//
	// +required
	Spec RateLimitSpec `json:"spec,omitzero"`

	// status is what was observed.
	//
	// +optional
	Status RateLimitStatus `json:"status,omitempty,omitzero"`
}

// RateLimitList is a list of RateLimits.
//
// +kubebuilder:object:root=true
type RateLimitList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []RateLimit `json:"items"`
}
