/* What commands print of an operation, and the exit codes that they end with. */
import { describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { createFakeCli } from '../test/harness/fake-cli.ts';
import { run } from './program.ts';

const GPU_A = 'GPU-11111111-2222-3333-4444-555555555555';
const GPU_B = 'GPU-66666666-7777-8888-9999-000000000000';

describe('an operation', () => {
  const result = {
    checkpointId: 'ck-1',
    node: 'node-a',
    container: { namespace: 'default', id: 'redis' },
    durability: 'remote',
    source: 'running',
    freezeMs: 41.3,
    phases: { freezeMs: 41.3, totalMs: 400, unaccountedMs: 1, parts: {} },
    bytes: { total: 13_841_203, stored: 4_194_304 },
    localPath: '/var/lib/kybernate/checkpoints/checkpoint-ck-1',
    remote: 'file:///srv/store/checkpoints/ck-1/manifest.json',
    gpuProcesses: 0,
    warnings: ['io.max is not restored'],
  };

  it('prints its result for people', async () => {
    const fake = createFakeCli({ operation: { result: async () => result } });

    expect(await run(['checkpoint', 'redis'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe(`checkpoint  ck-1
container   default/redis on node-a
source      running; it stood still for 41 ms to be captured
durability  remote
size        13.2 MiB, 4.0 MiB sent to the store
local copy  /var/lib/kybernate/checkpoints/checkpoint-ck-1
store       file:///srv/store/checkpoints/ck-1/manifest.json
warnings    io.max is not restored

restore it: kybernate restore ck-1
`);
    expect(fake.stderr()).toMatch(/^workflow checkpoint:x\n/);
  });

  it('prints VRAM and GPU pause of a checkpoint', async () => {
    const phases = { ...result.phases, gpuPauseMs: 4210 };
    const onGpu = { ...result, gpuProcesses: 2, vramBytes: 8_589_934_592, phases };
    const fake = createFakeCli({ operation: { result: async () => onGpu } });

    await run(['checkpoint', 'train'], fake.cli);

    expect(fake.stdout()).toContain('GPU         2 processes, 8.00 GiB of VRAM; out of use for 4.21 s\n');
  });

  it('prints which GPU stands in for which after a restore', async () => {
    const restored = {
      node: 'node-b',
      container: { namespace: 'default', id: 'train-r1' },
      initHostPid: 7,
      how: 'restored',
      restoreMs: 3200,
      fetchedBytes: 0,
      from: 'local',
      gpuProcesses: 1,
      gpu: {
        processes: 1,
        vramBytes: 1_073_741_824,
        map: [
          { from: GPU_A, to: GPU_B },
          { from: GPU_B, to: GPU_B },
        ],
        restoreMs: 320,
        parts: {},
        warnings: [],
      },
      rungs: [{ rung: 'local-copy', node: 'node-b', outcome: 'restored' }],
      damaged: [],
      warnings: [],
    };
    const fake = createFakeCli({ operation: { result: async () => restored } });

    await run(['restore', 'ck-1'], fake.cli);

    expect(fake.stdout()).toContain('GPU            1 process, 1.00 GiB of VRAM back in 320 ms\n');
    expect(fake.stdout()).toContain(`GPU map        ${GPU_A} → ${GPU_B}\n               ${GPU_B} as before\n`);
  });

  it('prints only its result with --json', async () => {
    const fake = createFakeCli({ operation: { result: async () => result } });

    expect(await run(['checkpoint', 'redis', '--json'], fake.cli)).toBe(0);

    expect(JSON.parse(fake.stdout())).toEqual({ workflowId: 'checkpoint:x', runId: 'run-1', ...result });
    expect(fake.stderr()).toBe('');
  });

  it('is not waited for with --detach', async () => {
    const fake = createFakeCli({ operation: { result: () => new Promise(() => undefined) } });

    expect(await run(['checkpoint', 'redis', '--detach', '--json'], fake.cli)).toBe(0);

    expect(JSON.parse(fake.stdout())).toEqual({ workflowId: 'checkpoint:x', runId: 'run-1', detached: true });
  });

  it('shows where the Web UI shows it, when that is known', async () => {
    const fake = createFakeCli({ env: { KYBERNATE_UI: 'http://127.0.0.1:8233/' } });

    await run(['checkpoint', 'redis', '--detach'], fake.cli);

    expect(fake.stdout()).toContain('http://127.0.0.1:8233/namespaces/default/workflows/checkpoint%3Ax/run-1');
  });

  it('ends with the exit code of its failure, and the connection is closed', async () => {
    const fake = createFakeCli({
      operation: {
        result: async () => {
          throw new KybernateError('Poisoned', 'cannot thaw default/redis');
        },
      },
    });

    expect(await run(['checkpoint', 'redis'], fake.cli)).toBe(22);

    expect(fake.stderr()).toContain('cannot thaw default/redis');
    expect(fake.calls.at(-1)).toEqual(['close']);
  });

  it('is found again by `watch`', async () => {
    const fake = createFakeCli({ operation: { result: async () => result } });

    expect(await run(['watch', 'checkpoint:x', '--run-id', 'run-7'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['find', 'checkpoint:x', 'run-7']);
    expect(fake.stdout()).toContain('restore it: kybernate restore ck-1');
  });

  it.each(['cancel', 'release'])('is asked to %s', async (request) => {
    const fake = createFakeCli();

    expect(await run([request, 'checkpoint:x'], fake.cli)).toBe(0);

    expect(fake.calls.map(([name]) => name)).toEqual(['find', request, 'close']);
  });

  it.each(['cancel', 'release'])('that has ended is not asked to %s, and says so', async (request) => {
    const gone = Object.assign(new Error('workflow execution already completed'), { name: 'WorkflowNotFoundError' });
    const fake = createFakeCli({ operation: { [request]: () => Promise.reject(gone) } });

    expect(await run([request, 'checkpoint:x'], fake.cli)).toBe(66);

    expect(fake.stderr()).toContain('operation checkpoint:x has ended already: there is nothing left to ask it');
    expect(fake.stderr()).toContain('remedy:   see how it ended: kybernate watch checkpoint:x');
  });

  it('is listed by `ps`, running or ended, for people and for programs', async () => {
    const operations = [
      {
        workflowId: 'checkpoint:redis:2',
        runId: 'run-2',
        type: 'checkpoint',
        status: 'RUNNING',
        startedAt: '2026-03-01T09:30:00.000Z',
        node: 'node-a',
        container: 'default/redis',
        phase: 'uploading',
      },
      {
        workflowId: 'gc:1',
        runId: 'run-1',
        type: 'collectGarbage',
        status: 'TERMINATED',
        startedAt: '2026-03-01T09:00:00.000Z',
        endedAt: '2026-03-01T09:00:02.000Z',
      },
    ];
    const [text, json] = [createFakeCli({ operations }), createFakeCli({ operations })];

    expect(await run(['ps', '--node', 'node-a', '--running', '--limit', '1'], text.cli)).toBe(0);
    expect(await run(['ps', '--json'], json.cli)).toBe(0);

    expect(text.calls[0]).toEqual(['list', { node: 'node-a', running: true, limit: 2 }]);
    expect(text.stdout()).toMatch(
      /^OPERATION +TYPE +ABOUT +NODE +STATE +STARTED.*\ncheckpoint:redis:2 +checkpoint +default\/redis +node-a +uploading +2026-03-01/,
    );
    expect(text.stderr()).toContain('there are more');
    expect(json.calls[0]).toEqual(['list', { endedAfter: expect.any(Number) as number, limit: 101 }]);
    expect(JSON.parse(json.stdout())).toEqual({ operations });
    const { renderOperations } = await import('./commands/ps.ts');
    expect(renderOperations(operations, Date.now())).toMatch(/\ngc:1 +collectGarbage +- +- +terminated +.* 2\.00 s$/);
    expect(renderOperations(operations, Date.now(), 60)).toMatch(/^OPERATION +NODE +STATE +TOOK\n/);
  });

  it('that is left at Ctrl-C ends the command with 130', async () => {
    const started = Promise.withResolvers<void>();
    const fake = createFakeCli({
      operation: {
        result: async () => {
          started.resolve();
          return await new Promise(() => undefined);
        },
      },
    });

    const ended = run(['checkpoint', 'redis'], fake.cli);
    await started.promise;
    fake.pressCtrlC();

    expect(await ended).toBe(0);
    expect(fake.exitCode()).toBe(130);
    expect(fake.stderr()).toContain('kybernate cancel checkpoint:x');
  });
});

describe('gpu rehearse', () => {
  it('makes a request, and says that the GPU state came back', async () => {
    const result = {
      node: 'node-a',
      container: { namespace: 'default', id: 'train' },
      gpuProcesses: 2,
      vramBytes: 8_589_934_592,
      gpuPauseMs: 4210,
      parts: { 'gpu-save': 3000, 'gpu-restore': 1200 },
      warnings: [],
    };
    const fake = createFakeCli({ operation: { result: async () => result } });

    expect(await run(['gpu', 'rehearse', 'train', '--gpu-budget', '30s', '--gpu-assume-safe'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual([
      'rehearse',
      { node: 'node-a', container: { id: 'train' }, freezeBudgetMs: 30_000, gpu: { assumeSafe: true } },
      {},
    ]);
    expect(fake.stdout()).toBe(`container       default/train on node-a
rehearsal       passed: the GPU state came back, and the container runs on
GPU processes   2
VRAM            8.00 GiB
out of use for  4.21 s
parts           gpu-save 3.00 s
                gpu-restore 1.20 s
`);
  });

  it('states its risk in its help', async () => {
    const fake = createFakeCli();

    await run(['gpu', 'rehearse', '--help'], fake.cli);

    expect(fake.stdout()).toMatch(/a job\s+that it cannot bring back is LOST/);
  });
});
