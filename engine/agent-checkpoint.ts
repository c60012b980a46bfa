/*
 * A `runc checkpoint` that containerd's shim (ctr, kubelet, Docker) asked for, done by the engine because the container
 * uses a GPU. No workflow stands behind it: this call is the operation, and whoever finds its directory without a live
 * call (operation-owner.ts) undoes it as it would that of a closed workflow.
 *
 * containerd pauses the container before the call and resumes it afterwards, and a driver call on a frozen process hangs:
 * the container is thawed for the operation and left as it was found. A mark in the directory that runc keeps for it
 * makes `runc resume` wait for that (shim/kybernate-runc).
 *
 * containerd cannot be asked about the task: its shim holds the container's lock until this call is answered.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointContainerRequest, CheckpointContainerResponse } from '../core/contract/agent-checkpoint.ts';
import type { SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { gpuOptions } from '../core/contract/gpu.ts';
import { KybernateError, isKybernateError, messageOf } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import type { TaskRecord } from '../native/containerd/containerd.ts';
import { runcRoot } from '../native/containerd/runc-options.ts';
import { freezerCgroup, type CgroupDir } from '../native/proc/cgroup.ts';
import { tryLockExclusive } from '../native/libc/flock.ts';
import { readRuncState, type RuncState } from '../native/runc/runc.ts';
import { copyLogs, deliverImages } from './agent-images.ts';
import {
  captureContainer,
  discardCapture,
  endOperation,
  resumeContainer,
  saveGpuState,
  startRunner,
  stopContainer,
} from './attach.ts';
import { failedLogsDir } from './failed-logs.ts';
import { freeze, freezerState, thaw } from './freezer.ts';
import { containerPids, withGpuTraces } from './gpu-traces.ts';
import type { NodeDeps } from './node-deps.ts';
import { lockFile, newestToken } from './operation.ts';
import { AGENT, whileUnderWay } from './operation-owner.ts';
import type { OperationRef } from './runner-client.ts';
import { planCheckpoint } from './plan.ts';

/** runc itself knows no limit; GPUs of 80 GB take a minute. */
const FREEZE_BUDGET_MS = 600_000;
/** From complete images to the end of the container: renames, or copies when the images lie on another file system. */
const HOLD_BUDGET_MS = 600_000;
const FREEZE_TIMEOUT_MS = 10_000;
const SAVE_ATTEMPTS = 3;
/** In the directory that runc keeps for the container; holds the agent's pid. */
const MARK = 'kybernate-checkpoint';

/**
 * @param op its signal is aborted when the caller goes away: what was done is undone
 * @returns `handled: false` when the container uses no GPU; it was not touched then
 * @throws whatever the engine says; the container is as it was found, unless it is `Poisoned`
 * Crash: the runner finishes or undoes its part by itself, the next worker the rest; a container that was paused runs.
 */
export async function checkpointForRuntime(
  deps: NodeDeps,
  op: Op,
  request: CheckpointContainerRequest,
): Promise<CheckpointContainerResponse> {
  const state = await readRuncState(request.runcRoot, request.container.id);
  const freezer = state === undefined ? undefined : freezerCgroup(state.initHostPid);
  if (state === undefined || freezer === undefined || withGpuTraces(containerPids(state.initHostPid)).length === 0) {
    return { handled: false };
  }
  await requireKnown(deps, request);
  refuseHeld(deps, request);
  const call: Call = {
    deps: withTask(deps, request, state),
    op,
    request,
    operationId: randomBytes(16).toString('hex'),
  };
  return whileUnderWay(call.operationId, () =>
    freezerState(freezer) === 'thawed' ? checkpoint(call, 'running') : thawed(call, freezer),
  );
}

interface Call {
  readonly deps: NodeDeps;
  readonly op: Op;
  readonly request: CheckpointContainerRequest;
  readonly operationId: string;
}

/** Between thaw and freeze the container runs, as it must for the driver. Crash: it runs on, and `runc resume` accepts that. */
async function thawed(call: Call, freezer: CgroupDir): Promise<CheckpointContainerResponse> {
  const mark = join(call.request.runcRoot, call.request.container.id, MARK);
  writeFileSync(mark, `${process.pid}\n`, { mode: 0o600 });
  try {
    await thaw(freezer);
    try {
      return await checkpoint(call, 'paused');
    } finally {
      await freezeAgain(call, freezer);
    }
  } finally {
    rmSync(mark, { force: true });
  }
}

async function freezeAgain({ op, request }: Call, freezer: CgroupDir): Promise<void> {
  if (freezerState(freezer) === 'gone') {
    return;
  }
  try {
    await freeze(freezer, FREEZE_TIMEOUT_MS);
  } catch (error) {
    // Whoever paused it is about to resume it: that it runs already is not worth an error.
    if (!isKybernateError(error, 'ContainerNotRunning')) {
      op.log.warn({ container: request.container.id, error: messageOf(error) }, 'the container was not paused again');
    }
  }
}

