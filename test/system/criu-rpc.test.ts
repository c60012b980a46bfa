/* CRIU by its RPC, on processes of our own. */
import { spawn } from 'node:child_process';
import {
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test } from 'vitest';
import {
  criuCheck,
  CriuError,
  criuDump,
  criuFeatures,
  criuPreDump,
  criuRestore,
  criuVersionByRpc,
  type CriuEvent,
} from '../../native/criu/rpc/rpc.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { until } from '../harness/stack.ts';

/** One process: the pids of children that end with it are free only when init has seen their ends. */
const COUNTER = `
import os, sys, time
n = 0
while True:
    n += 1
    with open(sys.argv[1] + '.tmp', 'w') as file: file.write(str(n))
    os.rename(sys.argv[1] + '.tmp', sys.argv[1])
    time.sleep(0.02)
`;

const TICKS = `
import os, sys, time
with open(sys.argv[1], "w") as file: file.write(str(os.getpid()) + "\\n")
while True:
    print("tick")
    time.sleep(0.02)
`;

const criu = { run: runExeca, criuPath: requireProgram('criu', process.env) };
const dir = mkdtempSync(join(tmpdir(), 'kybernate-rpc-'));
const started: number[] = [];
let round = 0;
let imagesDir: string;

beforeEach(() => {
  round += 1;
  imagesDir = join(dir, `images-${round}`);
  mkdirSync(imagesDir);
});
afterAll(() => {
  for (const pid of started) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ESRCH: dumped, which ends it.
    }
  }
  rmSync(dir, { recursive: true });
});

const counted = (): number => Number(readFileSync(join(dir, `n-${round}`), 'utf8').trim() || 0);

/** A session of its own that counts in a file. */
async function startCounter(...within: string[]): Promise<number> {
  const args = [...within, 'python3', '-c', COUNTER, join(dir, `n-${round}`)];
  const child = spawn('setsid', args, { stdio: 'ignore', cwd: '/' });
  started.push(child.pid ?? 0);
  await until('the counter', () => existsSync(join(dir, `n-${round}`)) && counted() > 1);
  return child.pid ?? 0;
}

async function countsOn(): Promise<void> {
  const before = counted();
  await until('the counter to go on', () => counted() > before + 2);
}

test('it tells its version and its features, and that it can work here', async () => {
  expect(await criuVersionByRpc(criu)).toMatchObject({ majorNumber: 4 });
  expect(await criuFeatures(criu)).toEqual({
    memTrack: expect.any(Boolean) as boolean,
    lazyPages: expect.any(Boolean) as boolean,
    pidfdStore: true,
  });
  await expect(criuCheck(criu, dir)).resolves.toBeUndefined();
});

test('every stage of a dump and of a restore is told in its order, with the process', async () => {
  // Without namespaces of its own four of the stages do not happen.
  const pid = await startCounter('unshare', '--net', '--ipc');
  const events: CriuEvent[] = [];
  const onEvent = (event: CriuEvent): undefined => void events.push(event);

  await criuDump(criu, { imagesDir, pid, shellJob: true, logFile: 'dump.log', logLevel: 4 }, { onEvent });
  await until('its parent to have seen its end', () => readProcess(pid) === undefined);
  const reached = counted();
  const restored = await criuRestore(criu, { imagesDir, shellJob: true, rstSibling: true }, { onEvent });
  started.push(restored);

  expect(restored).toBe(pid);
  await countsOn();
  expect(counted()).toBeLessThan(reached + 1000);
  const names = events.map(({ name }) => name);
  expect(names.filter((name) => name !== 'query-ext-files')).toEqual([
    'pre-dump',
    'network-lock',
    'post-dump',
    'pre-restore',
    'setup-namespaces',
    'post-setup-namespaces',
    'post-restore',
    'network-unlock',
    'pre-resume',
    'post-resume',
  ]);
  expect(events.filter((event) => event.pid !== 0)).toEqual([
    { name: 'setup-namespaces', pid },
    { name: 'post-restore', pid },
  ]);
  process.kill(pid, 'SIGKILL');
});

test.each(['pre-dump', 'post-dump'])(
  'a veto at %s is what the call fails with, and the process runs on',
  async (at) => {
    const pid = await startCounter();
    const veto = new Error('not now');

    const dump = criuDump(
      criu,
      { imagesDir, pid, shellJob: true },
      {
        onEvent: ({ name }) => {
          if (name === at) {
            throw veto;
          }
          return undefined;
        },
      },
    );

    await expect(dump).rejects.toBe(veto);
    await countsOn();
  },
);

test('a call that is aborted is refused at the next event', async () => {
  const pid = await startCounter();
  const abort = new AbortController();
  abort.abort(new Error('enough'));

  await expect(criuDump(criu, { imagesDir, pid, shellJob: true }, { signal: abort.signal })).rejects.toThrow('enough');

  await countsOn();
});

test('a pre-dump leaves the process running, and the log lies in the work directory', async () => {
  const pid = await startCounter();
  const workDir = join(dir, 'work');
  mkdirSync(workDir);

  const { memTrack } = await criuFeatures(criu);

  const pages = criuPreDump(criu, { imagesDir, pid, shellJob: true, trackMem: true }, { workDir });

  await (memTrack ? pages : expect(pages).rejects.toThrow(/no soft-dirty bits.*so there is no pre-dump.*run on$/));
  expect(existsSync(join(workDir, 'pre-dump.log'))).toBe(true);
  expect(existsSync(join(imagesDir, 'inventory.img'))).toBe(memTrack);
  await countsOn();
});

