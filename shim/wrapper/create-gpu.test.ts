/* Restores of containers with GPU processes, as the wrapper decides. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { CompleteRestoreCall, PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { KybernateError } from '../../core/errors.ts';
import { WrapperBundle } from '../../test/harness/wrapper-bundle.ts';
import { createOrRestore } from './create.ts';
import type { WrapperDeps } from './job.ts';

let made: WrapperBundle;
beforeEach(() => {
  made = new WrapperBundle();
});
afterEach(() => made.remove());

describe('with GPU processes', () => {
  beforeEach(() => {
    const gpuProcesses = [{ nsPid: 1 }];
    const metadata = { capture: { tcp: 'keep', criuOptions: [] }, stdio: { terminal: false }, gpuProcesses };
    writeFileSync(join(made.dir, 'checkpoint/metadata.json'), JSON.stringify(metadata));
  });

  const answering = (
    completeRestore: WrapperDeps['agent']['completeRestore'],
    more: Partial<PrepareRestoreResponse> = {},
  ): WrapperDeps => {
    const { agent } = made.deps();
    const prepareRestore: typeof agent.prepareRestore = async (call) => ({
      ...(await agent.prepareRestore(call)),
      ...more,
    });
    return made.deps({ agent: { ...agent, prepareRestore, completeRestore } });
  };

  it('raises the memory limit and allows the devices that the agent names, in the bundle alone', async () => {
    const annotations = { 'kybernate.io/restore-from': 'ck-1' };
    const linux = { resources: { memory: { limit: 100 } } };
    writeFileSync(made.config(), JSON.stringify({ annotations, process: { env: [] }, linux }));
    const node = { path: '/dev/nvidia1', major: 195, minor: 1 };
    const gpu = { nodes: [node], memoryBytes: 5000, driver: { was: '1', is: '1' } };

    expect(
      await createOrRestore(
        answering(() => Promise.resolve({ proceed: true }), { gpu }),
        made.argv,
      ),
    ).toEqual({
      kind: 'restored',
    });

    expect(JSON.parse(readFileSync(made.config(), 'utf8'))).toMatchObject({
      linux: {
        resources: {
          memory: { limit: 5000 },
          devices: [{ allow: true, type: 'c', major: 195, minor: 1, access: 'rwm' }],
        },
        devices: [{ ...node, type: 'c' }],
      },
    });
  });

  it('ends the container when the agent goes away: its processes would stay locked', async () => {
    made.asks();
    const gone = (): Promise<never> => Promise.reject(new KybernateError('NodeUnavailable', 'gone'));

    expect((await createOrRestore(answering(gone), made.argv)).kind).toBe('failed');

    expect(made.ran.at(-1)).toMatch(/delete --force id$/);
  });

  it('tells why, and waits for the agent longer than the budget', async () => {
    let waitsMs = 0;
    const calls: CompleteRestoreCall[] = [];
    const refuses: WrapperDeps['agent']['completeRestore'] = (call, timeoutMs) => {
      calls.push(call);
      waitsMs = timeoutMs;
      return Promise.resolve({ proceed: false, reason: 'out of VRAM', errorType: 'GpuOutOfMemory' });
    };
    const pod = { 'io.kubernetes.cri.sandbox-namespace': 'ml', 'io.kubernetes.cri.sandbox-name': 'train-0' };
    made.asks(pod);

    const outcome = await createOrRestore(answering(refuses), made.argv);

    expect(outcome).toMatchObject({
      kind: 'failed',
      message: expect.stringContaining('ml/train-0/id was not restored from ck-1: GpuOutOfMemory: out of VRAM'),
    });
    expect(waitsMs).toBeGreaterThan(1000);
    expect(calls.map(({ outcome: word }) => word)).toEqual(['restored', 'failed']);
  });

  it.each([
    [true, 'failed'],
    [false, 'pass-through'],
  ])('under the policy cold-start, tried once more by its maker: %s, is %s', async (again, kind) => {
    made.asks({ 'kybernate.io/on-failure': 'cold-start' });
    const words: string[] = [];
    const refuses: WrapperDeps['agent']['completeRestore'] = ({ outcome }) => {
      words.push(outcome);
      return Promise.resolve({ proceed: outcome !== 'restored', reason: 'out of VRAM', again });
    };

    expect((await createOrRestore(answering(refuses), made.argv)).kind).toBe(kind);

    expect(words).toEqual(['restored', again ? 'failed' : 'cold-started']);
  });
});
