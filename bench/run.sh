#!/usr/bin/env bash
# Builds what `make bench` measures and measures it; arguments go to the bench (see README.md, or run.sh -help).
# Everything it builds and keeps is in ${XDG_CACHE_HOME:-~/.cache}/penstock/bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The peer has no releases with versions that Go knows; this is the commit of 2026-01-22.
ratelimit_version=v1.4.1-0.20260122083618-3fb702589d36

cache=${XDG_CACHE_HOME:-$HOME/.cache}/penstock/bench
ratelimit=$cache/ratelimit-$ratelimit_version
mkdir -p "$cache"

if [[ ! -x $ratelimit/service_cmd ]]; then
	GOBIN=$ratelimit go install "github.com/envoyproxy/ratelimit/src/service_cmd@$ratelimit_version"
fi
go build -o "$cache/penstockd" ./cmd/penstockd
go build -o "$cache/bench" ./bench

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if [[ -n $(git status --porcelain 2>/dev/null | head -n 1) ]]; then
	commit=$commit-dirty
fi

exec "$cache/bench" \
	-penstockd "$cache/penstockd" \
	-ratelimit "$ratelimit/service_cmd" \
	-ratelimit-version "$ratelimit_version" \
	-commit "$commit" \
	-json "$cache/result.json" \
	"$@"
