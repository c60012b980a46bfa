/* Through koffi and the fake driver: the ABI is the real one (native/verify compares it with the headers). */
import { spawn } from 'node:child_process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeGpu, fakeDevice, whyNoFakes } from '../../test/harness/fake-gpu.ts';
import { pendingCalls } from '../exit-now.ts';
import { CudaError, CudaTimeout } from './error.ts';
import type { GpuDriver } from './gpu-driver.ts';
import { openGpuDriver } from './open.ts';

const DEADLINE_MS = 5000;
const GIB = 1024 ** 3;
const reason = whyNoFakes();

describe.skipIf(reason !== undefined)(`a GPU driver${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  beforeEach(() => {
    fake = FakeGpu.open([fakeDevice(0), fakeDevice(1)]);
    process.env['KYBERNATE_FAKE_GPU'] = fake.dir;
  });
  afterEach(async () => {
    fake.release();
    while (pendingCalls() > 0) {
      await new Promise(setImmediate);
    }
    fake.close();
  });

  function driver(): GpuDriver {
    const opened = openGpuDriver(fake);
    if (opened.driver === undefined) {
      throw new Error(opened.reason);
    }
    return opened.driver;
  }
  const uuids = [fakeDevice(0).uuid, fakeDevice(1).uuid] as const;
  const both = `${uuids[0]},${uuids[1]}`;

  it('tells its versions, and its devices by minor', () => {
    fake.setDevices([fakeDevice(1), { ...fakeDevice(0, 2 * GIB), name: 'Fake H100 MIG' }]);

    expect(driver()).toMatchObject({ version: '580.0.fake', apiVersion: 13_000 });
    expect(driver().devices()).toEqual([
      {
        uuid: uuids[0],
        minor: 0,
        index: 1,
        name: 'Fake H100 MIG',
        computeCapability: '9.0',
        mig: true,
        memoryTotalBytes: 2 * GIB,
        memoryFreeBytes: 2 * GIB,
      },
      expect.objectContaining({ uuid: uuids[1], minor: 1, mig: false, memoryTotalBytes: 80 * GIB }),
    ]);
  });

  it('moves a process through its states and its VRAM through its memory', async () => {
    const pid = await fake.startProcess('states', '--vram', String(GIB));
    fake.writeVram('states', pid, 'a token');
    const state = () => driver().processState(pid, DEADLINE_MS);
    const used = () =>
      driver()
        .memoryInUse()
        .filter(({ hostPid }) => hostPid === pid);

    expect([await state(), used()]).toEqual(['running', [{ hostPid: pid, uuid: uuids[0], usedBytes: GIB }]]);
    await driver().lock(pid, 1000, DEADLINE_MS);
    expect(await state()).toBe('locked');
    await driver().checkpoint(pid, DEADLINE_MS);
    expect([await state(), used(), fake.readVram('states', pid)]).toEqual(['checkpointed', [], undefined]);
    await driver().restore(pid, [], DEADLINE_MS);
    expect([await state(), fake.readVram('states', pid)]).toEqual(['locked', 'a token']);
    await driver().unlock(pid, DEADLINE_MS);
    expect(await state()).toBe('running');
    expect(fake.done()).toEqual([`Lock ${pid}`, `Checkpoint ${pid}`, `Restore ${pid}`, `Unlock ${pid}`]);
  });

  it('says "none" of a process without CUDA, and that a pid is gone', async () => {
    expect(await driver().processState(process.pid, DEADLINE_MS)).toBe('none');
    const error: unknown = await driver()
      .processState(4_194_300, DEADLINE_MS)
      .catch((thrown: unknown) => thrown);

    expect(error).toBeInstanceOf(CudaError);
    expect(error).toMatchObject({ code: 304, name: 'CUDA_ERROR_OPERATING_SYSTEM', hostPid: 4_194_300, gone: true });
  });

  it('a call in the wrong state fails with the code and the name of the driver', async () => {
    const pid = await fake.startProcess('wrong');

    await expect(driver().unlock(pid, DEADLINE_MS)).rejects.toMatchObject({
      call: 'cuCheckpointProcessUnlock',
      code: 401,
      name: 'CUDA_ERROR_ILLEGAL_STATE',
      hostPid: pid,
      gone: false,
      message: `cuCheckpointProcessUnlock of pid ${pid} returned 401 (CUDA_ERROR_ILLEGAL_STATE)`,
    });
  });

  it('hands the timeout of a lock to the driver', async () => {
    const pid = await fake.startProcess('busy');
    fake.setRules([{ call: 'Lock', action: 'not-ready' }]);
    const begin = performance.now();

    await expect(driver().lock(pid, 120, DEADLINE_MS)).rejects.toMatchObject({ code: 600 });

    expect(performance.now() - begin).toBeGreaterThan(110);
    expect(await driver().processState(pid, DEADLINE_MS)).toBe('running');
  });

  describe('with a map of devices', () => {
    const [first, second] = uuids;
    it('needs every device of the process in it', async () => {
      const pid = await fake.startProcess('map', '--devices', both, '--vram', '4096');
      await driver().lock(pid, 0, DEADLINE_MS);
      await driver().checkpoint(pid, DEADLINE_MS);

      const half = driver().restore(pid, [{ from: first, to: second }], DEADLINE_MS);
      await expect(half).rejects.toMatchObject({ code: 1, name: 'CUDA_ERROR_INVALID_VALUE' });
      const swap = [
        { from: first, to: second },
        { from: second, to: first },
      ];
      await driver().restore(pid, swap, DEADLINE_MS);

      expect(await driver().processState(pid, DEADLINE_MS)).toBe('locked');
    });

    it('moves the memory to the other device', async () => {
      const pid = await fake.startProcess('move', '--vram', '4096');
      await driver().lock(pid, 0, DEADLINE_MS);
      await driver().checkpoint(pid, DEADLINE_MS);
      await driver().restore(pid, [{ from: first, to: second }], DEADLINE_MS);

      expect(driver().memoryInUse()).toEqual([{ hostPid: pid, uuid: second, usedBytes: 4096 }]);
    });

    it('refuses a name that is no UUID before it calls the driver', async () => {
      const restore = driver().restore(1, [{ from: 'GPU-0', to: second }], DEADLINE_MS);
      await expect(restore).rejects.toMatchObject({ type: 'InvalidInput' });
    });
  });

  it('a restore without room is 2 once and 304 from then on, whatever is free', async () => {
    const pid = await fake.startProcess('room', '--vram', String(40 * GIB));
    await driver().lock(pid, 0, DEADLINE_MS);
    await driver().checkpoint(pid, DEADLINE_MS);
    fake.setDevices([fakeDevice(0, GIB)]);

    await expect(driver().restore(pid, [], DEADLINE_MS)).rejects.toMatchObject({ code: 2 });
    fake.setDevices([fakeDevice(0)]);
    await expect(driver().restore(pid, [], DEADLINE_MS)).rejects.toMatchObject({ code: 304, gone: false });

    expect(await driver().processState(pid, DEADLINE_MS)).toBe('checkpointed');
  });

  it('gives up on a call at its deadline; the driver does it all the same', async () => {
    const pid = await fake.startProcess('hang');
    fake.setRules([{ call: 'Lock', action: 'hang' }]);

    const late: unknown = await driver()
      .lock(pid, 0, 50)
      .catch((thrown: unknown) => thrown);
    expect(late).toBeInstanceOf(CudaTimeout);
    expect(late).toMatchObject({ call: 'cuCheckpointProcessLock', hostPid: pid, deadlineMs: 50 });
    expect([pendingCalls(), await driver().processState(pid, DEADLINE_MS)]).toEqual([1, 'running']);
    expect([driver().lockPending(pid), driver().lockPending(pid + 1)]).toEqual([true, false]);
    fake.release();
    while (pendingCalls() > 0) {
      await new Promise(setImmediate);
    }
    expect([await driver().processState(pid, DEADLINE_MS), driver().lockPending(pid)]).toEqual(['locked', false]);
  });

  it('a process with a call that hangs ends when it wants to', async () => {
    const pid = await fake.startProcess('stuck');
    fake.setRules([{ call: 'Lock', action: 'hang' }]);
    const script = `
      import { openGpuDriver } from ${JSON.stringify(new URL('open.ts', import.meta.url).href)};
      import { exitNow } from ${JSON.stringify(new URL('../exit-now.ts', import.meta.url).href)};
      await openGpuDriver(${JSON.stringify(fake)}).driver.lock(${pid}, 0, 50).catch(() => undefined);
      exitNow(0);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' });

    const signal = await new Promise((resolve) => child.on('exit', (_, by) => resolve(by)));

    expect(signal).toBe('SIGKILL');
    expect(fake.calls().filter(({ call }) => call === 'Lock')).toMatchObject([{ what: 'begin' }]);
  });

  it('reading a state waits while the driver saves, up to its own deadline', async () => {
    const pid = await fake.startProcess('slow');
    await driver().lock(pid, 0, DEADLINE_MS);
    fake.setRules([{ call: 'Checkpoint', action: 'slow=400' }]);
    const saved = driver().checkpoint(pid, DEADLINE_MS);
    while (!fake.calls().some(({ call, what }) => call === 'Checkpoint' && what === 'begin')) {
      await new Promise(setImmediate);
    }
    // The fake logs the beginning a moment before it is busy.
    await new Promise((resolve) => setTimeout(resolve, 50));

    await expect(driver().processState(pid, 50)).rejects.toBeInstanceOf(CudaTimeout);
    expect(await driver().processState(pid, DEADLINE_MS)).toBe('checkpointed');
    await saved;
  });

  it('a process that dies while it is saved is gone', async () => {
    const pid = await fake.startProcess('dies');
    await driver().lock(pid, 0, DEADLINE_MS);
    fake.setRules([{ call: 'Checkpoint', action: 'gone' }]);

    await expect(driver().checkpoint(pid, DEADLINE_MS)).rejects.toMatchObject({ code: 304 });
  });

  it('a fork of a CUDA process is none itself', async () => {
    const parent = await fake.startProcess('parent', '--fork');
    const child = Number(await childOf(parent));

    expect(await driver().processState(child, DEADLINE_MS)).toBe('none');
    expect(await driver().processState(parent, DEADLINE_MS)).toBe('running');
  });
});

