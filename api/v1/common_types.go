package v1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations that users set. Their values are read on every reconciliation; nothing in Penstock writes them.
const (
	// AnnotationPaused holds an object still while it is "true": nothing is written for it, its published entry stays,
	// and its Ready condition stays as it was.
	AnnotationPaused = "penstock.dev/paused"
	// AnnotationConfirmShrink on a RedisStore carries the hash of a set that drops most policies, and so lets that one
	// set be published.
	AnnotationConfirmShrink = "penstock.dev/confirm-shrink"
	// AnnotationTakeOver on a RedisStore names the present owner of a Redis that is to be taken over.
	AnnotationTakeOver = "penstock.dev/take-over"
)

// Duration is a length of time as Gateway API writes it (GEP-2257): one to four parts of up to five digits with the
// units h, m, s and ms, for example 250ms, 1m30s or 744h. There is no unit for days. Zero is 0s.
//
// Its form is a rule and not a pattern, whose refusal would say the pattern and no remedy. Other rules are evaluated
// beside it, so that they have to pass what it refuses.
//
// +kubebuilder:validation:Type=string
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')",message="want a duration such as 250ms, 1m30s or 24h; the units are h, m, s and ms (there is no unit for days), without fractions"
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=28
type Duration string

// Parse returns the length of time. It fails on a string that the schema would have refused.
func (d Duration) Parse() (time.Duration, error) {
	return time.ParseDuration(string(d))
}

// StoreReference names a RedisStore.
type StoreReference struct {
	// name of the RedisStore.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",message="want the name of a RedisStore: lower-case letters, digits, hyphens and dots, with a letter or digit at both ends, such as sessions"
	Name string `json:"name,omitempty"`

	// namespace of the RedisStore. Omitted: the namespace of the object that refers to it.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="want the name of a namespace: lower-case letters, digits and hyphens, with a letter or digit at both ends, such as shop"
	Namespace string `json:"namespace,omitempty"`
}

// PolicyStatus is what every policy kind (all kinds but RedisStore) shows.
type PolicyStatus struct {
	// conditions tell whether the policy is in force: Accepted (it is valid and may use its store), Programmed (its
	// present content is published) and Ready (both). Paused, Reconciling and Stalled are present only while True.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// observedGeneration is the generation that this status speaks of.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// storeRef is the RedisStore that was resolved. It stays once it is set, so that a store created later moves
	// nothing.
	//
	// +optional
	StoreRef *StoreReference `json:"storeRef,omitempty"`

	// contentHash identifies the compiled policy that Programmed speaks of: 32 hexadecimal digits.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	ContentHash string `json:"contentHash,omitempty"`

	// summary is the policy in a few words, for example "100/1m sliding log".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Summary string `json:"summary,omitempty"`
}
