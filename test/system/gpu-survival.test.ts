/*
 * What becomes of a GPU workload when the worker, the runner or both die, or the operation is cancelled, at every point
 * of its checkpoint: afterwards no process is locked, and nothing is lost. The driver is the fake one (native/fake).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { CheckpointResult } from '../../core/contract/checkpoint.ts';
import { readJournal } from '../../engine/journal.ts';
import { readJson, type OperationPlan } from '../../engine/operation.ts';
import { nothingLeft } from '../harness/aftermath.ts';
import { FakeGpu, fakeDevice, whyNoFakes, type FakeRule } from '../harness/fake-gpu.ts';
import { GpuContainers } from '../harness/gpu-checkpoint.ts';
import { SOAK } from '../harness/soak.ts';
import { Stack, until } from '../harness/stack.ts';

const [FIRST, SECOND] = [fakeDevice(0), fakeDevice(1)];
const reason = whyNoFakes();

/** Where the operation is when it is hit: a slow call of the driver keeps it there. */
interface Point {
  readonly rules: readonly FakeRule[];
  /** has it come there? */
  readonly reached: (steps: readonly string[], begun: (call: string) => boolean) => boolean;
}

const POINTS: Record<string, Point> = {
  'in the lock': {
    rules: [{ call: 'Lock', nth: 2, action: 'slow=1500' }],
    reached: (_steps, begun) => begun('Lock'),
  },
  'in the save': {
    rules: [{ call: 'Checkpoint', nth: 2, action: 'slow=1500' }],
    reached: (_steps, begun) => begun('Checkpoint'),
  },
  'after the save': { rules: [], reached: (steps) => steps.includes('gpu-saved done') },
  'in the dump': { rules: [], reached: (steps) => steps.includes('frozen done') },
  'in the GPU restore': {
    rules: [{ call: 'Restore', nth: 1, action: 'slow=1500' }],
    reached: (_steps, begun) => begun('Restore'),
  },
  'in the unlock': {
    rules: [{ call: 'Unlock', nth: 1, action: 'slow=1500' }],
    reached: (_steps, begun) => begun('Unlock'),
  },
};

describe.skipIf(reason !== undefined)(`GPU processes${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  let stack: Stack;
  let gpu: GpuContainers;
  let serial = 0;
  const running: string[] = [];
  const committed: string[] = [];

  beforeAll(async () => {
    fake = FakeGpu.open([FIRST, SECOND]);
    stack = await Stack.open({ withSidecar: false, env: fake.environment });
    gpu = new GpuContainers(stack, fake);
  });
  afterEach(async () => {
    fake.setRules([]);
    for (const id of running.splice(0)) {
      await stack.removeContainer(id);
    }
    fake.clearCalls();
  });
  afterAll(async () => {
    gpu.close();
    await stack.close();
    fake.close();
  });

  interface Job {
    readonly id: string;
    readonly names: readonly string[];
    readonly tokens: readonly unknown[];
  }

  async function start(): Promise<Job> {
    serial += 1;
    const id = `survivor-${serial}`;
    const names = [`${id}-a`, `${id}-b`];
    running.push(id);
    await gpu.start(
      id,
      names.map((name, index) => ({ name, devices: [index] })),
    );
    return { id, names, tokens: await Promise.all(names.map((name) => gpu.tokens(id, name))) };
  }

  function operationDir(id: string): string | undefined {
    return stack.operations().find((dir) => {
      const plan = readJson(join(dir, 'plan.json')) as OperationPlan | undefined;
      return plan?.container.id === id;
    });
  }

  async function untilReached(id: string, { reached }: Point): Promise<string> {
    let found = '';
    await until(
      'the point to be reached',
      () => {
        found = operationDir(id) ?? '';
        const entries = found === '' ? [] : readJournal(join(found, 'journal.jsonl'));
        return reached(
          entries.map(({ step, state }) => `${step} ${state}`),
          (name) => fake.calls().some(({ call, what }) => call === name && what === 'begin'),
        );
      },
      30_000,
      2,
    );
    return found;
  }

  function killRunner(operation: string): void {
    const { pid } = JSON.parse(readFileSync(join(operation, 'runner.json'), 'utf8')) as { pid: number };
    process.kill(pid, 'SIGKILL');
  }

  /** Every process runs as the driver says, holds what it held, and goes on; no call was made on a frozen one. */
  async function runsOn({ id, names, tokens }: Job): Promise<void> {
    for (const name of names) {
      const hostPid = await gpu.hostPid(id, name);
      await until(`${name} to run`, async () => (await gpu.driver.processState(hostPid, 5000)) === 'running', 60_000);
      await gpu.counts(id, name);
    }
    expect(await Promise.all(names.map((name) => gpu.tokens(id, name)))).toEqual(tokens);
    expect(stack.freezerOf(id)).toBe('THAWED');
    // Our own question for the state is none of the operation's calls.
    expect(fake.calls().filter(({ what, caller }) => what === 'frozen' && caller !== process.pid)).toEqual([]);
  }

  const ended = (result: Promise<CheckpointResult>): Promise<{ source?: string; type?: string; name?: string }> =>
    result.catch((error: unknown) => error as Error);

  /** A lock whose caller died is looked for until its time is over. */
  const request = { timeouts: { heartbeatMs: 3000 }, gpu: { lockTimeoutMs: 3000 } };

  describe.each(Object.entries(POINTS))('%s', (_name, point) => {
    test('the runner dies: the workload runs, and nothing half-made stays', async () => {
      const job = await start();
      fake.setRules(point.rules);

      const handle = await stack.startCheckpoint(job.id, request);
      killRunner(await untilReached(job.id, point));
      const end = await ended(handle.result());

      await runsOn(job);
      expect(end).toMatchObject({ type: 'DumpFailed' });
      await nothingLeft(stack, committed);
    });

    test('both die: the freeze guard alone lets every process go', async () => {
      const job = await start();
      fake.setRules(point.rules);

      const handle = await stack.startCheckpoint(job.id, request);
      const operation = await untilReached(job.id, point);
      const killed = stack.killNodeWorker();
      killRunner(operation);
      await killed;

      try {
        await runsOn(job);
      } finally {
        await stack.startWorkers();
      }
      expect(await ended(handle.result())).toMatchObject({ type: 'DumpFailed' });
    });
  });

  // These end by themselves, nobody has to undo anything: two of the points show it, `make soak` takes all.
  describe.each(Object.entries(POINTS).filter((_point, at) => SOAK || at % 3 === 1))('%s', (_name, point) => {
    test('the worker dies: the runner finishes, and the checkpoint completes', async () => {
      const job = await start();
      fake.setRules(point.rules);

      const handle = await stack.startCheckpoint(job.id, request);
      await untilReached(job.id, point);
      await stack.killNodeWorker();
      await stack.startWorkers();

      expect(await ended(handle.result())).toMatchObject({ source: 'running' });
      committed.push(handle.checkpointId);
      await runsOn(job);
    });

    test('it is cancelled: the workload runs, and nothing half-made stays', async () => {
      const job = await start();
      fake.setRules(point.rules);

      const handle = await stack.startCheckpoint(job.id, { ...request, timeouts: { heartbeatMs: 1500 } });
      await untilReached(job.id, point);
      await handle.cancel();
      const end = await ended(handle.result());

      await runsOn(job);
      expect(end).toMatchObject({ cause: { name: 'CancelledFailure' } });
      await nothingLeft(stack, committed);
    });
  });
});
