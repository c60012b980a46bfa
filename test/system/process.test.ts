/* Processes of the host: what comes back after a checkpoint, and what is refused before anything is touched. */
import { createServer, type AddressInfo, type Server } from 'node:net';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { CheckpointRequest, CheckpointResult } from '../../core/contract/checkpoint.ts';
import type { RestoreProcessRequest, RestoreProcessResult } from '../../core/contract/process.ts';
import { renderReport } from '../../cli/commands/process-analyze.ts';
import { ERRORS, type KybernateError, messageOf } from '../../core/errors.ts';
import type { ProcessReport } from '../../engine/analysis-report.ts';
import { limitsKeptBy } from '../../native/proc/limits-access.ts';
import { namespaceInode } from '../../native/proc/ns.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { Processes } from '../harness/processes.ts';
import { runCli } from '../harness/run-cli.ts';
import { Stack, until } from '../harness/stack.ts';

let stack: Stack;
let processes: Processes;
let round = 0;

beforeAll(async () => {
  stack = await Stack.open();
  processes = new Processes(stack.dir);
});
afterEach(async () => {
  await processes.endAll();
});
afterAll(async () => {
  await stack.close();
});

async function checkpoint(pid: number, request: Partial<CheckpointRequest> = {}): Promise<CheckpointResult> {
  round += 1;
  const handle = await stack.client.checkpoint({
    node: stack.node,
    process: { pid },
    checkpointId: `ck-process-${round}`,
    durability: 'local',
    ...request,
  });
  return handle.result();
}

async function restore(
  checkpointId: string,
  request: Partial<RestoreProcessRequest> = {},
): Promise<RestoreProcessResult> {
  const handle = await stack.client.restoreProcess({ node: stack.node, checkpointId, ...request });
  const result = await handle.result();
  processes.adopt(result.pid);
  return result;
}

/** That lock connections of the host. */
async function tables(): Promise<string[]> {
  const { stdout } = await runExeca('nft', ['list', 'tables']);
  return stdout.split('\n').filter((line) => /CRIU-|kybernate-/.test(line));
}

const gone = (pid: number): Promise<void> => until('its pid to be free', () => readProcess(pid) === undefined);

/** Answers every number with itself. */
async function echoServer(): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => socket.on('error', () => undefined).pipe(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, port: (server.address() as AddressInfo).port };
}

test.each(['counter', 'threads', 'fds', 'deleted', 'unix'])(
  'a process with %s is captured, ended, and goes on with what it had',
  async (kind) => {
    const pid = await processes.start(kind);
    const before = processes.read(kind);

    const { source, checkpointId } = await checkpoint(pid, { after: 'stop' });
    await gone(pid);
    const atEnd = processes.read(kind);
    const restored = await restore(checkpointId);
    const after = await processes.countsOn(kind);

    expect(source).toBe('stopped');
    expect(restored).toMatchObject({ pid, from: 'local', warnings: [] });
    expect(after.token).toBe(before?.token);
    expect(after.count).toBeGreaterThan(atEnd?.count ?? Number.MAX_SAFE_INTEGER);
  },
);

test('a process runs on after its checkpoint, which is stored, read back and restored from the store', async () => {
  const pid = await processes.start('counter');

  const result = await checkpoint(pid, { durability: 'verified' });
  const later = await processes.countsOn('counter');
  await processes.end(pid);
  stack.removeLocal(result.checkpointId);
  const restored = await restore(result.checkpointId);
  const back = await processes.countsOn('counter');

  expect(result).toMatchObject({ source: 'running', durability: 'verified', warnings: [] });
  expect(result.freezeMs).toBeGreaterThan(0);
  expect(Math.abs(result.phases.unaccountedMs)).toBeLessThanOrEqual(Math.max(2, result.phases.totalMs * 0.02));
  expect(restored.from).toBe('store');
  expect(back.token).toBe(later.token);
});

