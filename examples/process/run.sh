#!/bin/sh
# A process that counts in its memory, captured, ended, and brought back: the count goes on. Needs root.
#
#   eval "$(cli/kybernate up --env)"
#   examples/process/run.sh
set -eu

here="$(dirname "$0")"
kybernate="$here/../../cli/kybernate"
dir="$(mktemp -d)"
id="process-example-$(date +%s)"
pid=
# It may be about to write into the directory.
trap '[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true; sleep 0.3; rm -rf "$dir"' EXIT

# A session of its own, and no pipe or terminal of ours.
setsid sh -c 'echo $$ >"$0/pid"; n=0; while :; do n=$((n + 1)); echo $n >"$0/count.new"; mv "$0/count.new" "$0/count"; sleep 0.02; done' \
  "$dir" </dev/null >/dev/null 2>&1 &
sleep 1
pid="$(cat "$dir/pid")"

"$kybernate" process analyze "$pid"
"$kybernate" process checkpoint "$pid" --id "$id" --after stop --durability local
reached="$(cat "$dir/count")"
echo "it has ended at $reached"

"$kybernate" process restore "$id"
sleep 1
echo "it counts on: $(cat "$dir/count")"
[ "$(cat "$dir/count")" -gt "$reached" ]
echo "remove it:  $kybernate rm $id"
