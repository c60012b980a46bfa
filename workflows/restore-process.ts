import type { RestoreProcessStep, RestoreStepInput } from '../activities/contract.ts';
import {
  restoreProcessInput,
  workloadName,
  type RestoreProcessInput,
  type RestoreProcessRequest,
  type RestoreProcessResult,
} from '../core/contract/process.ts';
import type { ResolveResult } from '../core/contract/restore.ts';
import { Compensation } from './compensation.ts';
import { failure } from './failures.ts';
import { letGo } from './let-go.ts';
import { ContainerLockClient } from './lock-client.ts';
import { runOperation } from './operation.ts';
import { checkProtocol } from './probe.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { controlProxy, lockProxy, nodeProxies, type NodeProxies } from './proxies.ts';

/**
 * Brings a tree of processes back under its own pids, on the files of the node. Nothing is started before every byte was
 * checked; once the processes run, nothing here ends them.
 */
export async function restoreProcess(request: RestoreProcessRequest): Promise<RestoreProcessResult> {
  const input = parseRequest(restoreProcessInput, request);
  const { node, timeouts, checkpointId, path } = input;
  const named = checkpointId ?? path ?? '';
  const progress = new ProgressTracker({
    node,
    container: named,
    firstPhase: 'resolving',
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  const summary = `${named} on ${node}`;
  const lock = new ContainerLockClient(lockProxy(summary));
  const steps = nodeProxies({ node, timeouts, summary });
  const undo = new Compensation();

  return runOperation({ node, undo, progress, delivered: () => lock.delivered() }, async () => {
    const image = await find(input, steps);
    const source = image.sourceContainer;
    if (source === undefined) {
      throw failure('Incompatible', `${named} does not say which processes it is of`, { node });
    }
    if (image.kind === 'container') {
      const remedy = `kybernate restore ${checkpointId ?? `--path ${path}`}`;
      throw failure('Incompatible', `${named} is of a container, not of processes`, { node, remedy });
    }
    progress.resolved(workloadName(source));

    progress.enter('probing');
    const probe = await steps.probe.probeNode({ target: source });
    checkProtocol(probe, node);

    progress.enter('locking');
    undo.push('releaseLock', async () => lock.release(), { always: true });
    const token = await lock.acquire({ node, ...source }, { minToken: probe.newestToken, waitMs: timeouts.lockWaitMs });
    const step: RestoreStepInput = {
      context: {
        container: source,
        token,
        ...(checkpointId === undefined ? {} : { checkpointId }),
        ...(path === undefined ? {} : { path }),
      },
    };

    progress.enter('fetching');
    undo.push('releaseRestoreLease', () => steps.undo.releaseRestoreLease(step));
    const fetched = await steps.fetch.fetchImage({ ...step, from: image.from });
    const wish: RestoreProcessStep = {
      ...step,
      localPath: fetched.localPath,
      tcp: input.tcp,
      stdio: input.stdio,
      ...(input.directory === undefined ? {} : { directory: input.directory }),
      restoreBudgetMs: input.restoreBudgetMs,
    };

    progress.enter('planning');
    await steps.work.planProcessRestore(wish);

    progress.enter('restoring');
    undo.push('removeRestoredProcess', () => steps.undo.removeRestoredProcess(step), { barrier: true });
    const restored = await steps.work.restoreProcess(wish);
    undo.settle('removeRestoredProcess');
    const left = await letGo(steps, step, lock, undo);
    return {
      ...restored,
      node,
      fetchedBytes: fetched.fetchedBytes,
      from: fetched.from,
      warnings: [...restored.warnings, ...left],
    };
  });
}

/** @throws CheckpointNotFound */
async function find(input: RestoreProcessInput, steps: NodeProxies): Promise<ResolveResult> {
  const { node, checkpointId, path, source } = input;
  const which = {
    ...(checkpointId === undefined ? {} : { checkpointId }),
    ...(path === undefined ? {} : { path }),
  };
  // A path is checked by the fetch, against its own manifest.
  const local =
    source === 'store' && path === undefined
      ? undefined
      : (await steps.probe.resolveLocal({ node, unverified: path !== undefined, source, ...which })).found;
  if (local !== undefined) {
    return local;
  }
  const stored =
    checkpointId === undefined || source === 'local'
      ? undefined
      : (await controlProxy(`${checkpointId} on ${node}`).findCheckpoint({ checkpointId })).found;
  if (stored === undefined) {
    const places =
      source === 'auto' ? `on ${node} nor in the store` : source === 'local' ? `on ${node}` : 'in the store';
    throw failure('CheckpointNotFound', `there is no checkpoint ${checkpointId ?? path} ${places}`, { node });
  }
  return stored;
}
