/* `runc checkpoint` of a container that runs on, beside containerd; and what it means when it fails. */
import { join } from 'node:path';
import { KybernateError } from '../core/errors.ts';
import { dumpErrorLines } from '../native/criu/log.ts';
import type { RunResult } from '../native/run/run.ts';
import type { CaptureContext } from './capture.ts';
import { keeperVariables } from './criu-keeper.ts';
import { failedLogsDir } from './failed-logs.ts';
import type { OperationPlan } from './operation.ts';

export interface CheckpointDirs {
  readonly imageDir: string;
  /** CRIU's log comes to lie there, and runc's */
  readonly workDir: string;
}

/** @param env CRIU's configuration file, and what its action script needs */
export async function runCheckpoint(
  { plan, run, lockFd }: CaptureContext,
  { imageDir, workDir }: CheckpointDirs,
  env: Readonly<Record<string, string>>,
): Promise<RunResult> {
  const { facts, settings } = plan;
  const argv = [
    '--root',
    facts.runcRoot,
    '--log',
    join(workDir, 'runc.log'),
    '--log-format',
    'json',
    'checkpoint',
    '--image-path',
    imageDir,
    '--work-path',
    workDir,
    '--leave-running',
    ...plan.analysis.runcFlags,
    plan.container.id,
  ];
  return run(settings.runcPath, argv, { env: { ...env, ...keeperVariables(plan) }, extraFds: [lockFd] });
}

/** @returns DumpFailed with CRIU's own lines; DiskFull */
export async function checkpointFailed(
  plan: OperationPlan,
  workDir: string,
  result: RunResult,
): Promise<KybernateError> {
  const lines = await dumpErrorLines(join(workDir, 'dump.log'));
  const why =
    result.startError ?? (result.signal === undefined ? `exit code ${result.exitCode}` : `signal ${result.signal}`);
  const text = lines.length > 0 ? lines.join(' | ') : result.stderr.trim();
  if (/No space left on device/i.test(`${text} ${result.stderr}`)) {
    return new KybernateError(
      'DiskFull',
      `the dump of ${plan.container.id} found no space below ${plan.checkpointDir}`,
    );
  }
  return new KybernateError('DumpFailed', `runc checkpoint of ${plan.container.id} failed (${why}): ${text}`, {
    details: {
      criu: lines,
      exitCode: result.exitCode,
      signal: result.signal,
      logs: failedLogsDir(plan.settings, plan.checkpointId),
    },
  });
}
