/*
 * libc through koffi, loaded at the first call. All calls here are short and synchronous. Types are spelt inline:
 * koffi registers type names for the whole process, so a named type would have to begin with Kyb.
 */
import koffi from 'koffi';
import { KybernateError } from '../../core/errors.ts';
import { loadLibrary } from '../load-library.ts';
import { ERRNO } from './abi.ts';

interface Libc {
  readonly flock: (fd: number, operation: number) => number;
  readonly close: (fd: number) => number;
  readonly lseek: (fd: number, offset: number, whence: number) => number;
  readonly lgetxattr: (path: Uint8Array, name: string, value: Uint8Array | null, bytes: number) => number;
  readonly llistxattr: (path: Uint8Array, list: Uint8Array | null, bytes: number) => number;
  readonly getsockopt: (fd: number, level: number, option: number, value: Int32Array, length: Uint32Array) => number;
  readonly setsockopt: (fd: number, level: number, option: number, value: Int32Array, length: number) => number;
  readonly socketpair: (domain: number, type: number, protocol: number, fds: Int32Array) => number;
  readonly waitpid: (pid: number, status: Int32Array, options: number) => number;
  readonly send: (fd: number, data: Uint8Array, bytes: number, flags: number) => number;
  /** writes into the buffers of the message; only `controllen` and `flags` of it change */
  readonly recvmsg: (fd: number, message: MessageHeader, flags: number) => number;
  /** one struct pollfd; waits on another thread */
  readonly poll: (fd: Uint8Array, timeoutMs: number) => Promise<number>;
  /** three arguments after the number: what all our raw system calls take at most */
  readonly syscall: (number: number, first: number, second: number, third: number) => number;
  /** one that takes a command and a buffer of its own size, which it may write to: bpf(2) */
  readonly syscallOn: (number: number, command: number, buffer: Uint8Array) => number;
}

/** struct msghdr with one buffer */
export interface MessageHeader {
  readonly name: null;
  readonly namelen: 0;
  readonly iov: ReadonlyArray<{ readonly base: Uint8Array; readonly bytes: number }>;
  readonly iovlen: 1;
  readonly control: Uint8Array;
  controllen: number;
  flags: number;
}

let loaded: Libc | undefined;

export function libc(): Libc {
  if (loaded === undefined) {
    const lib = loadLibrary('libc.so.6');
    koffi.struct('KybIovec', { base: 'void *', bytes: 'size_t' });
    koffi.struct('KybMsghdr', {
      name: 'void *',
      namelen: 'uint32_t',
      iov: 'KybIovec *',
      iovlen: 'size_t',
      control: 'void *',
      controllen: 'size_t',
      flags: 'int',
    });
    const poll = lib.func('int poll(_Inout_ uint8_t *fds, unsigned long count, int timeoutMs)');
    const syscall = lib.func('long syscall(long number, ...)') as (...args: unknown[]) => number;
    loaded = {
      flock: lib.func('int flock(int fd, int operation)') as Libc['flock'],
      close: lib.func('int close(int fd)') as Libc['close'],
      lseek: lib.func('int64_t lseek(int fd, int64_t offset, int whence)') as Libc['lseek'],
      lgetxattr: lib.func(
        'long lgetxattr(const uint8_t *path, const char *name, _Out_ uint8_t *value, size_t bytes)',
      ) as Libc['lgetxattr'],
      llistxattr: lib.func(
        'long llistxattr(const uint8_t *path, _Out_ uint8_t *list, size_t bytes)',
      ) as Libc['llistxattr'],
      getsockopt: lib.func(
        'int getsockopt(int fd, int level, int option, _Out_ int *value, _Inout_ uint32_t *length)',
      ) as Libc['getsockopt'],
      setsockopt: lib.func(
        'int setsockopt(int fd, int level, int option, const int *value, uint32_t length)',
      ) as Libc['setsockopt'],
      socketpair: lib.func('int socketpair(int domain, int type, int protocol, _Out_ int *fds)') as Libc['socketpair'],
      waitpid: lib.func('int waitpid(int pid, _Out_ int *status, int options)') as Libc['waitpid'],
      send: lib.func('long send(int fd, const uint8_t *data, size_t bytes, int flags)') as Libc['send'],
      recvmsg: lib.func('long recvmsg(int fd, _Inout_ KybMsghdr *message, int flags)') as Libc['recvmsg'],
      poll: (fd, timeoutMs) =>
        new Promise((resolve, reject) => {
          poll.async(fd, 1, timeoutMs, (error: unknown, count: number) => {
            if (error instanceof Error) {
              reject(error);
            } else {
              resolve(count);
            }
          });
        }),
      syscall: (number, first, second, third) =>
        syscall(number, 'long', first, 'long', second, 'long', third, 'long', 0),
      syscallOn: (number, command, buffer) =>
        syscall(number, 'long', command, '_Inout_ uint8_t *', buffer, 'long', buffer.length),
    };
  }
  return loaded;
}

const NAMES = new Map<number, string>(Object.entries(ERRNO).map(([name, number]) => [number, name]));

/** Name of the last call's errno, for example `ESRCH`; `errno 22` for one that abi.ts does not name. */
export function lastErrno(): string {
  const errno = koffi.errno();
  return NAMES.get(errno) ?? `errno ${errno}`;
}

export function libcError(call: string): KybernateError {
  const errno = lastErrno();
  return new KybernateError('Internal', `${call} failed: ${errno}`, { details: { call, errno } });
}
