import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { workloadHook, type WorkloadHook } from '../../core/contract/gpu.ts';
import { readProcess } from '../../native/proc/tree.ts';
import type { Run, RunResult } from '../../native/run/run.ts';
import { type HookPlan, look, runHook } from './hooks.ts';

const NEVER = new AbortController().signal;
const noRun: Run = () => Promise.reject(new Error('nothing was to be started'));

let dir: string;
const started: ChildProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-hooks-'));
});
afterEach(() => {
  for (const child of started.splice(0)) {
    child.kill('SIGKILL');
  }
  rmSync(dir, { recursive: true });
});

/** What a hook reads of the plan, around a first process. */
function planOf(initHostPid: number): HookPlan {
  const initStartTime = readProcess(initHostPid)?.startTime ?? 0;
  const facts: Pick<HookPlan['facts'], 'initHostPid' | 'initStartTime' | 'runcRoot' | 'freezer'> = {
    freezer: { version: 2, path: join(dir, 'cgroup') },
    initHostPid,
    initStartTime,
    runcRoot: '/run/runc/n',
  };
  return {
    container: { namespace: 'n', id: 'c' },
    settings: { runcPath: '/bin/runc' },
    facts: facts as HookPlan['facts'],
  };
}

function answer(result: Partial<RunResult>): Run {
  const facts = { timedOut: false, cancelled: false, forceKilled: false, durationMs: 1, stdout: '', stderr: '' };
  return () => Promise.resolve({ ...facts, ...result });
}

const COMMAND = workloadHook.parse({ command: ['/bin/empty', 'a b'] });

test('a command is run by runc in the container, word for word', async () => {
  const calls: (readonly string[])[] = [];
  const run: Run = (file, args, options) => {
    calls.push([file, ...args.filter((arg) => !arg.startsWith(tmpdir())), String(options?.timeoutMs)]);
    return answer({ exitCode: 0 })(file, args);
  };

  await runHook(run, planOf(process.pid), COMMAND, NEVER);

  expect(calls).toEqual([
    ['/bin/runc', '--root', '/run/runc/n', 'exec', '--pid-file', 'c', '/bin/empty', 'a b', '30000'],
  ]);
});

test.each<[string, Partial<RunResult>, string, RegExp]>([
  [
    'a program that is not there',
    {
      exitCode: 255,
      stderr:
        'exec failed: unable to start container process: exec: "/bin/empty": stat /bin/empty: no such file or directory',
    },
    'InvalidInput',
    /\["\/bin\/empty","a b"\] in container n\/c cannot be started.*give a program of the container/,
  ],
  [
    'a program that fails',
    { exitCode: 3, stderr: 'no cache' },
    'DumpFailed',
    /failed \(exit code 3\): no cache; nothing/,
  ],
  [
    'a program that talks of missing files itself',
    { exitCode: 1, stderr: 'no such file or directory' },
    'DumpFailed',
    /exit code 1/,
  ],
  ['a program that hangs', { timedOut: true, signal: 'SIGTERM' }, 'DumpFailed', /did not end within 30000 ms/],
  ['runc that is not there', { startError: 'ENOENT' }, 'DumpFailed', /failed \(ENOENT\)/],
])('%s is an error', async (_title, result, type, message) => {
  await expect(runHook(answer(result), planOf(process.pid), COMMAND, NEVER)).rejects.toMatchObject({
    type,
    message: expect.stringMatching(message),
  });
});

test('a program that runc left behind is ended', async () => {
  const left = spawn('sleep', ['60'], { detached: true });
  started.push(left);
  mkdirSync(join(dir, 'cgroup'));
  writeFileSync(join(dir, 'cgroup/cgroup.procs'), `${process.pid}\n${left.pid}\n`);
  const run: Run = (file, args) => {
    writeFileSync(args[args.indexOf('--pid-file') + 1] ?? '', String(left.pid));
    return answer({ timedOut: true })(file, args);
  };

  await expect(runHook(run, planOf(process.pid), COMMAND, NEVER)).rejects.toThrow(/was killed/);

  expect(['Z', undefined]).toContain(readProcess(left.pid ?? 0)?.state);
});

