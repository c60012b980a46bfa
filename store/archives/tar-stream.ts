/*
 * Tar archives of others, read once from front to back: ustar, pax and GNU's long names, as Podman, CRI-O, containerd and
 * GNU tar write them. What an honest writer never makes is refused, because readers disagree about it: two names for one
 * file, global headers, sparse files of the old formats, numbers that are none, bytes behind the end.
 *
 *   header 512: name 0..100, mode 100..108, size 124..136 (octal, or base 256 with bit 7 set), mtime 136..148, checksum
 *   148..156, type 156, link 157..257, magic 257..265, device 329..345, prefix 345..500; content padded to 512.
 *   Types x (pax records `<length> <key>=<value>\n`), L and K (GNU's long name and link) belong to the next member.
 * Sources: POSIX.1-2024, pax interchange format; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
 */
import { isOldSparse, SparseMap } from '../../core/tar/sparse-map.ts';
import type { ByteSource } from '../byte-source.ts';
import { type FileBudget, refused, shown } from './limits.ts';
import { cleanName } from './tar-names.ts';

const BLOCK = 512;
const POSIX_MAGIC = 'ustar\u000000';
const GNU_MAGIC = 'ustar  \u0000';
/** Attributes of a file may take 64 KiB each; more than this nobody has. */
const MAX_EXTENSION_BYTES = 2 ** 20;
const MAX_NAME_BYTES = 4096;

const TYPES = {
  '0': 'file',
  '\0': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character device',
  '4': 'block device',
  '5': 'directory',
  '6': 'fifo',
} as const;
export type MemberType = (typeof TYPES)[keyof typeof TYPES];

export interface TarMember {
  /** byte string: as in the archive, without leading `./` and trailing `/`; empty for the root itself, `./` or `/` */
  readonly name: string;
  readonly type: MemberType;
  /** byte string, as in the archive; of links */
  readonly link: string;
  readonly bytes: number;
  /** permissions, setuid and setgid */
  readonly mode: number;
  /** s since 1970 */
  readonly mtimeS: number;
  /** the block of the member itself */
  readonly header: Uint8Array;
  /** pax records and GNU's long names, as byte strings */
  readonly records: ReadonlyMap<string, string>;
}

export class TarStream {
  readonly #source: ByteSource;
  readonly #what: string;
  readonly #budget: FileBudget;
  #left = 0;
  #padding = 0;
  /** of the member whose content comes */
  #sparse: { readonly map: SparseMap; readonly name: string; readonly bytes: number } | undefined;

  /** @param what name of the archive, for messages */
  constructor(source: ByteSource, what: string, budget: FileBudget) {
    this.#source = source;
    this.#what = what;
    this.#budget = budget;
  }

  /**
   * The next member; what is left of the content before is skipped.
   * @returns undefined at the end, when everything behind it was zeros
   * @throws CheckpointCorrupt
   */
  async next(): Promise<TarMember | undefined> {
    for await (const _piece of this.content()) {
      // skipped
    }
    const records = new Map<string, string>();
    for (;;) {
      const header = Uint8Array.from(await this.#source.read(BLOCK));
      if (isZero(header)) {
        if (records.size > 0) {
          throw this.#no('an extension header without a member');
        }
        await this.#readEnd();
        return undefined;
      }
      const type = this.#checkHeader(header);
      if (type === 'x' || type === 'L' || type === 'K') {
        await this.#readExtension(type, this.#number(header, 124, 12), records);
        continue;
      }
      const member = this.#member(header, type, records);
      this.#budget.take(member.name);
      return member;
    }
  }

  /** The content of the member, in pieces that are valid until the next one is asked for. */
  async *content(): AsyncGenerator<Uint8Array> {
    while (this.#left > 0) {
      const piece = await this.#source.readSome(Math.min(this.#left, 2 ** 20));
      if (piece.length === 0) {
        throw this.#no(`an end in the middle of a file, after ${this.#source.position} bytes: it is cut off`);
      }
      this.#left -= piece.length;
      this.#sparse?.map.push(piece);
      yield piece;
    }
    this.#checkMap();
    if (this.#padding > 0) {
      const padding = this.#padding;
      this.#padding = 0;
      await this.#source.read(padding);
    }
  }

  #member(header: Uint8Array, type: string, records: Map<string, string>): TarMember {
    const known = Object.entries(TYPES).find(([letter]) => letter === type)?.[1];
    const given = records.get('GNU.sparse.name') ?? records.get('path') ?? headerName(header);
    const name = cleanName(given);
    if (known === undefined) {
      throw this.#no(`${shown(name)} of the type ${JSON.stringify(type)}, which is not known`);
    }
    // Readers take it for a directory, and its content for the headers of others.
    if (known === 'file' && given.endsWith('/')) {
      throw this.#no(`${shown(given)}, a file with the name of a directory`);
    }
    const size = records.get('size');
    const bytes = size === undefined ? this.#number(header, 124, 12) : this.#decimal('size', size);
    if (known !== 'file' && bytes > 0) {
      throw this.#no(`${shown(name)}, a ${known} with a content`);
    }
    this.#checkSparse(records, name, known);
    this.#sparse = records.has('GNU.sparse.major') ? { map: new SparseMap(), name, bytes } : undefined;
    this.#left = bytes;
    this.#padding = (BLOCK - (bytes % BLOCK)) % BLOCK;
    return {
      name,
      type: known,
      link: records.get('linkpath') ?? cut(header, 157, 257),
      bytes,
      mode: this.#number(header, 100, 8) & 0o7777,
      mtimeS: Math.max(0, Math.floor(Number(records.get('mtime') ?? this.#number(header, 136, 12)))) || 0,
      header,
      records,
    };
  }

  /** Of the sparse formats only 1.0 keeps its map in the content, where it can be compared with what is there. */
  #checkSparse(records: ReadonlyMap<string, string>, name: string, type: MemberType): void {
    const keys = [...records.keys()].filter((key) => key.startsWith('GNU.sparse.'));
    if (keys.length === 0) {
      return;
    }
    const is1 = records.get('GNU.sparse.major') === '1' && records.get('GNU.sparse.minor') === '0';
    if (!is1 || keys.some(isOldSparse)) {
      throw this.#no(`${shown(name)} as a sparse file of an old format`);
    }
    if (type !== 'file') {
      throw this.#no(`${shown(name)}, a sparse ${type}`);
    }
    this.#decimal('GNU.sparse.realsize', records.get('GNU.sparse.realsize') ?? '');
  }

  /** At the end of a content. */
  #checkMap(): void {
    const sparse = this.#sparse;
    this.#sparse = undefined;
    if (sparse !== undefined && !sparse.map.fits(sparse.bytes)) {
      throw this.#no(`${shown(sparse.name)}, a sparse file whose map does not fit its content`);
    }
  }

  #checkHeader(header: Uint8Array): string {
    const magic = latin1(header, 257, 265);
    const type = latin1(header, 156, 157);
    if (this.#number(header, 148, 8) !== checksum(header)) {
      throw this.#no(`no valid header before byte ${this.#source.position}`);
    }
    if (magic !== POSIX_MAGIC && magic !== GNU_MAGIC) {
      throw this.#no(`a header of an unknown format before byte ${this.#source.position}`);
    }
    if (type === 'g') {
      throw this.#no('a global header, which may change every file behind it');
    }
    if (type === 'S') {
      throw this.#no(`${shown(headerName(header))} as a sparse file of an old format`);
    }
    return type;
  }

