/*
 * What the GPU adds to each step of a restore: the plan, the room in memory before the runtime begins, the devices and
 * their memory afterwards. What a step takes is in the restore's record before it takes it, so that the end of the
 * restore, its undo or the next worker gives it back.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CompleteRestoreRequest, GpuRestoreFacts } from '../../core/contract/restore.ts';
import { KybernateError } from '../../core/errors.ts';
import type { GpuPair } from '../../core/gpu/device-map.ts';
import { type OciSpec, parseSpec } from '../../core/oci/spec.ts';
import type { Op } from '../../core/op.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import type { NodeDeps } from '../node-deps.ts';
import { oneAtATime } from '../one-at-a-time.ts';
import { type RestoreRecord, readRestore, writeRestore } from '../restore-operation.ts';
import { readMetadata } from '../restore-source.ts';
import { restoreContainerGpu } from './gpu-restore.ts';
import { NO_GPU } from './gpu-plan.ts';
import { type ImageGpu, readImageGpu } from './image-gpu.ts';
import { putBackMemory, raiseMemory } from './memory-room.ts';
import { ancestorRaises, limitToPutBack, lowerMemory } from './restore-memory.ts';
import { limitsToPutBack, reservedMemory, reservedVram } from './reservations.ts';
import { type GpuRestoreAnswer, type GpuRestorePlan, type Reserved, planGpuRestore } from './restore-target.ts';

/** For limits that another operation has raised, which are not raised twice. */
const ROOM_WAIT_MS = 60_000;
const ROOM_POLL_MS = 200;

/** @param wish `map`: what the caller asks for; `bundle`: of a container that somebody else made */
export async function planGpu(
  deps: NodeDeps,
  metadata: ImageGpu,
  wish: {
    readonly operationId: string;
    readonly map: readonly GpuPair[];
    /** UUIDs of this node's GPUs that are not to be used */
    readonly avoid?: readonly string[];
    readonly bundle?: string;
  },
): Promise<GpuRestoreAnswer> {
  const hasGpu = metadata.gpuProcesses.length > 0;
  return planGpuRestore(deps, metadata, {
    map: wish.map,
    ...(wish.avoid === undefined ? {} : { avoid: wish.avoid }),
    reserved: (driver) => reservedByOthers(deps, driver, wish.operationId),
    ...(hasGpu && wish.bundle !== undefined ? { spec: specIn(wish.bundle) } : {}),
  });
}

/** @param operationId the restore that asks: what it was promised itself does not count */
export async function reservedByOthers(
  deps: Pick<NodeDeps, 'settings'>,
  driver: GpuDriver,
  operationId: string,
): Promise<Reserved> {
  return {
    vram: await reservedVram(deps.settings, operationId, driver.memoryInUse()),
    memoryBytes: await reservedMemory(deps.settings, operationId),
  };
}

/** Of a container that somebody else made. */
export function specIn(bundle: string): OciSpec {
  const file = join(bundle, 'config.json');
  return parseSpec(readFileSync(file, 'utf8'), file);
}

type GpuFields = Pick<RestoreRecord, 'gpu' | 'reservedVram' | 'reservedMemoryBytes'>;

/** For the record of the restore: with it the room is taken. */
export function reservationOf(plan: GpuRestorePlan | undefined): GpuFields {
  return plan === undefined ? {} : { gpu: plan, reservedVram: plan.vram, reservedMemoryBytes: plan.memoryBytes };
}

/**
 * Makes room in the memory cgroups above the container that is about to be restored; that of its own comes from the
 * specification. The record is written first. Waits for another operation that has raised the same limit.
 * @throws Incompatible a limit cannot be raised; none is raised then
 */
export async function makeMemoryRoom(deps: NodeDeps, op: Op, record: RestoreRecord): Promise<RestoreRecord> {
  const { gpu, bundle } = record;
  if (gpu === undefined || bundle === undefined) {
    return record;
  }
  // Of an attempt that ended without a word.
  await putBackRaises(deps, op, record);
  const spec = specIn(bundle);
  const until = performance.now() + Math.min(ROOM_WAIT_MS, record.restoreBudgetMs / 2);
  for (;;) {
    const { written, refusals, passing } = await oneAtATime(() => raiseAbove(deps, record, spec, gpu.memoryBytes));
    if (written !== undefined) {
      return written;
    }
    if (!passing || performance.now() >= until) {
      const { namespace, id } = record.container;
      throw new KybernateError(
        'Incompatible',
        `container ${namespace}/${id} needs ${gpu.memoryBytes} bytes of memory until its VRAM is back: ` +
          `${refusals.join('; ')}; nothing was restored`,
        { details: { reasons: refusals } },
      );
    }
    await sleep(ROOM_POLL_MS, undefined, { signal: op.signal });
  }
}

