/*
 * The second half of a restore through Docker: Docker starts the container, in which the wrapper restores. A source whose
 * restore fails and may start afresh instead gets the files of before back first. undo.ts takes everything back.
 */
import type { CreateContainerInput, StartRestoredResult } from '../../core/contract/restore.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { Docker, DockerContainer } from '../../native/docker/docker.ts';
import { readProcess } from '../../native/proc/tree.ts';
import type { NodeDeps } from '../node-deps.ts';
import { checkToken } from '../operation.ts';
import { asStep } from '../operation-steps.ts';
import { removeNote } from '../restore-notes.ts';
import { requireRestore, writeRestore, type RestoreRecord } from '../restore-operation.ts';
import { isDone, startError, withinBudget, WRAPPER_GRACE_MS } from '../restore-start.ts';
import { removeWish } from '../restore-wishes.ts';
import { bringBackLayer } from './layer.ts';
import { requireDocker } from './source.ts';
import { keepInDocker } from './undo.ts';

const BEAT_MS = 1000;

/**
 * Docker starts the container, in which the wrapper restores. Repeated after a success it returns the same.
 * @throws RestoreFailed with CRIU's last error lines, GpuOutOfMemory; the container is there, and does not run
 */
export async function startDockerRestored(
  deps: NodeDeps,
  op: Op,
  input: {
    readonly context: CreateContainerInput['context'];
    readonly operationId: string;
    readonly restoreBudgetMs: number;
  },
): Promise<StartRestoredResult> {
  return asStep(input.operationId, async () => {
    const { operationId, context, restoreBudgetMs } = input;
    checkToken(deps.settings, context.container, context.token);
    const record = requireRestore(deps.settings, operationId);
    const docker = requireDocker(deps);
    const id = record.docker?.id ?? '';
    const now = await docker.container(id);
    if (!(isDone(record) && now?.State.Running === true)) {
      await docker.killContainer(id);
      await startOrAfresh(deps, op, context, { ...record, restoreBudgetMs });
    }
    const ended = requireRestore(deps.settings, operationId);
    // No wrapper reports a container that it was not asked to restore.
    const cold = ended.cold === true && !isDone(ended);
    return finish(deps, docker, cold ? writeRestore(deps.settings, { ...ended, state: 'cold-started' }) : ended);
  });
}

/** @throws as `startDockerRestored` */
async function startOrAfresh(
  deps: NodeDeps,
  op: Op,
  context: CreateContainerInput['context'],
  record: RestoreRecord,
): Promise<void> {
  const docker = requireDocker(deps);
  const { operationId, docker: target } = record;
  const begin = async (how: RestoreRecord): Promise<void> => {
    checkToken(deps.settings, context.container, context.token);
    const started = target === undefined ? {} : { docker: { ...target, started: true as const } };
    const begun = writeRestore(deps.settings, { ...how, ...started, state: 'registered' });
    await startWithin(docker, op, begun).catch((error: unknown) => {
      throw startError(deps, begun, error);
    });
  };
  try {
    await begin(record);
  } catch (error) {
    if (target?.id === undefined || target.upperDir === undefined || record.onFailure !== 'cold-start') {
      throw error;
    }
    const reason = messageOf(error);
    op.log.warn({ operationId, container: target.name, error: reason }, 'the source is started afresh, with its files');
    removeWish(deps.settings.runDir, target.id);
    await docker.killContainer(target.id);
    await bringBackLayer(target.upperDir, operationId);
    const { errorType: _ofBefore, errors: _too, ...rest } = requireRestore(deps.settings, operationId);
    await begin({ ...rest, cold: true, warnings: [`started afresh, with the files that it had: ${reason}`] });
  }
}

async function startWithin(docker: Docker, op: Op, { docker: target, restoreBudgetMs }: RestoreRecord): Promise<void> {
  const beat = setInterval(() => op.progress({ phase: 'restoring' }), BEAT_MS);
  try {
    await withinBudget(docker.startContainer(target?.id ?? ''), restoreBudgetMs + WRAPPER_GRACE_MS);
  } finally {
    clearInterval(beat);
  }
}

async function finish(deps: NodeDeps, docker: Docker, record: RestoreRecord): Promise<StartRestoredResult> {
  const { operationId, docker: target, state } = record;
  const id = target?.id ?? '';
  const found = await docker.container(id);
  const initHostPid = found?.State.Pid ?? 0;
  const process = readProcess(initHostPid)?.state ?? 'gone';
  if (found === undefined || process === 'gone' || process === 'Z' || process === 'X') {
    throw new KybernateError(
      'RestoreFailed',
      `process ${initHostPid} of container ${target?.name ?? id} of Docker ended right after its restore`,
    );
  }
  if (!isDone(record)) {
    // A runtime that is not our wrapper, or one of another run directory, started it as any other.
    throw new KybernateError(
      'RestoreFailed',
      `Docker started ${target?.name ?? id}, but its runtime ${found.HostConfig.Runtime ?? '?'} did not restore it: is the ` +
        `agent of its kybernate-shim.conf ${deps.settings.runDir}/agent.sock? KYBERNATE_RUN_DIR in the ` +
        'environment of dockerd wins over that file. See docs/docker.md',
    );
  }
  if (target !== undefined) {
    keepInDocker(deps.settings, operationId, target);
  }
  removeNote(deps.settings, operationId);
  return {
    initHostPid,
    restoreMs: record.restoreMs ?? 0,
    how: state === 'cold-started' ? 'cold-started' : 'restored',
    docker: { id, name: nameOf(found) },
    ...(record.warnings === undefined ? {} : { warnings: record.warnings }),
    ...(state !== 'restored' || record.gpuFacts === undefined ? {} : { gpu: record.gpuFacts }),
  };
}

function nameOf({ Name }: DockerContainer): string {
  return Name.replace(/^\//, '');
}
