/*
 * A process's own use of a GPU: what `kybernate gpu test` needs to have something to save. Everything here is
 * synchronous and meant for a process that does nothing else.
 */
import { ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ATTRIBUTE_COMPUTE_CAPABILITY_MINOR } from './abi.ts';
import { openCudaLibrary } from './bindings.ts';
import { CUDA } from './codes.ts';
import { CudaError } from './error.ts';
import { uuidText } from './uuid.ts';

export interface CudaDevice {
  readonly ordinal: number;
  readonly uuid: string;
  readonly name: string;
  readonly totalBytes: number;
  /** `9.0` */
  readonly computeCapability: string;
}

/** Memory of a device; an address and a length of ours, never read by this process directly. */
export interface CudaMemory {
  readonly address: bigint;
  readonly bytes: number;
}

export interface CudaMachine {
  /** those that this process may see, in CUDA's order */
  readonly devices: readonly CudaDevice[];
  /** Makes the device's primary context: from then on this is a CUDA process. @returns a function that gives it back */
  readonly useDevice: (ordinal: number) => () => void;
  readonly allocate: (bytes: number) => CudaMemory;
  readonly free: (memory: CudaMemory) => void;
  readonly fill: (memory: CudaMemory, word: number) => void;
  readonly write: (memory: CudaMemory, offset: number, bytes: Uint8Array) => void;
  readonly read: (memory: CudaMemory, offset: number, into: Uint8Array) => void;
}

type Check = (call: string, code: number) => void;
type Library = ReturnType<typeof openCudaLibrary>;

/** @throws CudaError (no device, no memory); Error when there is no library */
export function openCudaMachine(path: string): CudaMachine {
  const library = openCudaLibrary(path);
  const errorName = library.func('int cuGetErrorName(int error, _Out_ const char **name)');
  const check: Check = (call, code) => {
    if (code !== CUDA.SUCCESS) {
      const name: Array<string | null> = [null];
      errorName(code, name);
      throw new CudaError({ call, code, name: name[0] ?? `code ${code}` });
    }
  };
  check('cuInit', library.func('int cuInit(uint flags)')(0));
  return { devices: listDevices(library, check), ...contextCalls(library, check), ...memoryCalls(library, check) };
}

function listDevices(library: Library, check: Check): CudaDevice[] {
  const get = library.func('int cuDeviceGet(_Out_ int *device, int ordinal)');
  const getName = library.func('int cuDeviceGetName(_Out_ char *name, int length, int device)');
  const getUuid = library.func('int cuDeviceGetUuid_v2(_Out_ uint8_t *uuid, int device)');
  const getTotal = library.func('int cuDeviceTotalMem_v2(_Out_ size_t *bytes, int device)');
  const getAttribute = library.func('int cuDeviceGetAttribute(_Out_ int *value, int attribute, int device)');
  function number(call: string, invoke: (out: number[]) => number): number {
    const out = [0];
    check(call, invoke(out));
    return out[0] ?? 0;
  }
  const count = number('cuDeviceGetCount', library.func('int cuDeviceGetCount(_Out_ int *count)'));
  return Array.from({ length: count }, (_, ordinal) => {
    const device = number('cuDeviceGet', (out) => get(out, ordinal));
    const attribute = (which: number): number =>
      number('cuDeviceGetAttribute', (out) => getAttribute(out, which, device));
    const [name, uuid] = [Buffer.alloc(128), new Uint8Array(16)];
    check('cuDeviceGetName', getName(name, name.length, device));
    check('cuDeviceGetUuid_v2', getUuid(uuid, device));
    return {
      ordinal,
      uuid: uuidText(uuid),
      name: name.toString('utf8', 0, name.indexOf(0)),
      totalBytes: number('cuDeviceTotalMem_v2', (out) => getTotal(out, device)),
      computeCapability: `${attribute(ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)}.${attribute(ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)}`,
    };
  });
}

function contextCalls(library: Library, check: Check): Pick<CudaMachine, 'useDevice'> {
  const get = library.func('int cuDeviceGet(_Out_ int *device, int ordinal)');
  const retain = library.func('int cuDevicePrimaryCtxRetain(_Out_ void **context, int device)');
  const setCurrent = library.func('int cuCtxSetCurrent(void *context)');
  const release = library.func('int cuDevicePrimaryCtxRelease_v2(int device)');
  return {
    useDevice: (ordinal) => {
      const device = [0];
      check('cuDeviceGet', get(device, ordinal));
      const context: unknown[] = [null];
      check('cuDevicePrimaryCtxRetain', retain(context, device[0]));
      check('cuCtxSetCurrent', setCurrent(context[0]));
      return () => check('cuDevicePrimaryCtxRelease_v2', release(device[0]));
    },
  };
}

function memoryCalls(library: Library, check: Check): Omit<CudaMachine, 'devices' | 'useDevice'> {
  const allocate = library.func('int cuMemAlloc_v2(_Out_ uint64_t *address, size_t bytes)');
  const free = library.func('int cuMemFree_v2(uint64_t address)');
  const fill = library.func('int cuMemsetD32_v2(uint64_t to, uint value, size_t count)');
  const write = library.func('int cuMemcpyHtoD_v2(uint64_t to, const uint8_t *from, size_t bytes)');
  const read = library.func('int cuMemcpyDtoH_v2(_Out_ uint8_t *to, uint64_t from, size_t bytes)');
  return {
    allocate: (bytes) => {
      const address: Array<number | bigint> = [0];
      check('cuMemAlloc_v2', allocate(address, bytes));
      return { address: BigInt(address[0] ?? 0), bytes };
    },
    free: ({ address }) => check('cuMemFree_v2', free(address)),
    fill: ({ address, bytes }, word) => check('cuMemsetD32_v2', fill(address, word, Math.floor(bytes / 4))),
    write: ({ address }, offset, bytes) =>
      check('cuMemcpyHtoD_v2', write(address + BigInt(offset), bytes, bytes.length)),
    read: ({ address }, offset, into) => check('cuMemcpyDtoH_v2', read(into, address + BigInt(offset), into.length)),
  };
}
