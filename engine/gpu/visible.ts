/*
 * Which GPUs a process can see. The driver counts those whose nodes it could open in the process's root, whatever
 * CUDA_VISIBLE_DEVICES hides from the program (measured: with two nodes and one visible device the map of a restore must
 * name both).
 */
import { closeSync, constants, openSync, readdirSync } from 'node:fs';
import { NVIDIA_MAJOR } from '../../core/oci/gpu-fit.ts';
import type { OciDeviceRule } from '../../core/oci/spec.ts';
import type { GpuDevice } from '../../native/cuda/gpu-driver.ts';

export interface VisibleInput {
  /** of the node, by minor */
  readonly devices: readonly GpuDevice[];
  /** of which the process has descriptors */
  readonly openMinors: ReadonlySet<number>;
  /** UUIDs of devices on which it holds memory */
  readonly used: readonly string[];
  /** nodes in its /dev */
  readonly nodeMinors: ReadonlySet<number>;
  /** of the container's specification; later ones overrule earlier ones */
  readonly rules: readonly OciDeviceRule[];
}

/** @returns UUIDs by minor */
export function visibleDevices(input: VisibleInput): readonly string[] {
  return input.devices
    .filter(
      ({ uuid, minor }) =>
        input.openMinors.has(minor) ||
        input.used.includes(uuid) ||
        (input.nodeMinors.has(minor) && isAllowed(input.rules, minor)),
    )
    .map((device) => device.uuid);
}

/** Source: runtime-spec, config-linux.md, allowed device list. Without a rule for it a device is denied. */
function isAllowed(rules: readonly OciDeviceRule[], minor: number): boolean {
  const matching = rules.filter(
    (rule) =>
      ['c', 'a', undefined].includes(rule.type) &&
      matches(rule.major, NVIDIA_MAJOR) &&
      matches(rule.minor, minor) &&
      (rule.access ?? 'rwm').includes('r'),
  );
  return rules.length === 0 || matching.at(-1)?.allow === true;
}

/** Absent and -1 stand for all numbers. */
function matches(pattern: number | undefined, number: number): boolean {
  return pattern === undefined || pattern < 0 || pattern === number;
}

/** Minors of the GPU nodes in the /dev of a process; empty when it is gone. A /dev that is a link is not followed. */
export function nodeMinorsOf(hostPid: number): ReadonlySet<number> {
  let fd: number;
  try {
    fd = openSync(`/proc/${hostPid}/root/dev`, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch {
    // ENOENT, ESRCH: no /dev, or no process; ENOTDIR: a link.
    return new Set();
  }
  try {
    const entries = readdirSync(`/proc/self/fd/${fd}`, { withFileTypes: true });
    const minors = entries.map((entry) =>
      entry.isCharacterDevice() ? /^nvidia(\d+)$/.exec(entry.name)?.[1] : undefined,
    );
    return new Set(minors.filter((minor) => minor !== undefined).map(Number));
  } finally {
    closeSync(fd);
  }
}
