/*
 * Checkpoints of containers with GPU processes, through the real workflow, runner, containerd, runc and CRIU; the driver
 * is the fake one (native/fake), with the ABI of the real one.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { GpuPlan } from '../../engine/gpu/gpu-plan.ts';
import { readJournal } from '../../engine/journal.ts';
import { readJson, type OperationPlan } from '../../engine/operation.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { checkpointsOf, COUNTER, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { FakeGpu, fakeDevice, whyNoFakes, type FakeRule } from '../harness/fake-gpu.ts';
import { GpuContainers, MIB } from '../harness/gpu-checkpoint.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';

const [FIRST, SECOND] = [fakeDevice(0), fakeDevice(1)];
const reason = whyNoFakes();

describe.skipIf(reason !== undefined)(`GPU processes${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  let stack: Stack;
  let gpu: GpuContainers;
  const committed: string[] = [];
  const running: string[] = [];

  beforeAll(async () => {
    fake = FakeGpu.open([FIRST, SECOND]);
    stack = await Stack.open({ withSidecar: false, env: { ...fake.environment, KYBERNATE_RECONCILE_MS: '2000' } });
    gpu = new GpuContainers(stack, fake);
  });
  afterEach(async () => {
    fake.setRules([]);
    fake.setDevices([FIRST, SECOND]);
    // They would share their GPUs with the next.
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

  const planIn = (dir: string): OperationPlan | undefined =>
    readJson(join(dir, 'plan.json')) as OperationPlan | undefined;

  /** The operation of this container that is under way. */
  function operationOf(id: string): { dir: string; plan: OperationPlan } {
    for (const dir of stack.operations()) {
      const plan = planIn(dir);
      if (plan?.container.id === id) {
        return { dir, plan };
      }
    }
    throw new Error(`no operation on ${id}`);
  }

  function steps(id: string): string[] {
    return readJournal(join(operationOf(id).dir, 'journal.jsonl')).map(({ step, state }) => `${step} ${state}`);
  }

  /** Tokens as before, the driver says running, and the programs go on. */
  async function runsOn(id: string, names: readonly string[], before: readonly unknown[]): Promise<void> {
    expect(await Promise.all(names.map((name) => gpu.tokens(id, name)))).toEqual(before);
    for (const name of names) {
      expect(await gpu.driver.processState(await gpu.hostPid(id, name), 5000)).toBe('running');
      await gpu.counts(id, name);
    }
    expect(stack.freezerOf(id)).toBe('THAWED');
  }

  async function start(id: string, names: readonly string[], list = running): Promise<unknown[]> {
    list.push(id);
    await gpu.start(
      id,
      names.map((name, index) => ({ name, devices: [index] })),
    );
    return Promise.all(names.map((name) => gpu.tokens(id, name)));
  }

  test('two processes are locked, saved, dumped, restored and unlocked in this order, and nothing is lost', async () => {
    const names = ['pair-a', 'pair-b'];
    const before = await start('pair', names);

    const result = await stack.checkpoint('pair');
    committed.push(result.checkpointId);

    await runsOn('pair', names, before);
    expect(result).toMatchObject({ source: 'running', gpuProcesses: 2, vramBytes: 128 * MIB });
    const order = fake.done().map((call) => call.split(' ')[0]);
    expect(order).toEqual(['Lock', 'Lock', 'Checkpoint', 'Checkpoint', 'Restore', 'Restore', 'Unlock', 'Unlock']);
    expect(fake.calls().filter(({ what }) => what === 'frozen')).toEqual([]);

    const { phases } = result;
    const inPause = ['gpu-lock', 'gpu-save', 'gpu-scrub', 'step-gap', 'prepare', 'runtime-start', 'freeze', 'dump'];
    expect(Object.keys(phases.parts)).toEqual(
      expect.arrayContaining([...inPause, 'thaw', 'gpu-restore', 'gpu-unlock']),
    );
    expect(phases.unaccountedMs).toBeLessThan(phases.totalMs * 0.02);
    const paused = Object.entries(phases.parts)
      .filter(([part]) => !['gpu-room', 'gpu-put-back', 'finish'].includes(part))
      .reduce((sum, [, ms]) => sum + ms, 0);
    expect(Math.abs((phases.gpuPauseMs ?? 0) - paused)).toBeLessThan(paused * 0.02);
    expect(phases.gpuPauseMs).toBeGreaterThan(phases.freezeMs);
  });

  test('the checkpoint names processes, devices and the state of the GPU, and restores', async () => {
    const [before] = await start('named', ['named']);
    const { checkpointId, localPath } = await stack.checkpoint('named');
    committed.push(checkpointId);
    const hostPid = await gpu.hostPid('named', 'named');
    await stack.removeContainer('named');

    running.push('named-back');
    await stack.restore(checkpointId, 'named-back');

    expect(await gpu.tokens('named-back', 'named')).toEqual(before);
    const metadata = readJson(join(localPath, 'metadata.json')) as Record<string, unknown>;
    const process = { hostPid, vramBytes: 64 * MIB, devices: [FIRST.uuid], visible: [FIRST.uuid] };
    expect(metadata).toMatchObject({
      gpuProcesses: [process],
      gpu: { driver: '580.0.fake', devices: [{ uuid: FIRST.uuid, usedBytes: 64 * MIB }] },
      capture: { criuOptions: expect.arrayContaining([expect.objectContaining({ option: 'libdir' })]) as unknown },
    });
    expect(readJson(join(localPath, 'cuda/state.json'))).toMatchObject({
      processes: [{ ...process, state: 'checkpointed', memory: [{ uuid: FIRST.uuid, usedBytes: 64 * MIB }] }],
    });
  });

  test('a forked child that holds the devices is dumped with its parent', async () => {
    const wait = 'while [ ! -e /dev/nvidiactl ]; do sleep 0.05; done;';
    const nodes = '--nodes /dev/nvidia0,/dev/nvidiactl --fork';
    const program = `exec /usr/bin/python3 /w/fake-gpu.py forked --devices ${FIRST.uuid} --vram ${MIB} ${nodes}`;
    const flags = [...workload(), '--device', '/dev/fuse'];
    running.push('forked');
    await stack.runContainer('forked', PYTHON, ['/bin/sh', '-c', `${wait} ${program}`], flags);
    const [init] = await gpu.pids('forked');
    // /dev/zero can be mapped; /dev/fuse is one that CRIU does not dump.
    for (const [name, major, minor] of [['nvidia0', '1', '5'] as const, ['nvidiactl', '10', '229'] as const]) {
      const made = await runExeca('nsenter', ['-t', String(init), '-m', 'mknod', `/dev/${name}`, 'c', major, minor]);
      expect(made.stderr).toBe('');
    }
    await gpu.state('forked', 'forked');
    fake.writeVram('forked', await gpu.hostPid('forked', 'forked'), 'vram of forked');
    const before = await gpu.tokens('forked', 'forked');

    const result = await stack.checkpoint('forked');
    committed.push(result.checkpointId);

    await runsOn('forked', ['forked'], [before]);
    expect(result.gpuProcesses).toBe(1);
    await until('the devices to be open again', async () => {
      const state = (await gpu.state('forked', 'forked')) as unknown as { nodes: string };
      return state.nodes === 'open';
    });
  });

  describe('a call that fails leaves the workload running and nothing behind', () => {
    const cases: Record<string, { rules: FakeRule[]; type: string; says: RegExp }> = {
      'a kernel that holds up two locks': {
        rules: [
          { call: 'Lock', nth: 2, action: 'not-ready' },
          { call: 'Lock', nth: 4, action: 'not-ready' },
        ],
        type: 'none',
        says: /it worked/,
      },
      'the first lock': { rules: [{ call: 'Lock', nth: 1, action: 'error=999' }], type: 'DumpFailed', says: /999/ },
      'the second lock': { rules: [{ call: 'Lock', nth: 2, action: 'error=999' }], type: 'DumpFailed', says: /999/ },
      'managed memory': {
        rules: [{ call: 'Checkpoint', nth: 2, action: 'error=801' }],
        type: 'GpuUnsupported',
        says: /managed memory/,
      },
      'the first save': {
        rules: [{ call: 'Checkpoint', nth: 1, action: 'error=2' }],
        type: 'DumpFailed',
        says: /\b2 \(/,
      },
      'the second save': {
        rules: [{ call: 'Checkpoint', nth: 2, action: 'error=1' }],
        type: 'DumpFailed',
        says: /\b1 \(/,
      },
    };
    // One workload for all of them: what each leaves running is what the next one begins with.
    const names = ['fails-a', 'fails-b'];
    const kept: string[] = [];
    let before: unknown[];
    beforeAll(async () => {
      before = await start('fails', names, kept);
    });
    afterAll(() => Promise.all(kept.map((id) => stack.removeContainer(id))));

    test.each(Object.entries(cases))('%s', async (_name, { rules, type, says }) => {
      fake.setRules(rules);

      const outcome = await stack.checkpoint('fails').then(
        ({ checkpointId }) => {
          committed.push(checkpointId);
          return { type: 'none', message: 'it worked' };
        },
        (error: unknown) => error as { type: string; message: string },
      );

      expect(outcome).toMatchObject({ type, message: expect.stringMatching(says) as unknown });
      await runsOn('fails', names, before);
      expect(fake.calls().filter(({ what }) => what === 'frozen')).toEqual([]);
      await nothingLeft(stack, committed);
    });
  });

  test('a process that the kernel kills in the save fails the checkpoint, and the other one runs', async () => {
    const names = ['killed-a', 'killed-b'];
    const [before] = await start('killed', names);
    fake.setRules([{ call: 'Checkpoint', pid: await gpu.hostPid('killed', 'killed-b'), action: 'gone' }]);

    await expect(stack.checkpoint('killed')).rejects.toMatchObject({ type: 'DumpFailed', message: /has ended/ });

    await runsOn('killed', ['killed-a'], [before]);
  });

  test('hold keeps the GPU saved until the release, which counts as pause', async () => {
    const before = await start('held', ['held']);
    const hostPid = await gpu.hostPid('held', 'held');

    const handle = await stack.startCheckpoint('held', { after: 'hold' });
    committed.push(handle.checkpointId);
    await until('the hold', async () => (await handle.progress())?.phase === 'holding');
    expect(fake.state(hostPid)).toBe('checkpointed');
    expect(stack.freezerOf('held')).toBe('FROZEN');
    await sleep(1500);
    await handle.release();
    const result = await handle.result();

    await runsOn('held', ['held'], before);
    expect(result.phases.gpuPauseMs).toBeGreaterThan(1500);
    expect(fake.calls().filter(({ what }) => what === 'frozen')).toEqual([]);
  });

  test('a hold that is over brings the GPU back by itself', async () => {
    const before = await start('overdue', ['overdue']);

    const result = await stack.checkpoint('overdue', { after: 'hold', holdBudgetMs: 1500 });
    committed.push(result.checkpointId);

    await runsOn('overdue', ['overdue'], before);
  });

  test('stop ends the source while its VRAM is free, and the checkpoint restores', async () => {
    const [before] = await start('stopped', ['stopped']);

    const result = await stack.checkpoint('stopped', { after: 'stop' });
    committed.push(result.checkpointId);

    expect(result.source).toBe('stopped');
    expect(fake.done().map((call) => call.split(' ')[0])).toEqual(['Lock', 'Checkpoint']);
    await stack.removeContainer('stopped');
    running.push('stopped-back');
    await stack.restore(result.checkpointId, 'stopped-back');
    expect(await gpu.tokens('stopped-back', 'stopped')).toEqual(before);
  });

  test('a restore that the driver refuses for good is poisoned, with its code; the end of the container ends it', async () => {
    const names = ['lost-a', 'lost-b'];
    const [before] = await start('lost', names);
    fake.setRules([{ call: 'Restore', pid: await gpu.hostPid('lost', 'lost-b'), action: 'oom' }]);

    await expect(stack.checkpoint('lost')).rejects.toMatchObject({
      type: 'Poisoned',
      message: /process \d+ \(python3\) is checkpointed: .* returned (2|304) .*restore it from a checkpoint/,
    });

    await runsOn('lost', ['lost-a'], [before]);
    await stack.removeContainer('lost');
    await until(
      'the reconciler',
      () => !stack.operations().some((dir) => planIn(dir)?.container.id === 'lost'),
      90_000,
    );
    await nothingLeft(stack, committed);
  });

  test('VRAM that a neighbour took after the save is waited for, and the workload comes back by itself', async () => {
    const before = await start('crowded', ['crowded']);
    const hostPid = await gpu.hostPid('crowded', 'crowded');
    fake.setRules([{ call: 'Checkpoint', action: 'slow=300' }]);

    const attempt = stack.checkpoint('crowded').then(
      () => 'done',
      (error: unknown) => error as Error,
    );
    await until('the save', () => fake.calls().some(({ call }) => call === 'Checkpoint'));
    fake.setDevices([{ ...FIRST, totalBytes: 32 * MIB }, SECOND]);

    expect(await attempt).toMatchObject({ type: 'Poisoned', message: /32 MiB free and 64 MiB are needed/ });
    expect(fake.state(hostPid)).toBe('checkpointed');
    expect(fake.calls().some(({ call }) => call === 'Restore')).toBe(false);
    fake.setDevices([FIRST, SECOND]);
    await until('the workload to be back', () => fake.state(hostPid) === 'running', 40_000);
    await runsOn('crowded', ['crowded'], before);
  });

  test('a budget that the save exceeds is undone and says so', async () => {
    const before = await start('slow', ['slow']);
    fake.setRules([{ call: 'Checkpoint', action: 'slow=3000' }]);
    const plan = await planOf('slow');
    const freezeBudgetMs = plan.estimatedRestoreMs + 2000;

    await expect(stack.checkpoint('slow', { freezeBudgetMs })).rejects.toMatchObject({ type: 'FreezeBudgetExceeded' });

    await runsOn('slow', ['slow'], before);
  });

  /** The GPU part of a plan, from a checkpoint that works. */
  async function planOf(id: string): Promise<GpuPlan> {
    const handle = await stack.startCheckpoint(id, { after: 'hold' });
    committed.push(handle.checkpointId);
    await until('the hold', async () => (await handle.progress())?.phase === 'holding');
    const { plan } = operationOf(id);
    await handle.release();
    await handle.result();
    return plan.gpu;
  }

  test('a rehearsal saves and restores in place, captures nothing and tells its times', async () => {
    const names = ['young-a', 'young-b'];
    const before = await start('young', names);
    const { entries } = await checkpointsOf(stack);

    const handle = await stack.client.rehearse({
      node: stack.node,
      container: { id: 'young', namespace: stack.namespace },
    });
    const result = await handle.result();

    await runsOn('young', names, before);
    expect(result).toMatchObject({ gpuProcesses: 2, vramBytes: 128 * MIB });
    expect(result.gpuPauseMs).toBeGreaterThan(0);
    expect(Object.keys(result.parts)).toEqual(
      expect.arrayContaining(['gpu-lock', 'gpu-save', 'step-gap', 'gpu-restore', 'gpu-unlock']),
    );
    expect(fake.done().map((call) => call.split(' ')[0])).toEqual(
      'Lock Lock Checkpoint Checkpoint Restore Restore Unlock Unlock'.split(' '),
    );
    expect((await checkpointsOf(stack)).entries).toEqual(entries);
  });

  test('hooks run before the lock and after the unlock', async () => {
    const before = await start('hooked', ['hooked']);
    const touch = (file: string): { command: string[] } => ({ command: ['/bin/touch', file] });

    const result = await stack.checkpoint('hooked', {
      gpu: { quiesce: touch('/tmp/quiesced'), resume: touch('/tmp/resumed') },
    });
    committed.push(result.checkpointId);

    await runsOn('hooked', ['hooked'], before);
    const root = `/proc/${await gpu.hostPid('hooked', 'hooked')}/root`;
    const at = (file: string): number => statSync(root + file).mtimeMs;
    const calls = fake.calls();
    const first = calls.find(({ call }) => call === 'Lock');
    const last = calls.findLast(({ call }) => call === 'Unlock');
    expect(at('/tmp/quiesced')).toBeLessThan(first?.time ?? 0);
    expect(at('/tmp/resumed')).toBeGreaterThan(last?.time ?? Infinity);
    expect(Object.keys(result.phases.parts)).toEqual(expect.arrayContaining(['quiesce', 'resume-hook']));
  });

  test('a container without GPU processes has no step of the GPU', async () => {
    await stack.runContainer('plain', BUSYBOX, COUNTER);
    await countsOn(stack, 'plain');

    const handle = await stack.startCheckpoint('plain', { after: 'hold' });
    committed.push(handle.checkpointId);
    await until('the hold', async () => (await handle.progress())?.phase === 'holding');
    expect(steps('plain').filter((step) => step.startsWith('gpu'))).toEqual([]);
    await handle.release();
    const result = await handle.result();

    expect(result.phases.gpuPauseMs).toBeUndefined();
    expect(fake.calls().filter(({ call }) => call !== 'GetState')).toEqual([]);
    expect(readFileSync(join(result.localPath, 'metadata.json'), 'utf8')).not.toContain('libdir');
  });
});
