/*
 * A tree of processes brought back by one call of CRIU's RPC. Until CRIU's event `post-restore` nothing of it has run, and
 * whatever fails before leaves nothing of it; at that event it is noted, and moved into a cgroup of its own, where the end
 * of a worker does not reach it. From the event `pre-resume` on it may run, and nothing here ends it.
 */
import { closeSync, cpSync, mkdirSync, openSync, rmSync, type PathLike } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CRIU_DIR } from '../core/checkpoint/file-names.ts';
import type { Metadata, ProcessTree } from '../core/checkpoint/metadata.ts';
import type { RestoreProcessOptions, RestoredProcess } from '../core/contract/process.ts';
import { isKybernateError, KybernateError, messageOf } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { traceparent } from '../core/spans.ts';
import { criuRpcOptions } from '../core/oci/criu-options.ts';
import { warningTexts } from '../core/preflight.ts';
import { criuRestore, CriuError } from '../native/criu/rpc/rpc.ts';
import { deleteTable } from '../native/net/nft.ts';
import { readProcess } from '../native/proc/tree.ts';
import type { ProgramDeps } from './facts.ts';
import { joinOperationCgroup, killOperation } from './operation-cgroup.ts';
import { operationPaths } from './operation.ts';
import { createHooks, planHooks, type Hooks } from './hooks.ts';
import { surveyProcessRestore, type ProcessRestoreWish } from './preflight/process.ts';
import { refuseFor } from './preflight/refuse.ts';
import { pruneLogs, restoreLogsDir } from './restore-operation.ts';
import { readMetadata } from './restore-source.ts';
import { endRestored, liveRestored, noteRestored, settledRestore } from './restored-process.ts';

export interface ProcessRestore extends RestoreProcessOptions {
  readonly operationId: string;
  /** committed and verified */
  readonly checkpointDir: string;
  readonly restoreBudgetMs: number;
  /** the processes become children of this one, on its terminal and its streams; absent: they are on their own */
  readonly attach?: { readonly terminal: boolean };
}

const HOOKED = { operation: 'restore', kind: 'process' } as const;
const REAPED_MS = 3000;
const HOOKS_LOG = 'hooks.log';

/** Everything that can be known before anything is made. @throws Incompatible with every reason */
export async function planProcessRestore(
  deps: ProgramDeps,
  restore: Omit<ProcessRestore, 'operationId' | 'restoreBudgetMs'>,
): Promise<{ readonly metadata: Metadata; readonly warnings: readonly string[] }> {
  const metadata = readMetadata(restore.checkpointDir);
  await untilReaped(metadata.process?.ids ?? []);
  const findings = await surveyProcessRestore(deps, metadata, wishOf(restore));
  refuseFor(findings, metadata.checkpointId, deps);
  return { metadata, warnings: warningTexts(findings) };
}

/** A source that has just been ended keeps its pids until its parents have asked for its end. */
async function untilReaped(ids: readonly number[]): Promise<void> {
  const deadline = performance.now() + REAPED_MS;
  while (performance.now() < deadline && ids.some((id) => readProcess(id)?.state === 'Z')) {
    await sleep(20);
  }
}

function wishOf({ attach, ...rest }: Omit<ProcessRestore, 'operationId' | 'restoreBudgetMs'>): ProcessRestoreWish {
  return { ...rest, attached: attach !== undefined, hasTerminal: attach?.terminal === true };
}

/**
 * Repeated after a success it returns the same; what an attempt that died has left half-made is ended first.
 * @throws Incompatible; RestoreFailed with CRIU's last error lines: nothing of the processes is left
 */
export async function restoreProcess(deps: ProgramDeps, op: Op, restore: ProcessRestore): Promise<RestoredProcess> {
  const { operationId } = restore;
  const begun = performance.now();
  const known = await settledRestore(deps, operationId);
  if (known !== undefined) {
    const { checkpointId, processes } = readMetadata(restore.checkpointDir);
    return { ...known, checkpointId, processes: processes.length, restoreMs: 0, warnings: [] };
  }
  const { metadata, warnings } = await planProcessRestore(deps, restore);
  const hooks = hooksOf(deps, op, restore, metadata);
  const tree = metadata.process;
  if (tree === undefined) {
    throw new KybernateError('Internal', `${metadata.checkpointId} has no processes`);
  }
  op.signal.throwIfAborted();
  const pid = await callCriu(deps, op, restore, { metadata, tree, hooks });
  const hold = metadata.capture.networkHold;
  if (hold !== undefined) {
    // Kept from the capture until somebody has taken the connections over.
    await deleteTable(deps.run, pid, { family: 'inet', name: hold.table });
  }
  return {
    checkpointId: metadata.checkpointId,
    pid,
    startTime: readProcess(pid)?.startTime ?? 0,
    processes: metadata.processes.length,
    restoreMs: performance.now() - begun,
    warnings: [...warnings, ...hooks.warnings],
  };
}

