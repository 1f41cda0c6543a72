#!/usr/bin/env bash
#
# envtest-assets.sh - prints the directory that has kube-apiserver, etcd and
# kubectl, for KUBEBUILDER_ASSETS. Nothing else goes to stdout:
#
#   export KUBEBUILDER_ASSETS=$(hack/envtest-assets.sh)
#
# In this order:
#   1. KUBEBUILDER_ASSETS, if it is set and complete;
#   2. what an earlier run left in ${XDG_CACHE_HOME:-~/.cache}/penstock/envtest;
#   3. what setup-envtest downloads, where its index can be reached;
#   4. a build from the published Go modules: some 10 minutes on 2 cores, once.
#      So the tests run wherever the code can be built.
#
# ENVTEST_DOWNLOAD=0 skips step 3.

set -euo pipefail

KUBERNETES=1.37.2   # the k8s.io/* modules in go.mod are v0.37.2
ETCD=3.7.3          # what Kubernetes 1.37 is released with, or a patch later

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/penstock/envtest

say() { printf '%s\n' "envtest-assets: $*" >&2; }

complete() {
  local b
  for b in kube-apiserver etcd kubectl; do
    [ -x "$1/$b" ] || return 1
  done
}

# download OUT WORK: fails quietly and soon where the network does not allow it.
download() {
  local out=$1 minor=${KUBERNETES%.*}.x setup path
  [ "${ENVTEST_DOWNLOAD:-1}" = 1 ] || return 1
  setup=$(go -C "$ROOT" tool -modfile=hack/tools/go.mod -n setup-envtest) || return 1
  setup=("$setup" --bin-dir "$2/download")
  # The index says soon whether the download host can be reached at all.
  timeout 20 "${setup[@]}" list "$minor" >/dev/null 2>&1 || return 1
  say "downloading Kubernetes $minor"
  path=$(timeout 600 "${setup[@]}" use -p path "$minor" 2>/dev/null) || return 1
  cp "$path"/* "$out/" && complete "$out"
}

# throwaway MODULE VERSION: makes the current directory a main module that requires
# just this one. (`go install PACKAGE@VERSION` refuses modules with replace lines.)
throwaway() {
  local gomod
  go mod download "$1@$2"   # for its message, should it fail: -json has it in the JSON
  gomod=$(go mod download -json "$1@$2" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  {
    echo "module build.invalid/throwaway"
    sed -n '/^go /p' "$gomod"
    echo "require $1 $2"
    # Kubernetes' own go.mod points at directories of its source tree; the same
    # modules are published as v0.Y.Z. A replace counts in a main module only.
    sed -n "s|^[[:space:]]*\(k8s.io/[^ ]*\) => ./staging/.*|replace \1 => \1 v0.${2#v1.}|p" "$gomod"
  } >go.mod
}

# build OUT WORK
build() {
  local out=$1 work=$2 start=$SECONDS
  local module=k8s.io/kubernetes v=k8s.io/component-base/version minor=${KUBERNETES#1.}
  # For this machine, whatever the caller cross-compiles. -mod=mod because a
  # throw-away module has no go.sum: the checksum database vouches for what comes.
  # Without C, since the tests need none of it and not every machine has a compiler.
  local go=(nice -n 10 env -u GOOS -u GOARCH GOWORK=off GOFLAGS="-mod=mod -trimpath -buildvcs=false" CGO_ENABLED=0 go)

  say "building etcd $ETCD"
  mkdir -p "$work/etcd" "$work/kubernetes"
  cd "$work/etcd"
  throwaway go.etcd.io/etcd/server/v3 v$ETCD
  "${go[@]}" build -ldflags "-s -w" -o "$out/etcd" go.etcd.io/etcd/server/v3

  say "building kube-apiserver and kubectl $KUBERNETES (minutes, but only once)"
  cd "$work/kubernetes"
  throwaway $module v$KUBERNETES
  "${go[@]}" build -ldflags "-s -w -X $v.gitVersion=v$KUBERNETES -X $v.gitMajor=1 -X $v.gitMinor=${minor%.*}" \
    -o "$out/" $module/cmd/kube-apiserver $module/cmd/kubectl
  say "built in $((SECONDS - start)) s"
}

# Some of what setup-envtest makes is read-only.
remove() { chmod -R u+w "$@" 2>/dev/null || true; rm -rf "$@"; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ] && complete "$KUBEBUILDER_ASSETS"; then
  echo "$KUBEBUILDER_ASSETS"
  exit
fi

assets=$CACHE/v$KUBERNETES-$(go env GOHOSTOS)-$(go env GOHOSTARCH)
if ! complete "$assets"; then
  mkdir -p "$CACHE"
  # One at a time; the others then find what the first has made. Where there is no
  # flock (macOS), two may do the same work, and the later one says so and fails.
  if command -v flock >/dev/null; then
    exec 9>"$CACHE/lock"
    flock -n 9 || { say "waiting for another run of this"; flock 9; }
    remove "$CACHE"/tmp.*     # cut short: whoever holds the lock is alone
  fi
fi
if ! complete "$assets"; then
  # Only the rename makes it count, so that what was cut short is never taken for done.
  tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
  trap 'cd / && remove "$tmp"' EXIT
  mkdir "$tmp/bin"
  { download "$tmp/bin" "$tmp" || build "$tmp/bin" "$tmp"; } >&2
  complete "$tmp/bin" || { say "incomplete: $(ls "$tmp/bin")"; exit 1; }
  rm -rf "$assets"
  mv "$tmp/bin" "$assets"
fi
echo "$assets"