test('a cancelled operation fails with its own reason', async () => {
  const reason = new Error('cancelled by the caller');

  await expect(runHook(noRun, planOf(process.pid), COMMAND, AbortSignal.abort(reason))).rejects.toBe(reason);
});

test('a container that has ended has no hook', async () => {
  const plan = planOf(process.pid);
  const ended: HookPlan = { ...plan, facts: { ...plan.facts, initStartTime: 1 } };

  await expect(runHook(noRun, ended, COMMAND, NEVER)).rejects.toThrow(/n\/c has ended/);
});

function signalHook(acknowledgement: string, timeoutMs = 5000): WorkloadHook {
  return workloadHook.parse({ signal: 'SIGUSR1', acknowledgement, timeoutMs });
}

/** Its root is the machine's, so acknowledgements lie in our own directory. */
async function python(onSignal: string): Promise<number> {
  const program = `
import os, signal, sys, time
def handle(*_):
    ${onSignal}
signal.signal(signal.SIGUSR1, handle)
print("ready", flush=True)
while True: time.sleep(60)`;
  const child = spawn('python3', ['-c', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  started.push(child);
  await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  return child.pid ?? 0;
}

test.each([
  ['made', ''],
  ['touched', 'old'],
])('a signal is acknowledged by a file that is %s', async (_title, before) => {
  const file = join(dir, 'ack');
  if (before !== '') {
    writeFileSync(file, before);
  }
  const pid = await python(`time.sleep(0.1); open(${JSON.stringify(file)}, "w").close()`);
  const begun = Date.now();

  await runHook(noRun, planOf(pid), signalHook(file), NEVER);

  expect(Date.now() - begun).toBeGreaterThanOrEqual(90);
});

test('a signal that is not acknowledged says what was waited for', async () => {
  const pid = await python('pass');

  await expect(runHook(noRun, planOf(pid), signalHook(join(dir, 'ack'), 100), NEVER)).rejects.toMatchObject({
    type: 'DumpFailed',
    message: expect.stringMatching(/did not acknowledge SIGUSR1 within 100 ms: .*ack was not made by its process \d+/),
  });
});

test('a signal that nobody handles is not sent', async () => {
  const child = spawn('sleep', ['60']);
  started.push(child);
  const pid = child.pid ?? 0;

  await expect(runHook(noRun, planOf(pid), signalHook(join(dir, 'ack')), NEVER)).rejects.toMatchObject({
    type: 'InvalidInput',
    message: expect.stringMatching(/has no handler for SIGUSR1.*it was not sent/),
  });
  expect(readProcess(pid)?.state).not.toBe('Z');
});

test('a first process that ends by the signal is told', async () => {
  const pid = await python('os._exit(1)');

  await expect(runHook(noRun, planOf(pid), signalHook(join(dir, 'ack')), NEVER)).rejects.toThrow(/has ended/);
});

test('no link leads a look out of the root', () => {
  mkdirSync(join(dir, 'root/run'), { recursive: true });
  mkdirSync(join(dir, 'outside'));
  writeFileSync(join(dir, 'outside/ack'), '');
  writeFileSync(join(dir, 'root/run/ack'), '');
  symlinkSync(join(dir, 'outside'), join(dir, 'root/link'));
  symlinkSync(join(dir, 'outside/ack'), join(dir, 'root/run/linked'));
  const root = join(dir, 'root');

  expect(look(root, '/run/ack')).toEqual({ inode: expect.any(BigInt), modifiedNs: expect.any(BigInt) });
  expect(look(root, '/run/absent')).toBeUndefined();
  expect(look(root, '/absent/ack')).toBeUndefined();
  expect(() => look(root, '/link/ack')).toThrow(/leads over a symbolic link/);
  expect(() => look(root, '/run/linked')).toThrow(/leads over a symbolic link/);
  expect(() => look(root, '/run/ack/deeper')).toThrow(/no directory/);
  expect(() => look(root, '/')).toThrow(/names no file/);
});