async function callCriu(
  deps: ProgramDeps,
  op: Op,
  restore: ProcessRestore,
  { metadata, tree, hooks }: { readonly metadata: Metadata; readonly tree: ProcessTree; readonly hooks: Hooks },
): Promise<number> {
  const { settings, run } = deps;
  const { operationId, checkpointDir, tcp, attach } = restore;
  const workDir = workDirOf(deps, operationId);
  rmSync(workDir, { recursive: true, force: true });
  mkdirSync(workDir, { recursive: true, mode: 0o700 });
  const { tcpEstablished: _kept, ...options } = criuRpcOptions(
    metadata.capture.criuOptions.map(({ option }) => option),
    'restore',
  );
  const budget = AbortSignal.timeout(restore.restoreBudgetMs);
  const signal = AbortSignal.any([op.signal, budget]);
  // One that works between two events hears of nothing else: what it has made so far ends with it.
  const abort = (): void => void killOperation(operationId);
  signal.addEventListener('abort', abort, { once: true });
  const inherited = openInherited(restore, tree);
  let isResuming = false;
  try {
    return await criuRestore(
      { run, criuPath: settings.criuPath },
      {
        ...options,
        ...(tcp === 'keep' ? { tcpEstablished: true } : { tcpClose: true }),
        imagesDir: join(checkpointDir, CRIU_DIR),
        inheritFd: inherited.map(({ key }, index) => ({ key, fd: FIRST_FD + index })),
        rstSibling: attach !== undefined,
        logLevel: 4,
      },
      {
        workDir,
        fds: inherited.map(({ fd }) => fd),
        signal,
        inheritInput: attach?.terminal === true,
        onSpawn: (pid) => joinOperationCgroup(operationId, pid),
        onEvent: async (event) => {
          isResuming ||= event.name === 'pre-resume';
          try {
            await hooks.onEvent(event);
          } finally {
            if (event.fd !== undefined) {
              closeSync(event.fd);
            }
          }
          if (event.name === 'post-restore') {
            signal.removeEventListener('abort', abort);
            noteRestored(deps, operationId, event.pid);
          }
          return undefined;
        },
      },
    );
  } catch (error) {
    await killOperation(operationId);
    const live = isResuming ? liveRestored(deps, operationId) : undefined;
    if (live !== undefined) {
      // Ended by others when all that it had left to do was to let them go, which the kernel has done then.
      op.log.warn({ operationId, error: messageOf(error) }, 'CRIU ended before it said that the processes run');
      return live.pid;
    }
    // Those that it had made wait for a CRIU that is not there any more.
    await endRestored(deps, operationId);
    op.signal.throwIfAborted();
    const logs = join(restoreLogsDir(settings), `restore-${operationId}`);
    cpSync(workDir, logs, { recursive: true });
    pruneLogs(restoreLogsDir(settings), logs);
    throw restoreFailed(error, { metadata, budget, budgetMs: restore.restoreBudgetMs, logs });
  } finally {
    signal.removeEventListener('abort', abort);
    closeOwn(inherited);
  }
}

function workDirOf({ settings }: ProgramDeps, operationId: string): string {
  return join(operationPaths(settings, operationId).dir, 'criu-restore');
}

function hooksOf(deps: ProgramDeps, op: Op, { operationId, checkpointDir }: ProcessRestore, metadata: Metadata): Hooks {
  const { settings } = deps;
  const parent = traceparent();
  return createHooks(planHooks(settings.hooks, HOOKED), op, {
    ...HOOKED,
    operationId,
    checkpointId: metadata.checkpointId,
    node: settings.node,
    imageDir: join(checkpointDir, CRIU_DIR),
    logFile: join(workDirOf(deps, operationId), HOOKS_LOG),
    ...(parent === undefined ? {} : { traceparent: parent }),
  });
}

/** The descriptors of `CriuCallOptions.fds`, as CRIU has them. */
const FIRST_FD = 4;

interface Inherited {
  readonly key: string;
  readonly fd: number;
  /** opened here */
  readonly own: boolean;
}

/** What comes in place of pipes to the outside, and of the working directory, by the names that CRIU's images give them. */
function openInherited({ stdio, attach, directory }: ProcessRestore, { pipes, cwd }: ProcessTree): Inherited[] {
  const opened: Inherited[] = [];
  const add = (key: string, path: PathLike, flags: string): void =>
    void opened.push({ key, fd: openSync(path, flags, 0o600), own: true });
  try {
    for (const { key, fd, write } of pipes) {
      const wanted = [stdio.stdin, stdio.stdout, stdio.stderr][fd];
      if (wanted !== undefined && wanted !== 'null') {
        add(key, wanted, write ? 'a' : 'r');
      } else if (wanted === undefined && attach !== undefined && fd <= 2) {
        opened.push({ key, fd, own: false });
      } else {
        add(key, '/dev/null', write ? 'a' : 'r');
      }
    }
    if (directory !== undefined && directory !== cwd) {
      // CRIU knows files by their path without its first slash.
      add(cwd.slice(1), directory, 'r');
    }
  } catch (error) {
    closeOwn(opened);
    throw error;
  }
  return opened;
}

function closeOwn(inherited: readonly Inherited[]): void {
  inherited.filter(({ own }) => own).forEach(({ fd }) => closeSync(fd));
}

function restoreFailed(
  error: unknown,
  facts: {
    readonly metadata: Metadata;
    readonly budget: AbortSignal;
    readonly budgetMs: number;
    readonly logs: string;
  },
): unknown {
  if (isKybernateError(error)) {
    return error;
  }
  const { metadata, budget, budgetMs, logs } = facts;
  const why = budget.aborted
    ? `it took longer than its budget of ${budgetMs} ms`
    : error instanceof CriuError
      ? error.message
      : messageOf(error);
  return new KybernateError(
    'RestoreFailed',
    `CRIU could not restore the processes of ${metadata.checkpointId}: ${why}; nothing of them is left`,
    { cause: error, details: { logs } },
  );
}
