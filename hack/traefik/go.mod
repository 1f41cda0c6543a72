// What stands in for parts of Traefik that hack/proxies.sh cannot get; a module of its own to stay out of Penstock's.
module build.invalid/traefik

go 1.26
