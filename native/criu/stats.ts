/*
 * `stats-dump` and `stats-restore`: two magic numbers (u32, little endian), then records of u32 length + protobuf.
 * Message stats_entry { dump_stats_entry dump = 1; restore_stats_entry restore = 2 }, all fields of both are varints.
 * Sources: criu/include/magic.h, criu/stats.c, images/stats.proto of CRIU 4.2.
 */
import { KybernateError } from '../../core/errors.ts';

const IMG_SERVICE_MAGIC = 0x55105940;
const STATS_MAGIC = 0x57093306;

/** Field number to name; times are microseconds, the rest are pages or counts. */
const DUMP_FIELDS: Readonly<Record<number, keyof DumpStats>> = {
  1: 'freezingTimeUs',
  2: 'frozenTimeUs',
  3: 'memdumpTimeUs',
  4: 'memwriteTimeUs',
  5: 'pagesScanned',
  6: 'pagesSkippedParent',
  7: 'pagesWritten',
  8: 'irmapResolve',
  9: 'pagesLazy',
};

export interface DumpStats {
  /** from the first attempt to stop a task to the last task stopped */
  readonly freezingTimeUs: number;
  /** how long CRIU held the tasks */
  readonly frozenTimeUs: number;
  readonly memdumpTimeUs: number;
  readonly memwriteTimeUs: number;
  readonly pagesScanned: number;
  readonly pagesSkippedParent: number;
  readonly pagesWritten: number;
  readonly irmapResolve: number;
  readonly pagesLazy: number;
}

/** @throws CheckpointCorrupt when the bytes are no statistics of a dump */
export function decodeDumpStats(file: Uint8Array): DumpStats {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 12 || view.getUint32(0, true) !== IMG_SERVICE_MAGIC || view.getUint32(4, true) !== STATS_MAGIC) {
    throw corrupt('wrong magic');
  }
  const record = file.subarray(12, 12 + view.getUint32(8, true));
  const stats: Record<keyof DumpStats, number> = {
    freezingTimeUs: 0,
    frozenTimeUs: 0,
    memdumpTimeUs: 0,
    memwriteTimeUs: 0,
    pagesScanned: 0,
    pagesSkippedParent: 0,
    pagesWritten: 0,
    irmapResolve: 0,
    pagesLazy: 0,
  };
  // stats_entry.dump: field 1, length-delimited
  const tag = readVarint(record, 0);
  if (tag.value !== 0x0a) {
    throw corrupt('no dump entry');
  }
  const length = readVarint(record, tag.next);
  const end = length.next + length.value;
  for (let next = length.next; next < end;) {
    const field = readVarint(record, next);
    if (field.value % 8 !== 0) {
      throw corrupt(`field ${field.value >> 3} is no number`);
    }
    const value = readVarint(record, field.next);
    const name = DUMP_FIELDS[field.value >> 3];
    if (name !== undefined) {
      stats[name] = value.value;
    }
    next = value.next;
  }
  return stats;
}

function readVarint(bytes: Uint8Array, start: number): { value: number; next: number } {
  let value = 0;
  let scale = 1;
  for (let next = start; next < bytes.length && next < start + 10; next += 1) {
    const byte = bytes[next] ?? 0;
    value += (byte & 0x7f) * scale;
    scale *= 128;
    if (byte < 0x80) {
      return { value, next: next + 1 };
    }
  }
  throw corrupt('cut short');
}

function corrupt(why: string): KybernateError {
  return new KybernateError('CheckpointCorrupt', `CRIU statistics are not readable: ${why}`);
}
