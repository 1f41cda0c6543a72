// Package acl proves docs/acl.md: with exactly its rules everything works, and with one rule less something does not.
package acl