test('a redis server keeps its data', async () => {
  const program = processes.fileOf('redis-server');
  symlinkSync('/usr/bin/redis-check-rdb', program);
  const socket = processes.fileOf('redis.sock');
  const args = ['--port', '0', '--unixsocket', socket, '--save', '', '--appendonly', 'no', '--dir', stack.dir];
  const pid = await processes.spawn(program, args);
  const redis = async (...command: string[]): Promise<string> =>
    (await runExeca('redis-cli', ['-s', socket, ...command])).stdout.trim();
  await until('redis', async () => (await redis('ping')) === 'PONG');
  await redis('set', 'token', 'in memory alone');

  const { checkpointId } = await checkpoint(pid, { after: 'stop' });
  await gone(pid);
  await restore(checkpointId);

  expect(await redis('get', 'token')).toBe('in memory alone');
  expect(await redis('incr', 'count')).toBe('1');
});

test('a TCP connection to the outside goes on without a gap, across the end of the source', async () => {
  const { server, port } = await echoServer();
  try {
    const pid = await processes.start('tcp', { argument: String(port) });

    const { checkpointId } = await checkpoint(pid, { after: 'stop', tcp: 'keep' });
    await gone(pid);
    const atEnd = processes.read('tcp');
    await restore(checkpointId, { tcp: 'keep' });
    const after = await processes.countsOn('tcp');

    expect(after.token).toBe(atEnd?.token);
    expect(after.count).toBeGreaterThan(atEnd?.count ?? Number.MAX_SAFE_INTEGER);
  } finally {
    server.close();
  }
});

test('a connection that runs on after a checkpoint is none the worse for it', async () => {
  const { server, port } = await echoServer();
  try {
    const pid = await processes.start('tcp', { argument: String(port) });

    const before = await tables();
    await checkpoint(pid, { tcp: 'keep' });

    await processes.countsOn('tcp');
    // Other tests of this machine come and go beside it.
    expect((await tables()).filter((table) => !before.includes(table))).toEqual([]);
  } finally {
    server.close();
  }
});

test('a job of a shell whose output was a pipe comes back with its output where the restore says', async () => {
  const log = processes.fileOf('output.log');
  await processes.startJob('output', `| cat >${processes.fileOf('sink')}`);
  const pid = processes.read('output')?.pid ?? 0;

  const { checkpointId, warnings } = await checkpoint(pid, { after: 'stop' });
  await gone(pid);
  await restore(checkpointId, { stdio: { stdout: log } });
  const { token } = await processes.countsOn('output');

  expect(warnings.join()).toMatch(/descriptor 1 writes to pipe:\[\d+\], whose other end is outside/);
  await until('its output', () => new RegExp(`^${token} \\d+\\n${token} \\d+\\n`).test(readFileSync(log, 'utf8')));
});

test('another working directory takes the place of the first', async () => {
  const pid = await processes.start('counter', { cwd: stack.storeDir });
  const { checkpointId } = await checkpoint(pid, { after: 'stop' });
  await gone(pid);

  const restored = await restore(checkpointId, { directory: stack.dir });

  await processes.countsOn('counter');
  expect(readlinkSync(`/proc/${restored.pid}/cwd`)).toBe(stack.dir);
});

