/*
 * Mounts of the driver's files and nodes that a hook of the NVIDIA runtime made (its style before CDI): the specification
 * does not know them, so neither does runc, and CRIU refuses to dump them unless it is told that they come from outside.
 * The file systems that the hook made itself (tmpfs on /proc/driver/nvidia) CRIU dumps like any other.
 */
import { type OciSpec, parseSpec } from '../../core/oci/spec.ts';
import { type MountInfo, readMounts } from '../../native/proc/mounts.ts';
import type { ContainerFacts } from '../container-facts.ts';

export interface HookMount {
  /** in the container; CRIU's name for it in the images */
  readonly destination: string;
  /** path of this node */
  readonly source: string;
}

export interface HookMounts {
  readonly mounts: readonly HookMount[];
  /** why the container cannot be dumped with them */
  readonly refusals: readonly string[];
}

/** What libnvidia-container mounts: libraries, programs, nodes, sockets, firmware, and what is below /proc. */
const OF_THE_DRIVER = /nvidia|\/libcuda|\/libnv|\/libcudadebugger/;

/** Reads only. */
export function hookMountsOf({ record, ref, initHostPid }: ContainerFacts): HookMounts {
  const spec = parseSpec(record.spec, `specification of ${ref.namespace}/${ref.id}`);
  return hookMounts(spec, readMounts(initHostPid), readMounts('self'));
}

/** @param host mounts of the node, whose paths the sources are */
export function hookMounts(spec: OciSpec, container: readonly MountInfo[], host: readonly MountInfo[]): HookMounts {
  const known = new Set([
    ...(spec.mounts ?? []).map(({ destination }) => destination.replace(/(?<=.)\/+$/, '')),
    ...(spec.linux?.maskedPaths ?? []),
    ...(spec.linux?.readonlyPaths ?? []),
  ]);
  const found = container.filter(
    ({ mountPoint, root }) => root !== '/' && !known.has(mountPoint) && OF_THE_DRIVER.test(mountPoint),
  );
  const mounts: HookMount[] = [];
  const refusals: string[] = [];
  for (const mount of found) {
    const source = hostPath(mount, host);
    if (source === undefined) {
      refusals.push(
        `mount ${mount.mountPoint}, made by a hook, has no path on this node: CRIU could not bring it back`,
      );
    } else if (/[\s#"\\]/.test(mount.mountPoint + source)) {
      refusals.push(`mount ${mount.mountPoint}, made by a hook: its name cannot be told to CRIU`);
    } else {
      mounts.push({ destination: mount.mountPoint, source });
    }
  }
  return { mounts, refusals };
}

/** Where the same part of the same file system is seen on the node. */
function hostPath({ device, root }: MountInfo, host: readonly MountInfo[]): string | undefined {
  const over = host.findLast(
    (mount) =>
      mount.device === device && (mount.root === '/' || root === mount.root || root.startsWith(`${mount.root}/`)),
  );
  if (over === undefined) {
    return undefined;
  }
  const below = over.root === '/' ? root : root.slice(over.root.length);
  return `${over.mountPoint === '/' ? '' : over.mountPoint}${below}`;
}
