package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Algorithm is how a limit counts.
//
// +kubebuilder:validation:Enum=SlidingLog;FixedWindow;TokenBucket
type Algorithm string

const (
	// AlgorithmSlidingLog keeps the time of every request of the last window: exact, at the price of memory in
	// proportion to requests.
	AlgorithmSlidingLog Algorithm = "SlidingLog"
	// AlgorithmFixedWindow counts in windows that begin at multiples of window since 1970-01-01T00:00Z. Around the edge
	// of two windows up to twice the limit can pass.
	AlgorithmFixedWindow Algorithm = "FixedWindow"
	// AlgorithmTokenBucket refills requests tokens per window, evenly, up to burst.
	AlgorithmTokenBucket Algorithm = "TokenBucket"
)

// FailureMode is the answer while Redis cannot be asked.
//
// +kubebuilder:validation:Enum=Allow;Deny
type FailureMode string

const (
	// FailureModeAllow lets requests pass, uncounted.
	FailureModeAllow FailureMode = "Allow"
	// FailureModeDeny refuses them.
	FailureModeDeny FailureMode = "Deny"
)

// Descriptor is one entry of the tuple that a policy matches and counts by.
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
}

// Limit is one limit of a policy.
//
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'SlidingLog' || self.requests <= 1000",message="SlidingLog keeps one entry per request, so requests may be at most 1000; use algorithm FixedWindow or TokenBucket for more"
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || self.algorithm == 'TokenBucket'",message="burst is for algorithm TokenBucket only; remove burst or set algorithm: TokenBucket"
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
	// and Lua hold exactly). 0 denies all.
	//
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=9007199254740991
	Requests *int64 `json:"requests,omitempty"`

	// window is the length of time that requests speaks of: 100ms to 744h (31 days).
	//
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) >= duration('100ms') && duration(self) <= duration('744h')",message="window must be from 100ms to 744h (31 days)"
	Window Duration `json:"window,omitempty"`

	// algorithm is how requests are counted.
	//
	// +optional
	// +default="SlidingLog"
	Algorithm Algorithm `json:"algorithm,omitempty"`

	// burst is the most tokens a TokenBucket holds: what may pass at once after a quiet time. 1 to 9007199254740991.
	// Omitted: as many as requests.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=9007199254740991
	Burst *int64 `json:"burst,omitempty"`
}

// RateLimitSpec declares a rate limit.
//
// +kubebuilder:validation:XValidation:rule="has(self.storeRef) == has(oldSelf.storeRef) && (!has(self.storeRef) || self.storeRef == oldSelf.storeRef)",message="storeRef is immutable; create a new object to use another store"
// +kubebuilder:validation:XValidation:rule="has(self.domain) == has(oldSelf.domain) && (!has(self.domain) || self.domain == oldSelf.domain)",message="domain is immutable; create a new object to answer for another domain"
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
	// none.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Limits []Limit `json:"limits,omitempty"`

	// onStoreFailure is the answer while Redis cannot be asked: Allow lets requests pass, Deny refuses them. Either way
	// the answer says that it is degraded.
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
