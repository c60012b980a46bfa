/* What lies or stands around without an operation: files, cgroups, mounts, network locks, locked GPU processes. */
import { basename, dirname } from 'node:path';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { deleteTable, dropsPackets, isCriuTable, listTables } from '../../native/net/nft.ts';
import { readMounts } from '../../native/proc/mounts.ts';
import { namespaceInode } from '../../native/proc/ns.ts';
import { numericEntries } from '../../native/proc/read.ts';
import { listProcesses, readProcess } from '../../native/proc/tree.ts';
import { cgroupPids } from '../../native/proc/cgroup.ts';
import { diskLeftovers, removeLeftover } from '../disk-leftovers.ts';
import { withGpuTraces } from '../gpu-traces.ts';
import { listOperations, readPlan } from '../operation.ts';
import { leftCgroups } from '../operation-cgroup.ts';
import { clearDeadRestore } from '../restore-leftovers.ts';
import type { Finding, RescueDeps } from './finding.ts';
import { frozenCgroups } from './paused.ts';

const STATE_MS = 5000;
const MOVE_MS = 600_000;

export async function fileFindings({ settings }: RescueDeps): Promise<readonly Finding[]> {
  return (await diskLeftovers(settings)).map((leftover) => ({
    kind: 'file',
    id: leftover.path,
    state: 'left',
    detail: leftover.whole ? `a capture that is whole, but never became a checkpoint` : leftover.kind,
    remedy: leftover.whole
      ? 'remove the directory, unless its workflow is still open'
      : '`kybernate rescue --apply` removes it',
    ...(leftover.whole
      ? {}
      : {
          repair: async () =>
            (await removeLeftover(settings, leftover)) ? 'removed' : 'left: it has changed meanwhile',
        }),
  }));
}

/** An empty one costs nothing, may be that of another run directory, and goes when a node worker looks the next time. */
export async function cgroupFindings({ settings }: RescueDeps): Promise<readonly Finding[]> {
  return (await leftCgroups(settings))
    .filter(({ hostPids }) => hostPids.length > 0)
    .map(({ operationId, hostPids }) => ({
      kind: 'cgroup',
      id: operationId,
      state: 'left',
      detail: `the cgroup kybernate/${operationId} of no operation below this run directory, with pids ${hostPids.join(', ')}`,
      remedy: 'another node worker of this machine may own it (KYBERNATE_RUN_DIR); else end its processes',
    }));
}

/** Roots that a killed runc has left mounted; see restore-leftovers.ts. */
export function mountFindings({ run }: RescueDeps): readonly Finding[] {
  const restoring = listProcesses().filter(({ commandLine }) => commandLine.includes(' restore '));
  const points = new Set(readMounts('self').map(({ mountPoint }) => mountPoint));
  return [...points]
    .filter((point) => basename(point) === 'criu-root')
    .filter((point) => !restoring.some(({ commandLine }) => commandLine.split(' ').includes(basename(dirname(point)))))
    .map((point) => ({
      kind: 'mount',
      id: point,
      state: 'left',
      detail: 'the root file system of a restore that died; `runc delete` would delete through it',
      remedy: '`kybernate rescue --apply` unmounts it',
      repair: async () => {
        const dir = dirname(point);
        await clearDeadRestore(run, dirname(dir), basename(dir));
        return 'unmounted';
      },
    }));
}

/**
 * Between the look and the repair an operation may have begun, and with another run directory nobody here knows it.
 * @throws LockLost one is under way; nothing was touched
 */
async function refuseLiveOperations(settings: RescueDeps['settings']): Promise<void> {
  const live = [
    ...(await leftCgroups(settings))
      .filter(({ hostPids }) => hostPids.length > 0)
      .map(({ operationId }) => operationId),
    ...listProcesses()
      .filter(({ command }) => command === 'criu')
      .map(({ hostPid }) => `CRIU, pid ${hostPid}`),
  ];
  if (live.length > 0) {
    throw new KybernateError(
      'LockLost',
      `an operation is under way on this machine (${live.join(', ')}), and this may be its own: nothing was touched; ` +
        'try again when it has ended',
    );
  }
}

