import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { arch, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Logger } from '../../core/op.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { NO_GPU } from './gpu-plan.ts';
import { deviceHoldings, scrubChildren } from './scrub.ts';

const silent = (): void => undefined;
const LOG: Logger = { debug: silent, info: silent, warn: silent, error: silent };

let dir: string;
let prefix: string;
const started: ChildProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-scrub-'));
  prefix = join(dir, 'nvidia');
  writeFileSync(`${prefix}0`, Buffer.alloc(8192));
});
afterEach(() => {
  for (const child of started.splice(0)) {
    child.kill('SIGTERM');
  }
  rmSync(dir, { recursive: true });
});

/** A program that has the file open three times and mapped five times, and then does what is given. */
const HOLD = (file: string): string => `
import mmap, os, select, signal, sys, threading, time
fds = [os.open(${JSON.stringify(file)}, os.O_RDWR) for _ in range(3)]
held = [mmap.mmap(fds[0], 8192, flags=mmap.MAP_SHARED, trackfd=False) if sys.version_info >= (3, 13) else mmap.mmap(fds[0], 8192) for _ in range(5)]
own = mmap.mmap(-1, 8192)
own[0:4] = b"mine"
def say(text):
    sys.stdout.write(text + "\\n"); sys.stdout.flush()
`;

interface Program {
  readonly hostPid: number;
  next(): Promise<string>;
  readonly ended: Promise<number | null>;
}

/** Not our own child: Node waits for those by itself, and would take the news of their stops from the tracer. */
const GRANDCHILD = 'python3 -c "$0" & trap "kill -9 $!" TERM; { wait $!; } 2>/dev/null';

async function python(body: string): Promise<Program> {
  const program = `${HOLD(`${prefix}0`)}\nsay(str(os.getpid()))\n${body}`;
  const shell = spawn('sh', ['-c', GRANDCHILD, program], { stdio: ['ignore', 'pipe', 'inherit'] });
  started.push(shell);
  const lines = createInterface({ input: shell.stdout })[Symbol.asyncIterator]();
  const ended = new Promise<number | null>((resolve) => shell.once('exit', resolve));
  const next = async (): Promise<string> => String((await lines.next()).value);
  const hostPid = Number(await next());
  expect(await next()).toBe('ready');
  return { hostPid, next, ended };
}

function planOf(...pids: number[]): Parameters<typeof scrubChildren>[0] {
  const children = pids.map((hostPid) => {
    const { nsPid = 0, startTime = 0, command = '' } = readProcess(hostPid) ?? {};
    return { hostPid, nsPid, startTime, command };
  });
  return { container: { namespace: 'n', id: 'c' }, gpu: { ...NO_GPU, children } };
}

function scrub(...pids: number[]): ReturnType<typeof scrubChildren> {
  return scrubChildren(planOf(...pids), LOG, prefix);
}

const x86 = test.runIf(arch() === 'x64');

x86('a child loses its mappings and descriptors, keeps the rest, and goes on in the call in which it was', async () => {
  const child = await python(`
say("ready")
began = time.monotonic()
select.select([], [], [], 0.4)
say(f"{own[0:4].decode()} {time.monotonic() - began >= 0.4}")
`);
  const before = deviceHoldings(child.hostPid, prefix);

  const done = await scrub(child.hostPid);

  expect(before.ranges).toHaveLength(5);
  expect(done).toEqual([{ hostPid: child.hostPid, mappings: 5, descriptors: before.fds.length }]);
  expect(deviceHoldings(child.hostPid, prefix)).toEqual({ ranges: [], fds: [] });
  expect(readProcess(child.hostPid)?.tracerPid).toBe(0);
  expect(await child.next()).toBe('mine True');
  expect(await child.ended).toBe(0);
});

x86('a second time there is nothing to do, and a child that has ended is left out', async () => {
  const child = await python('say("ready"); time.sleep(60)');
  const plan = planOf(child.hostPid);
  await scrubChildren(plan, LOG, prefix);

  expect(await scrubChildren(plan, LOG, prefix)).toEqual([]);
  process.kill(child.hostPid, 'SIGKILL');
  await child.ended;
  expect(await scrubChildren(plan, LOG, prefix)).toEqual([]);
});

x86('all threads stand still meanwhile, those that compute too, and go on', async () => {
  const child = await python(`
count = [0, 0]
def sleep():
    while True:
        time.sleep(0.001); count[0] += 1
def compute():
    while True:
        count[1] += 1
for work in (sleep, sleep, compute): threading.Thread(target=work, daemon=True).start()
say("ready")
while True:
    time.sleep(0.05); say(f"{count[0]} {count[1]}")
`);

  await scrub(child.hostPid);

  const counts = async (): Promise<number[]> => (await child.next()).split(' ').map(Number);
  let seen = await counts();
  for (let round = 0; round < 20; round += 1) {
    const now = await counts();
    expect(now.every((count, index) => count > (seen[index] ?? 0))).toBe(true);
    seen = now;
  }
});

x86('signals that come meanwhile are delivered, none is lost, and a wait for one ends', async () => {
  const child = await python(`
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
parent = os.getpid()
if os.fork() == 0:
    for fd in fds: os.close(fd)
    for one in held: one.close()
    for _ in range(200):
        os.kill(parent, signal.SIGUSR1); time.sleep(0.002)
    os._exit(0)
say("ready")
while True:
    signal.pause() if not got else time.sleep(0.001)
    if os.waitpid(-1, os.WNOHANG)[0]:
        say(str(len(got) > 150)); break
`);

  for (let round = 0; round < 5; round += 1) {
    await scrub(child.hostPid);
  }

  expect(await child.next()).toBe('True');
  expect(await child.ended).toBe(0);
});

x86('a child that is stopped stays stopped', async () => {
  const child = await python('say("ready")\nwhile True: time.sleep(0.02); say("on")');
  process.kill(child.hostPid, 'SIGSTOP');
  while (readProcess(child.hostPid)?.state !== 'T') {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }

  await scrub(child.hostPid);

  expect(deviceHoldings(child.hostPid, prefix)).toEqual({ ranges: [], fds: [] });
  // The kernel lets it stop again by itself, some time after the detach.
  await expect.poll(() => readProcess(child.hostPid)?.state).toBe('T');
  process.kill(child.hostPid, 'SIGCONT');
  await child.next();
  expect(readProcess(child.hostPid)?.state).not.toBe('T');
});

x86('several children are scrubbed one after the other', async () => {
  const children = await Promise.all([1, 2].map(() => python('say("ready"); time.sleep(60)')));

  const done = await scrub(...children.map((child) => child.hostPid));

  expect(done.map(({ hostPid }) => hostPid)).toEqual(children.map(({ hostPid }) => hostPid));
});

x86('a child that somebody else traces is an error that says what it still has, and it runs on', async () => {
  const child = await python('say("ready")\nwhile True: time.sleep(0.02); say("on")');
  const tracer = spawn('python3', [
    '-c',
    `import ctypes, time; libc = ctypes.CDLL(None); assert libc.ptrace(0x4206, ${child.hostPid}, 0, 0) == 0; time.sleep(60)`,
  ]);
  started.push(tracer);
  while (readProcess(child.hostPid)?.tracerPid !== tracer.pid) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }

  await expect(scrub(child.hostPid)).rejects.toMatchObject({
    type: 'DumpFailed',
    message: expect.stringMatching(/5 mappings of .*SEIZE of thread \d+ failed: EPERM; it runs on, nothing was frozen/),
  });
  expect(await child.next()).toBe('on');
});
