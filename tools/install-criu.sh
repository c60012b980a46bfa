#!/usr/bin/env bash
# Builds CRIU 4.2.1 and installs it below one folder: <prefix>/sbin/criu.
#
#   install-criu.sh PREFIX            install, unless this version is there
#   install-criu.sh --fetch FILE      only get the source archive
#   install-criu.sh --selftest PREFIX dump and restore a small process tree with an open TCP connection
#
# Environment:
#   CRIU_TARBALL   a source archive of yours (criu_4.2.1.orig.tar.xz), instead of Debian's
#   JOBS           compilers at once (default: all processors)
#
# Debian 12 ships 3.17, and CRIU before 4.2 cannot dump a socket on kernels from 6.16 on. The source comes from a newer
# Debian suite through the apt sources of this machine, so its mirror and proxy settings hold; the archive is pinned by
# its digest, so it does not matter which suite or mirror gave it.
set -euo pipefail

version=4.2.1
digest=29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9
archive=criu_$version.orig.tar.xz
# The first ones have it now; the others are where it will be found when those have moved on.
suites=(sid forky trixie-backports trixie bookworm-backports)
packages=(
  xz-utils pkg-config                                                       # to unpack, to find the libraries
  libprotobuf-c-dev protobuf-c-compiler libprotobuf-dev protobuf-compiler   # image format
  libnl-3-dev libnet1-dev                                                   # sockets, TCP repair
  libcap-dev libbsd-dev uuid-dev libgnutls28-dev                            # capabilities, strings, ids, page server
  libnftables-dev                                                           # network lock without an iptables program
)

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

note() { echo "install-criu: $*" >&2; }
fail() {
  note "$1"
  [ -z "${2:-}" ] || tail -n 25 "$2" >&2
  exit 1
}

version_in() { "$1/sbin/criu" --version 2>/dev/null | awk '$1 == "Version:" {print $2}'; }

add_packages() {
  local absent=() name
  for name in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || absent+=("$name")
  done
  [ "${#absent[@]}" -gt 0 ] || return 0
  note "apt-get install ${absent[*]}"
  local attempt
  for attempt in first second; do
    # A fresh machine has no package lists, an old one lists that name packages gone from the mirror.
    [ "$attempt" = first ] || apt-get --quiet update >>"$tmp/apt.log" 2>&1 || true
    if DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install "${absent[@]}" \
      >>"$tmp/apt.log" 2>&1 </dev/null; then
      return 0
    fi
  done
  fail 'apt-get could not install the build packages' "$tmp/apt.log"
}

# Debian's main archive as this machine reaches it. Empty on a machine whose lists were never fetched.
mirror() {
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    sed -n 's/^Debian|Debian|//p' | head -n 1
}

# An apt of our own beside the system's: its lists would otherwise offer packages of other suites to the machine.
private_apt() { # private_apt <suite> <mirror> <command...>
  local root=$tmp/apt suite=$1 uri=$2
  shift 2
  mkdir -p "$root"/etc/apt.conf.d "$root"/etc/preferences.d "$root"/etc/sources.list.d \
    "$root"/lists/partial "$root"/cache/archives/partial
  cp -r /etc/apt/apt.conf.d/. "$root/etc/apt.conf.d/" 2>/dev/null || true
  # An expired index is good enough: what it leads to is pinned.
  printf 'deb-src [signed-by=%s check-valid-until=no] %s %s main\n' \
    /usr/share/keyrings/debian-archive-keyring.gpg "$uri" "$suite" >"$root/etc/sources.list"
  printf '%s\n' "Dir::Etc \"$root/etc\";" "Dir::State \"$root\";" "Dir::State::Lists \"$root/lists\";" \
    "Dir::Cache \"$root/cache\";" 'Dir::State::status "/var/lib/dpkg/status";' \
    'Acquire::Languages "none";' 'APT::Sandbox::User "root";' >"$root/apt.conf"
  APT_CONFIG=$root/apt.conf "$@"
}

matches() { echo "$digest  $1" | sha256sum --check --status 2>/dev/null; }

