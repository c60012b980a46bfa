#!/bin/sh
# A counter in Docker: checkpointed, killed, back in the same container, and a second one beside it.
set -eu
kybernate=${KYBERNATE:-"$(dirname "$0")/../../cli/kybernate"}
image=${IMAGE:-busybox}
id=docker-example-$$

cleanup() {
  docker rm -f "$id" "$id-copy" >/dev/null 2>&1 || true
}
trap cleanup EXIT

count() {
  docker exec "$1" cat /count
}

docker run -d --runtime kybernate --network none --name "$id" "$image" \
  sh -c 'i=0; while :; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; sleep 0.1; done' >/dev/null
sleep 2
"$kybernate" checkpoint --docker "$id" --id "$id" --durability local
echo "killed at $(count "$id")"
docker kill "$id" >/dev/null
"$kybernate" restore "$id" --docker --source local
echo "back in the same container: $(count "$id")"
"$kybernate" restore "$id" --docker --name "$id-copy" --source local
echo "and beside it: $(count "$id-copy")"
