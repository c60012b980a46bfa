/*
 * The runtime io.containerd.runc.kybernate.v1 with real containerd, runc and CRIU; the agent runs in this process, so
 * that a test can take it away. Checkpoints are hand-made: nothing of the capture is used.
 */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createConnection } from 'node:net';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { KybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { createRestoreContainer, planRestore, removeRestored, startRestored } from '../../engine/restore.ts';
import { restoresUsing } from '../../engine/restore-operation.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import type { RunResult } from '../../native/run/run.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { type AgentServer, startAgent } from '../../workers/agent.ts';
import { checkpointByHand } from '../harness/hand-made.ts';
import { BUSYBOX_IMAGE } from '../harness/images.ts';
import '../harness/provided.ts';

const RUNTIME = ['--runtime', 'io.containerd.runc.kybernate.v1'];
const COUNTER = 'i=0; while :; do i=$((i+1)); echo $i > /dev/shm/count; sleep 0.05; done';

let dir: string;
let stateDir: string;
let root: string;
let containerd: Containerd;
let deps: NodeDeps;
let agent: AgentServer | undefined;
let made: string[] = [];
let calls: string[] = [];
let serial = 0;

const op: Op = {
  signal: new AbortController().signal,
  log: {
    debug: () => undefined,
    info: (_fields, message) => calls.push(message),
    warn: (_fields, message) => calls.push(message),
    error: (_fields, message) => calls.push(message),
  },
  progress: () => undefined,
};

beforeAll(() => {
  const { address, dir: base, path, runDir } = inject('containerd');
  const { runc, criu } = inject('programs');
  dir = mkdtempSync(join(base, 'shim-'));
  stateDir = join(dir, 'state');
  root = join(dir, 'images');
  mkdirSync(root, { mode: 0o700 });
  containerd = connectContainerd(address);
  deps = {
    containerd,
    run: runExeca,
    settings: {
      node: 'test',
      stateDir,
      runDir,
      containerdAddress: address,
      runcPath: runc,
      criuPath: criu,
      programPath: path,
      runnerCommand: [],
      restoreRoots: [root],
      restoreFromEnvironment: true,
      restoreRuntime: 'io.containerd.runc.kybernate.v1',
    },
  };
});

afterAll(() => {
  containerd.close();
  rmSync(dir, { recursive: true, force: true });
});

beforeEach(async () => {
  calls = [];
  agent = await serve();
});

afterEach(async () => {
  await agent?.close();
  agent = undefined;
  for (const id of made.splice(0).reverse()) {
    await ctr('tasks', 'kill', '-s', 'SIGKILL', '-a', id);
    await ctr('tasks', 'rm', '-f', id);
    await ctr('containers', 'rm', id);
    await ctr('snapshots', 'rm', id);
  }
});

function serve(): Promise<AgentServer> {
  return startAgent({
    deps,
    log: op.log,
    fetchCheckpoint: (id) =>
      Promise.reject(new KybernateError('CheckpointNotFound', `no checkpoint ${id} on this node or in its store`)),
  });
}

function ctr(...args: string[]): Promise<RunResult> {
  const { dir: base, namespace } = inject('containerd');
  return openContainerd(base, process.env).ctr(['-n', namespace, ...args], 30_000);
}

async function ctrOk(...args: string[]): Promise<string> {
  const result = await ctr(...args);
  expect(result.stderr === '' || result.exitCode === 0 ? '' : result.stderr).toBe('');
  return result.stdout;
}

function name(prefix: string): string {
  serial += 1;
  const id = `${prefix}-${process.pid}-${serial}`;
  made.push(id);
  return id;
}

async function run(id: string, flags: readonly string[], ...command: string[]): Promise<RunResult> {
  return ctr('run', '-d', '--null-io', ...RUNTIME, ...flags, BUSYBOX_IMAGE, id, ...command);
}

async function exec(id: string, script: string): Promise<string> {
  serial += 1;
  return (await ctrOk('tasks', 'exec', '--exec-id', `x${serial}`, id, 'sh', '-c', script)).trim();
}

async function count(id: string): Promise<number> {
  return Number(await exec(id, 'cat /dev/shm/count'));
}

/** Waits until the counter has passed a value. */
async function countAbove(id: string, value: number): Promise<number> {
  for (;;) {
    const now = await count(id);
    if (now > value) {
      return now;
    }
    await sleep(20);
  }
}

async function startCounter(flags: readonly string[] = [], setUp = ':'): Promise<string> {
  const id = name('source');
  expect((await run(id, flags, 'sh', '-c', `${setUp}; ${COUNTER}`)).stderr).toBe('');
  for (;;) {
    if (
      (await ctr('tasks', 'exec', '--exec-id', `w${(serial += 1)}`, id, 'test', '-s', '/dev/shm/count')).exitCode === 0
    ) {
      return id;
    }
    await sleep(20);
  }
}

async function checkpoint(
  container: string,
  more: Partial<Parameters<typeof checkpointByHand>[0]> = {},
): Promise<string> {
  serial += 1;
  const checkpointId = `hand-${process.pid}-${serial}`;
  const { namespace } = inject('containerd');
  await checkpointByHand({ containerd, namespace, container, stateDir, checkpointId, ...more });
  return checkpointId;
}

function from(reference: string, ...more: string[]): string[] {
  const annotations = [`kybernate.io/restore-from=${reference}`, ...more.map((entry) => `kybernate.io/${entry}`)];
  return annotations.flatMap((annotation) => ['--annotation', annotation]);
}

function imageDir(checkpointId: string): string {
  return join(stateDir, 'checkpoints', `checkpoint-${checkpointId}`, 'criu');
}

function damage(checkpointId: string): void {
  truncateSync(join(imageDir(checkpointId), 'mm-1.img'), 0);
}

/** What the runtime keeps of a container. */
function traces(id: string): string[] {
  const { namespace, dir: base } = inject('containerd');
  return [
    `/run/containerd/runc/${namespace}/${id}`,
    `/sys/fs/cgroup/freezer/${namespace}/${id}`,
    `/sys/fs/cgroup/${namespace}/${id}`,
    join(base, 'state/io.containerd.runtime.v2.task', namespace, id),
  ].filter((path) => existsSync(path));
}

function savedLogs(): string[] {
  const logs = join(stateDir, 'logs');
  return existsSync(logs) ? readdirSync(logs) : [];
}

describe('a container that asks for no restore', () => {
  it('runs, execs and reports its exit code with no agent on the node', async () => {
    await agent?.close();
    agent = undefined;
    const id = name('plain');

    expect(
      (await run(id, ['--env', 'RESTORE=x'], 'sh', '-c', 'while [ ! -e /go ]; do sleep 0.05; done; exit 7')).stderr,
    ).toBe('');
    expect(await exec(id, 'echo $RESTORE; touch /go')).toBe('x');

    const wait = await ctr('tasks', 'delete', '-f', id);
    expect([7, 0]).toContain(wait.exitCode);
    expect(traces(id)).toEqual([]);
  });

  it('is the sandbox of a pod although the annotation of the pod reached it', async () => {
    const id = name('sandbox');

    const started = await run(
      id,
      [...from('ck-of-the-app'), '--annotation', 'io.kubernetes.cri.container-type=sandbox'],
      'sleep',
      '100',
    );

    expect(started.stderr).toBe('');
    expect(calls).not.toContain('restore prepared');
  });
});

describe('a container that asks for a checkpoint of this node', () => {
  it('continues where the source was, with its files, and can be used like any other', async () => {
    const source = await startCounter([], 'echo kept > /root/kept; rm /bin/vi');
    const checkpointId = await checkpoint(source);
    const then = await count(source);
    const id = name('restored');

    const started = await run(id, from(checkpointId), 'false');

    expect(started.stderr).toBe('');
    const first = await count(id);
    expect(first).toBeGreaterThan(1);
    expect(first).toBeLessThan(then + 20);
    await countAbove(id, first);
    expect(await exec(id, 'cat /root/kept; ls /bin/vi 2>&1; cat /proc/1/cgroup')).toMatch(
      new RegExp(`^kept\n.*No such file[^]*freezer:/.*/${id}`),
    );
    const kill = await ctr('tasks', 'kill', '-s', 'SIGKILL', id);
    expect(kill.exitCode).toBe(0);
    await untilStopped(id);
    expect((await ctr('tasks', 'rm', id)).stderr).toContain('137');
    expect(traces(id)).toEqual([]);
    expect(restoresUsing(deps.settings, checkpointId)).toEqual([]);
    expect(await count(source)).toBeGreaterThan(then);
  });

  it('does so by the variable RESTORE_FROM where the node allows it', async () => {
    const source = await startCounter();
    const checkpointId = await checkpoint(source);
    const id = name('env');

    expect((await run(id, ['--env', `RESTORE_FROM=${checkpointId}`], 'false')).stderr).toBe('');

    await countAbove(id, 1);
  });

  it('does so twice at once from the same images', async () => {
    const source = await startCounter();
    const checkpointId = await checkpoint(source);
    const ids = [name('one'), name('two')];

    const started = await Promise.all(ids.map((id) => run(id, from(checkpointId), 'false')));

    expect(started.map((result) => result.stderr)).toEqual(['', '']);
    for (const id of ids) {
      await countAbove(id, await count(id));
    }
  });

  it('can be checkpointed and restored again, twice over', async () => {
    let current = await startCounter([], 'echo kept > /root/kept');
    let seen = 0;

    for (let generation = 0; generation < 2; generation += 1) {
      const checkpointId = await checkpoint(current);
      seen = await count(current);
      await ctrOk('tasks', 'kill', '-s', 'SIGKILL', current);
      current = name('generation');
      expect((await run(current, from(checkpointId), 'false')).stderr).toBe('');
    }

    expect(await countAbove(current, seen)).toBeGreaterThan(seen);
    expect(await exec(current, 'cat /root/kept')).toBe('kept');
  });

  it('keeps the host name of the UTS namespace that it joins', async () => {
    const uts = await sharedUts('the-new-pod');
    const source = await startCounter();
    const checkpointId = await checkpoint(source);
    const id = name('uts');

    try {
      const started = await run(id, [...from(checkpointId), '--with-ns', `uts:/proc/${uts.pid}/ns/uts`], 'false');

      expect(started.stderr).toBe('');
      expect(await exec(id, 'hostname')).toBe('the-new-pod');
    } finally {
      uts.end();
    }
  });

  it('gets the mounts and the device rules of the source that its own specification lacks', async () => {
    const shared = join(dir, `shared-${(serial += 1)}`);
    mkdirSync(shared);
    writeFileSync(join(shared, 'file'), 'shared');
    const flags = ['--mount', `type=bind,src=${shared},dst=/mnt,options=rbind`, '--device', '/dev/loop-control'];
    const source = await startCounter(flags, 'exec 9</mnt/file');
    const checkpointId = await checkpoint(source);
    const id = name('bare-spec');

    expect((await run(id, from(checkpointId), 'false')).stderr).toBe('');

    expect(await exec(id, 'cat /mnt/file; exec 8</dev/loop-control && echo opened')).toBe('sharedopened');
  });

  it('finds its TCP connections closed and listens on', async () => {
    const port = 20_000 + (process.pid % 20_000);
    const serve = `nc -ll -p ${port} -e /bin/cat & ${COUNTER}`;
    const source = name('tcp');
    expect((await run(source, ['--net-host'], 'sh', '-c', serve)).stderr).toBe('');
    const client = await echoClient(port);
    const checkpointId = await checkpoint(source, { flags: ['--tcp-established'] });
    await ctrOk('tasks', 'kill', '-s', 'SIGKILL', source);
    await untilStopped(source);
    client.destroy();
    const id = name('tcp-close');

    const started = await run(id, [...from(checkpointId), '--net-host'], 'false');

    expect(started.stderr).toBe('');
    (await echoClient(port)).destroy();
    await countAbove(id, 1);
  });

  it('brings back a container with a terminal', async () => {
    const source = name('tty');
    const output = join(dir, 'tty.log');
    const shell = terminal(output, [...RUNTIME, BUSYBOX_IMAGE, source, 'sh', '-c', `tty; ${COUNTER}`]);
    await untilRunning(source);
    const checkpointId = await checkpoint(source, {
      flags: ['--shell-job'],
      metadata: { stdio: { terminal: true, stdin: 'tty', stdout: 'tty', stderr: 'tty' } },
    });
    const refused = await run(name('no-tty'), from(checkpointId), 'false');
    const id = name('tty-restored');
    const restored = terminal(join(dir, 'tty2.log'), [...RUNTIME, ...from(checkpointId), BUSYBOX_IMAGE, id, 'false']);

    await untilRunning(id);

    await countAbove(id, await count(id));
    expect(await exec(id, 'readlink /proc/1/fd/1')).toBe('/dev/pts/0');
    expect(refused.stderr).toContain('taken with a terminal');
    await ctr('tasks', 'kill', '-s', 'SIGKILL', source);
    await ctr('tasks', 'kill', '-s', 'SIGKILL', id);
    await Promise.all([shell, restored]);
  });

  it('reads on from a new stdin and writes to a new stdout', async () => {
    const script = 'while read line; do echo "got $line"; done';
    const source = name('pipe');
    const first = piped([...RUNTIME, BUSYBOX_IMAGE, source, 'sh', '-c', script]);
    first.write('a\n');
    await first.saw('got a');
    const checkpointId = await checkpoint(source);
    const id = name('pipe-restored');

    const second = piped([...RUNTIME, ...from(checkpointId), BUSYBOX_IMAGE, id, 'false']);
    second.write('b\n');

    await second.saw('got b');
    // ctr loses an end of its input that comes before its task is started
    await untilRunning(id);
    second.end();
    expect(await second.exit).toBe(0);
    first.end();
    await first.exit;
  });
});

describe('a restore that fails', () => {
  it("reports CRIU's error lines, keeps its log and leaves nothing", async () => {
    const checkpointId = await checkpoint(await startCounter());
    damage(checkpointId);
    const before = savedLogs().length;
    const id = name('broken');

    const started = await run(id, from(checkpointId), 'false');

    expect(started.exitCode).not.toBe(0);
    expect(started.stderr).toContain(`container ${id} was not restored from ${checkpointId}: runc restore failed`);
    expect(started.stderr).toContain('Unexpected EOF');
    expect(savedLogs().length).toBe(before + 1);
    expect(traces(id)).toEqual([]);
    expect(restoresUsing(deps.settings, checkpointId)).toEqual([]);
  });

  it('starts the container afresh, in a root without a trace of the checkpoint, when its policy says so', async () => {
    const checkpointId = await checkpoint(await startCounter([], 'echo kept > /root/kept; rm /bin/vi; chmod 700 /'));
    damage(checkpointId);
    const id = name('cold');

    const started = await run(id, from(checkpointId, 'on-failure=cold-start'), 'sleep', '100');

    expect(started.stderr).toBe('');
    expect(await exec(id, 'ls /root /bin/vi; stat -c %a /; cat /proc/1/cmdline | tr "\\0" " "')).toBe(
      '/bin/vi\n\n/root:\n755\nsleep 100',
    );
    expect(calls).toContain('restore cold-started');
  });

  it('follows its policy, never a guess, when the agent is away', async () => {
    await agent?.close();
    agent = undefined;
    const [strict, lenient] = [name('strict'), name('lenient')];

    const failed = await run(strict, from('ck-1'), 'sleep', '100');
    const cold = await run(lenient, from('ck-1', 'on-failure=cold-start'), 'sleep', '100');

    expect(failed.stderr).toContain('does not answer (ENOENT)');
    expect(traces(strict)).toEqual([]);
    expect(cold.stderr).toBe('');
    expect(await exec(lenient, 'echo runs')).toBe('runs');
  });

  it('names the mount that the new node cannot offer', async () => {
    const shared = join(dir, `gone-${(serial += 1)}`);
    mkdirSync(shared);
    const source = await startCounter(['--mount', `type=bind,src=${shared},dst=/mnt,options=rbind`]);
    const checkpointId = await checkpoint(source);
    await ctr('tasks', 'kill', '-s', 'SIGKILL', source);
    await untilStopped(source);
    rmSync(shared, { recursive: true });

    const started = await run(name('no-mount'), from(checkpointId), 'false');

    expect(started.stderr).toContain(`${shared} does not exist on this node`);
  });
});

describe('a path as the origin', () => {
  it('restores the images of a plain `ctr tasks checkpoint`, unverified', async () => {
    const source = await startCounter();
    const images = join(root, 'plain');
    await ctrOk('tasks', 'checkpoint', '--image-path', images, '--work-path', join(dir, 'w'), source);
    const [refused, id] = [name('checked'), name('unverified')];

    const first = await run(refused, from(images), 'false');
    const second = await run(id, from(images, 'unverified=true'), 'false');

    expect(first.stderr).toContain('bare image directory');
    expect(second.stderr).toBe('');
    await countAbove(id, await count(id));
    expect(await count(source)).toBeGreaterThan(0);
  });

  it('is refused outside of the roots, through a link, or when others could change it', async () => {
    const outside = join(dir, 'outside');
    mkdirSync(outside, { recursive: true });
    writeFileSync(join(outside, 'inventory.img'), '');
    symlinkSync(outside, join(root, 'link'));
    cpSync(outside, join(root, 'open'), { recursive: true });
    chmodSync(join(root, 'open'), 0o777);

    for (const path of [outside, join(root, 'link'), join(root, 'open'), `${root}/../outside`, root, '/nowhere']) {
      const started = await run(name('refused'), from(path, 'unverified=true'), 'false');
      expect(started.stderr, path).toMatch(/refused|must not contain/);
    }
  });

  it('is refused in the variable RESTORE_FROM', async () => {
    const started = await run(name('env-path'), ['--env', `RESTORE_FROM=${join(root, 'plain')}`], 'false');

    expect(started.stderr).toContain('takes checkpoint ids only');
  });
});

describe('a restore by the worker', () => {
  it('makes a container, brings it back into a log file, and takes everything away again', async () => {
    const checkpointId = await checkpoint(await startCounter([], 'echo kept > /root/kept'));
    const id = name('made');
    const { namespace } = inject('containerd');
    const context = { checkpointId, container: { namespace, id }, token: 1 };
    const operationId = hex(id);
    const input = {
      context,
      operationId,
      localPath: join(stateDir, 'checkpoints', `checkpoint-${checkpointId}`),
      tcp: 'close' as const,
      onFailure: 'fail' as const,
      stdio: { kind: 'log' as const, path: join(dir, `${id}.log`) },
    };

    const plan = await planRestore(deps, op, { ...input, checkpointDir: input.localPath });
    await createRestoreContainer(deps, op, input);
    await createRestoreContainer(deps, op, input);
    expect(restoresUsing(deps.settings, checkpointId)).toEqual([operationId]);
    const started = await startRestored(deps, op, { context, operationId, restoreBudgetMs: 60_000 });
    const again = await startRestored(deps, op, { context, operationId, restoreBudgetMs: 60_000 });

    expect(plan.warnings).toEqual([]);
    expect(started.how).toBe('restored');
    expect(again).toEqual(started);
    expect(readFileSync(`/proc/${started.initHostPid}/cgroup`, 'utf8')).toContain(id);
    await countAbove(id, await count(id));
    expect(await exec(id, 'cat /root/kept')).toBe('kept');
    await removeRestored(deps, op, { operationId, container: context.container });
    await removeRestored(deps, op, { operationId, container: context.container });
    expect(traces(id)).toEqual([]);
    expect(await containerd.getContainer(namespace, id)).toBeUndefined();
    expect(await containerd.statSnapshot(namespace, 'overlayfs', `kybernate-${operationId}`)).toBeUndefined();
  });

  it('fails with the reason of CRIU, or of its budget, and leaves a container that can be removed', async () => {
    const { namespace } = inject('containerd');
    for (const [budget, spoil, reason] of [
      [60_000, true, 'Unexpected EOF'],
      [1, false, 'not done after 1 ms'],
    ] as const) {
      const checkpointId = await checkpoint(await startCounter());
      const id = name('unmade');
      const context = { checkpointId, container: { namespace, id }, token: 1 };
      const operationId = hex(id);
      const localPath = join(stateDir, 'checkpoints', `checkpoint-${checkpointId}`);
      await createRestoreContainer(deps, op, {
        context,
        operationId,
        localPath,
        tcp: 'close',
        onFailure: 'fail',
        stdio: { kind: 'null' },
      });
      if (spoil) {
        damage(checkpointId);
      }

      const error = await startRestored(deps, op, { context, operationId, restoreBudgetMs: budget }).catch(
        (thrown: unknown) => thrown,
      );

      expect(error).toMatchObject({ type: 'RestoreFailed' });
      expect((error as Error).message).toContain(reason);
      expect(traces(id)).toEqual([]);
      await removeRestored(deps, op, { operationId, container: context.container });
      expect(await containerd.getContainer(namespace, id)).toBeUndefined();
    }
  });

  it('refuses an id that is taken, and its undo leaves the owner alone', async () => {
    const source = await startCounter();
    const checkpointId = await checkpoint(source);
    const { namespace } = inject('containerd');
    const context = { checkpointId, container: { namespace, id: source }, token: 1 };
    const operationId = hex(source);
    const checkpointDir = join(stateDir, 'checkpoints', `checkpoint-${checkpointId}`);

    await expect(planRestore(deps, op, { context, operationId, checkpointDir, tcp: 'close' })).rejects.toMatchObject({
      type: 'InvalidInput',
    });
    await removeRestored(deps, op, { operationId, container: context.container });

    await countAbove(source, await count(source));
  });
});

function hex(text: string): string {
  return Buffer.from(text).toString('hex').padEnd(32, '0').slice(-32);
}

async function untilStopped(id: string): Promise<void> {
  while ((await containerd.getTask(inject('containerd').namespace, id))?.status === 'running') {
    await sleep(20);
  }
}

async function untilRunning(id: string): Promise<void> {
  while ((await containerd.getTask(inject('containerd').namespace, id))?.status !== 'running') {
    await sleep(20);
  }
  await sleep(300);
}

/** A process in a UTS namespace of its own: the pod that a container joins. */
async function sharedUts(hostname: string): Promise<{ pid: number; end: () => void }> {
  const child = spawn('unshare', ['--uts', 'sh', '-c', 'hostname "$0"; exec sleep 600', hostname], { stdio: 'ignore' });
  const pid = child.pid ?? 0;
  while (readFileSync(`/proc/${pid}/comm`, 'utf8').trim() !== 'sleep') {
    await sleep(10);
  }
  return { pid, end: () => child.kill('SIGKILL') };
}

async function echoClient(port: number): Promise<ReturnType<typeof createConnection>> {
  for (let attempt = 0; ; attempt += 1) {
    const socket = createConnection({ port, host: '127.0.0.1' });
    const echoed = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => socket.write('hello\n'));
      socket.once('data', () => resolve(true));
      socket.once('error', () => resolve(false));
      socket.once('close', () => resolve(false));
    });
    if (echoed) {
      socket.removeAllListeners('error').on('error', () => undefined);
      return socket;
    }
    if (attempt > 100) {
      throw new Error(`nobody echoes on port ${port}`);
    }
    await sleep(50);
  }
}

