/*
 * Entry of the runner process: `runner <directory of the operation>`, or `runner -`, which waits for the directory on
 * its standard input. It moves itself into the operation's cgroup before it does anything else, and ignores the signals
 * that end a worker.
 */
import { existsSync, realpathSync } from 'node:fs';
import { basename } from 'node:path';
import { messageOf, KybernateError } from '../core/errors.ts';
import { joinOperationCgroup } from '../engine/operation-cgroup.ts';
import { operationPaths, readJson, writeJson, type OperationPlan } from '../engine/operation.ts';
import { directoryOf, runnerPid } from '../engine/runner-process.ts';
import { Runner } from '../engine/runner.ts';
import { serveRunner } from '../engine/runner-server.ts';
import { connectContainerds } from '../native/containerd/by-namespace.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import { openGpuDriver } from '../native/cuda/open.ts';
import { exitNow } from '../native/exit-now.ts';
import { readProcess } from '../native/proc/tree.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { operationLog } from './operation-log.ts';

/** A runner that nobody asks for anything, and that holds nothing frozen, ends by itself. */
const IDLE_MS = 10 * 60_000;
const CHECK_MS = 15_000;
/** For the undo of a runner that fails; then a worker finds it dead and undoes. */
const LAST_RESORT_MS = 20_000;

export async function runnerMain(argument: string): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const) {
    process.on(signal, () => undefined);
  }
  const directory = await directoryOf(argument);
  if (directory === undefined) {
    return;
  }
  const plan = readJson(`${directory}/plan.json`) as OperationPlan;
  const paths = operationPaths(plan.settings, basename(directory));
  const log = operationLog('runner', plan, paths.log);
  joinOperationCgroup(plan.operationId, process.pid);
  let containerd: Containerd | undefined;
  try {
    const runner = new Runner(plan, {
      run: runExeca,
      gpu: () => openGpuDriver(plan.settings),
      containerd: () => (containerd ??= connectContainerds(plan.settings)),
      log,
    });
    const end = (): never => exitNow(0);
    // Nothing that nobody foresaw may keep the workload frozen until a worker looks.
    process.on('uncaughtException', (error) => {
      log.fatal({ error: messageOf(error), stack: error.stack }, 'the runner fails: it lets the workload go');
      setTimeout(() => exitNow(1), LAST_RESORT_MS + plan.gpu.estimatedRestoreMs).unref();
      runner
        .resume()
        .finally(() => exitNow(1))
        .catch(() => undefined);
    });
    await serveRunner(runner, paths.socket, end);
    writeJson(paths.runner, { pid: process.pid, startTime: readProcess(process.pid)?.startTime });
    const startedAt = Date.now();
    setInterval(() => {
      // Its directory gone: the operation was cleaned, or the whole environment removed.
      if (!runner.busy && (Date.now() - startedAt > IDLE_MS || !existsSync(paths.plan))) {
        end();
      }
    }, CHECK_MS);
    log.info({ msgPid: process.pid }, 'runner ready');
  } catch (error) {
    // Read by the activity that waits for the runner.
    const type = error instanceof KybernateError ? error.type : 'Internal';
    if (runnerPid(paths) === undefined) {
      writeJson(paths.runner, { error: { type, message: messageOf(error), pid: process.pid } });
    }
    log.error({ error: messageOf(error) }, 'runner refused');
    exitNow(1);
  }
}

// The one is a real path, the other as it was given: node_modules may be a link.
if (process.argv[1] !== undefined && import.meta.filename === realpathSync(process.argv[1])) {
  await runnerMain(String(process.argv[2]));
}
