/*
 * The members of a tar archive without their content: headers are read, content is skipped. Names are byte strings (one
 * character a byte, as `latin1`): file names need not be UTF-8.
 *
 *   512-byte header: name 0..100, size 124..136 (octal, or base 256 when bit 7 is set), type 156, link 157..257,
 *   magic 257..263, prefix 345..500; content padded to 512; type x: pax records `<length> <key>=<value>\n` for the next
 *   member; types L and K: GNU's long name and long link.
 * Sources: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format" and "Sparse Formats" (1.0: GNU.sparse.name).
 */
import { open, type FileHandle } from 'node:fs/promises';
import { KybernateError } from '../core/errors.ts';

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
  S: 'file',
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

async function* membersOf(reader: Reader, corrupt: (why: string) => KybernateError): AsyncGenerator<TarMember> {
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
    const size = extended.has('size') && type !== 'x' ? Number(extended.get('size')) : numberAt(header, 124, 12);
    const content = position + BLOCK;
    const end = content + Math.ceil(size / BLOCK) * BLOCK;
    position = end;
    if (type === 'g') {
      continue;
    }
    if (type === 'x' || type === 'L' || type === 'K') {
      if (size > MAX_EXTENSION_BYTES) {
        throw corrupt(`a header of ${size} bytes`);
      }
      const text = await reader.bytes(content, size);
      extended = new Map([...extended, ...(type === 'x' ? paxRecords(text) : gnuRecord(type, text))]);
      continue;
    }
    const known = TYPES[type];
    if (known === undefined) {
      throw corrupt(`a member of type ${JSON.stringify(type)}`);
    }
    if (type === 'S') {
      throw corrupt('a sparse member of the old GNU format');
    }
    const name = extended.get('GNU.sparse.name') ?? extended.get('path') ?? nameOf(header);
    const link = extended.get('linkpath') ?? cut(latin1(header, 157, 257));
    // a name that ends in a slash is a directory in archives of before 1988, and in some of today
    const type_ = known === 'file' && name.endsWith('/') ? 'directory' : known;
    yield { name: normalized(name), type: type_, link, start, end };
    start = end;
    extended = new Map();
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
    return Number.parseInt(cut(latin1(header, from, from + length)).trim() || '0', 8);
  }
  return bytes.subarray(1).reduce((value, byte) => value * 256 + byte, (bytes[0] ?? 0) & 0x7f);
}

/** Sum of all bytes with the checksum field itself taken as blanks. */
function checksumHolds(header: Uint8Array): boolean {
  const sum = header.reduce((total, byte, index) => total + (index >= 148 && index < 156 ? 0x20 : byte), 0);
  return sum === numberAt(header, 148, 8);
}

function paxRecords(bytes: Uint8Array): Map<string, string> {
  const text = latin1(bytes, 0, bytes.length);
  const records = new Map<string, string>();
  for (let at = 0; at < text.length;) {
    const blank = text.indexOf(' ', at);
    const length = Number.parseInt(text.slice(at, blank), 10);
    if (blank < 0 || !(length > 0)) {
      break;
    }
    const record = text.slice(blank + 1, at + length - 1);
    const equals = record.indexOf('=');
    records.set(record.slice(0, equals), record.slice(equals + 1));
    at += length;
  }
  return records;
}

function gnuRecord(type: 'L' | 'K', bytes: Uint8Array): Map<string, string> {
  return new Map([[type === 'L' ? 'path' : 'linkpath', cut(latin1(bytes, 0, bytes.length))]]);
}
