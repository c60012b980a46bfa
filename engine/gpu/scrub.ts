/*
 * A process forked from a CUDA process inherits its device descriptors and mappings. It can do nothing with them, the
 * driver does not know it, and CRIU cannot dump it. They are taken from it: mappings become memory that cannot be
 * accessed, descriptors are closed. The process itself does it, by system calls made in it through ptrace.
 */
import { readlinkSync } from 'node:fs';
import { KybernateError, messageOf } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import { numericEntries } from '../../native/proc/read.ts';
import { readMaps } from '../../native/proc/maps.ts';
import { readProcess } from '../../native/proc/tree.ts';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  PROT_NONE,
  SYS_CLOSE,
  SYS_MMAP,
} from '../../native/ptrace/abi.ts';
import { type Inject, withStopped } from '../../native/ptrace/inject.ts';
import type { OperationPlan } from '../operation.ts';
import type { ForkedChild } from './gpu-plan.ts';

const DEVICE_PREFIX = '/dev/nvidia';

export interface Scrubbed {
  readonly hostPid: number;
  readonly mappings: number;
  readonly descriptors: number;
}

/** What a process holds of the devices: the address ranges of mappings, and numbers of descriptors. */
export interface DeviceHoldings {
  readonly ranges: readonly string[];
  readonly fds: readonly number[];
}

/** Empty lists when the process is gone. */
export function deviceHoldings(hostPid: number, prefix = DEVICE_PREFIX): DeviceHoldings {
  return {
    ranges: readMaps(hostPid)
      .filter((mapping) => mapping.path.startsWith(prefix))
      .map((mapping) => mapping.range),
    fds: numericEntries(`/proc/${hostPid}/fd`).filter((fd) => targetOf(hostPid, fd).startsWith(prefix)),
  };
}

function targetOf(hostPid: number, fd: number): string {
  try {
    return readlinkSync(`/proc/${hostPid}/fd/${fd}`);
  } catch {
    // ENOENT, ESRCH: closed, or the process has ended meanwhile.
    return '';
  }
}

/**
 * Makes the planned children dumpable. Idempotent; one that has ended is left out. Must come after the save of their
 * parents and before the freeze.
 *
 * @param prefix of the device paths that are taken
 * @returns what each child has lost
 * @throws DumpFailed a child could not be scrubbed: it, and those that were, run on; no CUDA process is concerned
 * Crash: a child keeps what it has not lost yet; within microseconds it may be left at a foreign instruction and die.
 */
export async function scrubChildren(
  plan: Pick<OperationPlan, 'gpu' | 'container'>,
  log: Logger,
  prefix = DEVICE_PREFIX,
): Promise<readonly Scrubbed[]> {
  const done: Scrubbed[] = [];
  for (const child of plan.gpu.children) {
    if (readProcess(child.hostPid)?.startTime === child.startTime) {
      const scrubbed = await scrubOne(child, plan.container, prefix);
      if (scrubbed !== undefined) {
        done.push(scrubbed);
      }
    }
  }
  if (done.length > 0) {
    log.info({ children: done.length, ...total(done) }, 'children of GPU processes were made dumpable');
  }
  return done;
}

function total(done: readonly Scrubbed[]): { readonly mappings: number; readonly descriptors: number } {
  return {
    mappings: done.reduce((sum, one) => sum + one.mappings, 0),
    descriptors: done.reduce((sum, one) => sum + one.descriptors, 0),
  };
}

async function scrubOne(
  child: ForkedChild,
  container: OperationPlan['container'],
  prefix: string,
): Promise<Scrubbed | undefined> {
  const before = deviceHoldings(child.hostPid, prefix);
  if (before.ranges.length === 0 && before.fds.length === 0) {
    return undefined;
  }
  let failed: string | undefined;
  try {
    await withStopped(child.hostPid, (inject) => takeAway(child.hostPid, inject, prefix));
  } catch (error) {
    failed = messageOf(error);
  }
  const left = deviceHoldings(child.hostPid, prefix);
  if (failed !== undefined || left.ranges.length > 0 || left.fds.length > 0) {
    throw new KybernateError(
      'DumpFailed',
      `process ${child.hostPid} (${child.command}) of container ${container.namespace}/${container.id}, forked from a ` +
        `CUDA process, still has ${left.fds.length} descriptors and ${left.ranges.length} mappings of ${prefix}*, with ` +
        `which CRIU cannot dump it${failed === undefined ? '' : `: ${failed}`}; it runs on, nothing was frozen`,
      { details: { hostPid: child.hostPid, descriptors: left.fds.length, mappings: left.ranges.length } },
    );
  }
  return { hostPid: child.hostPid, mappings: before.ranges.length, descriptors: before.fds.length };
}

/** Looks again now that nothing moves. */
function takeAway(hostPid: number, inject: Inject, prefix: string): void {
  const { ranges, fds } = deviceHoldings(hostPid, prefix);
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  for (const range of ranges) {
    const [start = 0n, end = 0n] = range.split('-').map((text) => BigInt(`0x${text}`));
    inject([SYS_MMAP, start, end - start, BigInt(PROT_NONE), BigInt(flags), -1n, 0n]);
  }
  for (const fd of fds) {
    inject([SYS_CLOSE, BigInt(fd)]);
  }
}
