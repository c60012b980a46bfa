/*
 * libnvidia-ml.so.1 (NVML) through koffi. All calls are synchronous: they read what the kernel driver knows and take well
 * under a millisecond, but for nvmlInit, once in the life of the process (it opens the device files).
 */
import type { LibraryHandle } from 'koffi';
import { messageOf } from '../../core/errors.ts';
import { loadLibrary } from '../load-library.ts';
import { NVML, NVML_LAYOUT, processInfoAt, registerNvmlTypes, TEXT_BYTES, VALUE_NOT_AVAILABLE } from './abi.ts';

/** nvmlDevice_t; valid as long as NVML is initialised */
export type NvmlDevice = unknown;

export interface NvmlBindings {
  readonly init: () => number;
  readonly shutdown: () => number;
  /** what a code means, in NVML's words */
  readonly errorText: (code: number) => string;
  readonly driverVersion: () => string;
  readonly deviceCount: () => number;
  readonly device: (index: number) => NvmlDevice;
  readonly uuid: (device: NvmlDevice) => string;
  readonly name: (device: NvmlDevice) => string;
  readonly minor: (device: NvmlDevice) => number;
  readonly memory: (device: NvmlDevice) => { readonly totalBytes: number; readonly freeBytes: number };
  /** compute and graphics processes: host pid → bytes on this device; 0 when the driver does not tell */
  readonly processes: (device: NvmlDevice) => ReadonlyMap<number, number>;
  /** devices that know no MIG are not in MIG mode */
  readonly migEnabled: (device: NvmlDevice) => boolean;
  /** `9.0` */
  readonly computeCapability: (device: NvmlDevice) => string;
}

class NvmlError extends Error {
  readonly code: number;

  constructor(call: string, code: number, text: string) {
    super(`${call} returned ${code} (${text})`);
    this.name = 'NvmlError';
    this.code = code;
  }
}

type Native = (...args: unknown[]) => number;

export type NvmlBindingsOrNot =
  | { readonly bindings: NvmlBindings; readonly reason?: undefined }
  | { readonly bindings?: undefined; readonly reason: string };

/** @param path a soname or an absolute path */
export function loadNvml(path: string): NvmlBindingsOrNot {
  registerNvmlTypes();
  try {
    return { bindings: bind(loadLibrary(path)) };
  } catch (error) {
    // dlopen or a missing symbol: koffi's text names the file or the symbol.
    return { reason: `no usable NVML: ${path}: ${messageOf(error)}` };
  }
}

function bind(lib: LibraryHandle): NvmlBindings {
  const errorString = lib.func('const char *nvmlErrorString(int result)') as unknown as (code: number) => string;
  const func = (prototype: string): Native => lib.func(prototype) as Native;
  function checked(prototype: string): (...args: unknown[]) => void {
    const native = func(prototype);
    const call = /(nvml\w+)\(/.exec(prototype)?.[1] ?? prototype;
    return (...args) => {
      const code = native(...args);
      if (code !== NVML.SUCCESS) {
        throw new NvmlError(call, code, errorString(code));
      }
    };
  }
  const device = (name: string, rest: string): ((...args: unknown[]) => void) =>
    checked(`int ${name}(KybNvmlDevice *device, ${rest})`);
  const processList = (name: string): Native =>
    func(`int ${name}(KybNvmlDevice *device, _Inout_ uint *count, _Out_ uint8_t *infos)`);
  const version = checked('int nvmlSystemGetDriverVersion(_Out_ char *into, uint length)');
  const count = checked('int nvmlDeviceGetCount_v2(_Out_ uint *count)');
  const handle = checked('int nvmlDeviceGetHandleByIndex_v2(uint index, _Out_ KybNvmlDevice **device)');
  const uuid = device('nvmlDeviceGetUUID', '_Out_ char *into, uint length');
  const name = device('nvmlDeviceGetName', '_Out_ char *into, uint length');
  const minor = device('nvmlDeviceGetMinorNumber', '_Out_ uint *minor');
  const memory = device('nvmlDeviceGetMemoryInfo', '_Out_ KybNvmlMemory_t *memory');
  const capability = device('nvmlDeviceGetCudaComputeCapability', '_Out_ int *major, _Out_ int *minor');
  const mig = func('int nvmlDeviceGetMigMode(KybNvmlDevice *device, _Out_ uint *current, _Out_ uint *pending)');
  const compute = processList('nvmlDeviceGetComputeRunningProcesses_v3');
  const graphics = processList('nvmlDeviceGetGraphicsRunningProcesses_v3');
  return {
    init: func('int nvmlInit_v2()'),
    shutdown: func('int nvmlShutdown()'),
    errorText: errorString,
    driverVersion: () => text(version),
    deviceCount: () => number(count),
    device: (index) => {
      const out: unknown[] = [null];
      handle(index, out);
      return out[0];
    },
    uuid: (of) => text(uuid, of),
    name: (of) => text(name, of),
    minor: (of) => number(minor, of),
    memory: (of) => {
      const out = { total: 0, free: 0, used: 0 };
      memory(of, out);
      return { totalBytes: out.total, freeBytes: out.free };
    },
    processes: (of) =>
      new Map([...listProcesses(graphics, of, errorString), ...listProcesses(compute, of, errorString)]),
    migEnabled: (of) => {
      const [current, later] = [[0], [0]];
      const code = mig(of, current, later);
      if (code !== NVML.SUCCESS && code !== NVML.NOT_SUPPORTED) {
        throw new NvmlError('nvmlDeviceGetMigMode', code, errorString(code));
      }
      return code === NVML.SUCCESS && current[0] === 1;
    },
    computeCapability: (of) => {
      const [major, second] = [[0], [0]];
      capability(of, major, second);
      return `${major[0] ?? 0}.${second[0] ?? 0}`;
    },
  };
}

function text(call: (...args: unknown[]) => void, ...device: unknown[]): string {
  const bytes = Buffer.alloc(TEXT_BYTES);
  call(...device, bytes, TEXT_BYTES);
  return bytes.toString('utf8', 0, bytes.indexOf(0));
}

function number(call: (...args: unknown[]) => void, ...device: unknown[]): number {
  const out = [0];
  call(...device, out);
  return out[0] ?? 0;
}

/** The list may grow between the two calls: asked again with more room until it fits. */
function listProcesses(call: Native, device: NvmlDevice, errorText: (code: number) => string): Array<[number, number]> {
  for (let room = 64; ; room *= 2) {
    const count = [room];
    const infos = new Uint8Array(room * NVML_LAYOUT.nvmlProcessInfo_t.size);
    const code = call(device, count, infos);
    if (code === NVML.SUCCESS) {
      return Array.from({ length: Math.min(count[0] ?? 0, room) }, (_, index) => {
        const { pid, usedBytes } = processInfoAt(infos, index);
        return [pid, usedBytes === VALUE_NOT_AVAILABLE ? 0 : Number(usedBytes)];
      });
    }
    if (code === NVML.NOT_SUPPORTED) {
      return [];
    }
    if (code !== NVML.INSUFFICIENT_SIZE || room > 65_536) {
      throw new NvmlError('nvmlDeviceGetRunningProcesses', code, errorText(code));
    }
  }
}
