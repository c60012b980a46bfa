/* ptrace(2) and wait4(2) through koffi, loaded at the first call. A tracee obeys the one thread that seized it: ours. */
import { lastErrno } from '../libc/bindings.ts';
import { loadLibrary } from '../load-library.ts';
import { WALL, WNOHANG } from './abi.ts';

interface Calls {
  /** data as a number */
  readonly value: (request: number, tid: number, address: number, data: number) => number;
  /** data as memory that the kernel reads */
  readonly send: (request: number, tid: number, address: number, data: Uint8Array) => number;
  /** data as memory that the kernel writes */
  readonly receive: (request: number, tid: number, address: number, data: Uint8Array) => number;
  readonly wait4: (tid: number, status: Int32Array, options: number, usage: null) => number;
}

let loaded: Calls | undefined;

function calls(): Calls {
  if (loaded === undefined) {
    const lib = loadLibrary('libc.so.6');
    loaded = {
      value: lib.func('long ptrace(long request, int tid, uintptr_t address, uintptr_t data)') as Calls['value'],
      send: lib.func('long ptrace(long request, int tid, uintptr_t address, const uint8_t *data)') as Calls['send'],
      receive: lib.func(
        'long ptrace(long request, int tid, uintptr_t address, _Out_ uint8_t *data)',
      ) as Calls['receive'],
      wait4: lib.func('int wait4(int tid, _Out_ int *status, int options, void *usage)') as Calls['wait4'],
    };
  }
  return loaded;
}

/** The kernel's answer to one request; `ESRCH`: the thread is gone or does not stand still. */
export class PtraceError extends Error {
  readonly errno: string;

  constructor(request: string, tid: number, errno: string) {
    super(`ptrace ${request} of thread ${tid} failed: ${errno}`);
    this.errno = errno;
  }
}

function checked(result: number, request: string, tid: number): void {
  if (result < 0) {
    throw new PtraceError(request, tid, lastErrno());
  }
}

/** @throws PtraceError */
export function ptrace(name: string, request: number, tid: number, data = 0, address = 0): void {
  checked(calls().value(request, tid, address, data), name, tid);
}

/** @throws PtraceError */
export function ptraceSend(name: string, request: number, tid: number, data: Uint8Array, address = 0): void {
  checked(calls().send(request, tid, address, data), name, tid);
}

/** @throws PtraceError */
export function ptraceReceive(name: string, request: number, tid: number, data: Uint8Array, address = 0): void {
  checked(calls().receive(request, tid, address, data), name, tid);
}

/**
 * The thread's newest change, without waiting.
 * @returns undefined when there is none; `gone` when it has ended
 */
export function pollThread(tid: number): { readonly status: number } | 'gone' | undefined {
  const status = new Int32Array(1);
  const found = calls().wait4(tid, status, WALL | WNOHANG, null);
  if (found === 0) {
    return undefined;
  }
  const value = status[0] ?? 0;
  // the low byte of a stopped thread's status is 0x7f; ECHILD: it has ended and somebody else was told
  return found < 0 || (value & 0xff) !== 0x7f ? 'gone' : { status: value };
}
