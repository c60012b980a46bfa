/*
 * What other operations of this node have been promised and not yet taken: host memory for GPU state, and GPU memory
 * that a saved source needs back. Read from their plans and records, so that a worker's restart forgets nothing.
 */
import type { GpuMemoryUse } from '../../native/cuda/gpu-driver.ts';
import { lastDone, mayHoldGpu, readJournal } from '../journal.ts';
import type { NodeSettings } from '../node-deps.ts';
import { listOperations, operationPaths, readPlan } from '../operation.ts';
import { readRestore } from '../restore-operation.ts';
import type { GpuPlan, MemoryRaise } from './gpu-plan.ts';

type Settings = Pick<NodeSettings, 'runDir' | 'stateDir'>;

/** What a restore has been promised; its record names it, if it restores GPU state. */
interface RestorePromise {
  readonly reservedMemoryBytes: number;
  /** UUID to bytes */
  readonly reservedVram: Readonly<Record<string, number>>;
  readonly memoryRaises: readonly MemoryRaise[];
}

interface Promises {
  /** of sources whose GPU state is to be saved, or is */
  readonly plans: readonly GpuPlan[];
  readonly restores: readonly RestorePromise[];
}

/** Bytes of host memory promised to operations other than `exceptOperationId`. */
export async function reservedMemory(settings: Settings, exceptOperationId: string): Promise<number> {
  return memoryOf(await promises(settings, exceptOperationId));
}

/**
 * GPU memory promised to operations other than `exceptOperationId` and not in their hands now, by UUID.
 * @param inUse of this moment: what a source still holds needs no room besides
 */
export async function reservedVram(
  settings: Settings,
  exceptOperationId: string,
  inUse: readonly GpuMemoryUse[],
): Promise<ReadonlyMap<string, number>> {
  return vramOf(await promises(settings, exceptOperationId), inUse);
}

/**
 * Limits that operations other than `exceptOperationId` have raised or are about to, and what each will be again when
 * they have ended: a file's path to its text.
 */
export async function limitsToPutBack(
  settings: Settings,
  exceptOperationId: string,
): Promise<ReadonlyMap<string, string>> {
  const { plans, restores } = await promises(settings, exceptOperationId);
  const raises = [...plans, ...restores].flatMap(({ memoryRaises }) => memoryRaises);
  return new Map(raises.map(({ file, before }) => [file, before]));
}

function memoryOf({ plans, restores }: Promises): number {
  return (
    plans.reduce((sum, plan) => sum + plan.reservedMemoryBytes, 0) +
    restores.reduce((sum, restore) => sum + restore.reservedMemoryBytes, 0)
  );
}

function vramOf({ plans, restores }: Promises, inUse: readonly GpuMemoryUse[]): ReadonlyMap<string, number> {
  const reserved = new Map<string, number>();
  const add = (uuid: string, bytes: number): void => {
    reserved.set(uuid, (reserved.get(uuid) ?? 0) + Math.max(0, bytes));
  };
  for (const plan of plans) {
    const own = new Set(plan.processes.map((process) => process.hostPid));
    for (const device of plan.devices) {
      const held = inUse.filter((use) => own.has(use.hostPid) && use.uuid === device.uuid);
      add(device.uuid, device.usedBytes - held.reduce((sum, use) => sum + use.usedBytes, 0));
    }
  }
  for (const restore of restores) {
    Object.entries(restore.reservedVram).forEach(([uuid, bytes]) => add(uuid, bytes));
  }
  return reserved;
}

async function promises(settings: Settings, exceptOperationId: string): Promise<Promises> {
  const others = (await listOperations(settings)).filter((operationId) => operationId !== exceptOperationId);
  return {
    plans: others.flatMap((operationId) => livePlan(settings, operationId) ?? []),
    restores: others.flatMap((operationId) => liveRestore(settings, operationId) ?? []),
  };
}

/** The GPU's part is over long before the operation is: its upload may take hours. */
function livePlan(settings: Settings, operationId: string): GpuPlan | undefined {
  const plan = readPlan(settings, operationId)?.gpu;
  if (plan === undefined || plan.processes.length === 0) {
    return undefined;
  }
  const journal = readJournal(operationPaths(settings, operationId).journal);
  const over = (['gpu-restored', 'killed', 'undone'] as const).some((step) => lastDone(journal, step) !== undefined);
  // A save that found its GPU busy is undone and tried again.
  return over && !mayHoldGpu(journal) ? undefined : plan;
}

/** What it has raised it may have to put back when the rest is over. */
function liveRestore(settings: Settings, operationId: string): RestorePromise | undefined {
  const record = readRestore(settings, operationId);
  if (record === undefined) {
    return undefined;
  }
  const isOver = !['registered', 'prepared'].includes(record.state);
  return {
    reservedMemoryBytes: isOver ? 0 : (record.reservedMemoryBytes ?? 0),
    reservedVram: isOver ? {} : (record.reservedVram ?? {}),
    memoryRaises: record.memoryRaises ?? [],
  };
}
