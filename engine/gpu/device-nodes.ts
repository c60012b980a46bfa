/*
 * The nodes of a node's NVIDIA devices, and those that a restored container lacks. CRIU brings back the nodes of the
 * dump; a GPU that takes the place of another must be there under its own name, `/dev/nvidia<minor>`, before the driver
 * restores (the driver finds it by that name alone).
 */
import { closeSync, constants, lstatSync, openSync, readFileSync, type Stats, unlinkSync } from 'node:fs';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { type GpuNode, NVIDIA_MAJOR } from '../../core/oci/gpu-fit.ts';
import type { Run } from '../../native/run/run.ts';

const CONTROL_MINOR = 255;
/** On the tmpfs that a container's /dev is it takes no time. */
const MKNOD_MS = 10_000;

/**
 * Nodes of these GPUs and of the driver itself, with the numbers of this machine: the major of nvidia-uvm is given out
 * at boot. One that the machine does not have is left out, but for those whose numbers are fixed.
 */
export function gpuNodes(minors: readonly number[]): readonly GpuNode[] {
  const majors = majorsIn(procDevices());
  const nvidia = majors.get('nvidia') ?? majors.get('nvidia-frontend') ?? NVIDIA_MAJOR;
  const uvm = majors.get('nvidia-uvm');
  const fixed = [
    ...minors.map((minor) => ({ path: `/dev/nvidia${minor}`, major: nvidia, minor })),
    { path: '/dev/nvidiactl', major: nvidia, minor: CONTROL_MINOR },
  ];
  const dynamic =
    uvm === undefined
      ? []
      : [
          { path: '/dev/nvidia-uvm', major: uvm, minor: 0 },
          { path: '/dev/nvidia-uvm-tools', major: uvm, minor: 1 },
        ];
  return [...fixed, ...dynamic];
}

function procDevices(): string {
  try {
    return readFileSync('/proc/devices', 'utf8');
  } catch {
    // Hidden by a sandbox: the fixed numbers remain.
    return '';
  }
}

/** @param text content of /proc/devices: names and majors of character devices come first */
export function majorsIn(text: string): ReadonlyMap<string, number> {
  const [characters = ''] = text.split(/^Block devices:/m);
  return new Map(
    [...characters.matchAll(/^\s*(\d+) (\S+)$/gm)].map(([, major, name]) => [name ?? '', Number(major)] as const),
  );
}

/**
 * Makes the nodes of the GPUs that are missing in a container's /dev, and makes those of nvidia-uvm anew that came from
 * a machine with other numbers. The container's own processes may run meanwhile: everything goes through a descriptor of
 * its /dev, and no link that they may put there is followed.
 *
 * @returns paths that were made, in the container
 * @throws RestoreFailed /dev is no directory, or something else bears a GPU's name
 */
export async function makeDeviceNodes(
  run: Run,
  initHostPid: number,
  nodes: readonly GpuNode[],
): Promise<readonly string[]> {
  const dev = openDev(initHostPid);
  try {
    const made: string[] = [];
    for (const node of nodes) {
      const name = node.path.slice('/dev/'.length);
      if (needsNode(`/proc/self/fd/${dev}/${name}`, node)) {
        await makeNode(run, dev, name, node);
        made.push(node.path);
      }
    }
    return made;
  } finally {
    closeSync(dev);
  }
}

function openDev(initHostPid: number): number {
  const path = `/proc/${initHostPid}/root/dev`;
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    throw new KybernateError('RestoreFailed', `${path} of the restored container: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Only GPUs are added: a container that never had a device of the driver is not given one. */
function needsNode(path: string, node: GpuNode): boolean {
  const isGpu = /^\/dev\/nvidia\d+$/.test(node.path);
  let stats: Stats;
  try {
    stats = lstatSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return isGpu;
    }
    throw error;
  }
  if (stats.isCharacterDevice() && stats.rdev === deviceNumber(node)) {
    return false;
  }
  if (isGpu || !node.path.startsWith('/dev/nvidia-uvm')) {
    throw new KybernateError(
      'RestoreFailed',
      `${node.path} of the restored container is not device ${node.major}:${node.minor}, and is needed for it`,
    );
  }
  unlinkSync(path);
  return true;
}

/** glibc's makedev, for numbers that fit into 32 bits. */
function deviceNumber({ major, minor }: GpuNode): number {
  return (minor & 0xff) + major * 0x100 + (minor >> 8) * 0x100000;
}

async function makeNode(run: Run, dev: number, name: string, { major, minor }: GpuNode): Promise<void> {
  // By umask and not by `mknod --mode`, which sets the mode by name, after the node is there.
  const script = 'umask 000 && exec mknod "/proc/self/fd/3/$0" c "$1" "$2"';
  const result = await run('sh', ['-c', script, name, String(major), String(minor)], {
    extraFds: [dev],
    timeoutMs: MKNOD_MS,
  });
  if (result.exitCode !== 0) {
    throw new KybernateError(
      'RestoreFailed',
      `/dev/${name} cannot be made in the restored container: ${result.startError ?? (result.timedOut ? 'mknod does not answer' : result.stderr.trim())}`,
    );
  }
}
