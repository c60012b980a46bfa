/*
 * Images for a container in a user namespace. CRIU opens most of them when it is the root of that namespace already, who is
 * an ordinary user of the host and may neither look into their directory nor read them. They stay root's: this user is shown
 * them through an overlay, in which a change of owner copies no content (metacopy), and nothing below changes.
 *
 * The overlay is mounted in a mount namespace of its own, which the very process leaves again with the directory open:
 * nobody else ever sees the mount, and it ends with the last descriptor, whoever is killed. From there on the process is
 * runc. Source: CRIU 4.2, criu/image.c (do_open_image); Linux, Documentation/filesystems/overlayfs.rst.
 */
import type { HostOwner } from '../../core/oci/user-namespace.ts';
import { SHOWN_IMAGES_FD } from '../../core/oci/restore-plan.ts';

/** In CRIU's work directory; empty when all went well. Standard error is the container's own. */
export const SHOWN_IMAGES_LOG = 'images.log';

/**
 * The tmpfs takes attributes alone: where a kernel copies content for all that, it is full. In the group of root, since CRIU
 * opens the first images in the new namespace before anybody is mapped into it: as root, without a right over the host.
 */
const SCRIPT = `set -eu
images=$1 dir=$2 owner=$3 home=$4
shift 4
exec 8>&2 2>"$dir/${SHOWN_IMAGES_LOG}"
mount -t tmpfs -o mode=0700,size=64m kybernate "$dir"
mkdir -m 0700 "$dir/upper" "$dir/work" "$dir/images"
cd "$images"
mount -t overlay -o "lowerdir=.,upperdir=$dir/upper,workdir=$dir/work,metacopy=on,redirect_dir=on" kybernate "$dir/images"
chown -R "$owner:0" "$dir/images"
chmod -R u=rX,g=rX,o= "$dir/images"
exec ${SHOWN_IMAGES_FD}<"$dir/images" 2>&8 8>&-
cd /
exec nsenter --mount="$home" -- "$@"
`;

export interface ShownImages {
  readonly imageDir: string;
  /** CRIU's work directory of this restore */
  readonly workDir: string;
  readonly reader: HostOwner;
}

/** @returns a command line that becomes the given one, with the images open as `SHOWN_IMAGES_FD` */
export function withShownImages(
  command: readonly string[],
  { imageDir, workDir, reader }: ShownImages,
): readonly string[] {
  const args = [imageDir, workDir, String(reader.uid), `/proc/${process.pid}/ns/mnt`];
  return ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', SCRIPT, 'sh', ...args, ...command];
}
