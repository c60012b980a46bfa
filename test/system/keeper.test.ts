import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { findKeeper, KEEPER_STEP } from '../../cli/setup/keeper.ts';
import { listTables } from '../../native/net/nft.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { SOAK } from '../harness/soak.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { memoryCommand, workload } from '../harness/workloads.ts';

/** `make soak` raises it. */
const ROUNDS = SOAK ? 25 : 3;
const PORT = 7003;

beforeAll(async () => {
  if (findKeeper(process.env) === undefined) {
    const logFile = join(tmpdir(), `kybernate-keeper-${process.pid}.log`);
    await KEEPER_STEP.install?.({ env: process.env, logFile, progress: () => undefined });
    rmSync(logFile);
  }
});

/** Sends lines without a pause; counts what comes back and every gap in its numbering. */
class Client {
  readonly #socket;
  readonly #timer;
  received = 0;
  gaps = 0;
  cut = false;

  constructor(host: string) {
    this.#socket = connect({ host, port: PORT });
    this.#socket.on('error', () => (this.cut = true)).on('close', () => (this.cut = true));
    createInterface({ input: this.#socket })
      .on('line', (line) => {
        this.gaps += Number(line.split(' ')[1]) === this.received + 1 ? 0 : 1;
        this.received += 1;
      })
      .on('error', () => (this.cut = true));
    this.#timer = setInterval(() => this.#socket.write('x\n'), 1);
  }

  async goesOn(): Promise<void> {
    const { received } = this;
    await until('traffic', () => this.cut || this.received > received + 50);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#socket.destroy();
  }
}

describe('a CRIU that is killed in the middle of the pages', () => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await Stack.open({ withSidecar: false });
  });
  afterAll(async () => {
    await stack.close();
  });

  test.each([
    ['threads that wait in recv', 'server.py', 15],
    ['an event loop', 'echo.py', 16],
  ])('costs no connection of %s, although the client never stops sending', async (_, server, subnet) => {
    const id = `keep-${server.replace('.py', '')}`;
    const network = await makeNetworkNamespace(`kyb${subnet}`, subnet);
    const flags = [...workload(), '--with-ns', `network:${network.path}`];
    let client: Client | undefined;
    try {
      await stack.runContainer(id, PYTHON, ['/usr/bin/python3', `/w/${server}`, String(PORT), '400'], flags);
      await until('the server', () => answers(network.address));
      client = new Client(network.address);
      await client.goesOn();

      for (let round = 0; round < ROUNDS; round += 1) {
        const handle = await stack.startCheckpoint(id);
        await until('pages in the image', () => stack.pageBytes(handle.checkpointId) > 20e6, 20_000, 2);
        const criu = stack.dumping('criu');
        expect(criu.map((process) => readProcess(process.tracerPid)?.command)).toEqual(['criu-keeper']);
        criu.forEach((process) => globalThis.process.kill(process.hostPid, 'SIGKILL'));

        await expect(handle.result()).rejects.toMatchObject({ type: 'DumpFailed' });
        await client.goesOn();
        expect({ round, gaps: client.gaps, cut: client.cut }).toEqual({ round, gaps: 0, cut: false });
        expect(await listTables(runExeca, network.path)).toEqual([]);
        expect(stack.freezerOf(id)).toBe('THAWED');
        expect(stack.localCheckpoints()).toEqual([]);
        expect(criu.map((process) => readProcess(process.tracerPid)?.state ?? 'Z')).toEqual(['Z']);
      }
    } finally {
      client?.close();
      await stack.removeContainer(id);
      await network.remove();
    }
  });

  test('a keeper that is killed leaves CRIU unharmed: the checkpoint completes', async () => {
    await stack.runContainer('keeperless', PYTHON, memoryCommand(400), workload());
    await stack.readJson('keeperless', '/tmp/state.json');

    const handle = await stack.startCheckpoint('keeperless');
    await until('pages in the image', () => stack.pageBytes(handle.checkpointId) > 20e6, 20_000, 2);
    const killed = stack.dumping('criu-keeper');
    killed.forEach((process) => globalThis.process.kill(process.hostPid, 'SIGKILL'));
    const result = await handle.result();

    expect(killed).toHaveLength(1);
    expect(result.source).toBe('running');
  });
});

