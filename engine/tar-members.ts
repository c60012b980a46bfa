/*
 * The members of a tar archive without their content: headers are read, content is skipped. Names are byte strings (one
 * character a byte, as `latin1`): file names need not be UTF-8.
 *
 *   512-byte header: name 0..100, size 124..136 (octal, or base 256 when bit 7 is set), type 156, link 157..257,
 *   magic 257..263, prefix 345..500; content padded to 512; type x: pax records `<length> <key>=<value>\n` for the next
 *   member; types L and K: GNU's long name and long link.
 * The archive is unpacked by GNU tar after it was looked at here, so what the two would read differently is refused.
 * Sources: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format" and "Sparse Formats" (1.0: GNU.sparse.name).
 */
import { open, type FileHandle } from 'node:fs/promises';
import { KybernateError } from '../core/errors.ts';
import { isOldSparse, SparseMap } from '../core/tar/sparse-map.ts';

const BLOCK = 512;
const MAX_EXTENSION_BYTES = 4 * 1024 * 1024;
const READ_BYTES = 256 * 1024;

export interface TarMember {
  /** as in the archive, without a trailing `/` and leading `./`; empty for the root itself */
  readonly name: string;
  readonly type: 'file' | 'directory' | 'hardlink' | 'symlink' | 'character' | 'block' | 'fifo';
  /** target of a link, as in the archive */
  readonly link: string;
  /** place of everything that belongs to the member in the archive, extension headers and padding too */
  readonly start: number;
  readonly end: number;
}

const TYPES: Readonly<Record<string, TarMember['type']>> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
};

/** Reads ahead, so that small members cost no call each. */
class Reader {
  readonly #file: FileHandle;
  #chunk = new Uint8Array();
  #chunkStart = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Fewer bytes than asked only at the end of the file. */
  async bytes(position: number, length: number): Promise<Uint8Array> {
    if (position < this.#chunkStart || position + length > this.#chunkStart + this.#chunk.length) {
      const buffer = Buffer.alloc(Math.max(length, READ_BYTES));
      let filled = 0;
      for (;;) {
        const { bytesRead } = await this.#file.read(buffer, filled, buffer.length - filled, position + filled);
        filled += bytesRead;
        if (bytesRead === 0 || filled === buffer.length) {
          break;
        }
      }
      this.#chunk = buffer.subarray(0, filled);
      this.#chunkStart = position;
    }
    const from = position - this.#chunkStart;
    return this.#chunk.subarray(from, from + length);
  }
}

/**
 * In the order of the archive.
 * @throws CheckpointCorrupt for what is no archive, or one cut short
 */
export async function* readTarMembers(path: string): AsyncGenerator<TarMember> {
  const file = await open(path, 'r');
  try {
    yield* membersOf(
      new Reader(file),
      (why) => new KybernateError('CheckpointCorrupt', `${path} is not readable: ${why}`),
    );
  } finally {
    await file.close();
  }
}

async function* membersOf(reader: Reader, corrupt: Corrupt): AsyncGenerator<TarMember> {
  let start = 0;
  let extended = new Map<string, string>();
  for (let position = 0; ;) {
    const header = await reader.bytes(position, BLOCK);
    if (header.length === BLOCK && header.every((byte) => byte === 0)) {
      return;
    }
    if (header.length < BLOCK || !checksumHolds(header)) {
      throw corrupt(header.length < BLOCK ? 'it ends without an end mark' : `no header at byte ${position}`);
    }
    const type = latin1(header, 156, 157);
    const isExtension = type === 'x' || type === 'L' || type === 'K';
    const told = isExtension ? undefined : extended.get('size');
    const size = told === undefined ? numberAt(header, 124, 12) : /^\d+$/.test(told) ? Number(told) : Number.NaN;
    if (!Number.isSafeInteger(size)) {
      throw corrupt(`a size that is none at byte ${position}`);
    }
    const content = position + BLOCK;
    const end = content + Math.ceil(size / BLOCK) * BLOCK;
    position = end;
    if (isExtension) {
      if (size > MAX_EXTENSION_BYTES) {
        throw corrupt(`a header of ${size} bytes`);
      }
      const text = await reader.bytes(content, size);
      extended = joined(extended, type === 'x' ? paxRecords(text) : gnuRecord(type, text), corrupt);
      continue;
    }
    const known = TYPES[type];
    if (known === undefined) {
      throw corrupt(`a member of type ${JSON.stringify(type)}`);
    }
    const name = extended.get('GNU.sparse.name') ?? extended.get('path') ?? nameOf(header);
    const link = extended.get('linkpath') ?? cut(latin1(header, 157, 257));
    // a name that ends in a slash is a directory in archives of before 1988, and in some of today
    const type_ = known === 'file' && name.endsWith('/') ? 'directory' : known;
    if (type_ !== 'file' && size > 0) {
      throw corrupt(`a ${type_} with a content, which tar takes for headers`);
    }
    await checkSparse(reader, extended, { type: type_, content, size }, corrupt);
    yield { name: normalized(name), type: type_, link, start, end };
    start = end;
    extended = new Map();
  }
}

