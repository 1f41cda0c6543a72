#!/usr/bin/env bash
#
# fuzz - runs every fuzz target in turn, each for so long as FUZZ_TIME says (10s). What a target finds is kept in
# testdata/fuzz beside it: commit that with the fix.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

git grep --untracked -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | while IFS=: read -r file declaration; do
  go test "./$(dirname "$file")" -run '^$' -fuzz "^${declaration#func }\$" -fuzztime "${FUZZ_TIME:-10s}" </dev/null
done
