/* A process survives whatever fails in its capture: CRIU, the runner, the worker, a cancellation. And a terminal. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { runnerPid } from '../../engine/runner-process.ts';
import { operationPaths, readPlan } from '../../engine/operation.ts';
import { isKybernateError } from '../../core/errors.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { Processes } from '../harness/processes.ts';
import { Stack, until } from '../harness/stack.ts';

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url));

let stack: Stack;
let processes: Processes;
let hooks: string;
let round = 0;

beforeAll(async () => {
  // Root's alone on the whole way down, and not mounted noexec.
  hooks = mkdtempSync('/var/lib/kybernate-hooks-');
  stack = await Stack.open({ withSidecar: false, env: { KYBERNATE_HOOKS_DIR: hooks } });
  processes = new Processes(stack.dir);
});
afterEach(async () => {
  await processes.endAll();
  rmSync(join(stack.stateDir, 'checkpoints'), { recursive: true, force: true });
});
// Also where the stack could not be opened; the hooks of vitest run last one first.
afterAll(() => rmSync(hooks, { recursive: true }));
afterAll(async () => {
  await stack.close();
});

async function start(
  pid: number,
  after: 'resume' | 'hold' | 'stop',
): Promise<Awaited<ReturnType<typeof stack.client.checkpoint>>> {
  round += 1;
  return stack.client.checkpoint({
    node: stack.node,
    process: { pid },
    checkpointId: `ck-survival-${round}`,
    durability: 'local',
    tcp: 'keep',
    after,
    timeouts: { heartbeatMs: 3000 },
  });
}

/** One that talks to a server all the time. */
async function talking<Result>(act: (pid: number) => Promise<Result>): Promise<Result> {
  const server = createServer((socket) => socket.on('error', () => undefined).pipe(socket)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const pid = await processes.start('tcp', { argument: String((server.address() as AddressInfo).port) });
    return await act(pid);
  } finally {
    server.close();
  }
}

/** Of the newest checkpoint. */
function operationId(): string {
  const ids = stack.operations().map((dir) => basename(dir));
  return ids.find((id) => readPlan({ runDir: stack.runDir }, id)?.checkpointId === `ck-survival-${round}`) ?? '';
}

function kill(hostPid: number | undefined): void {
  expect(hostPid).toBeGreaterThan(1);
  process.kill(Number(hostPid), 'SIGKILL');
}

/** It runs, nobody traces it, its connection works, and nothing half-made is left. */
async function isUnharmed(pid: number): Promise<void> {
  await processes.countsOn('tcp');
  expect(readProcess(pid)).toMatchObject({ state: expect.stringMatching(/[RSD]/) as string, tracerPid: 0 });
  await until('no operation to be left', () => stack.operations().length === 0);
  expect(stack.localCheckpoints()).toEqual([]);
}

test.each(['criu', 'runner', 'worker'])('held by its capture, it runs on when its %s is killed', async (who) => {
  await talking(async (pid) => {
    const handle = await start(pid, 'hold');
    await until('the hold', async () => (await handle.progress())?.phase === 'holding', 60_000);
    expect(readProcess(pid)?.state).toBe('t');
    const checkpoint = stack.localCheckpoints()[0];

    if (who === 'worker') {
      await stack.killNodeWorker();
      await stack.startWorkers();
    } else {
      const runner = runnerPid(operationPaths({ runDir: stack.runDir }, operationId()));
      kill(who === 'runner' ? runner : stack.dumping('criu')[0]?.hostPid);
    }
    if (who !== 'worker') {
      await processes.countsOn('tcp');
    }
    await handle.release();
    const ended = await handle.result().catch((error: unknown) => error);

    // What was committed before stays, whatever became of the hold.
    expect(stack.localCheckpoints()).toEqual([checkpoint]);
    expect(isKybernateError(ended, 'Poisoned')).toBe(false);
    stack.removeLocal(`ck-survival-${round}`);
    await isUnharmed(pid);
  });
});

