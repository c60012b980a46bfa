/* Processes that come in by exec, as a kubelet's probes do, and end while CRIU dumps the container. */
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { operationPaths, readPlan } from '../../engine/operation.ts';
import { runnerPid } from '../../engine/runner-process.ts';
import { groupPids } from '../../native/proc/cgroup.ts';
import { readProc } from '../../native/proc/read.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { COUNTER, countsOn } from '../harness/aftermath.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';

/** Big enough for a dump in whose middle a test has time to act. */
const MIB = 300;
const ID = 'probed';

let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open({ withSidecar: false });
  await stack.runContainer(ID, PYTHON, memoryCommand(MIB), workload());
  await stack.readJson(ID, '/tmp/state.json');
});
afterAll(() => stack.close());

const groups = (): string => join('/sys/fs/cgroup/freezer', stack.namespace);
const groupOf = (id: string): number[] => groupPids(join(groups(), id));
const asides = (): string[] => readdirSync(groups()).filter((name) => name.startsWith('kybernate-aside-'));

/** A process that joins the container and stays. @param seconds for how long; they also tell it from others */
async function enter(seconds: number): Promise<number> {
  await stack.ctr('tasks', 'exec', '-d', '--exec-id', `x${seconds}`, ID, 'sleep', String(seconds));
  let found: number | undefined;
  await until('the process', () => {
    found = groupOf(ID).find((pid) => readProc(`/proc/${pid}/cmdline`)?.includes(`\0${seconds}\0`));
    return found !== undefined;
  });
  return Number(found);
}

/** CRIU has its code in the processes, and its handler for children that end. */
async function untilPages(checkpointId: string): Promise<void> {
  await until('the first pages', () => stack.pageBytes(checkpointId) > 0, 20_000, 1);
}

async function runsOn(): Promise<void> {
  const { sequence } = await stack.readJson<{ sequence: number }>(ID, '/tmp/state.json');
  await until(`${ID} to run on`, async () => {
    return (await stack.readJson<{ sequence: number }>(ID, '/tmp/state.json')).sequence > sequence;
  });
}

test('one that is killed in the middle of the dump does not end the dump, and another one stays', async () => {
  const killed = await enter(1001);
  const stays = await enter(1002);

  const handle = await stack.startCheckpoint(ID);
  await untilPages(handle.checkpointId);
  const tracers = [killed, stays].map((pid) => readProcess(pid)?.tracerPid);
  process.kill(killed, 'SIGKILL');
  const result = await handle.result();

  expect(tracers).toEqual([0, 0]);
  expect(result.source).toBe('running');
  expect(result.warnings).toContainEqual(expect.stringMatching(/came in by exec/));
  expect(groupOf(ID)).toContain(stays);
  expect(groupOf(ID)).not.toContain(killed);
  expect(asides()).toEqual([]);
  await runsOn();
  process.kill(stays, 'SIGKILL');
});

test('one is back in the group of its container when the runner dies in the middle of the dump', async () => {
  const stays = await enter(1003);

  const handle = await stack.startCheckpoint(ID);
  await untilPages(handle.checkpointId);
  const operation = stack.operations().find((dir) => readPlan(stack, basename(dir))?.container.id === ID) ?? '';
  process.kill(Number(runnerPid(operationPaths(stack, basename(operation)))), 'SIGKILL');

  await expect(handle.result()).rejects.toMatchObject({ type: 'DumpFailed' });
  expect(groupOf(ID)).toContain(stays);
  expect(asides()).toEqual([]);
  await runsOn();
  process.kill(stays, 'SIGKILL');
});

test('a container into which one after the other comes is checkpointed like any other', async () => {
  await stack.runContainer('busy', BUSYBOX, COUNTER);
  let entered = 0;
  const over = new AbortController();
  const probing = (async () => {
    while (!over.signal.aborted) {
      // Who comes while the container stands still is refused by runc, as in one that is paused.
      await stack.exec('busy', 'sleep', '0.2').then(
        () => (entered += 1),
        () => undefined,
      );
    }
  })();

  try {
    for (const checkpointId of ['busy-1', 'busy-2']) {
      const seen = entered;
      await until('a probe', () => entered > seen);
      expect((await stack.checkpoint('busy', { checkpointId })).source).toBe('running');
    }
  } finally {
    over.abort();
    await probing;
  }
  await countsOn(stack, 'busy');
});
