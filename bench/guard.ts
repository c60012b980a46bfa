import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { endOperation, startRunner } from '../engine/attach.ts';
import { confirmGuard } from '../engine/guard-start.ts';
import { NO_GPU } from '../engine/gpu/gpu-plan.ts';
import type { NodeDeps, NodeSettings } from '../engine/node-deps.ts';
import { operationPaths, removeOperation, writePlan, type OperationPlan } from '../engine/operation.ts';
import { guardPid, keepStandbys } from '../engine/runner-process.ts';
import { readProcess } from '../native/proc/tree.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { nodeEnv, nodeSettings, readConfig } from '../workers/config.ts';
import type { Subject } from './subject.ts';

/** A node worker loads the next ones some seconds after the last ones were taken. */
const REFILLED_MS = 6000;
/** From the end of one step to the begin of the next, through Temporal, at its shortest. Both sides have it. */
const STEP_MS = 35;

/** What the freeze guard adds to the steps before the freeze: both are loaded and waiting, as a node worker has them. */
export const guardSubject: Subject = {
  name: 'guard',
  what: 'start of an operation until the step that may lock or freeze begins: with a freeze guard, and with the runner alone',
  unit: 'ms',
  rounds: { full: 20, quick: 6 },
  goal: { kind: 'difference', limit: 10 },
  open() {
    const dir = mkdtempSync(join(tmpdir(), 'kybernate-bench-guard-'));
    const env = { ...process.env, KYBERNATE_RUN_DIR: join(dir, 'run'), KYBERNATE_STATE_DIR: join(dir, 'state') };
    const guarded = nodeSettings(readConfig(nodeEnv, env));
    const { guardCommand: _none, ...bare } = guarded;
    const subject = spawn('sleep', ['3600'], { stdio: 'ignore' });
    const drop = keepStandbys(guarded);
    const memory: Record<string, number>[] = [];
    async function start(settings: NodeSettings): Promise<number> {
      await sleep(REFILLED_MS);
      const plan = planFor(settings, Number(subject.pid));
      const { dir: operationDir } = writePlan(plan);
      const deps = { settings, run: runExeca, gpu: () => ({ reason: 'none' }) } as unknown as NodeDeps;
      const silent = (): void => undefined;
      const log = { debug: silent, info: silent, warn: silent, error: silent };
      const op = { signal: new AbortController().signal, progress: silent, log };
      const startedAt = performance.now();
      await startRunner(deps, op, plan);
      await sleep(STEP_MS);
      await confirmGuard(settings, op, plan.operationId);
      const took = performance.now() - startedAt;
      const guard = guardPid(operationPaths(settings, plan.operationId));
      if (guard !== undefined) {
        memory.push(memoryOf(guard));
      }
      await endOperation(deps, op, plan);
      removeOperation(settings, plan.operationId);
      rmSync(operationDir, { recursive: true, force: true });
      return took;
    }
    return Promise.resolve({
      async round(index: number) {
        return index % 2 === 0
          ? { peer: await start(bare), ours: await start(guarded) }
          : { ours: await start(guarded), peer: await start(bare) };
      },
      facts: () => ({ guardMemory: memory.at(-1) }),
      close() {
        drop();
        subject.kill('SIGKILL');
        rmSync(dir, { recursive: true, force: true });
        return Promise.resolve();
      },
    });
  },
};

function memoryOf(pid: number): Record<string, number> {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const mib = (field: string): number =>
    Math.round(Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(rollup)?.[1] ?? 0) / 102.4) / 10;
  return {
    rssMiB: mib('Rss'),
    proportionalMiB: mib('Pss'),
    privateMiB: Math.round((mib('Private_Clean') + mib('Private_Dirty')) * 10) / 10,
  };
}

function planFor(settings: NodeSettings, initHostPid: number): OperationPlan {
  return {
    operationId: randomBytes(16).toString('hex'),
    checkpointId: 'bench',
    workflow: { workflowId: 'bench', runId: 'bench' },
    container: { namespace: 'bench', id: 'bench' },
    token: 1,
    freezeBudgetMs: 60_000,
    holdBudgetMs: 60_000,
    checkpointDir: join(settings.stateDir, 'none'),
    gpu: NO_GPU,
    facts: {
      initHostPid,
      initStartTime: readProcess(initHostPid)?.startTime,
      processes: [],
      foreignHostPids: [],
      freezer: { version: 1, path: join(settings.runDir, 'none') },
      networkNamespace: { private: true },
    },
    settings,
  } as unknown as OperationPlan;
}
