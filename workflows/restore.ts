import { CancellationScope, log, uuid4 } from '@temporalio/workflow';
import type { ControlActivities, RestoreStepInput } from '../activities/contract.ts';
import {
  restoreInput,
  type ResolveResult,
  type RestoreInput,
  type RestoreRequest,
  type RestoreResult,
} from '../core/contract/restore.ts';
import { messageOf } from '../core/errors.ts';
import { Compensation } from './compensation.ts';
import { failure } from './failures.ts';
import { ContainerLockClient } from './lock-client.ts';
import { runOperation } from './operation.ts';
import { checkProtocol } from './probe.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { controlProxy, lockProxy, nodeProxies, type NodeProxies } from './proxies.ts';

/**
 * Makes a new container from a checkpoint. Nothing is started before every byte was checked; a failure removes the
 * container again and leaves the checkpoint as it is. Once the processes run, nothing here ends them.
 */
export async function restore(request: RestoreRequest): Promise<RestoreResult> {
  const input = parseRequest(restoreInput, request);
  const { node, timeouts, checkpointId, path } = input;
  const named = input.container.id ?? checkpointId ?? path ?? '';
  const progress = new ProgressTracker({
    node,
    container: named,
    firstPhase: 'resolving',
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  const summary = `${checkpointId ?? path} on ${node}`;
  const control = controlProxy(summary);
  const lock = new ContainerLockClient(lockProxy(summary));
  const steps = nodeProxies({ node, timeouts, summary });
  const undo = new Compensation();

  return runOperation({ node, undo, progress, delivered: () => lock.delivered() }, async () => {
    const image = await resolve(input, steps, control);
    const target = targetOf(input, image);
    progress.resolved(`${target.namespace}/${target.id}`);

    if (image.gpuProcesses !== undefined) {
      progress.gpu(image.gpuProcesses);
    }

    progress.enter('probing');
    const probe = await steps.probe.probeNode({ target });
    checkProtocol(probe, node);

    progress.enter('locking');
    undo.push('releaseLock', async () => lock.release(), { always: true });
    const token = await lock.acquire({ node, ...target }, { minToken: probe.newestToken, waitMs: timeouts.lockWaitMs });
    const step: RestoreStepInput = {
      context: {
        container: target,
        token,
        ...(checkpointId === undefined ? {} : { checkpointId }),
        ...(path === undefined ? {} : { path }),
      },
    };
    const { context } = step;
    const network = input.networkNamespace === undefined ? {} : { networkNamespace: input.networkNamespace };

    progress.enter('fetching');
    undo.push('releaseRestoreLease', () => steps.undo.releaseRestoreLease(step));
    const fetched = await steps.fetch.fetchImage({ context, from: image.from });

    progress.enter('planning');
    const { localPath } = fetched;
    const { tcp, onFailure, stdio, gpuMap } = input;
    const plan = await steps.work.planRestore({ context, localPath, tcp, gpuMap, ...network });

    progress.enter('creating');
    undo.push('removeRestored', () => steps.undo.removeRestored(step), { barrier: true });
    await steps.work.createContainer({
      context,
      localPath,
      tcp,
      gpuMap,
      onFailure,
      stdio: { kind: stdio.kind, ...(stdio.path === undefined ? {} : { path: stdio.path }) },
      ...network,
    });

    progress.enter('restoring');
    const started = await steps.work.startRestored({ context, restoreBudgetMs: input.restoreBudgetMs });
    undo.settle('removeRestored');

    const warnings = await letGo(steps, step, lock, undo);
    return {
      ...(checkpointId === undefined ? {} : { checkpointId }),
      node,
      container: target,
      initHostPid: started.initHostPid,
      how: started.how,
      restoreMs: started.restoreMs,
      fetchedBytes: fetched.fetchedBytes,
      from: fetched.from,
      gpuProcesses: image.gpuProcesses ?? 0,
      ...(started.gpu === undefined ? {} : { gpu: started.gpu }),
      warnings: [...plan.warnings, ...(started.gpu?.warnings ?? []), ...warnings],
    };
  });
}

/** Where the checkpoint is: on the node, or in the store. */
async function resolve(
  input: RestoreInput,
  steps: NodeProxies,
  control: Pick<ControlActivities, 'findCheckpoint'>,
): Promise<ResolveResult> {
  const { node, checkpointId, path, unverified, source } = input;
  if (source !== 'store' || checkpointId === undefined) {
    const where = { node, unverified, source, ...(path === undefined ? {} : { path }) };
    const local = await steps.probe.resolveLocal({ ...where, ...(checkpointId === undefined ? {} : { checkpointId }) });
    if (local.found !== undefined) {
      return local.found;
    }
  }
  if (source !== 'local' && checkpointId !== undefined) {
    const remote = await control.findCheckpoint({ checkpointId });
    if (remote.found !== undefined) {
      return remote.found;
    }
  }
  const places = { auto: `on node ${node} nor in the store`, local: `on node ${node}`, store: 'in the store' };
  const what = checkpointId === undefined ? `no image directory ${path}` : `no checkpoint ${checkpointId}`;
  throw failure('CheckpointNotFound', `${what} ${places[source]}`, { node });
}

/** The new container: as asked for, else named after its source. */
export function targetOf(input: RestoreInput, image: ResolveResult): { namespace: string; id: string } {
  const source = image.sourceContainer;
  return {
    namespace: input.container.namespace ?? source?.namespace ?? 'default',
    id: input.container.id ?? derivedId(source?.id ?? 'restored', uuid4()),
  };
}

const MAX_CONTAINER_ID = 76;

/** `<source>-r<8 hex>`, cut so that containerd accepts it. */
export function derivedId(source: string, random: string): string {
  const suffix = `-r${random.replaceAll('-', '').slice(0, 8)}`;
  const stem = source.slice(0, MAX_CONTAINER_ID - suffix.length).replace(/[._-]+$/, '');
  return stem + suffix;
}

/**
 * The processes run: what is left is tidying, which neither a cancellation nor an error may turn into a failed restore.
 */
async function letGo(
  steps: NodeProxies,
  step: RestoreStepInput,
  lock: ContainerLockClient,
  undo: Compensation,
): Promise<string[]> {
  const warnings: string[] = [];
  await CancellationScope.nonCancellable(async () => {
    try {
      await steps.thaw.releaseRestoreLease(step);
    } catch (error) {
      // Any failure of the step: the lease runs out by itself, the container is unharmed.
      log.warn('the lease on the images was not released', { error: messageOf(error) });
      warnings.push(`the lease on the images was not released: ${messageOf(error)}`);
    }
    lock.release();
  });
  undo.settle('releaseRestoreLease');
  undo.settle('releaseLock');
  return warnings;
}
