// Package v1 holds the kinds of penstock.dev/v1: what a platform team declares, and what it reads back in status.
//
// Every rule a user can break stands in the schema or as a CEL rule beside its field, with a message that says the
// remedy. No webhook is needed to hold them, and `penstock validate` applies the same rules offline. What needs other
// objects (a store, a peer that claims the same keys) is decided by the controllers and shown in status.
//
// +kubebuilder:object:generate=true
// +groupName=penstock.dev
package v1
