/*
 * `runc checkpoint` of a container that may use a GPU: the agent does it, with the GPU's state saved before and brought
 * back after the dump. Without the agent a container whose processes use a GPU is refused, never dumped half; every other
 * one is left to the real runc.
 */
import { resolve } from 'node:path';
import { KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import { type RuncCheckpoint, parseRuncCheckpoint } from '../../core/oci/runc-argv.ts';
import { containerPids, withGpuTraces } from '../../engine/gpu-traces.ts';
import { readRuncState } from '../../native/runc/runc.ts';
import { type WrapperDeps, containerOf } from './job.ts';
import type { CheckpointAgent } from './node-socket.ts';

export type CheckpointOutcome =
  { readonly kind: 'done' } | { readonly kind: 'pass-through' } | { readonly kind: 'failed'; readonly message: string };

/** runc's own name for the images when none is given. */
const DEFAULT_IMAGE_DIR = 'checkpoint';
/** Parts of a dump that the agent does not make: it takes a container's state whole, and decides CRIU's options itself. */
const UNSUPPORTED = ['--pre-dump', '--lazy-pages', '--page-server', '--parent-path', '--status-fd'];

export interface CheckpointDeps extends Pick<WrapperDeps, 'runcPath' | 'run' | 'log' | 'signal'> {
  readonly agent: CheckpointAgent;
  /** of the caller: relative paths start there */
  readonly cwd: string;
  /** do the container's processes look as if they used a GPU? */
  readonly usesGpu: (checkpoint: RuncCheckpoint) => Promise<boolean>;
}

/** @param argv arguments of runc, a `checkpoint` */
export async function checkpointByAgent(deps: CheckpointDeps, argv: readonly string[]): Promise<CheckpointOutcome> {
  const checkpoint = parseRuncCheckpoint(argv);
  try {
    return (await throughAgent(deps, checkpoint)) ? { kind: 'done' } : { kind: 'pass-through' };
  } catch (error) {
    const unknown = isKybernateError(error, 'NodeUnavailable') || isKybernateError(error, 'ContainerNotFound');
    if (unknown && !(await deps.usesGpu(checkpoint))) {
      return { kind: 'pass-through' };
    }
    const hint = unknown ? '; it uses a GPU, so only the node worker can checkpoint it' : '';
    return { kind: 'failed', message: `kybernate: container ${checkpoint.id}: ${messageOf(error)}${hint}` };
  }
}

/** @returns false when the container uses no GPU: nothing was done */
async function throughAgent(deps: CheckpointDeps, checkpoint: RuncCheckpoint): Promise<boolean> {
  const unsupported = checkpoint.options.filter((option) => UNSUPPORTED.includes(option));
  if (unsupported.length > 0) {
    if (!(await deps.usesGpu(checkpoint))) {
      return false;
    }
    throw new KybernateError(
      'GpuUnsupported',
      `runc checkpoint ${unsupported.join(' ')} cannot be done for a container that uses a GPU; it was not touched`,
    );
  }
  const imagePath = resolve(deps.cwd, checkpoint.imagePath ?? DEFAULT_IMAGE_DIR);
  const call = {
    container: containerOf(checkpoint),
    runcRoot: resolve(deps.cwd, checkpoint.root),
    imagePath,
    workPath: checkpoint.workPath === undefined ? imagePath : resolve(deps.cwd, checkpoint.workPath),
    leaveRunning: checkpoint.leaveRunning,
    tcp: checkpoint.tcpEstablished ? ('keep' as const) : ('close' as const),
  };
  const done = await deps.agent.checkpointContainer(call, deps.signal);
  if (!done.handled) {
    return false;
  }
  for (const warning of done.warnings) {
    deps.log(checkpoint, 'warning', `kybernate: ${warning}`);
  }
  if (done.source === 'stopped') {
    // As runc does when it is not to leave the container running. What it cannot remove yet its caller's own delete does.
    await deps.run(deps.runcPath, [...checkpoint.globals, 'delete', checkpoint.id]);
  }
  return true;
}

/** A container that runc does not know has no processes that we could harm: runc will say so. */
export async function usesGpu(checkpoint: RuncCheckpoint): Promise<boolean> {
  const state = await readRuncState(checkpoint.root, checkpoint.id);
  return state !== undefined && withGpuTraces(containerPids(state.initHostPid)).length > 0;
}
