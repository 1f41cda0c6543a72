#!/usr/bin/env bash
#
# node-modules.sh DIR - prints a node_modules with just what DIR/package.json and
# DIR/package-lock.json say, for PENSTOCK_NODE_MODULES. Nothing else goes to stdout:
#
#   export PENSTOCK_NODE_MODULES=$(hack/node-modules.sh test/interop)
#
# It is kept in ${XDG_CACHE_HOME:-~/.cache}/penstock/npm, by the hash of both files,
# so a change of either makes a new one. To add a package or change a version, from
# whatever registry npm is set to and without naming it in the lock file:
#
#   npm install --prefix DIR --package-lock-only --save-exact \
#     --omit-lockfile-registry-resolved PACKAGE@VERSION

set -euo pipefail

dir=$1
hack=$(dirname "${BASH_SOURCE[0]}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/penstock/npm

say() { printf '%s\n' "node-modules: $*" >&2; }

"$hack/debian-package.sh" node nodejs >/dev/null
npm=$("$hack/debian-package.sh" npm npm)

modules=$cache/$(cat "$dir/package.json" "$dir/package-lock.json" | git hash-object --stdin)
if ! [ -d "$modules" ]; then
  mkdir -p "$cache"
  # One at a time; the others then find what the first has made. Where there is no
  # flock (macOS), two may do the same work.
  if command -v flock >/dev/null; then
    exec 9>"$cache/lock"
    flock 9
  fi
fi
if ! [ -d "$modules" ]; then
  say "installing the packages of $dir/package.json"
  # Only the rename makes it count, so that what was cut short is never taken for done.
  tmp=$(mktemp -d "$cache/tmp.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  cp "$dir/package.json" "$dir/package-lock.json" "$tmp/"
  # No package runs code of its own here, and each has to have the hash of the lock file.
  "$npm" ci --prefix "$tmp" --ignore-scripts --engine-strict --no-audit --no-fund >&2 ||
    { say "npm could not install them: it needs a registry (npm config set registry URL) and Node 18 or newer"; exit 1; }
  [ -d "$modules" ] || mv "$tmp" "$modules"
fi
echo "$modules/node_modules"
