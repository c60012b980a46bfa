import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkpointInput } from '../core/contract/checkpoint.ts';
import { restoreInput } from '../core/contract/restore.ts';
import { KybernateError } from '../core/errors.ts';
import { createFakeCli } from '../test/harness/fake-cli.ts';
import { preflightInput } from '../core/contract/preflight.ts';
import { caution, problem } from '../core/preflight.ts';
import { CHECKPOINT_FLAGS } from './commands/checkpoint.ts';
import { PREFLIGHT_FLAGS } from './commands/preflight.ts';
import { RESTORE_FLAGS } from './commands/restore.ts';
import { createProgram, run } from './program.ts';

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

const GPU_A = 'GPU-11111111-2222-3333-4444-555555555555';
const GPU_B = 'GPU-66666666-7777-8888-9999-000000000000';

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

describe('preflight', () => {
  const FITS = {
    node: 'node-a',
    container: { namespace: 'default', id: 'redis' },
    checkpointId: 'nightly',
    from: 'local',
    fits: true,
    findings: [],
    checkMs: 12,
  };
  const preflight = (result: object, args: string[]): [ReturnType<typeof createFakeCli>, Promise<number>] => {
    const fake = createFakeCli({ operation: { result: async () => result } });
    return [fake, run(['preflight', ...args], fake.cli)];
  };

  it('ends with 0 where the checkpoint fits', async () => {
    const [fake, exit] = preflight(FITS, ['nightly', '--tcp', 'keep', '--name', 'redis-2']);

    expect(await exit).toBe(0);
    expect(fake.calls[0]).toEqual([
      'preflight',
      { node: 'node-a', checkpointId: 'nightly', tcp: 'keep', as: { id: 'redis-2' } },
      {},
    ]);
    expect(fake.stdout()).toBe('nightly can be restored on node-a (looked for 12 ms, touched nothing)\n');
  });

  it('lists every reason and ends with the code of Incompatible where it does not', async () => {
    const findings = [
      problem('kernel', 'the kernel 6.1 is older than 6.18', { recorded: '6.18', here: '6.1' }),
      caution('cpu-vendor', 'another vendor', { recorded: 'GenuineIntel', here: 'AuthenticAMD' }),
    ];
    const [fake, exit] = preflight({ ...FITS, fits: false, findings }, ['nightly']);

    expect(await exit).toBe(0);
    expect(fake.exitCode()).toBe(7);
    expect(fake.stdout()).toBe(`nightly cannot be restored on node-a: 1 reason (looked for 12 ms, touched nothing)

CHECK       SEVERITY  RECORDED      HERE
kernel      error     6.18          6.1
cpu-vendor  warning   GenuineIntel  AuthenticAMD

kernel: the kernel 6.1 is older than 6.18
  choose a node with this kernel or a newer one
cpu-vendor: another vendor
  test the workload on this pair of processors, or choose a node of the same vendor
`);
  });

  it('asks whether a container can be checkpointed', async () => {
    const [fake, exit] = preflight({ ...FITS, checkpointId: undefined }, ['--container', 'redis', '--namespace', 'n']);

    expect(await exit).toBe(0);
    expect(fake.calls[0]).toEqual(['preflight', { node: 'node-a', container: { id: 'redis', namespace: 'n' } }, {}]);
  });
});

