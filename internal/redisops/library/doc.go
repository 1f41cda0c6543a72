// Package library is the Lua that decides in Redis, and how it gets there: as a function library that holds the compiled
// policies too, or as scripts that get the policy with each call, for servers without functions. Both are the same
// core.
package library
