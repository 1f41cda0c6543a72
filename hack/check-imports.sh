#!/usr/bin/env bash
#
# check-imports.sh - penstockd must run where no Kubernetes is, so nothing of the
# Kubernetes client may get into its binary, by whatever detour. The linter's
# depguard sees only the direct imports of our own files; this sees all.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

forbidden='(k8s\.io/client-go|sigs\.k8s\.io/controller-runtime)'

# One line for each import there is: "importer imported".
# shellcheck disable=SC2016  # a template's variable, not the shell's
edges=$(go list -deps -f '{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}' ./cmd/penstockd)

# Where the forbidden begins; that its packages import each other tells nothing new.
if bad=$(grep -E "^[^ ]+ $forbidden(/|\$)" <<<"$edges" | grep -vE "^${forbidden}(/| )"); then
  echo "cmd/penstockd must not depend on the Kubernetes client, but:" >&2
  echo "${bad// / imports }" >&2
  exit 1
fi
