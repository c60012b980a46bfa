/* What the flags of commands that start an operation make of its input. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkpointInput } from '../core/contract/checkpoint.ts';
import { preflightInput } from '../core/contract/preflight.ts';
import { restoreInput } from '../core/contract/restore.ts';
import { createFakeCli } from '../test/harness/fake-cli.ts';
import { CHECKPOINT_FLAGS } from './commands/checkpoint.ts';
import { PREFLIGHT_FLAGS } from './commands/preflight.ts';
import { RESTORE_FLAGS } from './commands/restore.ts';
import { createProgram, run } from './program.ts';

const GPU_A = 'GPU-11111111-2222-3333-4444-555555555555';
const GPU_B = 'GPU-66666666-7777-8888-9999-000000000000';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-cli-'));
});
afterAll(async () => {
  await rm(dir, { recursive: true });
});

describe('checkpoint makes a request', () => {
  it.each<[string, string[], object]>([
    ['of a container id', ['redis'], { node: 'node-a', container: { id: 'redis' } }],
    [
      'of a pod',
      ['--pod', 'shop/cart-0/app', '--node', 'node-b'],
      { node: 'node-b', container: { pod: { namespace: 'shop', name: 'cart-0', container: 'app' } } },
    ],
    [
      'with a namespace',
      ['a1', '--namespace', 'k8s.io'],
      { node: 'node-a', container: { id: 'a1', namespace: 'k8s.io' } },
    ],
    [
      'with every other flag',
      'redis --id nightly --after hold --durability verified --engine containerd --tcp close --freeze-budget 500ms --hold-budget 5m --label team=search --label when=a=b'.split(
        ' ',
      ),
      {
        node: 'node-a',
        container: { id: 'redis' },
        checkpointId: 'nightly',
        after: 'hold',
        durability: 'verified',
        engine: 'containerd',
        tcp: 'close',
        freezeBudgetMs: 500,
        holdBudgetMs: 300_000,
        labels: { team: 'search', when: 'a=b' },
      },
    ],
  ])('%s', async (_, args, request) => {
    const fake = createFakeCli();

    expect(await run(['checkpoint', '--json', ...args], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['checkpoint', request, {}]);
    expect(fake.calls.at(-1)).toEqual(['close']);
  });

  const file = {
    node: 'node-f',
    container: { id: 'from-file', namespace: 'k8s.io' },
    labels: { a: '1', b: '2' },
    freezeBudgetMs: 1000,
    timeouts: { lockWaitMs: 5 },
  };
  it.each<[string, string[], object]>([
    ['as the file says', [], file],
    ['with one field overridden', ['--freeze-budget', '2s'], { ...file, freezeBudgetMs: 2000 }],
    ['with labels put together', ['--label', 'b=3'], { ...file, labels: { a: '1', b: '3' } }],
    ['of another namespace', ['--namespace', 'x'], { ...file, container: { id: 'from-file', namespace: 'x' } }],
    ['of another container, whose namespace is its own', ['other'], { ...file, container: { id: 'other' } }],
  ])('from a file, %s', async (_, args, request) => {
    const path = join(dir, 'request.json');
    await writeFile(path, JSON.stringify(file));
    const fake = createFakeCli();

    expect(await run(['checkpoint', '--json', '--input', path, ...args], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['checkpoint', request, {}]);
  });

  it('from standard input', async () => {
    const fake = createFakeCli({ stdin: '{"container":{"id":"redis"}}' });

    expect(await run(['checkpoint', '--json', '--input', '-', '--workflow-id', 'w1'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['checkpoint', { node: 'node-a', container: { id: 'redis' } }, { workflowId: 'w1' }]);
  });
});

describe('restore makes a request', () => {
  it.each<[string, string[], object]>([
    ['of an id', ['ck-1'], { node: 'node-a', checkpointId: 'ck-1' }],
    ['of a path', ['--path', '/srv/x', '--unverified'], { node: 'node-a', path: '/srv/x', unverified: true }],
    [
      'with every other flag',
      'ck-1 --node node-b --name new --namespace k8s.io --tcp keep --network-namespace /run/netns/a --log-file /var/log/a.log --source store --on-failure cold-start --restore-budget 1m'.split(
        ' ',
      ),
      {
        node: 'node-b',
        checkpointId: 'ck-1',
        container: { id: 'new', namespace: 'k8s.io' },
        tcp: 'keep',
        networkNamespace: '/run/netns/a',
        stdio: { kind: 'log', path: '/var/log/a.log' },
        source: 'store',
        onFailure: 'cold-start',
        restoreBudgetMs: 60_000,
      },
    ],
  ])('%s', async (_, args, request) => {
    const fake = createFakeCli();

    expect(await run(['restore', '--json', ...args], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['restore', request, {}]);
  });
});

describe('the options of GPUs', () => {
  it('are those of the request, and only the ones that were given', async () => {
    const fake = createFakeCli();
    const hook = JSON.stringify(['sh', '-c', 'kill -USR1 1']);
    const flags = ['--gpu-allow-shared', '--gpu-assume-safe', '--gpu-lock-timeout', '3s', '--no-huge-pages'];
    const hooks = ['--quiesce', 'python3 /app/quiesce.py', '--resume-hook', hook];

    expect(await run(['checkpoint', 'train', '--json', ...flags, ...hooks], fake.cli)).toBe(0);

    expect(fake.calls[0]?.[1]).toEqual({
      node: 'node-a',
      container: { id: 'train' },
      gpu: {
        allowShared: true,
        assumeSafe: true,
        lockTimeoutMs: 3000,
        hugePages: false,
        quiesce: { command: ['python3', '/app/quiesce.py'] },
        resume: { command: ['sh', '-c', 'kill -USR1 1'] },
      },
    });
  });

  it('are put over those of the input file', async () => {
    const stdin = JSON.stringify({ container: { id: 'train' }, gpu: { allowShared: true, lockTimeoutMs: 5 } });
    const fake = createFakeCli({ stdin });

    expect(await run(['checkpoint', '--input', '-', '--json', '--gpu-lock-timeout', '1s'], fake.cli)).toBe(0);

    expect(fake.calls[0]?.[1]).toMatchObject({ gpu: { allowShared: true, lockTimeoutMs: 1000 } });
  });

  it('map the GPUs of a restore, any number of times', async () => {
    const fake = createFakeCli();

    await run(['restore', 'ck-1', '--json', '--gpu', `${GPU_A}=${GPU_B}`, '--gpu', `${GPU_B}=${GPU_A}`], fake.cli);

    expect(fake.calls[0]?.[1]).toMatchObject({
      gpuMap: [
        { from: GPU_A, to: GPU_B },
        { from: GPU_B, to: GPU_A },
      ],
    });
  });
});

describe('the flags', () => {
  /** Every path in a schema, without what only files can set. */
  function paths(schema: { shape: object }): string[] {
    return Object.keys(schema.shape).filter((key) => key !== 'timeouts');
  }

  it.each([
    ['checkpoint', checkpointInput, CHECKPOINT_FLAGS],
    ['preflight', preflightInput, PREFLIGHT_FLAGS],
    ['restore', restoreInput, RESTORE_FLAGS],
  ] as const)('of %s cover every field of the contract but the timeouts', (_, schema, flags) => {
    const named = new Set(Object.keys(flags).map((path) => path.split('.')[0]));

    expect(paths(schema as unknown as { shape: object }).filter((path) => !named.has(path))).toEqual([]);
  });

  it.each([
    ['checkpoint', checkpointInput.parse({ node: 'n', container: { id: 'c' } }), CHECKPOINT_FLAGS],
    ['preflight', preflightInput.parse({ node: 'n', checkpointId: 'c' }), PREFLIGHT_FLAGS],
    ['restore', restoreInput.parse({ node: 'n', checkpointId: 'c' }), RESTORE_FLAGS],
  ] as const)('of %s state the default of the contract', (name, defaults, flags) => {
    const command = createProgram(createFakeCli().cli).commands.find((one) => one.name() === name);
    const wrong = Object.entries(defaults).filter(([field, value]) => {
      const option = command?.options.find((one) => one.long === flags[field]);
      const stated = /\(default: (\w+)\)/.exec(option?.description ?? '')?.[1];
      return typeof value === 'string' && stated !== undefined && stated !== value;
    });

    expect(wrong).toEqual([]);
  });
});
