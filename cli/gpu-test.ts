/* Saves and restores a process of our own that holds VRAM, and compares: what `kybernate gpu test` does. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { freemem } from 'node:os';
import { extname } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { KybernateError } from '../core/errors.ts';
import { SAVE_OVERHEAD_BYTES } from '../core/gpu/process-state.ts';
import { CUDA } from '../native/cuda/codes.ts';
import type { GpuDevice, GpuDriver } from '../native/cuda/gpu-driver.ts';
import type { Environment } from './config.ts';
import { asKybernateError, gpuLibraries, requireGpuDriver } from './gpu-node.ts';

const LOCK_TIMEOUT_MS = 10_000;
const DEADLINE_MS = 600_000;
const REMEDY =
  'do not checkpoint on this node; try another version of the driver, and look for errors of the GPU in dmesg';

export interface GpuTestResult {
  readonly driver: { readonly version: string; readonly apiVersion: number };
  readonly device: Pick<GpuDevice, 'uuid' | 'name' | 'minor'>;
  readonly bytes: number;
  /** what the process held on the device before and while it was saved, as NVML says; contexts take some, too */
  readonly usedBytes: number;
  readonly usedWhileSavedBytes: number;
  /** in order of time */
  readonly calls: ReadonlyArray<{ readonly call: string; readonly ms: number }>;
  readonly same: true;
}

/**
 * @param index of the device, by minor
 * @throws RestoreFailed when the memory came back different. The process that was tested is always ended.
 */
export async function testGpu(env: Environment, index: number, bytes: number): Promise<GpuTestResult> {
  const driver = requireGpuDriver(env);
  const device = driver.devices()[index];
  if (device === undefined) {
    throw new KybernateError('InvalidInput', `this node has no GPU ${index}; see \`kybernate gpu list\``);
  }
  checkRoom(device, bytes);
  const child = startChild(env, device, bytes);
  try {
    return await saveAndRestore(driver, device, bytes, child);
  } finally {
    await child.end();
  }
}

function checkRoom(device: GpuDevice, bytes: number): void {
  if (device.memoryFreeBytes < bytes) {
    const message = `${device.uuid} has ${device.memoryFreeBytes} bytes free, ${bytes} are asked for; nothing was done`;
    throw new KybernateError('GpuOutOfMemory', message);
  }
  const available = freemem();
  if (available < bytes + SAVE_OVERHEAD_BYTES) {
    const needed = bytes + SAVE_OVERHEAD_BYTES;
    const message = `saving ${bytes} bytes of VRAM needs ${needed} bytes of memory, ${available} are available`;
    throw new KybernateError('Incompatible', message);
  }
}

async function saveAndRestore(
  driver: GpuDriver,
  device: GpuDevice,
  bytes: number,
  child: TestChild,
): Promise<GpuTestResult> {
  await child.ready();
  const { hostPid } = child;
  const used = (): number =>
    driver
      .memoryInUse()
      .filter((use) => use.hostPid === hostPid && use.uuid === device.uuid)
      .reduce((sum, { usedBytes }) => sum + usedBytes, 0);
  const calls: Array<{ call: string; ms: number }> = [];
  async function timed(call: string, way: 'DumpFailed' | 'RestoreFailed', begin: () => Promise<void>): Promise<void> {
    const started = performance.now();
    try {
      await begin();
    } catch (error) {
      throw asKybernateError(error, way);
    }
    calls.push({ call, ms: performance.now() - started });
  }
  const usedBytes = used();
  await timed('lock', 'DumpFailed', () => driver.lock(hostPid, LOCK_TIMEOUT_MS, DEADLINE_MS));
  await timed('checkpoint', 'DumpFailed', () => driver.checkpoint(hostPid, DEADLINE_MS));
  const usedWhileSavedBytes = used();
  await timed('restore', 'RestoreFailed', () => driver.restore(hostPid, [], DEADLINE_MS));
  await timed('unlock', 'RestoreFailed', () => driver.unlock(hostPid, DEADLINE_MS));
  await child.compare();
  const { uuid, name, minor } = device;
  return {
    driver: { version: driver.version, apiVersion: driver.apiVersion },
    device: { uuid, name, minor },
    bytes,
    usedBytes,
    usedWhileSavedBytes,
    calls,
    same: true,
  };
}

/** What gpu-test-child.ts says. */
interface ChildAnswer {
  readonly same?: boolean;
  /** of the first wrong byte */
  readonly offset?: number;
  readonly error?: string;
  /** CUresult of the call that failed */
  readonly code?: number;
}

interface TestChild {
  readonly hostPid: number;
  ready(): Promise<void>;
  /** @throws RestoreFailed when the memory is not what it was */
  compare(): Promise<void>;
  end(): Promise<void>;
}

function startChild(env: Environment, device: GpuDevice, bytes: number): TestChild {
  const file = fileURLToPath(new URL(`./gpu-test-child${extname(import.meta.url)}`, import.meta.url));
  const args = [file, gpuLibraries(env).cudaLibrary, device.uuid, String(bytes)];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'], env: { ...env } });
  // EPIPE of a child that has died: its end is seen by the reader.
  child.stdin.on('error', () => undefined);
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  async function answer(): Promise<ChildAnswer> {
    const { done, value } = await answers.next();
    if (done === true) {
      throw new KybernateError('DumpFailed', 'the test process ended before it answered');
    }
    const line = JSON.parse(value) as ChildAnswer;
    if (line.error !== undefined) {
      const type = line.code === CUDA.OUT_OF_MEMORY ? 'GpuOutOfMemory' : 'GpuUnsupported';
      throw new KybernateError(type, `the test process cannot use ${device.uuid}: ${line.error}`);
    }
    return line;
  }
  return {
    hostPid: child.pid ?? 0,
    ready: async () => {
      await answer();
    },
    compare: async () => {
      child.stdin.write('compare\n');
      const { same, offset } = await answer();
      if (same !== true) {
        const message = `the VRAM came back different: the first wrong byte of ${bytes} is at ${offset}`;
        throw new KybernateError('RestoreFailed', message, { details: { offset, remedy: REMEDY } });
      }
    },
    end: () => endChild(child),
  };
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }
}