test('a pipe of ours is given to the restored process in the place of the one that it had', async () => {
  const pidFile = join(dir, 'pid');
  const child = `setsid python3 -u -c '${TICKS}' ${pidFile} | cat >/dev/null`;
  spawn('sh', ['-c', child], { stdio: 'ignore', cwd: '/' });
  await until('its pid', () => existsSync(pidFile) && readFileSync(pidFile, 'utf8').endsWith('\n'));
  const pid = Number(readFileSync(pidFile, 'utf8'));
  started.push(pid);
  const key = (await runExeca('readlink', [`/proc/${pid}/fd/1`])).stdout.trim();
  const file = openSync(join(dir, 'ticks'), 'w');

  await criuDump(criu, { imagesDir, pid, shellJob: true });
  await until('its parent to have seen its end', () => readProcess(pid) === undefined);
  await criuRestore(
    criu,
    { imagesDir, shellJob: true, rstSibling: true, inheritFd: [{ key, fd: 4 }] },
    { fds: [file] },
  );
  closeSync(file);

  await until('its output', () => /tick\ntick/.test(readFileSync(join(dir, 'ticks'), 'utf8')));
  process.kill(pid, 'SIGKILL');
});

/** Its terminal's other end lies outside of the tree, as that of a container with `-t` does. */
const ON_A_TERMINAL = `
import os, pty, sys, time
pid, master = pty.fork()
if pid == 0:
    while True:
        print("tick", flush=True)
        time.sleep(0.02)
with open(sys.argv[1], "w") as file: file.write(str(pid) + "\\n")
while os.read(master, 4096): pass
`;

test('the terminal of a restored process is handed over with orphan-pts-master', async () => {
  const pidFile = join(dir, 'pid-on-terminal');
  rmSync(pidFile, { force: true });
  const parent = spawn('python3', ['-c', ON_A_TERMINAL, pidFile], { stdio: 'ignore', cwd: '/' });
  started.push(parent.pid ?? 0);
  await until('its pid', () => existsSync(pidFile) && readFileSync(pidFile, 'utf8').endsWith('\n'));
  const pid = Number(readFileSync(pidFile, 'utf8'));
  const options = { imagesDir, shellJob: true, orphanPtsMaster: true };
  const masters: number[] = [];

  await criuDump(criu, { ...options, pid });
  process.kill(parent.pid ?? 0, 'SIGKILL');
  await until('its end', () => readProcess(pid) === undefined);
  const restored = await criuRestore(
    criu,
    { ...options, rstSibling: true },
    {
      onEvent: ({ name, fd }) => {
        if (name === 'orphan-pts-master' && fd !== undefined) {
          masters.push(fd);
        }
        return undefined;
      },
    },
  );
  started.push(restored);

  expect(masters).toHaveLength(1);
  const [master = -1] = masters;
  const text = Buffer.alloc(64);
  // The terminal may be read before the end of a line has come.
  expect(text.toString('utf8', 0, readSync(master, text))).toMatch(/^tick/);
  process.kill(restored, 'SIGKILL');
  closeSync(master);
});

/** Holds a deleted file that is larger than what CRIU takes of one. */
const HOLDS_DELETED = `
import os, sys, time
file = open(sys.argv[1], "w+")
file.write("x" * (8 << 20))
file.flush()
os.unlink(sys.argv[1])
with open(sys.argv[2], "w") as ready: ready.write("%d %d\\n" % (os.getpid(), file.fileno()))
while True:
    file.seek(0)
    file.write("%d\\n" % time.monotonic_ns())
    file.flush()
    time.sleep(0.02)
`;

test('a file that query-ext-files leaves to the caller is no part of the images, and one of ours takes its place', async () => {
  const ready = join(dir, 'deleted-ready');
  const child = spawn('setsid', ['python3', '-c', HOLDS_DELETED, join(dir, 'deleted'), ready], {
    stdio: 'ignore',
    cwd: '/',
  });
  started.push(child.pid ?? 0);
  await until('the program', () => existsSync(ready) && readFileSync(ready, 'utf8').endsWith('\n'));
  const [pid = 0, fd = 0] = readFileSync(ready, 'utf8').split(' ').map(Number);
  const mount = Number(/^mnt_id:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1]);
  const key = `file[${mount.toString(16)}:${statSync(`/proc/${pid}/fd/${fd}`).ino.toString(16)}]`;
  const dump = { imagesDir, pid, shellJob: true };
  await expect(criuDump(criu, dump)).rejects.toThrow(/ghost/i);
  // CRIU holds it to the size that it saw.
  const taken = openSync(join(dir, 'in-its-place'), 'w+');
  ftruncateSync(taken, 8 << 20);

  await criuDump(criu, dump, {
    onEvent: ({ name }) => (name === 'query-ext-files' ? { external: [key] } : undefined),
  });
  await until('its parent to have seen its end', () => readProcess(pid) === undefined);
  const restored = await criuRestore(
    criu,
    { imagesDir, shellJob: true, rstSibling: true, inheritFd: [{ key, fd: 4 }] },
    { fds: [taken] },
  );
  started.push(restored);
  closeSync(taken);

  await until('it to write there', () => /^\d+\n/.test(readFileSync(join(dir, 'in-its-place'), 'latin1')));
  process.kill(restored, 'SIGKILL');
});

test('what it cannot do is an error of CRIU with its reason, and one that does not start is told', async () => {
  await expect(criuDump(criu, { imagesDir, pid: 999_999_999, shellJob: true })).rejects.toBeInstanceOf(CriuError);
  await expect(criuRestore(criu, { imagesDir: join(dir, 'none') })).rejects.toThrow(/criu RESTORE: /);
  await expect(criuVersionByRpc({ ...criu, criuPath: '/no/criu' })).rejects.toThrow(/without an answer \(ENOENT\)/);
  await expect(criuVersionByRpc({ ...criu, criuPath: '/bin/false' })).rejects.toThrow(
    /without an answer \(exit code 1\)/,
  );
});
