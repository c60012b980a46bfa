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

made='' # directories that were not there before, the innermost first

clean_up() {
  rm -f "$hold" "$hooks/pre-dump/10-hold" "$hooks/post-dump/50-report"
  [ -z "$made" ] || rmdir $made
}
trap clean_up EXIT

for directory in "$(dirname "$hooks")" "$hooks" "$hooks/pre-dump" "$hooks/post-dump"; do
  if [ ! -d "$directory" ]; then
    mkdir --mode=0755 "$directory"
    made="$directory $made"
  fi
done
for hook in pre-dump/10-hold post-dump/50-report; do
  install --owner=root --group=root --mode=0755 "$here/$hook" "$hooks/$hook"
done
"$kybernate" doctor | grep -i hook || true

touch "$hold"
status=0
"$kybernate" checkpoint "$container" --id "$id-1" --durability local "$@" || status=$?
case $status in
  24) echo "refused, as it should be; the container runs on" ;; # HookFailed
  0)
    echo "the hook did not refuse: do the workers look in $hooks?" >&2
    exit 1
    ;;
  *)
    echo "the checkpoint failed, and not by the hook" >&2
    exit "$status"
    ;;
esac

rm "$hold"
"$kybernate" checkpoint "$container" --id "$id-2" --durability local "$@"
echo "what the hooks printed is in logs/hooks.log of the checkpoint:"
"$kybernate" cat "$id-2" logs/hooks.log
echo "remove it:  $kybernate rm $id-2"
