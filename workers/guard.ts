/*
 * Entry of the freeze guard: `guard <directory of the operation>`, or `guard -`, which waits for the directory on its
 * standard input. Everything that an undo needs is loaded before: whatever happens to the node's files meanwhile, an
 * upgrade or a full disk, it can act.
 */
import { realpathSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { messageOf } from '../core/errors.ts';
import { armGuard, watchRunner } from '../engine/guard.ts';
import { joinGuardCgroup } from '../engine/operation-cgroup.ts';
import { operationPaths, readJson, type OperationPlan } from '../engine/operation.ts';
import { directoryOf } from '../engine/runner-process.ts';
import { openGpuDriver } from '../native/cuda/open.ts';
import { exitNow } from '../native/exit-now.ts';
import { libc } from '../native/libc/bindings.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { operationLog } from './operation-log.ts';

/** After a failure that nobody foresaw: nothing may keep the guard from looking again. */
const RESTART_MS = 1000;

export async function guardMain(argument: string): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const) {
    process.on(signal, () => undefined);
  }
  libc();
  // Before there is an operation: a change of cgroup may take tens of milliseconds.
  joinGuardCgroup(process.pid);
  lastToBeKilled();
  const directory = await directoryOf(argument);
  if (directory === undefined) {
    return;
  }
  const plan = readJson(`${directory}/plan.json`) as OperationPlan;
  // First of all: a step of the operation may be waiting for it.
  if (!(await armGuard(plan))) {
    exitNow(0);
  }
  const log = operationLog('guard', plan, operationPaths(plan.settings, basename(directory)).guardLog);
  process.on('uncaughtException', (error) => {
    log.fatal({ error: messageOf(error), stack: error.stack }, 'the guard goes on after an error');
  });
  for (;;) {
    try {
      await watchRunner(plan, { run: runExeca, gpu: () => openGpuDriver(plan.settings), log });
      exitNow(0);
    } catch (error) {
      log.error({ error: messageOf(error) }, 'the guard looks again');
      await new Promise((resolve) => setTimeout(resolve, RESTART_MS));
    }
  }
}

/** Saving VRAM to host memory may leave the node without memory: then others go first. */
function lastToBeKilled(): void {
  try {
    writeFileSync('/proc/self/oom_score_adj', '-900');
  } catch {
    // EACCES without CAP_SYS_RESOURCE: it is killed in the order of its size, and it is small.
  }
}

// The one is a real path, the other as it was given: node_modules may be a link.
if (process.argv[1] !== undefined && import.meta.filename === realpathSync(process.argv[1])) {
  await guardMain(String(process.argv[2]));
}