test('its own network, IPC and UTS namespaces come back with it, with what is in them', async () => {
  const inside = 'hostname kept && ip link set lo up && ip addr add 10.99.0.1/32 dev lo && ipcmk -S 3 && exec "$@"';
  const through = ['unshare', '--net', '--ipc', '--uts', '--', 'sh', '-c', inside, 'sh'];
  const pid = await processes.start('counter', { through });
  const seen = async (of: number, ...command: string[]): Promise<string> =>
    (await runExeca('nsenter', ['--target', String(of), '--net', '--ipc', '--uts', '--', ...command])).stdout.trim();

  const { checkpointId, warnings } = await checkpoint(pid, { after: 'stop' });
  await gone(pid);
  const atEnd = processes.read('counter');
  const restored = await restore(checkpointId);
  const after = await processes.countsOn('counter');

  expect([...warnings, ...restored.warnings]).toEqual([]);
  expect(after.token).toBe(atEnd?.token);
  expect(await seen(restored.pid, 'hostname')).toBe('kept');
  expect(await seen(restored.pid, 'ip', '-br', 'addr', 'show', 'lo')).toMatch(/UNKNOWN|UP.*10\.99\.0\.1\/32/);
  expect(await seen(restored.pid, 'ipcs', '-s')).toMatch(/^0x\w+ +\d+ +root +\d+ +3/m);
  for (const type of ['net', 'ipc', 'uts'] as const) {
    expect(namespaceInode(restored.pid, type)).not.toBe(namespaceInode('self', type));
  }
});

test.each([
  ['a mount namespace of its own', ['unshare', '--mount', '--'], /has another mnt namespace than the node/],
  ['a user namespace of its own', ['unshare', '--user', '--'], /has another user namespace than the node/],
])('a process in %s is refused, and runs on', async (_what, through, reason) => {
  const pid = await processes.spawn(through[0] ?? '', [...through.slice(1), 'sleep', '1000']);
  await until('its namespace', () => readProcess(pid)?.command === 'sleep');

  await expect(checkpoint(pid)).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(reason) as string,
  });

  expect(readProcess(pid)?.state).toBe('S');
});

test('a process of another user is refused where root may not ask for its limits, and captured elsewhere', async () => {
  const user = ['--reuid', '1000', '--regid', '1000', '--clear-groups', '--'];
  const pid = await processes.spawn('setpriv', [...user, 'sleep', '1000']);
  await until('its user', () => readProcess(pid)?.command === 'sleep');

  const outcome = await checkpoint(pid).then(
    ({ source }) => source,
    (error: unknown) => `${(error as KybernateError).type}: ${messageOf(error)}`,
  );

  const refused = /^Incompatible: .*runs as 1000:1000, and root on this machine lacks CAP_SYS_RESOURCE/;
  expect(outcome).toMatch(limitsKeptBy(pid) === undefined ? /^running$/ : refused);
  expect(readProcess(pid)?.state).toBe('S');
});

test('it is what the example shows', async () => {
  const script = fileURLToPath(new URL('../../examples/process/run.sh', import.meta.url));

  const result = await runExeca('/bin/sh', [script], { env: stack.variables });

  expect(result).toMatchObject({ exitCode: 0, stderr: expect.not.stringContaining('kybernate:') as string });
  const [, end = '', on = ''] = /^it has ended at (\d+)$[^]*^it counts on: (\d+)$/m.exec(result.stdout) ?? [];
  expect(Number(on)).toBeGreaterThan(Number(end));
});

test('held, it stands still after its commit, and runs on when it is released', async () => {
  const pid = await processes.start('counter');
  round += 1;
  const handle = await stack.client.checkpoint({
    node: stack.node,
    process: { pid },
    checkpointId: `ck-process-${round}`,
    durability: 'local',
    after: 'hold',
  });
  await until('the hold', async () => (await handle.progress())?.phase === 'holding');
  const held = processes.read('counter');
  expect(readProcess(pid)?.state).toBe('t');
  expect(processes.read('counter')).toEqual(held);

  await handle.release();

  expect((await handle.result()).source).toBe('running');
  await processes.countsOn('counter');
});

test.each([
  ['linked', /lives on under another one/],
  [
    'outside',
    /connected by a stream socket \(descriptor \d+\) to process .* outside of the tree.*close the connection/,
  ],
])('a process with %s is refused before anything is touched, with the reason', async (kind, reason) => {
  const path = processes.fileOf('outside.sock');
  const server = createServer().listen(path);
  try {
    const pid = await processes.start(kind, { argument: path });

    await expect(checkpoint(pid)).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringMatching(reason) as string,
    });

    await processes.countsOn(kind);
    expect(stack.operations()).toEqual([]);
  } finally {
    server.close();
  }
});

