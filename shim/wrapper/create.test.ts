/* The wrapper's decisions against a false agent and a false runc; real bundles and checkpoints in a temporary directory. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { CompleteRestoreCall, PrepareRestoreCall, PrepareRestoreResponse } from '../../core/contract/restore.ts';
import { KybernateError } from '../../core/errors.ts';
import { openPodStarts } from '../../engine/pod-starts.ts';
import { writeWish } from '../../engine/restore-wishes.ts';
import type { RunResult } from '../../native/run/run.ts';
import { runSpawn } from '../../native/run/run-spawn.ts';
import { createOrRestore } from './create.ts';
import type { WrapperDeps } from './job.ts';

const OK: RunResult = {
  exitCode: 0,
  timedOut: false,
  cancelled: false,
  forceKilled: false,
  durationMs: 1,
  stdout: '',
  stderr: '',
};
const OPERATION = '0123456789abcdef0123456789abcdef';

let dir: string;
let argv: string[];
let prepared: PrepareRestoreCall[];
let completed: CompleteRestoreCall[];
let logged: string[];
let ran: string[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wrapper-'));
  for (const part of ['bundle/rootfs', 'checkpoint/fs', 'work', 'root/default/id']) {
    mkdirSync(join(dir, part), { recursive: true });
  }
  [prepared, completed, logged, ran] = [[], [], [], []];
  const globals = ['--root', join(dir, 'root/default'), '--log', join(dir, 'log.json'), '--log-format', 'json'];
  argv = [...globals, 'create', '--bundle', join(dir, 'bundle'), '--pid-file', join(dir, 'bundle/init.pid'), 'id'];
  writeFileSync(join(dir, 'checkpoint/config.json'), '{}');
  writeFileSync(
    join(dir, 'checkpoint/metadata.json'),
    JSON.stringify({ capture: { tcp: 'keep', criuOptions: [] }, stdio: { terminal: false }, gpuProcesses: [] }),
  );
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

const config = (): string => join(dir, 'bundle/config.json');
const marker = (): string => join(dir, 'root/default/id/kybernate-restored');

function asks(more: Record<string, string> = {}, env: readonly string[] = []): string {
  const annotations = { 'kybernate.io/restore-from': 'ck-1', ...more };
  const text = JSON.stringify({ annotations, process: { env } });
  writeFileSync(config(), text);
  return text;
}

function deps(more: Partial<WrapperDeps> = {}): WrapperDeps {
  return {
    runcPath: '/bin/runc',
    runDir: join(dir, 'run'),
    agent: {
      prepareRestore(call) {
        prepared.push(call);
        return Promise.resolve({
          operationId: OPERATION,
          checkpointDir: join(dir, 'checkpoint'),
          imageDir: join(dir, 'checkpoint/criu'),
          workDir: join(dir, 'work'),
          tcp: 'close',
          onFailure: call.onFailure === 'cold-start' ? 'cold-start' : 'fail',
          hasMetadata: true,
          restoreBudgetMs: 1000,
        });
      },
      completeRestore(call) {
        completed.push(call);
        return Promise.resolve({ proceed: true });
      },
    },
    run: (file, args) => {
      ran.push([file, ...args].join(' '));
      return Promise.resolve(OK);
    },
    runInherited: (file, args, options) => {
      ran.push([file, ...args].join(' '));
      ran.push(`criu: ${readFileSync(options.env?.['CRIU_CONFIG_FILE'] ?? '', 'utf8').trim()}`);
      ran.push(
        `env in config: ${(JSON.parse(readFileSync(config(), 'utf8')) as { process: { env: string[] } }).process.env.join(' ')}`,
      );
      writeFileSync(join(dir, 'bundle/init.pid'), '4711');
      return Promise.resolve(OK);
    },
    env: {},
    signal: new AbortController().signal,
    log: (_create, level, message) => logged.push(`${level} ${message}`),
    ...more,
  };
}

const failing: Partial<WrapperDeps> = {
  runInherited: () => {
    writeFileSync(join(dir, 'work/restore.log'), '(00.1) Error (criu/x.c:1): no such thing\n');
    return Promise.resolve({ ...OK, exitCode: 1 });
  },
};

describe('createOrRestore', () => {
  it('leaves a container that asks for nothing to runc, without a word to the agent', async () => {
    writeFileSync(config(), JSON.stringify({ process: { args: ['grep', '"RESTORE_FROM='] } }));

    expect(await createOrRestore(deps(), argv)).toEqual({ kind: 'pass-through' });

    expect(prepared).toEqual([]);
  });

  it('restores with the fitted specification, marks the container and tells the agent its pid', async () => {
    asks({}, ['A=1', 'RESTORE_FROM=ck-0']);

    expect(await createOrRestore(deps(), argv)).toEqual({ kind: 'restored' });

    expect(prepared).toMatchObject([
      {
        restoreFrom: 'ck-1',
        origin: 'annotation',
        container: { id: 'id', namespace: 'default' },
        bundle: join(dir, 'bundle'),
      },
    ]);
    expect(ran[0]).toMatch(/^setpriv --pdeathsig KILL -- \/bin\/runc --root .* restore --detach .* id$/);
    expect(ran.slice(1)).toEqual(['criu: tcp-close', 'env in config: A=1']);
    expect(completed).toMatchObject([{ operationId: OPERATION, outcome: 'restored', initHostPid: 4711 }]);
    expect(readFileSync(marker(), 'utf8').trim()).toBe(OPERATION);
  });

  it('runs the hooks that the agent names when CRIU tells of their event, and fails with what refused', async () => {
    asks();
    const { agent } = deps();
    // Below a directory that everybody can write.
    const file = join(dir, 'hook');
    writeFileSync(file, '#!/bin/sh\n', { mode: 0o755 });
    const answers: string[] = [];

    const outcome = await createOrRestore(
      deps({
        run: runSpawn,
        agent: {
          ...agent,
          prepareRestore: async (call) => ({
            ...(await agent.prepareRestore(call)),
            hooks: {
              plan: { timeoutMs: 1000, events: { 'post-restore': { policy: 'fail', files: [file] } } },
              node: 'node-1',
              actionScript: '/state/criu-action-script',
            },
          }),
        },
        runInherited: async (_file, _args, { env = {} }) => {
          ran.push(readFileSync(env['CRIU_CONFIG_FILE'] ?? '', 'utf8'), env['KYBERNATE_TELL'] ?? '');
          const script =
            'echo "post-restore 12" >"$KYBERNATE_EVENTS"; read -r answer <"$KYBERNATE_ANSWERS"; echo "$answer"';
          answers.push((await runSpawn('sh', ['-c', script], { env })).stdout);
          return { ...OK, exitCode: 1 };
        },
      }),
      argv,
    );

    expect(ran.slice(0, 2)).toEqual(['tcp-close\naction-script /state/criu-action-script\n', 'post-restore']);
    expect(answers).toEqual(['stop\n']);
    expect(outcome).toMatchObject({
      kind: 'failed',
      message: expect.stringMatching(
        /hook .*\/hook at post-restore is refused: .* nothing of the restored container is left/,
      ) as string,
    });
    expect(completed).toMatchObject([{ outcome: 'failed', errorType: 'HookFailed' }]);
  });

  it('becomes runc with the images of a user namespace open, which its root is shown', async () => {
    const mapping = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
    const linux = { namespaces: [{ type: 'user' }], uidMappings: mapping, gidMappings: mapping };
    writeFileSync(join(dir, 'checkpoint/config.json'), JSON.stringify({ linux }));
    const annotations = { 'kybernate.io/restore-from': 'ck-1' };
    writeFileSync(config(), JSON.stringify({ annotations, process: { env: [] }, linux }));

    expect(await createOrRestore(deps(), argv)).toEqual({ kind: 'restored' });

    const [command = ''] = ran;
    expect(command).toMatch(/^setpriv --pdeathsig KILL -- unshare --mount --propagation private -- sh -c set -eu/);
    const images = `${join(dir, 'checkpoint/criu')} ${join(dir, 'work')} 100000 /proc/${process.pid}/ns/mnt /bin/runc`;
    expect(command).toContain(images);
    expect(command).toMatch(/--image-path \/proc\/self\/fd\/9 .* id$/);
  });

  it('tells why the images could not be shown', async () => {
    asks();

    const outcome = await createOrRestore(
      deps({
        runInherited: () => {
          writeFileSync(join(dir, 'work/images.log'), "mount: unknown filesystem type 'overlay'.\n");
          return Promise.resolve({ ...OK, exitCode: 32 });
        },
      }),
      argv,
    );

    expect(outcome).toMatchObject({
      message: expect.stringContaining(
        "root of the user namespace: mount: unknown filesystem type 'overlay'",
      ) as string,
    });
  });

  it('starts runc by itself where there is no setpriv', async () => {
    asks();
    const { runInherited } = deps();

    const outcome = await createOrRestore(
      deps({
        runInherited: (file, args, options) =>
          file === 'setpriv'
            ? Promise.resolve({ ...OK, exitCode: 127, startError: 'ENOENT' })
            : runInherited(file, args, options),
      }),
      argv,
    );

    expect(outcome.kind).toBe('restored');
    expect(ran[0]).toMatch(/^\/bin\/runc --root/);
  });

  it("fails with CRIU's error lines and leaves the bundle as it was", async () => {
    const original = asks();

    const outcome = await createOrRestore(deps(failing), argv);

    expect(outcome).toEqual({
      kind: 'failed',
      message:
        'kybernate: container id was not restored from ck-1: runc restore failed (exit code 1): ' +
        'Error (criu/x.c:1): no such thing',
    });
    expect(readFileSync(config(), 'utf8')).toBe(original);
    expect(ran.at(-1)).toMatch(/runc .* delete --force id$/);
    expect(completed).toMatchObject([{ outcome: 'failed', initHostPid: 0 }]);
  });

  it('starts afresh when the policy says so, with the specification as it was', async () => {
    const original = asks({ 'kybernate.io/on-failure': 'cold-start' });

    expect(await createOrRestore(deps(failing), argv)).toEqual({ kind: 'pass-through' });

    expect(readFileSync(config(), 'utf8')).toBe(original);
    expect(completed).toMatchObject([{ outcome: 'cold-started' }]);
    expect(logged.at(-1)).toMatch(/^warning .*started afresh/);
  });

  it('does not start afresh on files of the checkpoint that it cannot take back', async () => {
    asks({ 'kybernate.io/on-failure': 'cold-start' });
    writeFileSync(join(dir, 'checkpoint/fs/deleted.files'), '["gone"]');

    const outcome = await createOrRestore(deps(failing), argv);

    expect(outcome).toMatchObject({ kind: 'failed', message: expect.stringContaining('no cold start either') });
    expect(completed).toMatchObject([{ outcome: 'failed' }]);
  });

  it.each([
    ['fail', 'failed'],
    ['cold-start', 'pass-through'],
  ])('follows the policy %s when the agent does not answer', async (policy, kind) => {
    asks({ 'kybernate.io/on-failure': policy });
    const prepareRestore = (): Promise<never> =>
      Promise.reject(new KybernateError('NodeUnavailable', 'the agent does not answer'));
    const { agent } = deps();

    const outcome = await createOrRestore(deps({ agent: { ...agent, prepareRestore } }), argv);

    expect(outcome.kind).toBe(kind);
    expect(ran).toEqual([]);
    expect(completed).toEqual([]);
  });

  it('lets a restored container run when the agent went away in the meantime', async () => {
    asks();
    const { agent } = deps();
    const completeRestore = (): Promise<never> => Promise.reject(new KybernateError('NodeUnavailable', 'gone'));

    expect(await createOrRestore(deps({ agent: { ...agent, completeRestore } }), argv)).toEqual({ kind: 'restored' });
  });

  it('ends a restored container whose GPU state the agent could not bring back', async () => {
    asks();
    const { agent } = deps();
    const completeRestore: WrapperDeps['agent']['completeRestore'] = () => Promise.resolve({ proceed: false });

    const outcome = await createOrRestore(deps({ agent: { ...agent, completeRestore } }), argv);

    expect(outcome).toMatchObject({ kind: 'failed', message: expect.stringContaining('GPU state') });
    expect(ran.at(-1)).toMatch(/delete --force id$/);
  });

  describe('with GPU processes', () => {
    beforeEach(() => {
      const gpuProcesses = [{ nsPid: 1 }];
      const metadata = { capture: { tcp: 'keep', criuOptions: [] }, stdio: { terminal: false }, gpuProcesses };
      writeFileSync(join(dir, 'checkpoint/metadata.json'), JSON.stringify(metadata));
    });

    const answering = (
      completeRestore: WrapperDeps['agent']['completeRestore'],
      more: Partial<PrepareRestoreResponse> = {},
    ): WrapperDeps => {
      const { agent } = deps();
      const prepareRestore: typeof agent.prepareRestore = async (call) => ({
        ...(await agent.prepareRestore(call)),
        ...more,
      });
      return deps({ agent: { ...agent, prepareRestore, completeRestore } });
    };

    it('raises the memory limit and allows the devices that the agent names, in the bundle alone', async () => {
      const annotations = { 'kybernate.io/restore-from': 'ck-1' };
      const linux = { resources: { memory: { limit: 100 } } };
      writeFileSync(config(), JSON.stringify({ annotations, process: { env: [] }, linux }));
      const node = { path: '/dev/nvidia1', major: 195, minor: 1 };
      const gpu = { nodes: [node], memoryBytes: 5000, driver: { was: '1', is: '1' } };

      expect(
        await createOrRestore(
          answering(() => Promise.resolve({ proceed: true }), { gpu }),
          argv,
        ),
      ).toEqual({
        kind: 'restored',
      });

      expect(JSON.parse(readFileSync(config(), 'utf8'))).toMatchObject({
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
      asks();
      const gone = (): Promise<never> => Promise.reject(new KybernateError('NodeUnavailable', 'gone'));

      expect((await createOrRestore(answering(gone), argv)).kind).toBe('failed');

      expect(ran.at(-1)).toMatch(/delete --force id$/);
    });

    it('tells why, and waits for the agent longer than the budget', async () => {
      asks();
      let waitsMs = 0;
      const calls: CompleteRestoreCall[] = [];
      const refuses: WrapperDeps['agent']['completeRestore'] = (call, timeoutMs) => {
        calls.push(call);
        waitsMs = timeoutMs;
        return Promise.resolve({ proceed: false, reason: 'out of VRAM' });
      };

      const outcome = await createOrRestore(answering(refuses), argv);

      expect(outcome).toMatchObject({ kind: 'failed', message: expect.stringContaining('out of VRAM') });
      expect(waitsMs).toBeGreaterThan(1000);
      expect(calls.map(({ outcome: word }) => word)).toEqual(['restored', 'failed']);
    });

    it.each([
      [true, 'failed'],
      [false, 'pass-through'],
    ])('under the policy cold-start, tried once more by its maker: %s, is %s', async (again, kind) => {
      asks({ 'kybernate.io/on-failure': 'cold-start' });
      const words: string[] = [];
      const refuses: WrapperDeps['agent']['completeRestore'] = ({ outcome }) => {
        words.push(outcome);
        return Promise.resolve({ proceed: outcome !== 'restored', reason: 'out of VRAM', again });
      };

      expect((await createOrRestore(answering(refuses), argv)).kind).toBe(kind);

      expect(words).toEqual(['restored', again ? 'failed' : 'cold-started']);
    });
  });
});

it('restores a container for which a restore is asked beside it, and asks nothing of its specification', async () => {
  writeFileSync(config(), JSON.stringify({ process: { env: [] } }));
  writeWish(join(dir, 'run'), 'id', {
    restoreFrom: 'ck-2',
    origin: 'annotation',
    operationId: OPERATION,
    onFailure: 'fail',
    tcp: 'keep',
    unverified: false,
  });

  const outcome = await createOrRestore(deps(), argv);

  expect(outcome).toEqual({ kind: 'restored' });
  expect(prepared).toMatchObject([{ restoreFrom: 'ck-2', operationId: OPERATION, tcp: 'keep' }]);
});

describe('a container of a pod', () => {
  const POD = {
    'io.kubernetes.cri.container-type': 'container',
    'io.kubernetes.cri.container-name': 'app',
    'io.kubernetes.cri.sandbox-namespace': 'shop',
    'io.kubernetes.cri.sandbox-name': 'web-0',
    'io.kubernetes.cri.sandbox-uid': '11111111-2222',
  };
  const note = (): string => join(dir, 'run/pod-starts/11111111-2222.app');
  const pending = new KybernateError('RestorePending', 'checkpoint ck-1 is on its way: 43 %');
  const answering = (...answers: Array<Error | undefined>): Partial<WrapperDeps> => {
    const { agent } = deps();
    return {
      agent: {
        ...agent,
        prepareRestore: async (call) => {
          const answer = await agent.prepareRestore(call);
          const error = answers.shift();
          return error === undefined ? answer : Promise.reject(error);
        },
      },
    };
  };

  beforeEach(() => {
    mkdirSync(join(dir, 'run'), { recursive: true });
    openPodStarts({ runDir: join(dir, 'run'), stateDir: join(dir, 'state') });
  });

  it('tells the agent its pod and how long it can wait, and leaves to the start to note that it was the first', async () => {
    asks(POD);

    expect(await createOrRestore(deps(), argv)).toEqual({ kind: 'restored' });

    expect(prepared).toMatchObject([
      { pod: { namespace: 'shop', name: 'web-0', uid: '11111111-2222', container: 'app', named: false } },
    ]);
    expect(prepared[0]?.waitMs).toBeGreaterThan(80_000);
    expect(prepared[0]?.waitMs).toBeLessThanOrEqual(90_000);
    expect(readFileSync(marker(), 'utf8').split('\n')).toEqual([OPERATION, note(), '']);
    expect(existsSync(note())).toBe(false);
    expect(JSON.parse(readFileSync(`${note()}.outcome`, 'utf8'))).toMatchObject({
      how: 'restored',
      restoreFrom: 'ck-1',
    });
  });

  it('is not restored again when it has started before, unless every start is to be one', async () => {
    writeFileSync(note(), '');
    asks(POD);
    expect(await createOrRestore(deps(), argv)).toEqual({ kind: 'pass-through' });

    asks({ ...POD, 'kybernate.io/restore': 'every-start' });
    expect(await createOrRestore(deps(), argv)).toEqual({ kind: 'restored' });

    expect(prepared).toHaveLength(1);
    expect(readFileSync(marker(), 'utf8')).toBe(`${OPERATION}\n`);
  });

  it('is not rewound after a reboot, by an agent that comes up while it waits', async () => {
    asks({ ...POD, 'kybernate.io/on-failure': 'wait' });
    writeFileSync(note(), '');
    rmSync(join(dir, 'run'), { recursive: true });
    const begun = createOrRestore(deps(), argv);
    openPodStarts({ runDir: join(dir, 'run'), stateDir: join(dir, 'state') });

    expect(await begun).toEqual({ kind: 'pass-through' });
    expect(prepared).toEqual([]);
  });

  it.each([
    ['fail', 'failed'],
    ['cold-start', 'pass-through'],
  ])('follows the policy %s when nobody knows whether it has started before', async (policy, kind) => {
    asks({ ...POD, 'kybernate.io/on-failure': policy });
    rmSync(join(dir, 'run'), { recursive: true });

    expect((await createOrRestore(deps(), argv)).kind).toBe(kind);

    expect(prepared).toEqual([]);
    expect(existsSync(note())).toBe(policy === 'cold-start');
  });

  it('fails by its own name, with the type and the percentage, when its checkpoint does not come in time', async () => {
    asks(POD);

    const outcome = await createOrRestore(deps(answering(pending)), argv);

    expect(outcome).toEqual({
      kind: 'failed',
      message:
        'kybernate: shop/web-0/app was not restored from ck-1: RestorePending: checkpoint ck-1 is on its way: 43 %',
    });
    expect(existsSync(note())).toBe(false);
  });

  it('asks again under the policy wait while the reason passes, and not for one that stays', async () => {
    asks({ ...POD, 'kybernate.io/on-failure': 'wait' });
    const away = new KybernateError('NodeUnavailable', 'no agent');

    expect(await createOrRestore(deps(answering(away, undefined)), argv)).toEqual({ kind: 'restored' });
    expect(prepared).toHaveLength(2);

    const refused = new KybernateError('RestoreRefused', 'of another namespace');
    expect((await createOrRestore(deps(answering(refused)), argv)).kind).toBe('failed');
    expect(prepared).toHaveLength(3);
  });

  it('starts afresh under the policy cold-start when its own time is over, and notes the start', async () => {
    asks({ ...POD, 'kybernate.io/on-failure': 'cold-start', 'kybernate.io/restore-timeout': '10m' });
    expect((await createOrRestore(deps(answering(pending)), argv)).kind).toBe('failed');
    expect(existsSync(note())).toBe(false);

    const longAgo = Date.now() / 1000 - 601;
    utimesSync(`${note()}.attempt`, longAgo, longAgo);

    expect(existsSync(`${note()}.outcome`)).toBe(false);
    expect((await createOrRestore(deps(answering(pending)), argv)).kind).toBe('pass-through');
    expect(existsSync(note())).toBe(true);
    expect(JSON.parse(readFileSync(`${note()}.outcome`, 'utf8'))).toMatchObject({
      how: 'cold-started',
      reason: expect.stringContaining('43 %') as string,
    });
  });

  it('gives up under the policy wait when its own time is over, without a call to the agent', async () => {
    asks({ ...POD, 'kybernate.io/on-failure': 'wait', 'kybernate.io/restore-timeout': '60s' });
    writeFileSync(`${note()}.attempt`, '');
    const longAgo = Date.now() / 1000 - 61;
    utimesSync(`${note()}.attempt`, longAgo, longAgo);

    const outcome = await createOrRestore(deps(), argv);

    expect(outcome).toMatchObject({ message: expect.stringContaining('not restored within 60 s') as string });
    expect(prepared).toEqual([]);
  });

  it('runs as usual when only a variable asks, and the node does not listen to it', async () => {
    writeFileSync(config(), JSON.stringify({ annotations: POD, process: { env: ['RESTORE_FROM=backup-7'] } }));
    const refused = new KybernateError('RestoreRefused', 'switched off', { details: { switchedOff: true } });

    expect(await createOrRestore(deps(answering(refused)), argv)).toEqual({ kind: 'pass-through' });
  });
});
