import { lastErrno, libc, libcError } from './bindings.ts';

/** The kernel's own limits (linux/limits.h): XATTR_SIZE_MAX, XATTR_LIST_MAX. */
const MAX_BYTES = 65_536;
/** Reused: the calls are synchronous. */
let scratch: Uint8Array | undefined;

function buffer(): Uint8Array {
  scratch ??= new Uint8Array(MAX_BYTES);
  return scratch;
}

function pathBytes(path: string | Uint8Array): Uint8Array {
  return Buffer.concat([typeof path === 'string' ? Buffer.from(path) : path, Buffer.of(0)]);
}

function absent(): boolean {
  return ['ENODATA', 'EOPNOTSUPP', 'ENOENT'].includes(lastErrno());
}

/** Value of an extended attribute of the path itself (links are not followed); undefined when there is none. */
export function getXattr(path: string | Uint8Array, name: string): Uint8Array | undefined {
  const value = buffer();
  const bytes = libc().lgetxattr(pathBytes(path), name, value, MAX_BYTES);
  if (bytes < 0) {
    if (absent()) {
      return undefined;
    }
    throw libcError(
      `lgetxattr ${name} of ${Buffer.from(pathBytes(path)).toString('utf8', 0, pathBytes(path).length - 1)}`,
    );
  }
  return value.slice(0, bytes);
}

/** Names of the extended attributes of the path itself. */
export function listXattrs(path: string | Uint8Array): string[] {
  const list = buffer();
  const bytes = libc().llistxattr(pathBytes(path), list, MAX_BYTES);
  if (bytes < 0) {
    if (absent()) {
      return [];
    }
    throw libcError('llistxattr');
  }
  return Buffer.from(list.subarray(0, bytes))
    .toString('utf8')
    .split('\0')
    .filter((name) => name !== '');
}
