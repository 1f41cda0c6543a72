#!/usr/bin/env bash
#
# check-kinds.sh - a kind is one slice with the same shape everywhere; prints each
# piece that a kind listed in PROJECT lacks.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kinds=$(sed -n 's/^ *kind: *//p' PROJECT | tr '[:upper:]' '[:lower:]')
[ -n "$kinds" ] || { echo "PROJECT lists no kind" >&2; exit 1; }

missing=0
for kind in $kinds; do
  for piece in \
    "api/v1/${kind}_types.go" \
    "internal/translate/$kind.go" \
    "internal/policy/$kind.go" \
    "controllers/$kind/${kind}_controller.go" \
    "config/samples/*$kind*.yaml" \
    "config/samples/invalid/*$kind*.yaml" \
    "test/e2e/${kind}_test.go" \
    "docs/spec/$kind.md"; do
    if ! compgen -G "$piece" >/dev/null; then
      echo "$kind: missing $piece" >&2
      missing=1
    fi
  done
done
exit $missing
