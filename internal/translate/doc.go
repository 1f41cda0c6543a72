// Package translate turns the kinds of penstock.dev into compiled policies: one pure function per kind, and Assemble,
// which makes the set of a store out of every object that refers to it.
//
// Everything that the schema and CEL hold is checked again here, since they can be bypassed (an object stored before a
// rule was added, a restored etcd, a file given to the command line). What is refused names the field and the remedy.
package translate
