#!/usr/bin/env bash
#
# debian-package.sh COMMAND PACKAGE - prints the path of COMMAND. Where there is
# none, its Debian package is installed first, if we may. A COMMAND that begins with
# a slash may be any file, for packages that have no command.

set -euo pipefail

command=$1 package=$2

# On PATH, or where it says.
path() {
  case $command in
    /*) [ -e "$command" ] && echo "$command" ;;
    *) command -v "$command" ;;
  esac
}

if ! path >/dev/null; then
  remedy="install $command (on Debian: sudo apt-get install $package) and run this again"
  sudo=()
  # Never ask for a password: nobody may be there to give it.
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
    echo "$command is missing and cannot be installed from here: $remedy" >&2
    exit 1
  fi
  echo "installing $package" >&2
  apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300)
  install=("${apt[@]}" install --no-install-recommends "$package")
  # A new machine has no package lists and an old one has outdated ones; elsewhere
  # the first try saves the update, and the failure of some unrelated source.
  "${install[@]}" </dev/null >/dev/null 2>&1 ||
    { "${apt[@]}" update || true; "${install[@]}"; } </dev/null >&2 ||
    { echo "could not install $package: $remedy" >&2; exit 1; }
fi
path