describe('criu-keeper', () => {
  let dir: string;
  let freezer: string;
  let init: ChildProcess;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'kybernate-keeper-'));
    freezer = join(dir, 'freezer.state');
    writeFileSync(freezer, '');
    init = spawn('/bin/sleep', ['600'], { stdio: 'ignore' });
  });
  afterEach(async () => {
    if (init.kill('SIGKILL')) {
      await once(init, 'exit');
    }
    rmSync(dir, { recursive: true });
  });

  /** Starts the keeper with a shell script in CRIU's place. */
  function start(script: string, argument = 'swrk'): ChildProcess {
    const real = join(dir, 'real');
    mkdirSync(real);
    writeFileSync(join(real, 'criu'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
    const keeper = findKeeper(process.env) ?? '';
    const env = {
      PATH: `${keeper}:${real}:/usr/bin:/bin`,
      KYBERNATE_FREEZER: freezer,
      KYBERNATE_INIT_PID: String(init.pid),
    };
    return spawn(join(keeper, 'criu'), [argument, '3'], { env, stdio: ['ignore', 'pipe', 'ignore'] });
  }

  async function ended(child: ChildProcess): Promise<unknown> {
    const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
    return code ?? signal;
  }

  test.each([
    ['an exit code', 'exit 7', 7],
    ['success, and signals that CRIU handles', 'trap "exit 5" TERM; kill -TERM $$; sleep 9', 5],
    ['signals that CRIU ignores', 'trap "" TERM HUP; kill -TERM $$; kill -HUP $$; exit 3', 3],
    ['the signal that ends CRIU', 'kill -KILL $$', 'SIGKILL'],
    [
      'the children that CRIU waits for',
      'sh -c "exit 4" & wait $!; wait; exit $(ls /proc/$$/task/$$ | grep -c comm)',
      1,
    ],
  ])('passes on %s', async (_, script, expected) => {
    expect(await ended(start(script))).toBe(expected);
  });

  test('passes on that CRIU was stopped and went on', async () => {
    const child = start('echo up; while :; do sleep 0.05; done');
    await once(child.stdout ?? child, 'data');
    const state = (): string | undefined => readProcess(child.pid ?? 0)?.state.toUpperCase();

    child.kill('SIGSTOP');
    await until('the stop', () => state() === 'T');
    child.kill('SIGCONT');
    await until('it to go on', () => state() !== 'T');
    child.kill('SIGTERM');

    expect(await ended(child)).toBe('SIGTERM');
  });

  test('is not there for anything but the service that runc speaks to', async () => {
    const child = start('grep TracerPid /proc/$$/status; exit 2', '--version');
    const output = once(child.stdout ?? child, 'data');

    expect(await ended(child)).toBe(2);
    expect(String(await output)).toMatch(/TracerPid:\t0\n/);
  });

  test.each([
    ['freezer.state', 'FROZEN'],
    ['cgroup.freeze', '1'],
  ])(
    'closes the freezer by %s when CRIU is killed while it traces the container, and only then',
    async (name, word) => {
      freezer = join(dir, name);
      writeFileSync(freezer, '');
      const tracer = (end: string): string =>
        `exec python3 -c 'import ctypes,os,signal\n` +
        `if ctypes.CDLL(None).ptrace(0x4206, ${init.pid}, None, None) != 0: os._exit(9)\n${end}'`;

      expect(await ended(start(tracer('os._exit(1)')))).toBe(1);
      expect(readFileSync(freezer, 'utf8')).toBe('');
      rmSync(join(dir, 'real'), { recursive: true });
      expect(await ended(start('kill -KILL $$'))).toBe('SIGKILL');
      expect(readFileSync(freezer, 'utf8')).toBe('');
      rmSync(join(dir, 'real'), { recursive: true });
      expect(await ended(start(tracer('os.kill(os.getpid(), signal.SIGKILL)')))).toBe('SIGKILL');
      expect(readFileSync(freezer, 'utf8')).toBe(word);
    },
  );
});

function answers(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: PORT, timeout: 500 });
    const end = (answered: boolean): void => {
      socket.destroy();
      resolve(answered);
    };
    socket.on('connect', () => end(true));
    socket.on('error', () => end(false));
    socket.on('timeout', () => end(false));
  });
}
