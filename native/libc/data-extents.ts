import { SEEK } from './abi.ts';
import { lastErrno, libc, libcError } from './bindings.ts';

/** A range of a file that may hold data. */
export interface DataExtent {
  readonly offset: number;
  readonly bytes: number;
}

/**
 * The ranges of an open file that may hold data, rising; what lies between them reads as zeros. Moves the file's
 * position.
 * @returns undefined when the file system does not tell
 */
export function dataExtents(fd: number, fileBytes: number): Iterable<DataExtent> | undefined {
  const first = libc().lseek(fd, 0, SEEK.data);
  if (first === -1 && lastErrno() !== 'ENXIO') {
    return undefined;
  }
  return extentsFrom(fd, first, fileBytes);
}

function* extentsFrom(fd: number, first: number, fileBytes: number): Generator<DataExtent> {
  // -1 with ENXIO: there is no data behind the offset.
  for (let start = first; start !== -1 && start < fileBytes;) {
    const end = libc().lseek(fd, start, SEEK.hole);
    if (end === -1) {
      throw libcError('lseek(SEEK_HOLE)');
    }
    yield { offset: start, bytes: end - start };
    start = libc().lseek(fd, end, SEEK.data);
    if (start === -1 && lastErrno() !== 'ENXIO') {
      throw libcError('lseek(SEEK_DATA)');
    }
  }
}
