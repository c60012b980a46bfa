/*
 * The few facts that CRIU's own images tell of a dump: process tree, names, architecture. For archives that carry nothing
 * else. Field numbers are those of CRIU's images/*.proto.
 *
 *   u32 0x54564319 (images of CRIU >= 1.4; the inventory has none, it is what tells the version), u32 kind, then records:
 *   u32 length, protobuf message; little endian
 */
import { KybernateError } from '../errors.ts';

const COMMON_MAGIC = 0x54564319;
/** criu/include/magic.h */
export const IMAGE_KINDS = { inventory: 0x58313116, pstree: 0x50273030, core: 0x55053847, files: 0x56303138 } as const;
/** An image of a million processes; more is not read into memory. */
const MAX_RECORDS = 1_000_000;

/** Number of a field → its values, in order: integers, or bytes of strings and messages. */
export type Fields = ReadonlyMap<number, ReadonlyArray<bigint | Uint8Array>>;

/**
 * The messages of an image.
 * @param name for errors
 * @throws CheckpointCorrupt
 */
export function decodeImage(bytes: Uint8Array, kind: keyof typeof IMAGE_KINDS, name: string): Fields[] {
  const corrupt = (why: string): KybernateError =>
    new KybernateError('CheckpointCorrupt', `${name} is not readable: ${why}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const begin = kind === 'inventory' ? 4 : 8;
  const isCommon = kind === 'inventory' || (bytes.length >= begin && view.getUint32(0, true) === COMMON_MAGIC);
  if (bytes.length < begin || !isCommon || view.getUint32(begin - 4, true) !== IMAGE_KINDS[kind]) {
    throw corrupt(`it does not begin as CRIU's ${kind} images do`);
  }
  const records: Fields[] = [];
  for (let offset = begin; offset < bytes.length;) {
    const end = offset + 4 <= bytes.length ? offset + 4 + view.getUint32(offset, true) : Number.POSITIVE_INFINITY;
    if (end > bytes.length || records.length >= MAX_RECORDS) {
      throw corrupt(`its record at byte ${offset} is cut off`);
    }
    const fields = decodeFields(bytes.subarray(offset + 4, end));
    if (fields === undefined) {
      throw corrupt(`its record at byte ${offset} is no message`);
    }
    records.push(fields);
    offset = end;
  }
  return records;
}

/** Undefined for what is no protobuf message. */
export function decodeFields(bytes: Uint8Array): Fields | undefined {
  const fields = new Map<number, Array<bigint | Uint8Array>>();
  for (let offset = 0; offset < bytes.length;) {
    const key = varintAt(bytes, offset);
    if (key === undefined) {
      return undefined;
    }
    const wire = Number(key.value & 7n);
    const counted = wire === 0 || wire === 2 ? varintAt(bytes, key.next) : { value: 0n, next: key.next };
    if (counted === undefined || ![0, 1, 2, 5].includes(wire)) {
      return undefined;
    }
    const length = wire === 0 ? 0 : wire === 2 ? Number(counted.value) : wire === 1 ? 8 : 4;
    const end = counted.next + length;
    if (end > bytes.length) {
      return undefined;
    }
    const number = Number(key.value >> 3n);
    const values = fields.get(number) ?? [];
    values.push(wire === 0 ? counted.value : bytes.subarray(counted.next, end));
    fields.set(number, values);
    offset = end;
  }
  return fields;
}

function varintAt(bytes: Uint8Array, start: number): { value: bigint; next: number } | undefined {
  let value = 0n;
  for (let index = 0; index < 10; index += 1) {
    const byte = bytes[start + index];
    if (byte === undefined) {
      return undefined;
    }
    value |= BigInt(byte & 0x7f) << BigInt(7 * index);
    if (byte < 0x80) {
      return { value: BigInt.asUintN(64, value), next: start + index + 1 };
    }
  }
  return undefined;
}

