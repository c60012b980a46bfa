/* What the wrapper did, for the log of the node: containerd's own log has only the last error. */
import { appendNodeLog } from '../../engine/node-log.ts';
import { type Job, containerOf } from './job.ts';

const LEVELS = { restored: 30, 'cold-started': 40, failed: 50 } as const;

/** One line an attempt; hooks run inside of `runc` and count there. */
export function logOutcome(runDir: string, job: Job, outcome: keyof typeof LEVELS, error?: string): void {
  const { id, namespace } = containerOf(job.create);
  const durationMs = performance.now() - job.begun;
  const phases = Object.entries(job.parts).filter(([name]) => !name.startsWith('hook-'));
  const accountedMs = phases.reduce((sum, [, ms]) => sum + ms, 0);
  const line = {
    level: LEVELS[outcome],
    time: Date.now(),
    process: 'wrapper',
    ...(job.prepared === undefined ? {} : { operationId: job.prepared.operationId }),
    checkpointId: job.wish.restoreFrom,
    container: `${namespace}/${id}`,
    durationMs: round(durationMs),
    phases: Object.fromEntries(phases.map(([name, ms]) => [name.replace(/Ms$/, ''), round(ms)])),
    unaccountedMs: round(durationMs - accountedMs),
    ...(error === undefined ? {} : { error }),
    msg: `restore ${outcome}`,
  };
  appendNodeLog(runDir, `${JSON.stringify(line)}\n`);
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