test('a cancellation in the dump leaves it running, and no checkpoint', async () => {
  await talking(async (pid) => {
    const handle = await start(pid, 'resume');
    await until('CRIU', () => stack.dumping('criu').length > 0, 60_000, 2);

    await handle.cancel();
    const ended = await handle.result().then(
      () => 'completed',
      () => 'cancelled',
    );

    // The dump of so small a process may be faster than the cancellation.
    if (ended === 'completed') {
      stack.removeLocal(`ck-survival-${round}`);
    }
    await isUnharmed(pid);
  });
});

test('a CRIU that is killed in the dump fails it, and the process runs on', async () => {
  const pid = await processes.start('memory', { argument: '300' });
  const handle = await start(pid, 'resume');
  await until('pages', () => stack.pageBytes(`ck-survival-${round}`) > 1_000_000, 60_000, 2);
  kill(stack.dumping('criu')[0]?.hostPid);

  await expect(handle.result()).rejects.toMatchObject({ type: 'DumpFailed' });

  await processes.countsOn('memory');
  expect(readProcess(pid)?.tracerPid).toBe(0);
  expect(stack.localCheckpoints()).toEqual([]);
});

test('a job of a terminal comes back on another terminal, attached, with its exit code; elsewhere it is refused', async () => {
  const file = processes.fileOf('job');
  const go = processes.fileOf('go');
  const job = `import os,time
open(${JSON.stringify(file)},"w").write(str(os.getpid()))
while not os.path.exists(${JSON.stringify(go)}): time.sleep(0.02)
open("/dev/tty","w").write("back on "+os.ttyname(1)+"\\\\n")
os._exit(7)`;
  const script = processes.fileOf('job.py');
  writeFileSync(script, job);
  const shell = spawn('script', ['-qfc', `sh -c 'python3 ${script}; true'`, '/dev/null'], { stdio: 'ignore' });
  const pidIn = (): number => Number(readOr(file) || 0);
  await until('the job', () => pidIn() > 0);
  const pid = pidIn();

  const { checkpointId } = await (await start(pid, 'stop')).result();
  shell.kill();
  await until('its pid to be free', () => readProcess(pid) === undefined);
  const refused = (await stack.client.restoreProcess({ node: stack.node, checkpointId })).result();
  await expect(refused).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringContaining('terminal') as string,
  });
  writeFileSync(go, '');
  const typescript = processes.fileOf('typescript');
  const command = `${process.execPath} ${CLI} process restore ${checkpointId} --attach; echo code $?`;
  const env = { ...process.env, ...stack.variables };
  const attached = spawn('script', ['-qfc', command, typescript], { stdio: 'ignore', env });
  await once(attached, 'exit');

  expect(readFileSync(typescript, 'utf8')).toMatch(/back on \/dev\/pts\/\d+[^]*code 7/);
});

function readOr(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    // Not written yet.
    return '';
  }
}

test('a CRIU that is killed when it has made the processes leaves none of them, and the next restore has its pids', async () => {
  const pid = await processes.start('counter');
  await (await start(pid, 'stop')).result();
  await until('its pid to be free', () => readProcess(pid) === undefined);
  const restore = { node: stack.node, checkpointId: `ck-survival-${round}` };
  mkdirSync(join(hooks, 'post-restore'), { mode: 0o755 });
  const killsCriu = "#!/bin/sh\nkill -9 $(awk '/^PPid:/ { print $2 }' /proc/$KYBERNATE_PID/status)\n";
  writeFileSync(join(hooks, 'post-restore', '10-kill'), killsCriu, { mode: 0o755 });

  const failed = await stack.client.restoreProcess(restore);
  await expect(failed.result()).rejects.toMatchObject({ type: 'RestoreFailed' });

  expect(['Z', undefined]).toContain(readProcess(pid)?.state);
  rmSync(join(hooks, 'post-restore'), { recursive: true });
  processes.adopt((await (await stack.client.restoreProcess(restore)).result()).pid);
  await processes.countsOn('counter');
});
