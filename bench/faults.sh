#!/usr/bin/env bash
# Builds what `make bench-faults` measures and measures it; arguments go to the bench (see README.md, or faults.sh -help).
# Everything it builds and keeps is in ${XDG_CACHE_HOME:-~/.cache}/penstock/bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/penstock/bench
mkdir -p "$cache"

redis=$(hack/redis-server.sh)
KUBEBUILDER_ASSETS=$(hack/envtest-assets.sh)
export KUBEBUILDER_ASSETS

go build -o "$cache/" ./cmd/penstockd ./cmd/operator ./bench/faults

exec "$cache/faults" \
	-penstockd "$cache/penstockd" \
	-operator "$cache/operator" \
	-redis-server "$redis" \
	-commit "$(git describe --always --dirty 2>/dev/null || echo unknown)" \
	-json "$cache/faults.json" \
	"$@"
