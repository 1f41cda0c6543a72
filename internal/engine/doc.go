// Package engine decides: it matches a request against the policies of the set in force, asks Redis once for all budgets
// that the request spends from, and gives a verdict. It knows no protocol; the doors in internal/service translate.
package engine