fetch() { # fetch <target file>
  local uri suite from
  if [ -n "${CRIU_TARBALL:-}" ]; then
    matches "$CRIU_TARBALL" || fail "$CRIU_TARBALL is not the archive of criu $version: SHA-256 differs from $digest"
    cp "$CRIU_TARBALL" "$1"
    return
  fi
  uri=$(mirror)
  if [ -z "$uri" ]; then
    apt-get --quiet update >"$tmp/update.log" 2>&1 || true
    uri=$(mirror)
  fi
  [ -n "$uri" ] || fail 'no Debian archive among the apt sources of this machine; give the source in CRIU_TARBALL'
  for suite in "${suites[@]}"; do
    private_apt "$suite" "$uri" apt-get --quiet update >"$tmp/$suite.log" 2>&1 || continue
    # Only the upstream archive, not the package: its Debian part may be gone from the mirror already.
    from=$(cd "$tmp" && private_apt "$suite" "$uri" apt-get --print-uris --download-only source criu 2>/dev/null |
      sed -n "s/^'\([^']*$archive\)'.*/\1/p" | head -n 1) || true
    [ -n "$from" ] || continue
    note "$archive from suite $suite"
    private_apt "$suite" "$uri" /usr/lib/apt/apt-helper download-file "$from" "$1" "SHA256:$digest" \
      >>"$tmp/$suite.log" 2>&1 && matches "$1" && return
    note "suite $suite: $(tail -n 1 "$tmp/$suite.log")"
  done
  fail "none of the suites ${suites[*]} has $archive any more; give the source in CRIU_TARBALL"
}

install_into() { # install_into <prefix>
  add_packages
  fetch "$tmp/$archive"
  mkdir "$tmp/source"
  tar --extract --xz --file "$tmp/$archive" --directory "$tmp/source" --strip-components=1
  note "compiling criu $version"
  make --directory "$tmp/source" --jobs "${JOBS:-$(nproc)}" PREFIX="$1" PLUGINDIR="$1/lib/criu" \
    NETWORK_LOCK_DEFAULT=NETWORK_LOCK_NFTABLES criu >"$tmp/make.log" 2>&1 </dev/null ||
    fail 'the compilation failed' "$tmp/make.log"
  # The program last, by a rename: a folder with sbin/criu is complete.
  install -D --mode=644 "$tmp/source/COPYING" "$1/share/doc/criu/COPYING"
  install -D --mode=755 --strip "$tmp/source/criu/criu" "$1/sbin/.criu.new"
  mv "$1/sbin/.criu.new" "$1/sbin/criu"
  [ "$(version_in "$1")" = "$version" ] || fail "$1/sbin/criu does not start or reports another version"
}

selftest() { # selftest <prefix>
  local criu=$1/sbin/criu images=$tmp/images counter=$tmp/counter leader before
  "$criu" check >"$tmp/check.log" 2>&1 || fail 'criu check says no' "$tmp/check.log"
  mkdir "$images"
  cat >"$tmp/tree.py" <<'PY'
import os, socket, sys, time

listener = socket.create_server(("127.0.0.1", 0))
out = socket.create_connection(listener.getsockname())
back, _ = listener.accept()
if os.fork() == 0:
    while True:
        time.sleep(1)
count = 0
while True:
    count += 1
    out.sendall(count.to_bytes(8, "big"))
    seen = int.from_bytes(back.recv(8, socket.MSG_WAITALL), "big")
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(str(seen))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(0.05)
PY
  setsid /usr/bin/python3 "$tmp/tree.py" "$counter" </dev/null >/dev/null 2>&1 &
  leader=$!
  until [ -s "$counter" ]; do sleep 0.05; done
  if ! "$criu" dump --tree "$leader" --images-dir "$images" --log-file dump.log -v3 --shell-job --tcp-established; then
    kill -KILL -- "-$leader"
    fail 'the dump failed' "$images/dump.log"
  fi
  { wait "$leader"; } 2>/dev/null || true
  # The orphaned child keeps its session id, our pid, until init has reaped it; a restore before would find it taken.
  while ps -eo sid= | grep -qw "$leader"; do sleep 0.1; done
  before=$(cat "$counter")
  "$criu" restore --images-dir "$images" --log-file restore.log -v3 --shell-job --tcp-established --restore-detached ||
    fail 'the restore failed' "$images/restore.log"
  sleep 1
  kill -KILL -- "-$leader"
  [ "$(cat "$counter")" -gt "$before" ] || fail "the restored processes do not run: the counter stays at $before"
  note "dump and restore work: the counter went from $before to $(cat "$counter")"
}

case ${1:-} in
  --fetch) fetch "${2:?file}" ;;
  --selftest) selftest "${2:?prefix}" ;;
  '' | -*) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
  *)
    if [ "$(version_in "$1")" = "$version" ]; then
      note "criu $version is in $1"
      exit 0
    fi
    [ "$(id -u)" = 0 ] || fail 'root is needed for the build packages'
    install_into "$1"
    note "installed $1/sbin/criu"
    ;;
esac
