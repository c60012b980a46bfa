/*
 * A rehearsal through the real workflow, node worker and runner; the driver is the fake one (native/fake), with the ABI of
 * the real one.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { RehearseRequest, RehearseResult } from '../../client/index.ts';
import { hasPassedRehearsal } from '../../engine/gpu/rehearsals.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { FakeGpu, fakeDevice, whyNoFakes } from '../harness/fake-gpu.ts';
import { GpuContainers, MIB } from '../harness/gpu-checkpoint.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';

const reason = whyNoFakes();

describe.skipIf(reason !== undefined)(`a rehearsal${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  let stack: Stack;
  let gpu: GpuContainers;
  const made: string[] = [];

  beforeAll(async () => {
    fake = FakeGpu.open([fakeDevice(0)]);
    stack = await Stack.open({ withSidecar: false, env: fake.environment });
    gpu = new GpuContainers(stack, fake);
  });

  afterEach(async () => {
    for (const id of made.splice(0)) {
      await stack.removeContainer(id);
    }
    fake.setRules([]);
    fake.clearCalls();
  });

  afterAll(async () => {
    gpu.close();
    await stack.close();
    fake.close();
  });

  async function start(id: string): Promise<number> {
    made.push(id);
    await gpu.start(id, [{ name: id }]);
    fake.clearCalls();
    return gpu.hostPid(id, id);
  }

  async function rehearse(id: string, options: RehearseRequest['gpu'] = {}): Promise<RehearseResult> {
    const container = { id, namespace: stack.namespace };
    return (await stack.client.rehearse({ node: stack.node, container, gpu: options })).result();
  }

  function hasPassed(hostPid: number): boolean {
    const startTime = readProcess(hostPid)?.startTime ?? 0;
    return hasPassedRehearsal({ runDir: stack.runDir }, { hostPid, startTime });
  }

  it('moves VRAM out and back in place, captures nothing and is remembered', async () => {
    const hostPid = await start('young');
    const before = await gpu.tokens('young', 'young');
    expect(hasPassed(hostPid)).toBe(false);

    const result = await rehearse('young');

    expect(fake.done()).toEqual(['Lock', 'Checkpoint', 'Restore', 'Unlock'].map((call) => `${call} ${hostPid}`));
    expect(result).toMatchObject({ gpuProcesses: 1, vramBytes: 64 * MIB, warnings: [] });
    expect(result.gpuPauseMs).toBeGreaterThan(0);
    expect(Object.keys(result.parts)).toEqual(
      expect.arrayContaining(['gpu-lock', 'gpu-save', 'gpu-restore', 'gpu-unlock']),
    );
    expect(await gpu.tokens('young', 'young')).toEqual(before);
    await gpu.counts('young', 'young');
    expect(hasPassed(hostPid)).toBe(true);
    expect(stack.operations()).toEqual([]);
    expect(stack.localCheckpoints()).toEqual([]);
  });

  it('waits for a GPU that is busy for a while', async () => {
    const hostPid = await start('busy-once');
    fake.setRules([{ call: 'Lock', action: 'error=600' }]);

    const rehearsal = rehearse('busy-once', { lockTimeoutMs: 1 });
    await until('a lock', () => fake.calls().some(({ call, what }) => call === 'Lock' && what === 'end'));
    // The first try is over long before the workflow makes the next.
    await sleep(300);
    fake.setRules([]);

    expect(await rehearsal).toMatchObject({ gpuProcesses: 1 });
    expect(hasPassed(hostPid)).toBe(true);
  });

  it('ends with GpuBusy and an untouched process when it stays busy', async () => {
    const hostPid = await start('busy');
    fake.setRules([{ call: 'Lock', action: 'error=600' }]);

    await expect(rehearse('busy', { lockTimeoutMs: 1 })).rejects.toMatchObject({ type: 'GpuBusy' });

    expect(await gpu.driver.processState(hostPid, 5000)).toBe('running');
    expect(hasPassed(hostPid)).toBe(false);
    expect(stack.operations()).toEqual([]);
  });

  it('has nothing to do for a container without a GPU process', async () => {
    made.push('plain');
    await stack.runContainer('plain', PYTHON, ['/bin/sh', '-c', 'sleep 600']);

    await expect(rehearse('plain')).rejects.toMatchObject({
      type: 'GpuUnsupported',
      message: expect.stringContaining('nothing to rehearse') as string,
    });

    expect(stack.operations()).toEqual([]);
  });

  it('ends with Poisoned when the driver does not bring a process back, and keeps what an operator needs', async () => {
    const hostPid = await start('lost');
    fake.setRules([{ call: 'Restore', action: 'oom' }]);

    await expect(rehearse('lost')).rejects.toMatchObject({ type: 'Poisoned' });

    expect(hasPassed(hostPid)).toBe(false);
    const [operation = ''] = stack.operations();
    expect(existsSync(join(operation, 'journal.jsonl'))).toBe(true);
  });
});