interface Raised {
  /** absent with refusals */
  readonly written?: RestoreRecord;
  readonly refusals: readonly string[];
  /** would there be none, if no other operation had raised a limit? */
  readonly passing: boolean;
}

async function raiseAbove(deps: NodeDeps, record: RestoreRecord, spec: OciSpec, memoryBytes: number): Promise<Raised> {
  const others = await limitsToPutBack(deps.settings, record.operationId);
  const cgroupsPath = spec.linux?.cgroupsPath ?? '';
  const { raises: memoryRaises, refusals } = ancestorRaises(cgroupsPath, memoryBytes, others);
  if (refusals.length > 0) {
    return { refusals, passing: ancestorRaises(cgroupsPath, memoryBytes, new Map()).refusals.length === 0 };
  }
  const limit = limitToPutBack(spec, memoryBytes);
  const { memoryLimit: _old, ...rest } = record;
  const written = writeRestore(deps.settings, {
    ...rest,
    memoryRaises,
    ...(limit === undefined ? {} : { memoryLimit: limit }),
  });
  raiseMemory({ gpu: { ...NO_GPU, memoryRaises }, container: record.container });
  return { written, refusals, passing: false };
}

/** Idempotent, never throws: what could not be put back is logged with its remedy. */
export async function putBackRaises(deps: NodeDeps, op: Op, record: RestoreRecord): Promise<void> {
  const memoryRaises = record.memoryRaises ?? [];
  if (memoryRaises.length === 0) {
    return;
  }
  const left = await putBackMemory({ gpu: { ...NO_GPU, memoryRaises } });
  if (left.length > 0) {
    op.log.warn({ operationId: record.operationId, container: record.container.id, left }, 'memory limits stay raised');
  }
  const now = readRestore(deps.settings, record.operationId);
  if (now !== undefined) {
    writeRestore(deps.settings, { ...now, memoryRaises: [] });
  }
}

/**
 * Devices, VRAM, unlock, and the container's own memory limit.
 * @throws GpuOutOfMemory, RestoreFailed: the container must be ended
 */
export async function completeGpu(
  deps: NodeDeps,
  record: RestoreRecord,
  request: CompleteRestoreRequest,
): Promise<GpuRestoreFacts> {
  const begun = performance.now();
  const plan = record.gpu;
  if (plan === undefined) {
    throw new KybernateError('Internal', `restore ${record.operationId} has no GPU part`);
  }
  // A download is no part of the budget.
  const spentMs = request.restoreMs - (request.parts['prepareMs'] ?? 0);
  const leftMs = record.restoreBudgetMs - spentMs;
  if (leftMs <= 0) {
    throw new KybernateError(
      'RestoreFailed',
      `the runtime took ${Math.round(spentMs)} ms, which leaves nothing of ${record.restoreBudgetMs} ms for the GPU`,
    );
  }
  const facts = await restoreContainerGpu(deps, {
    container: record.container,
    initHostPid: request.initHostPid,
    processes:
      (record.hasMetadata ? readMetadata(record.checkpointDir) : readImageGpu(record.imageDir))?.gpuProcesses ?? [],
    plan,
    reserved: (driver) => reservedByOthers(deps, driver, record.operationId),
    deadline: begun + leftMs,
  });
  const warnings =
    record.memoryLimit === undefined || record.runcRoot === undefined
      ? []
      : await lowerMemory(deps.run, {
          runcPath: deps.settings.runcPath,
          runcRoot: record.runcRoot,
          containerId: record.container.id,
          initHostPid: request.initHostPid,
          memory: record.memoryLimit,
        });
  // The parts add up: reading the metadata counts as preparation, the memory limit as part of the end.
  const restoreMs = performance.now() - begun;
  const { 'gpu-devices': devicesMs = 0, 'gpu-restore': gpuMs = 0 } = facts.parts;
  const readMs = restoreMs - facts.restoreMs;
  const afterMs = record.memoryLimit === undefined ? 0 : readMs;
  const parts = {
    'gpu-devices': devicesMs + readMs - afterMs,
    'gpu-restore': gpuMs,
    'gpu-unlock': restoreMs - devicesMs - readMs + afterMs - gpuMs,
  };
  return { ...facts, restoreMs, parts, warnings };
}

/** Is nobody going to use what this restore has raised? Its bundle goes with the container that was not made. */
export function isAbandoned(record: RestoreRecord): boolean {
  const isOver = record.state === 'restored' || record.state === 'cold-started' || record.state === 'failed';
  return isOver || (record.bundle !== undefined && !existsSync(record.bundle));
}
