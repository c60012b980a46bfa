import { patched, uuid4 } from '@temporalio/workflow';
import type { RestoreStepInput } from '../activities/contract.ts';
import {
  restoreInput,
  type FetchImageResult,
  type ResolveResult,
  type RestoreInput,
  type RestoreRequest,
  type RestoreResult,
} from '../core/contract/restore.ts';
import { DOCKER_NAMESPACE } from '../core/ids.ts';
import { findingDetails, problemsIn } from '../core/preflight.ts';
import { Compensation } from './compensation.ts';
import { failure } from './failures.ts';
import { type Attempted, Ladder, type Place } from './ladder.ts';
import { ContainerLockClient } from './lock-client.ts';
import { letGo } from './let-go.ts';
import { runOperation } from './operation.ts';
import { checkProtocol } from './probe.ts';
import { ProgressTracker, parseRequest } from './progress.ts';
import { climbLadder } from './rungs.ts';
import { controlProxy, lockProxy, nodeProxies, type NodeProxies } from './proxies.ts';

/**
 * Makes a new container from a checkpoint. Nothing is started before every byte was checked; a failure removes the
 * container again and leaves the checkpoint as it is. What fails is tried otherwise, as the ladder says, after everything
 * of the attempt before is gone. Once the processes run, nothing here ends them.
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
  const own = nodeProxies({ node, timeouts, summary });
  const stepsOn = (name: string): NodeProxies =>
    name === node ? own : nodeProxies({ node: name, timeouts, summary: `${checkpointId ?? path} on ${name}` });
  const undo = new Compensation();
  let target: Target | undefined;

  const facts = ({ fetchedBytes, restoreMs, how }: RestoreResult): Record<string, string | number> => ({
    bytes: fetchedBytes,
    restoreMs,
    how,
  });
  return runOperation({ node, undo, progress, delivered: () => lock.delivered(), facts }, () =>
    climbLadder(new Ladder({ input, control, progress, lock, undo, stepsOn }), (at) => {
      target ??= targetOf(input, at.image);
      return attempt({ input, progress, lock, undo, steps: stepsOn(at.node), target }, at);
    }),
  );
}

type Target = RestoreResult['container'];

interface Attempt {
  readonly input: RestoreInput;
  readonly progress: ProgressTracker;
  readonly lock: ContainerLockClient;
  readonly undo: Compensation;
  readonly steps: NodeProxies;
  readonly target: Target;
}

/** One place, from the first look to running processes. */
async function attempt(run: Attempt, at: Place): Promise<Attempted> {
  const { input, progress, lock, undo, steps, target } = run;
  const { node, checkpointId, image } = at;
  const { timeouts, path } = input;
  progress.resolved(`${target.namespace}/${target.id}`);
  if (image.gpuProcesses !== undefined) {
    progress.gpu(image.gpuProcesses);
  }

  progress.enter('probing');
  const probe = await steps.probe.probeNode({ target });
  checkProtocol(probe, node);
  if (at.cold !== true) {
    await lookFirst(run, at);
  }

  progress.enter('locking');
  undo.push('releaseLock', async () => lock.release(), { always: true });
  const token = await lock.acquire({ node, ...target }, { minToken: probe.newestToken, waitMs: timeouts.lockWaitMs });
  const step: RestoreStepInput = {
    context: {
      container: target,
      token,
      ...(input.container.docker === undefined ? {} : { docker: true as const }),
      ...(checkpointId === undefined ? {} : { checkpointId }),
      ...(path === undefined ? {} : { path }),
    },
  };

  undo.push('releaseRestoreLease', () => steps.undo.releaseRestoreLease(step));
  const made = await (at.cold === true ? makeCold(run, at, step) : makeRestored(run, at, step));

  progress.enter('restoring');
  const { context } = step;
  const started = await steps.work.startRestored({ context, restoreBudgetMs: input.restoreBudgetMs });
  undo.settle('removeRestored');

  const warnings = await letGo(steps, step, lock, undo);
  return {
    ...(checkpointId === undefined ? {} : { checkpointId }),
    node,
    container: started.docker === undefined ? target : { namespace: target.namespace, id: started.docker.id },
    ...(started.docker === undefined ? {} : { docker: started.docker }),
    initHostPid: started.initHostPid,
    how: started.how,
    restoreMs: started.restoreMs,
    fetchedBytes: made.fetchedBytes,
    from: made.from,
    gpuProcesses: image.gpuProcesses ?? 0,
    ...(started.gpu === undefined ? {} : { gpu: started.gpu }),
    warnings: [...made.warnings, ...(started.warnings ?? []), ...(started.gpu?.warnings ?? []), ...warnings],
  };
}

