// Package policy holds compiled policies: what the operator publishes, what Redis enforces and what penstockd decides
// by. The JSON form is stable and versioned, since operator, library and replicas of different ages read it: fields are
// added, never renamed or given another meaning.
package policy
