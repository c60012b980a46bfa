/*
 * The little of tar that an exported checkpoint needs: regular files, in POSIX ustar headers, with a pax header before
 * those whose name or size does not fit (POSIX.1-2024, pax interchange format). Reading is strict: whatever else may
 * stand in a tar archive - links, devices, directories, extensions of GNU - is refused, since nothing of ours writes it.
 *
 *   header    512 bytes: name 100, mode 8, uid 8, gid 8, size 12, mtime 12, checksum 8, type 1, link name 100,
 *             "ustar\0" "00", user 32, group 32, device 16, prefix 155; numbers are octal digits
 *   content   padded with zeros to 512 bytes
 *   end       two blocks of zeros; more zeros may follow
 */
import { KybernateError } from '../core/errors.ts';
import type { ByteSource } from './byte-source.ts';

const BLOCK = 512;
/** A record of ours has a name of at most 1024 characters and a size. */
const MAX_PAX_BYTES = 16_384;
/** What eleven octal digits hold. */
const MAX_OCTAL = 8 ** 11 - 1;
const MAGIC = 'ustar\u000000';
const FILE = '0';
const DIRECTORY = '5';
const PAX = 'x';

/** Ends an archive. */
export const TAR_END = new Uint8Array(2 * BLOCK);

export interface TarFile {
  readonly name: string;
  readonly bytes: number;
  /** s since 1970 */
  readonly mtimeS: number;
  /** default 0600 */
  readonly mode?: number;
}

/** What stands before the content of a file of root that nobody else may read. */
export function tarHeader({ name, bytes, mtimeS, mode }: TarFile): Uint8Array {
  const fits = fitsHeader(name);
  const records = new Map([
    ...(fits ? [] : [['path', Buffer.from(name).toString('latin1')] as const]),
    ...(bytes > MAX_OCTAL ? [['size', String(bytes)] as const] : []),
  ]);
  const header = ustar(shortened(name), FILE, {
    bytes: bytes > MAX_OCTAL ? 0 : bytes,
    mtimeS,
    ...(mode === undefined ? {} : { mode }),
  });
  return records.size === 0 ? header : Buffer.concat([paxHeader(records), header]);
}

/** A directory of root. */
export function tarDirectory(name: string, mtimeS: number, mode = 0o700): Uint8Array {
  const path = Buffer.from(`${name}/`).toString('latin1');
  const header = ustar(shortened(path), DIRECTORY, { bytes: 0, mtimeS, mode });
  return fitsHeader(path) ? header : Buffer.concat([paxHeader(new Map([['path', path]])), header]);
}

function fitsHeader(name: string): boolean {
  return /^[\u0020-\u007e]{1,100}$/.test(name);
}

/** A name that old readers can print; the pax record before has the right one. */
function shortened(name: string): string {
  return fitsHeader(name) ? name : `pax/${name.replaceAll(/[^\u0020-\u007e]/g, '_').slice(-96)}`;
}

/** A pax header with these records, keys and values as byte strings (one character a byte). */
export function paxHeader(records: ReadonlyMap<string, string>): Uint8Array {
  const text = [...records].map(([key, value]) => byteRecord(key, value)).join('');
  const bytes = Buffer.from(text, 'latin1');
  return Buffer.concat([ustar('pax-header', PAX, { bytes: bytes.length, mtimeS: 0 }), bytes, padding(bytes.length)]);
}

/** `<length> <key>=<value>\n`, where the length counts itself. */
function byteRecord(key: string, value: string): string {
  const rest = key.length + value.length + 3;
  let length = rest + 1;
  while (String(length).length + rest !== length) {
    length = String(length).length + rest;
  }
  return `${length} ${key}=${value}\n`;
}

/** The zeros behind a content. */
export function padding(bytes: number): Uint8Array {
  return new Uint8Array((BLOCK - (bytes % BLOCK)) % BLOCK);
}

function ustar(name: string, type: string, { bytes, mtimeS, mode = 0o600 }: Omit<TarFile, 'name'>): Uint8Array {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number): void => {
    header.write(value.toString(8).padStart(digits, '0'), at);
  };
  header.write(name);
  octal(mode, 100, 7);
  octal(0, 108, 7);
  octal(0, 116, 7);
  octal(bytes, 124, 11);
  octal(mtimeS, 136, 11);
  header.write(type, 156);
  header.write(MAGIC, 257);
  octal(0, 329, 7);
  octal(0, 337, 7);
  octal(checksum(header), 148, 6);
  header.write('\u0000 ', 154);
  return header;
}