/** ctr with a terminal of its own, by script(1). */
function terminal(log: string, args: readonly string[]): Promise<unknown> {
  const { address, namespace, path } = inject('containerd');
  const words = ['ctr', '--address', address, '-n', namespace, 'run', '-t', ...args];
  const command = words.map((word) => `'${word.replaceAll("'", String.raw`'\''`)}'`).join(' ');
  return runExeca('script', ['-qfc', command, log], { env: { PATH: path, TERM: 'xterm' } });
}

interface Piped {
  write(text: string): void;
  saw(text: string): Promise<void>;
  end(): void;
  readonly exit: Promise<number | null>;
}

function piped(args: readonly string[]): Piped {
  const { address, namespace, path } = inject('containerd');
  const child = spawn('ctr', ['--address', address, '-n', namespace, 'run', ...args], {
    env: { PATH: path, CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1' },
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  return {
    write: (text) => child.stdin.write(text),
    end: () => child.stdin.end(),
    exit: new Promise((resolve) => child.once('exit', resolve)),
    async saw(text) {
      const deadline = Date.now() + 15_000;
      while (!output.includes(text)) {
        if (Date.now() > deadline) {
          throw new Error(`no ${JSON.stringify(text)} in ${JSON.stringify(output)}`);
        }
        await sleep(20);
      }
    },
  };
}
