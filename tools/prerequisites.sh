#!/bin/sh
# Checks what must be on the machine before anything else can be installed; lists everything missing at once.
#
#   prerequisites.sh          say what is missing and how to get it; exit code 1 when something is
#   prerequisites.sh --rows   one line each: name, ok or missing, what was found, how to get it (tab-separated)
#
# Plain sh, because it runs before there is a node_modules.
set -eu

format=${1:-}
missing=0
listed=''

row() { # row <name> <ok|missing> <found> <how to get it>
  [ "$2" = ok ] || { missing=$((missing + 1)); listed="$listed
  $1: $3
      $4"; }
  [ "$format" != --rows ] || printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"
}

at_least() { # at_least <version> <minimum>, of which the first two numbers count
  major=${1%%.*} rest=${1#*.}
  minor=${rest%%[!0-9]*}
  want_major=${2%%.*} want_minor=${2#*.}
  [ "$major" -gt "$want_major" ] || { [ "$major" -eq "$want_major" ] && [ "${minor:-0}" -ge "$want_minor" ]; }
}

check_system() {
  get='Debian 12 or newer on x86-64, or a system like it (Ubuntu 24.04)'
  id='' VERSION_ID='' ID='' ID_LIKE='' PRETTY_NAME=''
  [ ! -r /etc/os-release ] || . /etc/os-release
  found="${PRETTY_NAME:-unknown system} on $(uname -m)"
  id=ok
  case "$ID" in
    # testing and unstable have no number
    debian) [ -z "$VERSION_ID" ] || at_least "$VERSION_ID.0" 12.0 || id=missing ;;
    ubuntu) at_least "$VERSION_ID" 24.4 || id=missing ;;
    *) command -v apt-get >/dev/null 2>&1 || id=missing ;;
  esac
  [ "$(uname -m)" = x86_64 ] || id=missing
  row system "$id" "$found" "$get"
}

check_root() {
  if [ "$(id -u)" = 0 ]; then row root ok 'uid 0' ''; else
    row root missing "uid $(id -u)" 'run it as root (sudo -i): containers are started, apt packages installed'
  fi
}

# $PATH without node_modules/.bin: what counts is what npm itself will run with.
system_path() { printf '%s' "$PATH" | tr : '\n' | grep -v 'node_modules/.bin' | paste -sd: -; }

check_node() {
  get='apt-get install nodejs npm (Debian 13), or the packages of nodejs.org; the project then brings its own Node 24'
  version=$(PATH=$(system_path) node --version 2>/dev/null | tr -d v) || version=''
  if [ -n "$version" ] && at_least "$version" 20.0; then row node ok "$version" "$get"; else
    row node missing "${version:-not found}, 20 or newer is needed" "$get"
  fi
  version=$(PATH=$(system_path) npm --version 2>/dev/null) || version=''
  if [ -n "$version" ]; then row npm ok "$version" "$get"; else row npm missing 'not found' "$get"; fi
}

check_go() {
  get='https://go.dev/dl, unpacked to /usr/local/go; Debian 12 has only 1.19'
  version=$(PATH="$PATH:/usr/local/go/bin" GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed 's/^go//') || version=''
  if [ -n "$version" ] && at_least "$version" 1.25; then row go ok "$version" "$get"; else
    row go missing "${version:-not found}, 1.25 or newer is needed" "$get"
  fi
}

check_tool() { # check_tool <name, of the Debian package too>
  if command -v "$1" >/dev/null 2>&1; then
    row "$1" ok "$("$1" --version 2>/dev/null | sed -n '1s/.* \([0-9][0-9.]*\).*/\1/p')" ''
  else
    row "$1" missing 'not found' "apt-get install $1"
  fi
}

check_system
check_root
check_node
check_go
check_tool gcc
check_tool make

[ "$missing" -ne 0 ] || exit 0
[ "$format" = --rows ] || printf 'kybernate needs, before it can set up the rest:%s\n' "$listed" >&2
exit 1
