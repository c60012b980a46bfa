/* `gpu list`, `status` and `test` on a fake driver with the real ABI. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFakeCli } from '../../test/harness/fake-cli.ts';
import { FakeGpu, fakeDevice, whyNoFakes } from '../../test/harness/fake-gpu.ts';
import { run } from '../program.ts';

const MIB = 1024 ** 2;
const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url));
const reason = whyNoFakes();

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function gpu(fake: FakeGpu, ...args: string[]): Promise<Outcome> {
  const made = createFakeCli({ env: { ...fake.environment, PATH: process.env['PATH'] ?? '' } });
  const code = await run(['gpu', ...args], made.cli);
  return { code, stdout: made.stdout(), stderr: made.stderr() };
}

describe.skipIf(reason !== undefined)(`kybernate gpu${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  beforeEach(() => {
    fake = FakeGpu.open([fakeDevice(0), fakeDevice(1)]);
    process.env['KYBERNATE_FAKE_GPU'] = fake.dir;
  });
  afterEach(() => fake.close());

  it('list shows devices, what is free of them, and who has the rest', async () => {
    const pid = await fake.startProcess('list', '--vram', String(512 * MIB));

    const [text, json] = [await gpu(fake, 'list'), await gpu(fake, 'list', '--json')];

    expect(text.stdout).toMatch(/^driver +580\.0\.fake, CUDA 13\.0$/m);
    expect(text.stdout).toMatch(/^\/dev\/nvidia0 +Fake H100 +GPU-\S+ +9\.0 +79\.50 GiB +80\.00 GiB$/m);
    expect(text.stdout).toMatch(new RegExp(`^ *${pid} +/dev/nvidia0 +512\\.0 MiB$`, 'm'));
    expect(JSON.parse(json.stdout)).toMatchObject({
      driver: { version: '580.0.fake', apiVersion: 13_000 },
      devices: [{ uuid: fakeDevice(0).uuid }, { uuid: fakeDevice(1).uuid }],
      processes: [{ hostPid: pid, uuid: fakeDevice(0).uuid, usedBytes: 512 * MIB }],
    });
  });

  it('status tells the state of each process, and who is none of the driver', async () => {
    const pid = await fake.startProcess('status', '--vram', '4096', '--nodes', '/dev/null');

    const { code, stdout } = await gpu(fake, 'status', String(pid), String(process.pid), '--json');

    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      processes: [
        {
          hostPid: pid,
          state: 'running',
          restoreThreadId: pid,
          memory: [{ hostPid: pid, uuid: fakeDevice(0).uuid, usedBytes: 4096 }],
          deviceFiles: {},
        },
        { hostPid: process.pid, state: 'none', memory: [], deviceFiles: {} },
      ],
    });
  });

  it.each([
    ['nine', "<pid>: 'nine' is none"],
    ['4194300', 'there is no process 4194300 on this machine'],
  ])('status of %s is refused', async (pid, message) => {
    const { code, stderr } = await gpu(fake, 'status', pid);

    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  });

  it('test saves, restores and compares, and leaves no process', async () => {
    const { code, stdout } = await gpu(fake, 'test', '--mib', '9', '--device', '1', '--json');

    expect(code).toBe(0);
    const { calls, ...result } = JSON.parse(stdout) as { calls: Array<{ call: string; ms: number }> };
    expect(result).toEqual({
      driver: { version: '580.0.fake', apiVersion: 13_000 },
      device: { uuid: fakeDevice(1).uuid, name: 'Fake H100', minor: 1 },
      bytes: 9 * MIB,
      usedBytes: 9 * MIB,
      usedWhileSavedBytes: 0,
      same: true,
    });
    expect(calls.map(({ call }) => call)).toEqual(['lock', 'checkpoint', 'restore', 'unlock']);
    expect(fake.done().map((line) => line.split(' ')[0])).toEqual(['Lock', 'Checkpoint', 'Restore', 'Unlock']);
    expect(testProcesses(fake)).toEqual([]);
  });

  it.each([
    ['VRAM that comes back different', 'Restore', 'corrupt', 13, /the first wrong byte of 2097152 is at 1048576/],
    ['no room at the restore', 'Restore', 'oom', 11, /cuCheckpointProcessRestore of pid \d+ returned 2 /],
    ['a lock that is not had', 'Lock', 'error=600', 10, /CUDA_ERROR_NOT_READY/],
    ['what the driver does not support', 'Checkpoint', 'error=801', 9, /CUDA_ERROR_NOT_SUPPORTED/],
    ['a process that dies', 'Checkpoint', 'gone', 12, /returned 304 /],
  ] as const)('test fails for %s, and leaves no process', async (_, call, action, exitCode, message) => {
    fake.setRules([{ call, action }]);

    const { code, stderr } = await gpu(fake, 'test', '--mib', '2');

    expect([code, stderr]).toEqual([exitCode, expect.stringMatching(message)]);
    expect(testProcesses(fake)).toEqual([]);
  });

  it('test asks for no more than the GPU has free', async () => {
    fake.setDevices([fakeDevice(0, 8 * MIB), fakeDevice(1)]);

    const { code, stderr } = await gpu(fake, 'test', '--mib', '9');

    expect([code, stderr]).toEqual([11, expect.stringMatching(/has 8388608 bytes free, 9437184 are asked for/)]);
    expect(fake.calls()).toEqual([]);
  });

  it('a node without a driver says so, and why', async () => {
    const made = createFakeCli({ env: { KYBERNATE_LIBCUDA: '/nowhere/libcuda.so.1' } });

    expect(await run(['gpu', 'list'], made.cli)).toBe(9);
    expect(made.stderr()).toContain('this node has no GPU that can be used: no NVIDIA driver: /nowhere/libcuda.so.1: ');
  });

  it('the program makes more than 4 calls of the driver at once', async () => {
    const pids = await Promise.all(Array.from({ length: 6 }, (_, index) => fake.startProcess(`pool${index}`)));
    // Each waits until all six have begun; with libuv's own 4 threads they never would.
    fake.setRules([{ call: 'GetState', action: 'together=6' }]);

    const { code, stdout } = await spawned(fake, ['gpu', 'status', ...pids.map(String), '--json']);

    expect(code).toBe(0);
    expect(stdout.match(/"state": "running"/g)).toHaveLength(6);
    // It starts the program itself, which takes its time on a machine that is busy.
  }, 30_000);
});

/** Pids of children of `gpu test` on this fake machine. */
function testProcesses(fake: FakeGpu): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      const line = /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
      return (
        line.includes('gpu-test-child') && readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`FAKE_GPU=${fake.dir}`)
      );
    } catch {
      // It has ended between two calls.
      return false;
    }
  });
}

async function spawned(fake: FakeGpu, args: readonly string[]): Promise<{ code: number | null; stdout: string }> {
  const env = { PATH: process.env['PATH'], ...fake.environment };
  const child = spawn(process.execPath, [MAIN, ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
  let stdout = '';
  for await (const chunk of child.stdout) {
    stdout += String(chunk);
  }
  return { code: await ended, stdout };
}
