/*
 * A /dev/shm of the restored container's own, where the source's came from outside. CRIU takes such a mount from a path of the
 * node: a tmpfs is laid over the node's /dev/shm in a mount namespace that runc and CRIU alone are in. It ends with them, and
 * the container keeps the file system, as one that its runtime has made for it.
 */
import { UNPACK_OPTIONS } from '../../engine/unpack.ts';

/** In CRIU's work directory; empty when all went well. Standard error is the container's own. */
export const OWN_SHM_LOG = 'shm.log';

/** The file system is empty and seen by nobody: tar itself follows no link that it has made. */
const SCRIPT = `set -eu
log=$1 tar=$2
shift 2
exec 8>&2 2>"$log"
mount -t tmpfs -o nosuid,nodev,mode=1777 shm /dev/shm
if [ -n "$tar" ]; then
  tar ${UNPACK_OPTIONS.map((option) => `'${option}'`).join(' ')} --directory=/dev/shm --file="$tar"
fi
# What tar says of files that it has unpacked is no reason why CRIU fails.
: >"$log"
exec 2>&8 8>&-
exec "$@"
`;

/**
 * @param tar of its content; absent: it is empty
 * @returns a command line that becomes the given one
 */
export function withOwnShm(command: readonly string[], workDir: string, tar: string | undefined): readonly string[] {
  const args = [`${workDir}/${OWN_SHM_LOG}`, tar ?? ''];
  return ['unshare', '--mount', '--propagation', 'slave', '--', 'sh', '-c', SCRIPT, 'sh', ...args, ...command];
}
