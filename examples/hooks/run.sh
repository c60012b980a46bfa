#!/bin/sh
# Two hooks at work on a container: a checkpoint that one of them refuses, and one that both let pass. Needs root; the
# hooks are taken away again.
#
#   eval "$(cli/kybernate up --env)"
#   examples/hooks/run.sh <container> [options of kybernate checkpoint]
set -eu

here="$(dirname "$0")"
kybernate="$here/../../cli/kybernate"
container="${1:?give the id of a running container}"
shift
hooks="${KYBERNATE_HOOKS_DIR:-/etc/kybernate/hooks.d}"
hold="/run/kybernate-hold-$container"
id="hooks-example-$(date +%s)"

trap 'rm -f "$hold" "$hooks/pre-dump/10-hold" "$hooks/post-dump/50-report"' EXIT
for hook in pre-dump/10-hold post-dump/50-report; do
  install -D --owner=root --group=root --mode=0755 "$here/$hook" "$hooks/$hook"
done
"$kybernate" doctor | grep -i hook || true

touch "$hold"
if "$kybernate" checkpoint "$container" --id "$id-1" --durability local "$@"; then
  echo "the hook did not refuse: do the workers look in $hooks?" >&2
  exit 1
fi
echo "refused, as it should be; the container runs on"

rm "$hold"
"$kybernate" checkpoint "$container" --id "$id-2" --durability local "$@"
echo "what the hooks printed is in logs/hooks.log of the checkpoint:"
"$kybernate" cat "$id-2" logs/hooks.log
echo "remove it:  $kybernate rm $id-2"