type Corrupt = (why: string) => KybernateError;

/** One value of a key for one member: of two GNU tar takes another one than the last. */
function joined(
  before: ReadonlyMap<string, string>,
  found: ReadonlyMap<string, string> | undefined,
  corrupt: Corrupt,
): Map<string, string> {
  const twice = [...(found?.keys() ?? [])].find((key) => before.has(key));
  if (found === undefined || twice !== undefined) {
    throw corrupt(found === undefined ? 'pax records that cannot be read' : `two values of ${twice} for one file`);
  }
  return new Map([...before, ...found]);
}

/** @throws CheckpointCorrupt tar would read more or less of the archive than the member has */
async function checkSparse(
  reader: Reader,
  records: ReadonlyMap<string, string>,
  member: { readonly type: TarMember['type']; readonly content: number; readonly size: number },
  corrupt: Corrupt,
): Promise<void> {
  const keys = [...records.keys()].filter((key) => key.startsWith('GNU.sparse.'));
  if (keys.length === 0) {
    return;
  }
  const is1 = records.get('GNU.sparse.major') === '1' && records.get('GNU.sparse.minor') === '0';
  if (!is1 || member.type !== 'file' || keys.some(isOldSparse)) {
    throw corrupt('a sparse member of an old format');
  }
  const map = new SparseMap();
  for (let read = 0; read < member.size && !map.isRead; read += BLOCK) {
    map.push(await reader.bytes(member.content + read, Math.min(BLOCK, member.size - read)));
  }
  if (!map.fits(member.size)) {
    throw corrupt('a sparse member whose map does not fit its content');
  }
}

function latin1(bytes: Uint8Array, from: number, to: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString('latin1');
}

function cut(text: string): string {
  const zero = text.indexOf('\0');
  return zero < 0 ? text : text.slice(0, zero);
}

function normalized(name: string): string {
  return name
    .replace(/^(?:\.\/+)+/, '')
    .replace(/\/+$/, '')
    .replace(/^\.$/, '');
}

function nameOf(header: Uint8Array): string {
  const name = cut(latin1(header, 0, 100));
  const prefix =
    latin1(header, 257, 262) === 'ustar' && latin1(header, 262, 263) === '\0' ? cut(latin1(header, 345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

function numberAt(header: Uint8Array, from: number, length: number): number {
  const bytes = header.subarray(from, from + length);
  if (((bytes[0] ?? 0) & 0x80) === 0) {
    const text = cut(latin1(header, from, from + length)).trim();
    return /^[0-7]*$/.test(text) ? Number.parseInt(text || '0', 8) : Number.NaN;
  }
  return bytes.subarray(1).reduce((value, byte) => value * 256 + byte, (bytes[0] ?? 0) & 0x7f);
}

/** Sum of all bytes with the checksum field itself taken as blanks. */
function checksumHolds(header: Uint8Array): boolean {
  const sum = header.reduce((total, byte, index) => total + (index >= 148 && index < 156 ? 0x20 : byte), 0);
  return sum === numberAt(header, 148, 8);
}

/** Undefined for what are none. */
function paxRecords(bytes: Uint8Array): Map<string, string> | undefined {
  const text = latin1(bytes, 0, bytes.length);
  const records = new Map<string, string>();
  for (let at = 0; at < text.length;) {
    const blank = text.indexOf(' ', at);
    const digits = blank < 0 ? '' : text.slice(at, blank);
    const length = /^[1-9]\d{0,6}$/.test(digits) ? Number(digits) : 0;
    const record = text.slice(blank + 1, at + length);
    const equals = record.indexOf('=');
    if (length === 0 || at + length > text.length || !record.endsWith('\n') || equals <= 0) {
      return undefined;
    }
    records.set(record.slice(0, equals), record.slice(equals + 1, -1));
    at += length;
  }
  return records;
}

function gnuRecord(type: 'L' | 'K', bytes: Uint8Array): Map<string, string> {
  return new Map([[type === 'L' ? 'path' : 'linkpath', cut(latin1(bytes, 0, bytes.length))]]);
}
