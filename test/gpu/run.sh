#!/bin/sh
# Unpacks what `make gpu-bundle` made and runs test/gpu/main.ts with it: test/gpu/run.sh [--unpack] [main.ts's arguments]
#
# Made for a bare machine: root, Python 3, gcc; nvcc, PyTorch and an NVIDIA driver for the GPU cases; no network. The
# archives are taken from .gpu-bundle/ when they are there; what was unpacked is kept in KYBERNATE_GPU_DIR (default
# /opt/kybernate-gpu) and replaced only by another archive. So a machine that takes limited amounts at a time gets them
# one after the other, and only the code afterwards:
#   1. with .gpu-bundle/runtime.tar.xz                              test/gpu/run.sh --unpack
#   2. with .gpu-bundle/programs.tar.xz and .gpu-bundle/code.tar.xz test/gpu/run.sh cpu
#   3. with .gpu-bundle/code.tar.xz                                 test/gpu/run.sh gpu
#   4. with .gpu-bundle/chaos.tar.xz                                test/gpu/run.sh --chaos --kills=250 --seed=1
#   5. with .gpu-bundle/control-plane.tar.xz                        test/gpu/run.sh --unpack
#      with .gpu-bundle/kubelet.tar.xz                              test/gpu/run.sh --unpack
#      with .gpu-bundle/image.tar.xz                                test/gpu/run.sh --kubernetes
# `make gpu-bundle` comes before each of them when a source file has changed. The results go to $OUT/gpu-results.json.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=${KYBERNATE_GPU_DIR:-/opt/kybernate-gpu}

# unpack NAME FOLDER...: the folders are what the archive holds, and are replaced as a whole.
unpack() {
  name=$1
  archive=$here/.gpu-bundle/$name.tar.xz
  shift
  [ -f "$archive" ] || return 0
  digest=$(sha256sum "$archive" | cut -d' ' -f1)
  [ "$(cat "$dir/.$name" 2>/dev/null)" != "$digest" ] || return 0
  rm -rf "$dir/.$name" "$dir/new"
  mkdir -p "$dir/new"
  if command -v xz >/dev/null 2>&1; then
    xz -dc -T0 "$archive" | tar -C "$dir/new" -xf -
  else
    python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$archive" "$dir/new"
  fi
  for folder in "$@"; do
    rm -rf "${dir:?}/$folder"
    mv "$dir/new/$folder" "$dir/$folder"
  done
  rm -rf "$dir/new"
  echo "$digest" >"$dir/.$name"
  echo "unpacked $name"
}

mkdir -p "$dir"
unpack runtime bin node_modules images
unpack programs cache extra lib
unpack code src built
unpack chaos chaos
unpack control-plane control-plane
unpack kubelet kubelet
unpack image image
if [ "${1:-}" = --unpack ]; then
  exit 0
fi
for name in runtime programs code; do
  if [ ! -f "$dir/.$name" ]; then
    echo "$name is missing in $dir: send .gpu-bundle/$name.tar.xz, too (make gpu-bundle)" >&2
    exit 3
  fi
done
# Programs of the other archives are looked for where all are.
for archive in chaos control-plane kubelet; do
  [ ! -d "$dir/$archive" ] || cp -rsf "$dir/$archive/programs/." "$dir/cache/programs/"
done
# Where workers look for the bundles of these very sources.
mkdir -p "$dir/node_modules/.cache/kybernate"
cp "$dir"/built/* "$dir/node_modules/.cache/kybernate/"
# A bundle looks for proto/ in the folders above itself.
ln -sfn src/proto "$dir/proto"

export KYBERNATE_GPU_DIR="$dir" KYBERNATE_CACHE="$dir/cache" KYBERNATE_DEV_DIR="$dir/dev" KYBERNATE_NODE=gpu
# The machine's own programs first: the bundle has only what it may lack.
export PATH="$dir/bin:${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin:$dir/extra"
# Where the driver is mounted and not known to the loader.
for pair in KYBERNATE_LIBCUDA=libcuda.so.1 KYBERNATE_LIBNVML=libnvidia-ml.so.1; do
  library=/usr/local/nvidia/lib64/${pair#*=}
  [ ! -e "$library" ] || export "${pair%%=*}=$library"
done
export HOME="${HOME:-/root}"
cd "$dir/src"
if [ "${1:-}" = --chaos ]; then
  shift
  exec "$dir/bin/node" test/chaos/main.ts "$@"
fi
if [ "${1:-}" = --kubernetes ]; then
  shift
  # A cluster has a network namespace of its own.
  exec unshare --net "$dir/bin/node" test/gpu/kubernetes.ts "$@"
fi
exec "$dir/bin/node" test/gpu/main.ts "$@"