describe('wrong usage ends with 2, starts nothing and names the flag', () => {
  it.each<[string, string[], string]>([
    ['an unknown command', ['chekpoint'], "unknown command 'chekpoint'"],
    ['an unknown flag', ['checkpoint', 'redis', '--fast'], "unknown option '--fast'"],
    ['a value that is no choice', ['checkpoint', 'redis', '--after', 'sleep'], '--after'],
    ['a duration without a unit', ['checkpoint', 'redis', '--freeze-budget', '60'], '--freeze-budget'],
    ['a duration that is too long', ['checkpoint', 'redis', '--freeze-budget', '30d'], '--freeze-budget'],
    ['a label without a value', ['checkpoint', 'redis', '--label', 'x'], '--label'],
    ['a pod without a container', ['checkpoint', '--pod', 'a/b'], '--pod'],
    ['no container', ['checkpoint'], '<container>, --pod or --docker'],
    ['a container and a pod', ['checkpoint', 'redis', '--pod', 'a/b/c'], '<container>, --pod or --docker'],
    ['a container id with a slash', ['checkpoint', 'a/b'], '<container>:'],
    ['a node name in capitals', ['checkpoint', 'redis', '--node', 'Node'], '--node'],
    ['an id that leaves the directory', ['checkpoint', 'redis', '--id', '../x'], '--id'],
    ['a file that is not there', ['checkpoint', 'redis', '--input', '/nowhere/x.json'], '--input'],
    ['no checkpoint', ['restore'], '<checkpoint>'],
    ['a path without --unverified', ['restore', '--path', '/x'], '--unverified'],
    ['a relative path', ['restore', '--path', 'x', '--unverified'], '--path'],
    ['a relative log file', ['restore', 'ck-1', '--log-file', 'x'], '--log-file'],
    ['a GPU without its stand-in', ['restore', 'ck-1', '--gpu', GPU_A], '--gpu'],
    ['a GPU that is no UUID', ['restore', 'ck-1', '--gpu', '0=1'], '--gpu'],
    ['a hook that is no list of words', ['checkpoint', 'redis', '--quiesce', '["a", 1]'], '--quiesce'],
    ['an empty hook', ['checkpoint', 'redis', '--quiesce', ' '], '--quiesce'],
    ['a rehearsal of nothing', ['gpu', 'rehearse'], '<container>, --pod or --docker'],
    ['too many arguments', ['restore', 'a', 'b'], 'too many arguments'],
  ])('%s', async (_, args, named) => {
    const fake = createFakeCli();

    expect(await run(args, fake.cli)).toBe(2);

    expect(fake.stderr()).toContain(named);
    expect(fake.stderr()).toMatch(/^kybernate: InvalidInput: /);
    expect(fake.calls).toEqual([]);
  });

  it('as JSON with --json', async () => {
    const fake = createFakeCli();

    expect(await run(['checkpoint', '--json'], fake.cli)).toBe(2);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'InvalidInput' } });
    expect(fake.stderr()).toBe('');
  });

  it('for a wrong environment, but not for --help', async () => {
    const fake = createFakeCli({ env: { KYBERNATE_NODE: 'NOT A NODE' } });

    expect(await run(['--help'], fake.cli)).toBe(0);
    expect(await run(['checkpoint', 'redis'], fake.cli)).toBe(2);

    expect(fake.stderr()).toContain('KYBERNATE_NODE');
  });
});

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

describe('help', () => {
  const program = createProgram(createFakeCli().cli);
  const commands = program.createHelp().visibleCommands(program);

  it.each(commands.map((command) => [command.name()]))('of %s shows examples and exit codes', async (name) => {
    const fake = createFakeCli();

    expect(await run([name, '--help'], fake.cli)).toBe(0);

    const nested = commands.find((command) => command.name() === name)?.commands ?? [];
    if (nested.length === 0) {
      expect(fake.stdout()).toMatch(/\nExamples:\n {2}\$ .*kybernate /);
      expect(fake.stdout()).toMatch(/\nExit codes:\n/);
    }
  });

  it.each(['checkpoint', 'restore', 'verify', 'repair', 'export', 'cat', 'inspect', 'prefetch', 'preflight'])(
    'of %s, which reads or writes a store that may be encrypted, has the exit code of a key that is not there',
    async (name) => {
      const fake = createFakeCli();

      await run([name, '--help'], fake.cli);

      expect(fake.stdout()).toMatch(/\n +23 {2}KeyUnavailable\n/);
    },
  );

  it('stands in for a missing command, which ends with 2', async () => {
    const fake = createFakeCli();

    expect(await run([], fake.cli)).toBe(2);

    expect(fake.stderr()).toContain('Usage: kybernate');
  });

  it('has a version', async () => {
    const fake = createFakeCli();

    expect(await run(['--version'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});
