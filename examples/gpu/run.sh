#!/bin/sh
# Checkpoints a running container that uses a GPU, and restores a second copy beside it. The container runs on.
#
#   eval "$(cli/kybernate up --env)"
#   examples/gpu/run.sh <container> [<uuid of a GPU>=<uuid of another>]
set -eu

kybernate="$(dirname "$0")/../../cli/kybernate"
container="${1:?give the id of a running container that uses a GPU}"
map="${2:-}"

if ! gpus="$("$kybernate" gpu list 2>&1)"; then
  echo "skipped: this node has no GPU that can be checkpointed: $gpus"
  exit 0
fi
echo "$gpus"

# Not without reason the first step: it shows whether the driver can bring this job back, while there is little to lose.
"$kybernate" gpu rehearse "$container"

id="gpu-example-$(date +%s)"
"$kybernate" checkpoint "$container" --id "$id" --freeze-budget 10m --durability local
"$kybernate" inspect "$id"
"$kybernate" restore "$id" --name "$container-copy" ${map:+--gpu "$map"}

echo
echo "two containers run now: $container and $container-copy"
echo "remove the checkpoint:  $kybernate rm $id"
