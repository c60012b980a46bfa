/*
 * CRIU's pagemap-<pid>.img: which pages of an address space lie in pages-<pages_id>.img, and in which order.
 *
 *   u32 0x54564319  images of CRIU >= 1.4        (criu/include/magic.h IMG_COMMON_MAGIC)
 *   u32 0x56084025  pagemap                      (PAGEMAP_MAGIC)
 *   records: u32 length, protobuf message        (all integers little endian)
 *     first:  pagemap_head  { 1: pages_id }
 *     others: pagemap_entry { 1: vaddr, 2: nr_pages (u32), 3: in_parent, 4: flags, 5: nr_pages (u64, newer CRIU) }
 *
 * pages-N.img has no header: the pages of all entries that are present in it, packed, in the order of the entries.
 */
import { KybernateError } from '../errors.ts';

const COMMON_MAGIC = 0x54564319;
const PAGEMAP_MAGIC = 0x56084025;

/** Bits of `flags` (criu/include/pagemap.h, PE_*). */
export const PAGE_FLAGS = { parent: 1, lazy: 2, present: 4 } as const;

export interface PagemapEntry {
  /** first address; in pagemap-shmem-*.img the offset in the shared memory object */
  readonly vaddr: bigint;
  readonly nrPages: number;
  readonly flags: number;
}

export interface Pagemap {
  /** N of pages-N.img */
  readonly pagesId: number;
  /** in the order of the file */
  readonly entries: readonly PagemapEntry[];
}

/** True for the entries whose pages lie in pages-N.img: present, and not in the image of a parent dump. */
export function isInPagesFile(entry: PagemapEntry): boolean {
  return (entry.flags & PAGE_FLAGS.present) !== 0 && (entry.flags & PAGE_FLAGS.parent) === 0;
}

/**
 * Decodes a whole pagemap image.
 * @throws CheckpointCorrupt when it is cut off or is not a pagemap
 */
export function decodePagemap(bytes: Uint8Array): Pagemap {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 8 || view.getUint32(0, true) !== COMMON_MAGIC || view.getUint32(4, true) !== PAGEMAP_MAGIC) {
    throw corrupt('it does not begin with the magic numbers of a pagemap image');
  }
  let pagesId: number | undefined;
  const entries: PagemapEntry[] = [];
  let offset = 8;
  while (offset < bytes.length) {
    if (offset + 4 > bytes.length) {
      throw corrupt(`it ends inside the length of the record at offset ${offset}`);
    }
    const end = offset + 4 + view.getUint32(offset, true);
    if (end > bytes.length) {
      throw corrupt(`it ends inside the record at offset ${offset}`);
    }
    const fields = decodeMessage(bytes.subarray(offset + 4, end));
    if (pagesId === undefined) {
      pagesId = toSafeNumber(fields.get(1), 'pages_id');
    } else {
      entries.push(toEntry(fields));
    }
    offset = end;
  }
  if (pagesId === undefined) {
    throw corrupt('it has no head record');
  }
  return { pagesId, entries };
}

function toEntry(fields: ReadonlyMap<number, bigint>): PagemapEntry {
  const vaddr = fields.get(1);
  if (vaddr === undefined) {
    throw corrupt('an entry has no address');
  }
  const flags = fields.get(4);
  const inParent = (fields.get(3) ?? 0n) !== 0n;
  return {
    vaddr,
    nrPages: toSafeNumber(fields.get(5) ?? fields.get(2), 'nr_pages'),
    // images of old versions carry no flags: criu/pagemap.c init_compat_pagemap_entry
    flags: flags === undefined ? (inParent ? PAGE_FLAGS.parent : PAGE_FLAGS.present) : Number(flags),
  };
}

/** The varint fields of a protobuf message; fields of other kinds are skipped. */
function decodeMessage(bytes: Uint8Array): Map<number, bigint> {
  const fields = new Map<number, bigint>();
  let offset = 0;
  while (offset < bytes.length) {
    const key = readVarint(bytes, offset);
    offset = key.next;
    const wireType = Number(key.value & 7n);
    if (wireType === 0) {
      const field = readVarint(bytes, offset);
      fields.set(Number(key.value >> 3n), field.value);
      offset = field.next;
    } else if (wireType === 2) {
      const length = readVarint(bytes, offset);
      offset = length.next + Number(length.value);
    } else if (wireType === 1 || wireType === 5) {
      offset += wireType === 1 ? 8 : 4;
    } else {
      throw corrupt(`a record has a field of the unknown wire type ${wireType}`);
    }
  }
  if (offset > bytes.length) {
    throw corrupt('a field reaches beyond its record');
  }
  return fields;
}

function readVarint(bytes: Uint8Array, start: number): { value: bigint; next: number } {
  // Almost every integer here is short: numbers up to 2^28, BigInt only beyond.
  let small = 0;
  let value = 0n;
  for (let index = 0; index < 10; index += 1) {
    const byte = bytes[start + index];
    if (byte === undefined) {
      throw corrupt('a record ends inside an integer');
    }
    if (index < 4) {
      small |= (byte & 0x7f) << (7 * index);
    } else {
      value |= BigInt(byte & 0x7f) << BigInt(7 * index);
    }
    if (byte < 0x80) {
      return { value: BigInt.asUintN(64, value | BigInt(small)), next: start + index + 1 };
    }
  }
  throw corrupt('an integer is longer than ten bytes');
}

function toSafeNumber(value: bigint | undefined, field: string): number {
  if (value === undefined || value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw corrupt(`${field} is ${value === undefined ? 'missing' : String(value)}`);
  }
  return Number(value);
}

function corrupt(reason: string): KybernateError {
  return new KybernateError('CheckpointCorrupt', `a pagemap image cannot be read: ${reason}`);
}