/** Tables of CRIU without a CRIU, and holds of connections, in every network namespace of this machine. */
export async function networkFindings({ run, settings }: RescueDeps): Promise<readonly Finding[]> {
  const owned = new Set((await listOperations(settings)).map((operationId) => `kybernate-${operationId.slice(0, 16)}`));
  const isDumping = listProcesses().some(({ command }) => command === 'criu');
  const findings: Finding[] = [];
  for (const pid of namespaceHolders()) {
    for (const table of await listTables(run, pid)) {
      const where = `table inet ${table.name} in the network namespace of pid ${pid}`;
      if (isCriuTable(table) && !isDumping) {
        const drops = await dropsPackets(run, pid, table);
        findings.push({
          kind: 'network lock',
          id: table.name,
          state: drops ? 'stands still' : 'left',
          detail: drops
            ? `${where}: connections are cut off, and no CRIU is there to give them back`
            : `${where}: left by a CRIU that has ended; it names no connection and drops nothing`,
          remedy: '`kybernate rescue --apply` deletes it',
          repair: async () => {
            await refuseLiveOperations(settings);
            await deleteTable(run, pid, table);
            return 'deleted';
          },
        });
      } else if (/^kybernate-[0-9a-f]{16}$/.test(table.name) && !owned.has(table.name)) {
        findings.push({
          kind: 'network lock',
          id: table.name,
          state: 'on purpose',
          detail: `${where}: keeps the connections of a stopped container for its restore`,
          remedy: `restore the checkpoint, or give them up: \`kybernate rescue ${table.name} --apply\``,
          repair: async () => {
            await deleteTable(run, pid, table);
            return 'deleted';
          },
        });
      }
    }
  }
  return findings;
}

/** One process of each network namespace. */
function namespaceHolders(): readonly number[] {
  const holders = new Map<number, number>();
  for (const pid of numericEntries('/proc')) {
    const inode = namespaceInode(pid, 'net');
    if (inode !== undefined && !holders.has(inode)) {
      holders.set(inode, pid);
    }
  }
  return [...holders.values()];
}

/** Processes that the driver holds although no operation does. One that stands still is not asked: the call would hang. */
export async function gpuFindings(deps: RescueDeps): Promise<readonly Finding[]> {
  const { driver } = deps.gpu();
  if (driver === undefined) {
    return [];
  }
  const owned = new Set<number>();
  for (const operationId of await listOperations(deps.settings)) {
    readPlan(deps.settings, operationId)?.gpu.processes.forEach(({ hostPid }) => owned.add(hostPid));
  }
  const frozen = new Set(frozenCgroups().flatMap(({ path }) => cgroupPids(path)));
  const findings: Finding[] = [];
  for (const pid of withGpuTraces(numericEntries('/proc').filter((one) => !owned.has(one) && !frozen.has(one)))) {
    const state = await driver.processState(pid, STATE_MS).catch((error: unknown) => messageOf(error));
    if (state === 'running' || state === 'none' || readProcess(pid) === undefined) {
      continue;
    }
    const known = state === 'locked' || state === 'checkpointed';
    findings.push({
      kind: 'GPU process',
      id: String(pid),
      state: known || state === 'failed' ? 'stands still' : 'left',
      detail: `process ${pid} (${readProcess(pid)?.command ?? '?'}): the driver says ${state}, and no operation holds it`,
      remedy: known
        ? '`kybernate rescue --apply` gives it its GPU back'
        : 'look at the driver (nvidia-smi, dmesg); restore the container from a checkpoint',
      ...(known
        ? {
            repair: async () => {
              await refuseLiveOperations(deps.settings);
              const now = await driver.processState(pid, STATE_MS);
              if (now === 'checkpointed') {
                await driver.restore(pid, [], MOVE_MS);
              }
              if (now === 'checkpointed' || now === 'locked') {
                await driver.unlock(pid, STATE_MS);
              }
              return `the driver says ${await driver.processState(pid, STATE_MS)}`;
            },
          }
        : {}),
    });
  }
  return findings;
}
