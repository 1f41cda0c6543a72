#!/usr/bin/env bash
#
# proxies.sh - prints a directory with nginx, haproxy, caddy and traefik, for
# PENSTOCK_PROXIES. Nothing else goes to stdout:
#
#   export PENSTOCK_PROXIES=$(hack/proxies.sh)
#
# Each is, in this order:
#   1. what PENSTOCK_PROXIES has, if it is set and has all of them;
#   2. the one on PATH (not traefik, whose version the tests rely on);
#   3. what an earlier run left in ${XDG_CACHE_HOME:-~/.cache}/penstock/proxies;
#   4. Debian's package, unpacked there and not installed: an installation would
#      start the proxies as services, on ports that may be somebody else's;
#      traefik, which Debian has not, is built from its published Go modules: some
#      5 minutes on 2 cores, once.

set -euo pipefail

TRAEFIK=3.7.13
LEGO=5.4.1 # what Traefik's go.mod requires

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/penstock/proxies

say() { printf '%s\n' "proxies: $*" >&2; }

# What is copied from the module cache is read-only at first.
remove() { chmod -R u+w "$@" 2>/dev/null || true; rm -rf "$@"; }

complete() {
  local b
  for b in nginx haproxy caddy traefik; do
    [ -x "$1/$b" ] || return 1
  done
}

if [ -n "${PENSTOCK_PROXIES:-}" ] && complete "$PENSTOCK_PROXIES"; then
  echo "$PENSTOCK_PROXIES"
  exit
fi

# Debian keeps some of them where only root's PATH looks.
PATH=$PATH:/usr/sbin

# fetch PACKAGE...: downloads packages into the current directory.
fetch() {
  apt-get -qq download "$@" >/dev/null 2>&1 && return
  # A new machine has no package lists, and an old one has outdated ones.
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  "${sudo[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 update || true
  apt-get -qq download "$@"
}

# unpack OUT COMMAND FILE PACKAGE...: makes OUT/COMMAND run FILE of the packages, of
# which the first has it and the others what is not on every machine of its libraries.
unpack() {
  local out=$1 command=$2 file=$3 home=$1/packages/$2
  shift 3
  say "unpacking $command"
  mkdir -p "$home/debs"
  (
    cd "$home/debs"
    fetch "$@"
    for deb in *.deb; do dpkg-deb -x "$deb" "$home"; done
  ) || { say "could not get $command: install it (on Debian: sudo apt-get install $1) and run this again"; exit 1; }
  rm -r "$home/debs"
  # Found from where it lies: the directory is renamed when all is there.
  cat >"$out/$command" <<END
#!/bin/sh
home=\$(dirname "\$(readlink -f "\$0")")/packages/$command
export LD_LIBRARY_PATH="\$home/usr/lib/\$(uname -m)-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "\$home$file" "\$@"
END
  chmod +x "$out/$command"
}

# proxy OUT COMMAND FILE PACKAGE...
proxy() {
  local path
  if path=$(command -v "$2"); then
    ln -s "$path" "$1/$2"
  elif command -v apt-get >/dev/null; then
    unpack "$@"
  else
    say "$2 is missing: install it and run this again"
    exit 1
  fi
}

# module PATH VERSION: the directory of a module's source.
module() {
  GOFLAGS='' go mod download "$1@$2" # for its message, should it fail: -json has it in the JSON
  GOFLAGS='' go mod download -json "$1@$2" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'
}

# stand_in WORK NAME MODULE: puts our package in the place of a module. See hack/traefik.
stand_in() {
  mkdir -p "$1/$2"
  cp "$ROOT/hack/traefik/$2"/*.go "$1/$2/"
  printf 'module %s\n\ngo 1.26\n' "$3" >"$1/$2/go.mod"
  go mod edit -replace "$3=$1/$2" "$1/go.mod"
}

# build OUT WORK
build() {
  local out=$1 work=$2 start=$SECONDS source lego
  say "building Traefik $TRAEFIK (minutes, but only once)"
  cd "$work" # outside of our own module
  export GOWORK=off
  source=$(module github.com/traefik/traefik/v3 v$TRAEFIK)
  lego=$(module github.com/go-acme/lego/v5 v$LEGO)

  # Its module is the main one, since replace lines count only there, with a go.mod in
  # which everything published has the version and, in go.sum, the hash that it has upstream.
  install -m 644 "$source/go.mod" "$source/go.sum" "$work/"
  stand_in "$work" ext github.com/traefik/traefik/dynamic/ext
  stand_in "$work" httpauth github.com/abbot/go-http-auth
  cp -r "$lego" "$work/lego"
  chmod -R u+w "$work/lego"
  rm -r "$work/lego/providers/dns"
  mkdir "$work/lego/providers/dns"
  cp "$ROOT/hack/traefik/dns"/*.go "$work/lego/providers/dns/"
  go mod edit -replace "github.com/go-acme/lego/v5=$work/lego" "$work/go.mod"

  # For this machine, whatever the caller cross-compiles. Nobody waits for it at the
  # cost of others on the machine. -mod=mod since what stands in needs less than upstream.
  nice -n 19 env -u GOOS -u GOARCH GOFLAGS= CGO_ENABLED=0 \
    go -C "$source" build -modfile="$work/go.mod" -mod=mod -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=$TRAEFIK" \
    -o "$out/traefik" ./cmd/traefik
  say "built in $((SECONDS - start)) s"
}

# What stood in is part of what was built.
traefik=$CACHE/traefik-v$TRAEFIK-$(cat "$ROOT"/hack/traefik/*/*.go | git hash-object --stdin | cut -c1-12)-$(go env GOHOSTOS)-$(go env GOHOSTARCH)
proxies=$CACHE/all-$(basename "$traefik")
# All of it may have gone from PATH since.
if ! complete "$proxies"; then
  mkdir -p "$CACHE"
  # One at a time; the others then find what the first has made. Where there is no
  # flock (macOS), two may do the same work, and the later one says so and fails.
  if command -v flock >/dev/null; then
    exec 9>"$CACHE/lock"
    flock -n 9 || { say "waiting for another run of this"; flock 9; }
    remove "$CACHE"/tmp.* # cut short: whoever holds the lock is alone
  fi
fi
if ! complete "$proxies"; then
  # Only the rename makes it count, so that what was cut short is never taken for done.
  tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
  trap 'cd / && remove "$tmp"' EXIT
  mkdir "$tmp/all" "$tmp/work"
  if ! [ -x "$traefik" ]; then
    (build "$tmp" "$tmp/work") >&2
    mv "$tmp/traefik" "$traefik"
  fi
  {
    proxy "$tmp/all" nginx /usr/sbin/nginx nginx
    proxy "$tmp/all" haproxy /usr/sbin/haproxy haproxy liblua5.3-0 libopentracing1 libopentracing-c-wrapper0
    proxy "$tmp/all" caddy /usr/bin/caddy caddy
    ln -s "$traefik" "$tmp/all/traefik"
  } >&2
  complete "$tmp/all" || { say "incomplete: $(ls "$tmp/all")"; exit 1; }
  rm -rf "$proxies"
  mv "$tmp/all" "$proxies"
fi
echo "$proxies"