test('an analysis tells each kind that a process holds, and what keeps it from being captured, with descriptor and remedy', async () => {
  const device = ['/dev/loop-control', '/dev/fuse'].find((path) => existsSync(path)) ?? '/dev/hwrng';
  const through = ['unshare', '--uts', '--'];
  const pid = await processes.start('everything', { argument: device, through, stdio: ['pipe', 'ignore', 'ignore'] });

  const { stdout, exitCode } = await runCli(stack.variables, 'process', 'analyze', String(pid), '--json');

  const report = JSON.parse(stdout) as ProcessReport;
  const kinds = new Map(report.holdings.map(({ kind, examples }) => [kind, examples[0]]));
  const wanted =
    'tcp established, tcp listen, udp socket, unix socket, pipe, eventfd, signalfd, timerfd, epoll, inotify, io_uring, memfd, ' +
    'deleted file, file lock, ptrace, seccomp filter, terminal, device, zombie, stopped process, own namespace, cgroup, file';
  expect([...kinds.keys()]).toEqual(expect.arrayContaining(wanted.split(', ')));
  expect(kinds.get('io_uring')).toMatch(new RegExp(`^pid ${pid} fd \\d+: anon_inode:\\[io_uring\\]$`));
  expect({ possible: report.possible, exitCode }).toEqual({ possible: false, exitCode: ERRORS.Incompatible.exitCode });
  expect(report.refusals).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/uses io_uring \(descriptor \d+\), which CRIU cannot dump: switch it off/),
      expect.stringMatching(new RegExp(`has the device ${device} open as descriptor \\d+, .*: close it`)),
      // What Node calls a pipe.
      expect.stringMatching(/is connected by a stream socket \(descriptor 0\) to process .* outside of the tree/),
      expect.stringMatching(/is traced by process \d+, .*: detach the debugger/),
    ]),
  );
  expect(report.options).toContainEqual({ option: 'tcp-established', reason: expect.any(String) as string });
  expect(renderReport(report)).toMatch(/HOLDS +COUNT[^]*it cannot be checkpointed as it is:\n {2}- /);
  await processes.countsOn('everything');
});

test('who is not there, and who has the pid by now, is told', async () => {
  const pid = await processes.start('counter');

  await expect(checkpoint(4_194_000)).rejects.toMatchObject({ type: 'ProcessNotFound' });
  await expect(checkpoint(pid, { process: { pid, startTime: 1 } })).rejects.toMatchObject({
    type: 'ProcessNotFound',
    message: expect.stringContaining('is another one by now') as string,
  });
  await expect(checkpoint(process.ppid)).rejects.toMatchObject({
    type: expect.stringMatching(/Incompatible|InvalidInput/) as string,
  });
  await processes.countsOn('counter');
});

test('a restore beside its source, and with a file of another length, is refused with every reason', async () => {
  const input = processes.fileOf('input');
  writeFileSync(input, 'four');
  const fd = openSync(input, 'r');
  const pid = await processes.start('counter', { stdio: [fd, 'ignore', 'ignore'] });
  closeSync(fd);
  const { checkpointId } = await checkpoint(pid);

  const pipe = processes.fileOf('pipe');
  await runExeca('mkfifo', [pipe]);
  await expect(restore(checkpointId, { stdio: { stdin: pipe } })).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(/the source still runs.*pipe, wanted as stdin, is no file/) as string,
  });
  await processes.countsOn('counter');
  await processes.end(pid);
  truncateSync(input, 2);
  await expect(restore(checkpointId)).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(/input was 4 bytes long at the checkpoint and is 2 now/) as string,
  });
  writeFileSync(input, 'four');

  await restore(checkpointId);
  await processes.countsOn('counter');
});