/**
 * Everything that can be known of the node, before the lock and before anything is downloaded. Warnings are told by the
 * plan, which looks again when the bytes are there.
 * @throws Incompatible with every reason; InvalidInput the name is taken
 */
async function lookFirst({ input, steps, target }: Attempt, at: Place): Promise<void> {
  const { checkpointId, node, image } = at;
  if (checkpointId === undefined || image.from === 'path' || !patched('preflight-first')) {
    return;
  }
  const { tcp, gpuMap, networkNamespace } = input;
  const { findings } = await steps.preflight.preflightRestore({
    checkpointId,
    from: image.from,
    container: target,
    ...(input.container.docker === undefined ? {} : { docker: true as const }),
    tcp,
    gpuMap,
    avoidGpus: at.avoidGpus,
    name: true,
    ...(networkNamespace === undefined ? {} : { networkNamespace }),
  });
  const problems = problemsIn(findings);
  const taken = problems.find(({ code }) => code === 'name');
  if (taken !== undefined) {
    // No other copy and no other node would help: the ladder ends here.
    throw failure('InvalidInput', `container.id: ${taken.message}; nothing was touched`, {
      node,
      remedy: taken.remedy,
      ...findingDetails(problems),
    });
  }
  if (problems.length > 0) {
    const why = problems.map(({ message }) => message).join('; ');
    throw failure('Incompatible', `${checkpointId} cannot be restored on ${node}: ${why}`, {
      node,
      ...findingDetails(problems),
    });
  }
}

interface Made extends Pick<FetchImageResult, 'fetchedBytes' | 'from'> {
  readonly warnings: readonly string[];
}

async function makeRestored(run: Attempt, at: Place, step: RestoreStepInput): Promise<Made> {
  const { input, progress, undo, steps } = run;
  const { context } = step;
  const network = input.networkNamespace === undefined ? {} : { networkNamespace: input.networkNamespace };
  const avoid = at.avoidGpus.length === 0 ? {} : { avoidGpus: at.avoidGpus };

  progress.enter('fetching');
  const fetched = await steps.fetch.fetchImage({ context, from: at.image.from });

  progress.enter('planning');
  const { localPath } = fetched;
  const { tcp, onFailure, stdio, gpuMap } = input;
  const plan = await steps.work.planRestore({ context, localPath, tcp, gpuMap, ...avoid, ...network });
  at.planned(plan.gpuMap ?? []);

  progress.enter('creating');
  undo.push('removeRestored', () => steps.undo.removeRestored(step), { barrier: true });
  await steps.work.createContainer({
    context,
    localPath,
    tcp,
    gpuMap,
    ...avoid,
    onFailure,
    stdio: { kind: stdio.kind, ...(stdio.path === undefined ? {} : { path: stdio.path }) },
    ...network,
  });
  return { fetchedBytes: fetched.fetchedBytes, from: fetched.from, warnings: plan.warnings };
}

async function makeCold(run: Attempt, { image }: Place, step: RestoreStepInput): Promise<Made> {
  const { input, progress, undo, steps } = run;
  const { networkNamespace, stdio } = input;
  progress.enter('creating');
  undo.push('removeRestored', () => steps.undo.removeRestored(step), { barrier: true });
  await steps.work.createCold({
    context: step.context,
    from: image.from === 'store' ? 'store' : 'local',
    stdio: { kind: stdio.kind, ...(stdio.path === undefined ? {} : { path: stdio.path }) },
    ...(networkNamespace === undefined ? {} : { networkNamespace }),
  });
  return {
    fetchedBytes: 0,
    from: image.from,
    warnings: ['started afresh: memory and files of the checkpoint are not in this container'],
  };
}

/** The new container: as asked for, else named after its source. One of Docker is known by its name there. */
export function targetOf(input: RestoreInput, image: ResolveResult): Target {
  const source = image.sourceContainer;
  const { docker } = input.container;
  if (docker !== undefined) {
    return {
      namespace: DOCKER_NAMESPACE,
      id: docker === true ? (image.dockerName ?? source?.id ?? 'restored') : docker,
    };
  }
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
