// Package ext stands in for github.com/traefik/traefik/dynamic/ext, a folder of Traefik's source tree that its published
// module has not. There it is as empty: it is a place for additions of other editions.
package ext

// HTTP adds nothing to the configuration of HTTP.
type HTTP struct{}

// Router adds nothing to that of a router.
type Router struct{}
