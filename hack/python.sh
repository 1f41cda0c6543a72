#!/usr/bin/env bash
#
# python.sh - prints the path of a Python 3 that has redis-py, and installs Debian's
# where there is none. PENSTOCK_PYTHON names another one.

set -euo pipefail

# 4.2 is the first with FCALL.
fits() { "$1" -c 'import redis, sys; sys.exit(tuple(map(int, redis.__version__.split(".")[:2])) < (4, 2))' 2>/dev/null; }

if [ -n "${PENSTOCK_PYTHON:-}" ]; then
  fits "$PENSTOCK_PYTHON" || { echo "PENSTOCK_PYTHON=$PENSTOCK_PYTHON has no redis-py of 4.2 or newer" >&2; exit 1; }
  echo "$PENSTOCK_PYTHON"
  exit
fi

for python in python3 /usr/bin/python3; do
  if fits "$python"; then
    command -v "$python"
    exit
  fi
done

# Not just any python3: one that stands before Debian's on PATH does not have Debian's
# modules.
"$(dirname "${BASH_SOURCE[0]}")/debian-package.sh" \
  /usr/lib/python3/dist-packages/redis/__init__.py python3-redis >/dev/null
fits /usr/bin/python3 || {
  echo "/usr/bin/python3 has no redis-py of 4.2 or newer: put a Python that has it into PENSTOCK_PYTHON" >&2
  exit 1
}
echo /usr/bin/python3
