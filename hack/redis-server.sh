#!/usr/bin/env bash
#
# redis-server.sh - prints the path of a redis-server that has functions, that is
# 7.0 or newer, and installs Debian's where there is none. Tests start their own
# servers on free ports; whether the system's one runs makes no difference to them.
#
# PENSTOCK_REDIS_SERVER names another one, Valkey's say.

set -euo pipefail

server=${PENSTOCK_REDIS_SERVER:-$("$(dirname "${BASH_SOURCE[0]}")/debian-package.sh" redis-server redis-server)}

# "Redis server v=7.0.15 sha=...", "Valkey server v=8.0.1 sha=..."
version=$("$server" --version | sed -n 's/.* v=\([0-9][0-9.]*\).*/\1/p')
version=${version:-0}   # an answer that nobody could read
if [ "${version%%.*}" -lt 7 ]; then
  echo "$server is version $version, and functions need 7.0: install a newer one (Debian 12 has it)," \
    "and put it first on PATH or into PENSTOCK_REDIS_SERVER" >&2
  exit 1
fi
echo "$server"