async function childOf(pid: number): Promise<string> {
  const ps = spawn('ps', ['-o', 'pid=', '--ppid', String(pid)]);
  let text = '';
  for await (const chunk of ps.stdout) {
    text += String(chunk);
  }
  return text.trim();
}

describe('a node without a usable driver says why', () => {
  it.each([
    ['no library', 'libcuda-of-nobody.so.1', /^no NVIDIA driver: libcuda-of-nobody\.so\.1: .*No such file/],
    [
      'a library without the checkpoint calls',
      'libc.so.6',
      /^the NVIDIA driver cannot checkpoint, which needs driver 570 or newer: libc\.so\.6: .*cuGetErrorName/,
    ],
  ])('%s', (_, cudaLibrary, expected) => {
    const opened = openGpuDriver({ cudaLibrary, nvmlLibrary: 'libnvidia-ml.so.1' });

    expect(opened.driver === undefined && opened.reason).toMatch(expected);
  });

  it.skipIf(reason !== undefined)('a kernel module that is not loaded; and finds it once it is', () => {
    const fake = FakeGpu.open();
    process.env['KYBERNATE_FAKE_GPU'] = '/nonexistent';

    const without = openGpuDriver(fake);
    process.env['KYBERNATE_FAKE_GPU'] = fake.dir;
    const loaded = openGpuDriver(fake);

    expect(without.driver === undefined && without.reason).toMatch(/^nvmlInit_v2 returned 9 \(Driver Not Loaded\)/);
    expect(loaded.driver?.version).toBe('580.0.fake');
    fake.close();
  });
});
