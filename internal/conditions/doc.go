// Package conditions sets the conditions of a status, sums them up, and turns the outcome of a reconciliation into what
// controller-runtime is to do next. Every controller does these the same way because it does them here.
package conditions