async function checkpoint(call: Call, found: 'running' | 'paused'): Promise<CheckpointContainerResponse> {
  const { deps, op, request, operationId } = call;
  const { imagePath, workPath, leaveRunning, container } = request;
  const staging = join(imagePath, `.kybernate-${operationId.slice(0, 8)}`);
  const checkpointId = parseCheckpointId(`agent-${operationId}`);
  const ref: OperationRef = { operationId, checkpointId, container, token: newestToken(deps.settings, container) + 1 };
  await mkdir(imagePath, { recursive: true, mode: 0o700 });
  await mkdir(workPath, { recursive: true, mode: 0o700 });
  try {
    const plan = await planCheckpoint(deps, op, {
      context: ref,
      operationId,
      workflow: { workflowId: AGENT, runId: operationId },
      engine: 'runc',
      tcp: request.tcp,
      // A hold and an end of our own: `stop` would keep connections back for a restore through Kybernate.
      after: leaveRunning ? 'resume' : 'hold',
      freezeBudgetMs: FREEZE_BUDGET_MS,
      holdBudgetMs: HOLD_BUDGET_MS,
      gpu: gpuOptions.parse({}),
      imagesOnlyIn: staging,
    });
    if (plan.gpuProcesses === 0) {
      await discardCapture(deps, calm(op), ref);
      return { handled: false };
    }
    await startRunner(deps, op, ref);
    const gpu = await savePatiently(deps, op, ref);
    const response = await capture(call, ref, gpu, staging);
    const source = leaveRunning ? found : 'stopped';
    return { ...response, source, warnings: [...plan.warnings, ...response.warnings] };
  } catch (error) {
    throw await undo(call, ref, error);
  }
}

/** A busy GPU is left as it was by the runner: nobody who would try again stands behind this call. */
async function savePatiently(deps: NodeDeps, op: Op, ref: OperationRef): Promise<SaveGpuStateResult> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await saveGpuState(deps, op, ref);
    } catch (error) {
      if (!isKybernateError(error, 'GpuBusy') || attempt === SAVE_ATTEMPTS) {
        throw error;
      }
    }
  }
}

type Handled = Extract<CheckpointContainerResponse, { handled: true }>;

async function capture(
  { deps, op, request, operationId }: Call,
  ref: OperationRef,
  gpu: SaveGpuStateResult,
  staging: string,
): Promise<Omit<Handled, 'source'>> {
  op.signal.throwIfAborted();
  const { phases, imageBytes, warnings } = await captureContainer(deps, op, ref);
  op.signal.throwIfAborted();
  if (request.leaveRunning) {
    await resumeContainer(deps, op, ref);
  }
  await deliverImages(staging, request.imagePath, request.workPath);
  if (!request.leaveRunning) {
    // The last moment at which the caller's absence counts: from here on the container is in its images.
    op.signal.throwIfAborted();
    await stopContainer(deps, op, ref);
  }
  await endOperation(deps, calm(op), ref);
  await discardCapture(deps, calm(op), ref);
  op.log.info(
    { operationId, ...request.container, imagePath: request.imagePath, imageBytes, phases, gpu },
    'checkpoint made for the container runtime',
  );
  return {
    handled: true,
    gpuProcesses: gpu.gpuProcesses,
    vramBytes: gpu.vramBytes,
    freezeMs: phases.freezeMs,
    imageBytes,
    warnings,
  };
}

/**
 * The workload first, then what was made. Never cancelled: it is the caller's absence that brings us here.
 * @returns the error to report
 */
async function undo({ deps, op, request }: Call, ref: OperationRef, error: unknown): Promise<unknown> {
  let reported = error;
  try {
    await resumeContainer(deps, calm(op), ref);
  } catch (undoError) {
    reported = new KybernateError('Poisoned', `${messageOf(undoError)} (after: ${messageOf(error)})`, {
      cause: undoError,
    });
  }
  try {
    await copyLogs(failedLogsDir(deps.settings, ref.checkpointId), request.workPath);
    await discardCapture(deps, calm(op), ref);
    await rm(join(request.imagePath, `.kybernate-${ref.operationId.slice(0, 8)}`), { recursive: true, force: true });
  } catch (cleanError) {
    // The reconciler finds the operation's directory and does it again.
    op.log.error({ operationId: ref.operationId, error: messageOf(cleanError) }, 'a failed checkpoint left files');
  }
  return reported;
}

function calm(op: Op): Op {
  return { ...op, signal: new AbortController().signal };
}

/** @throws ContainerNotFound it belongs to another containerd than this worker's */
async function requireKnown(deps: NodeDeps, { container, runcRoot: root }: CheckpointContainerRequest): Promise<void> {
  const record = await deps.containerd.getContainer(container.namespace, container.id);
  const known = record === undefined ? undefined : runcRoot(container.namespace, record.runtime.options);
  if (known !== root) {
    throw new KybernateError(
      'ContainerNotFound',
      `the containerd at ${deps.settings.containerdAddress} has no container ${container.namespace}/${container.id}` +
        `${known === undefined ? '' : ` below ${root} (it is at ${known})`}; it was not touched`,
    );
  }
}

/**
 * Asked before the token is raised: a newer token would end an operation that is under way.
 * @throws LockLost
 */
function refuseHeld({ settings }: NodeDeps, { container }: CheckpointContainerRequest): void {
  const fd = openSync(lockFile(settings, container), 'a', 0o600);
  try {
    if (!tryLockExclusive(fd)) {
      throw new KybernateError(
        'LockLost',
        `another operation holds container ${container.namespace}/${container.id}; nothing was touched`,
      );
    }
  } finally {
    closeSync(fd);
  }
}

/** What containerd would say of the task, if it could. */
function withTask(deps: NodeDeps, { container }: CheckpointContainerRequest, state: RuncState): NodeDeps {
  const task: TaskRecord = {
    id: container.id,
    pid: state.initHostPid,
    status: 'running',
    stdin: '',
    stdout: '',
    stderr: '',
    terminal: false,
    exitStatus: 0,
  };
  // Nor Docker, whose daemon waits for this call too; the images that it asked for have no place for what it would say.
  const { docker: _waits, ...others } = deps;
  return { ...others, containerd: { ...deps.containerd, getTask: () => Promise.resolve(task) } };
}