/** Sum of all bytes; those of the checksum itself count as blanks. */
function checksum(header: Uint8Array): number {
  let sum = 8 * 0x20;
  for (let at = 0; at < BLOCK; at += 1) {
    sum += at >= 148 && at < 156 ? 0 : (header[at] ?? 0);
  }
  return sum;
}

/** A file in an archive; its content follows in the source and must be read before anything else. */
export interface TarEntry {
  readonly name: string;
  readonly bytes: number;
}

/**
 * Reads up to the content of the next file.
 * @returns undefined at the end of the archive, when everything behind it was read and found to be zeros
 * @throws CheckpointCorrupt for everything that is not a regular file as `tarHeader` writes it, and for a cut archive
 */
export async function readTarEntry(source: ByteSource): Promise<TarEntry | undefined> {
  const header = await source.read(BLOCK);
  if (isZero(header)) {
    await readEnd(source);
    return undefined;
  }
  const first = parseUstar(header);
  if (first.type !== PAX) {
    return first;
  }
  if (first.bytes > MAX_PAX_BYTES) {
    throw corrupt(`a pax header of ${first.bytes} bytes`);
  }
  const records = parsePax(Buffer.from(await source.read(first.bytes)));
  await readPadding(source, first.bytes);
  const file = parseUstar(await source.read(BLOCK));
  if (file.type === PAX) {
    throw corrupt('two pax headers for one file');
  }
  const size = records.get('size');
  return {
    name: records.get('path') ?? file.name,
    bytes: size === undefined ? file.bytes : toSize(size, /^\d{1,16}$/, 10),
  };
}

/** @throws CheckpointCorrupt when what follows a content of this length is not zeros */
export async function readPadding(source: ByteSource, bytes: number): Promise<void> {
  if (!isZero(await source.read(padding(bytes).length))) {
    throw corrupt('bytes between two files that are not zeros');
  }
}

async function readEnd(source: ByteSource): Promise<void> {
  for (let rest = await source.readSome(BLOCK * 128); rest.length > 0; rest = await source.readSome(BLOCK * 128)) {
    if (!isZero(rest)) {
      throw corrupt('bytes behind its end');
    }
  }
}

function parseUstar(header: Uint8Array): TarEntry & { readonly type: string } {
  const text = Buffer.from(header).toString('latin1');
  const field = (at: number, length: number): string => text.slice(at, at + length).replace(/\0[^]*$/, '');
  const type = text.charAt(156);
  if (toSize(field(148, 8).trimEnd(), /^[0-7]{1,7}$/, 8) !== checksum(header)) {
    throw corrupt('a header whose checksum does not match');
  }
  if (text.slice(257, 265) !== MAGIC || ![FILE, PAX].includes(type)) {
    throw corrupt(`an entry of type ${JSON.stringify(type)}, which is no regular file in the POSIX format`);
  }
  if (field(157, 100) !== '' || field(345, 155) !== '') {
    throw corrupt('a name in parts, or a link name');
  }
  return { name: field(0, 100), bytes: toSize(field(124, 12).trimEnd(), /^[0-7]{1,11}$/, 8), type };
}

function parsePax(bytes: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < bytes.length;) {
    const blank = bytes.indexOf(0x20, at);
    const length = blank === -1 ? 0 : toSize(bytes.toString('latin1', at, blank), /^[1-9]\d{0,5}$/, 10);
    const record = bytes.toString('utf8', blank + 1, at + length);
    const equals = record.indexOf('=');
    const key = record.slice(0, Math.max(0, equals));
    if (at + length > bytes.length || !record.endsWith('\n') || !['path', 'size'].includes(key) || records.has(key)) {
      throw corrupt('a pax header that is none of ours');
    }
    records.set(key, record.slice(equals + 1, -1));
    at += length;
  }
  return records;
}

function toSize(text: string, pattern: RegExp, base: number): number {
  const value = pattern.test(text) ? Number.parseInt(text, base) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw corrupt(`${JSON.stringify(text)} in the place of a number`);
  }
  return value;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

function corrupt(what: string): KybernateError {
  return new KybernateError(
    'CheckpointCorrupt',
    `the archive is damaged or not an exported checkpoint: it has ${what}`,
  );
}