/** The reverse of `decodeFields`, for messages of integers, strings and messages. */
export function encodeFields(fields: Fields): Uint8Array {
  const bytes: number[] = [];
  for (const [number, values] of fields) {
    for (const value of values) {
      if (typeof value === 'bigint') {
        bytes.push(...varint(BigInt(number) << 3n), ...varint(value));
      } else {
        bytes.push(...varint((BigInt(number) << 3n) | 2n), ...varint(BigInt(value.length)), ...value);
      }
    }
  }
  return Uint8Array.from(bytes);
}

function varint(value: bigint): number[] {
  const bytes: number[] = [];
  for (let left = value; ; left >>= 7n) {
    const more = left > 127n;
    bytes.push(Number(left & 127n) | (more ? 128 : 0));
    if (!more) {
      return bytes;
    }
  }
}

export interface ImageProcess {
  /** in the container */
  readonly nsPid: number;
  /** 0 for the first */
  readonly parentNsPid: number;
  readonly threads: number;
}

/** PstreeEntry { 1: pid, 2: ppid, 5: threads }, root first. @throws CheckpointCorrupt */
export function processTree(bytes: Uint8Array, name: string): ImageProcess[] {
  return decodeImage(bytes, 'pstree', name).map((fields) => {
    const [nsPid, parentNsPid] = [integer(fields, 1), integer(fields, 2)];
    if (nsPid === undefined || parentNsPid === undefined) {
      throw new KybernateError('CheckpointCorrupt', `${name} is not readable: a process has no pid`);
    }
    return { nsPid, parentNsPid, threads: fields.get(5)?.length ?? 1 };
  });
}

/**
 * Every number that a restore of the tree takes in its pid namespace: processes, threads, and leaders of groups and sessions, for
 * which CRIU makes a process where they have ended. Ascending.
 * PstreeEntry { 1: pid, 3: pgid, 4: sid, 5: threads }. @throws CheckpointCorrupt
 */
export function processIds(bytes: Uint8Array, name: string): number[] {
  const all = decodeImage(bytes, 'pstree', name).flatMap((fields) =>
    [1, 3, 4, 5].flatMap((number) => fields.get(number) ?? []),
  );
  const ids = all.filter((value) => typeof value === 'bigint').map(Number);
  return [...new Set(ids)].filter((id) => id > 0).sort((left, right) => left - right);
}

/** CoreEntry { 1: machine, 3: task_core { 6: comm } }. @throws CheckpointCorrupt */
export function coreFacts(bytes: Uint8Array, name: string): { readonly arch: string; readonly command: string } {
  const fields = decodeImage(bytes, 'core', name)[0];
  const task = fields?.get(3)?.[0];
  const comm = task instanceof Uint8Array ? decodeFields(task)?.get(6)?.[0] : undefined;
  const machine = fields === undefined ? undefined : integer(fields, 1);
  return {
    arch: MACHINES[machine ?? 0] ?? 'unknown',
    command: comm instanceof Uint8Array ? new TextDecoder().decode(comm) : '',
  };
}

/**
 * Permissions that the root directory had when a process kept it as its own; CRIU insists on them.
 * FileEntry { 3: reg_file { 6: name, 10: mode } }. @throws CheckpointCorrupt
 */
export function rootMode(bytes: Uint8Array, name: string): number | undefined {
  for (const entry of decodeImage(bytes, 'files', name)) {
    const file = entry.get(3)?.[0];
    const fields = file instanceof Uint8Array ? decodeFields(file) : undefined;
    const path = fields?.get(6)?.[0];
    if (fields !== undefined && path instanceof Uint8Array && new TextDecoder().decode(path) === '/') {
      const mode = integer(fields, 10);
      return mode === undefined ? undefined : mode & 0o7777;
    }
  }
  return undefined;
}

/** As `uname -m`. Source: images/core.proto, core_entry.march. */
const MACHINES: Readonly<Record<number, string>> = { 1: 'x86_64', 2: 'arm', 3: 'aarch64', 4: 'ppc64le', 5: 's390x' };

function integer(fields: Fields, number: number): number | undefined {
  const value = fields.get(number)?.[0];
  return typeof value === 'bigint' && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}