  async #readExtension(type: 'x' | 'L' | 'K', bytes: number, records: Map<string, string>): Promise<void> {
    if (bytes > MAX_EXTENSION_BYTES) {
      throw this.#no(`an extension header of ${bytes} bytes`);
    }
    const text = Buffer.from(await this.#source.read(bytes)).toString('latin1');
    await this.#source.read((BLOCK - (bytes % BLOCK)) % BLOCK);
    const found: Array<[string, string]> =
      type === 'x' ? this.#paxRecords(text) : [[type === 'L' ? 'path' : 'linkpath', text.replace(/\0+$/, '')]];
    for (const [key, value] of found) {
      if (records.has(key)) {
        throw this.#no(`two values of ${JSON.stringify(key)} for one file`);
      }
      const isName = key === 'path' || key === 'linkpath' || key === 'GNU.sparse.name';
      if (isName && (value === '' || value.length > MAX_NAME_BYTES || value.includes('\0'))) {
        throw this.#no(`a name of ${value.length} bytes, or with a zero in it`);
      }
      records.set(key, value);
    }
  }

  #paxRecords(text: string): Array<[string, string]> {
    const records: Array<[string, string]> = [];
    for (let at = 0; at < text.length;) {
      const blank = text.indexOf(' ', at);
      const digits = blank === -1 ? '' : text.slice(at, blank);
      const length = /^[1-9]\d{0,6}$/.test(digits) ? Number(digits) : 0;
      const record = text.slice(blank + 1, at + length);
      const equals = record.indexOf('=');
      if (length <= digits.length + 1 || at + length > text.length || !record.endsWith('\n') || equals <= 0) {
        throw this.#no('pax records that cannot be read');
      }
      records.push([record.slice(0, equals), record.slice(equals + 1, -1)]);
      at += length;
    }
    return records;
  }

  /** At least a second block of zeros, and nothing but zeros. */
  async #readEnd(): Promise<void> {
    let rest = await this.#source.read(BLOCK);
    while (rest.length > 0) {
      if (!isZero(rest)) {
        throw this.#no('bytes behind its end');
      }
      rest = await this.#source.readSome(BLOCK * 128);
    }
  }

  #number(header: Uint8Array, from: number, length: number): number {
    const first = header[from] ?? 0;
    if (first === 0x80) {
      const value = header.subarray(from + 1, from + length).reduce((sum, byte) => sum * 256 + byte, 0);
      if (Number.isSafeInteger(value)) {
        return value;
      }
    }
    const text = cut(header, from, from + length).trim();
    if (!/^[0-7]{0,12}$/.test(text)) {
      throw this.#no(`${JSON.stringify(text)} in the place of a number`);
    }
    return text === '' ? 0 : Number.parseInt(text, 8);
  }

  #decimal(key: string, text: string): number {
    if (!/^\d{1,15}$/.test(text)) {
      throw this.#no(`${JSON.stringify(text.slice(0, 40))} as ${key}`);
    }
    return Number(text);
  }

  #no(what: string): Error {
    return refused(`${this.#what} has ${what}`);
  }
}

function headerName(header: Uint8Array): string {
  const name = cut(header, 0, 100);
  const prefix = latin1(header, 257, 265) === POSIX_MAGIC ? cut(header, 345, 500) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** Sum of all bytes; those of the checksum itself count as blanks. */
function checksum(header: Uint8Array): number {
  return header.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}

function latin1(bytes: Uint8Array, from: number, to: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString('latin1');
}

function cut(bytes: Uint8Array, from: number, to: number): string {
  const text = latin1(bytes, from, to);
  const zero = text.indexOf('\0');
  return zero < 0 ? text : text.slice(0, zero);
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
