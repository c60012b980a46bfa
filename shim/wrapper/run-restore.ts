/* `runc restore` itself, and what must be cleared away before and after one that failed. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FS_FILES } from '../../core/checkpoint/file-names.ts';
import type { PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';
import type { RestorePlan } from '../../core/oci/restore-plan.ts';
import type { RuncCreate } from '../../core/oci/runc-argv.ts';
import { listenToCriu, makeEventPipes } from '../../engine/criu-events.ts';
import { createHooks } from '../../engine/hooks.ts';
import { clearDeadRestore, endHalfRestored, type HalfRestored } from '../../engine/restore-leftovers.ts';
import { criuConfigText } from '../../native/criu/config-file.ts';
import type { RunOptions, RunResult } from '../../native/run/run.ts';
import { exists, pidIn } from './files.ts';
import { type Job, type WrapperDeps, containerOf, timed } from './job.ts';
import { restoreErrors } from './restore-errors.ts';
import { withOwnShm } from './own-shm.ts';
import { withShownImages } from './shown-images.ts';

const CRIU_CONFIG = 'criu.conf';
const HOOKS_LOG = 'hooks.log';

/** @returns host pid of the restored init process */
export async function runRestore(
  deps: WrapperDeps,
  job: Job,
  prepared: PrepareRestoreResponse,
  plan: RestorePlan,
): Promise<number> {
  const { create } = job;
  const criuConfig = join(prepared.workDir, CRIU_CONFIG);
  const hooks = await listenForHooks(deps, job, prepared);
  writeFileSync(criuConfig, `${plan.criuConfigText}${hooks?.criuConfigText ?? ''}`, { mode: 0o600 });
  await clearDeadRestore(deps.run, create.root, create.id);
  await endHalfRestored(halfRestored(job));
  job.runcStarted = true;
  // By the environment, not by the annotation org.criu.config: runc would keep that for the container's whole life, and
  // the next dump would read it.
  const runc = [deps.runcPath, ...plan.argv];
  const tar = join(prepared.checkpointDir, FS_FILES.devShm);
  const command = plan.ownShm === true ? withOwnShm(runc, prepared.workDir, exists(tar) ? tar : undefined) : runc;
  const shown =
    plan.imageReader === undefined ? command : withShownImages(command, { ...prepared, reader: plan.imageReader });
  const result = await runBoundToUs(deps, shown, {
    env: { ...deps.env, CRIU_CONFIG_FILE: criuConfig, ...hooks?.env },
    timeoutMs: prepared.restoreBudgetMs,
    signal: deps.signal,
  });
  const refusal = await hooks?.close();
  if (refusal !== undefined) {
    throw refusal;
  }
  if (result.exitCode !== 0) {
    const why = result.timedOut
      ? `not done after ${prepared.restoreBudgetMs} ms`
      : (result.startError ?? result.signal ?? `exit code ${result.exitCode}`);
    const errors = await restoreErrors(prepared.workDir, create.log);
    throw new KybernateError('RestoreFailed', `runc restore failed (${why}): ${errors.join(' | ')}`, {
      details: { errors },
    });
  }
  const pid = create.pidFile === undefined ? await pidFromState(deps, create) : pidIn(create.pidFile);
  if (pid === undefined) {
    throw new KybernateError('RestoreFailed', `runc restore left no pid in ${create.pidFile ?? 'its state'}`);
  }
  return pid;
}

interface ListeningHooks {
  readonly env: Readonly<Record<string, string>>;
  readonly criuConfigText: string;
  /** Ends a hook that still runs. @returns what refused the restore */
  readonly close: () => Promise<Error | undefined>;
}

/** @returns undefined without hooks: then CRIU tells nothing */
async function listenForHooks(
  { run, signal, log }: WrapperDeps,
  job: Job,
  { hooks, operationId, imageDir, workDir, traceparent }: PrepareRestoreResponse,
): Promise<ListeningHooks | undefined> {
  if (hooks === undefined) {
    return undefined;
  }
  const ended = new AbortController();
  const say = (level: 'error' | 'warning' | 'info') => (fields: Record<string, unknown>, message: string) =>
    log(job.create, level, `kybernate: ${message} ${JSON.stringify(fields)}`);
  const { events, onEvent, warnings } = createHooks(
    hooks.plan,
    {
      signal: AbortSignal.any([signal, ended.signal]),
      log: { debug: say('info'), info: say('info'), warn: say('warning'), error: say('error') },
    },
    {
      operation: 'restore',
      kind: 'container',
      operationId,
      ...(hooks.checkpointId === undefined ? {} : { checkpointId: hooks.checkpointId }),
      node: hooks.node,
      imageDir,
      container: containerOf(job.create),
      logFile: join(workDir, HOOKS_LOG),
      ...(traceparent === undefined ? {} : { traceparent }),
    },
  );
  job.warnings = warnings;
  await makeEventPipes(run, workDir);
  const criu = await listenToCriu({
    dir: workDir,
    events,
    onEvent: (event) => timed(job, `hook-${event.name}`, () => onEvent(event)),
  });
  return {
    env: criu.env,
    criuConfigText: criuConfigText([{ option: 'action-script', value: hooks.actionScript }]),
    close: async () => {
      ended.abort(new KybernateError('RestoreFailed', 'runc restore ended while a hook ran'));
      await criu.close();
      return signal.aborted ? undefined : criu.failure();
    },
  };
}

/**
 * A shim whose caller went away kills us, but not what we started: runc must die with us, and CRIU gives up when runc's
 * end of their socket closes. Without it a container that nobody knows of would come to life after containerd had
 * cleaned up. Node cannot set the signal, setpriv (util-linux) can; without it the window of a crash stays open.
 */
async function runBoundToUs(
  { runInherited }: WrapperDeps,
  command: readonly string[],
  options: RunOptions,
): Promise<RunResult> {
  const bound = await runInherited('setpriv', ['--pdeathsig', 'KILL', '--', ...command], options);
  const [program = '', ...args] = command;
  return bound.startError === 'ENOENT' ? runInherited(program, args, options) : bound;
}

async function pidFromState(deps: WrapperDeps, create: RuncCreate): Promise<number | undefined> {
  const state = await deps.run(deps.runcPath, [...create.globals, 'state', create.id]);
  const { pid } = (state.exitCode === 0 ? JSON.parse(state.stdout) : {}) as { pid?: number };
  return pid;
}

/** What a failed `runc restore` left; nothing to delete is no error with --force. */
export async function removeRemains(deps: WrapperDeps, job: Job): Promise<void> {
  const { create } = job;
  try {
    await clearDeadRestore(deps.run, create.root, create.id);
  } catch (error) {
    // Left for the shim's own delete, which refuses as we do: better a directory too many than the user's files.
    deps.log(create, 'warning', `kybernate: ${messageOf(error)}`);
    return;
  }
  await deps.run(deps.runcPath, [...create.globals, 'delete', '--force', create.id]);
  try {
    await endHalfRestored(halfRestored(job));
  } catch (error) {
    deps.log(create, 'warning', `kybernate: ${messageOf(error)}`);
  }
}

function halfRestored({ create, spec }: Job): HalfRestored {
  return { runcRoot: create.root, id: create.id, cgroupsPath: spec.linux?.cgroupsPath };
}
