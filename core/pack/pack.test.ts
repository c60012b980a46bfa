import { Buffer } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { digestOf } from '../../store/digest.ts';
import { decodeChunk } from '../../store/codec.ts';
import {
  decodePackTail,
  encodePackTail,
  MAX_CHUNK_BYTES,
  PACK_ENTRY_BYTES,
  PACK_FOOTER_BYTES,
  PACK_HEADER,
  readPackFooter,
  type PackEntry,
} from './pack.ts';

const GOLDEN = new URL('golden/two-chunks.hex', import.meta.url);
const RAW = Buffer.alloc(1000, 'kybernate ');
/** zstd level 1 of RAW; stored bytes of the golden file must not follow the library's version */
const RAW_ZSTD = Buffer.from('28b52ffd60e8028d0000506b796265726e617465200100db5b1524', 'hex');

function entry(raw: Uint8Array, stored: Uint8Array, offset: number, codec: PackEntry['codec']): PackEntry {
  return { digest: digestOf(raw), offset, storedBytes: stored.length, rawBytes: raw.length, codec };
}

function pack(entries: PackEntry[], bodies: Uint8Array[]): Buffer {
  return Buffer.concat([PACK_HEADER, ...bodies, encodePackTail(entries, digestOf)]);
}

function samplePack(): { bytes: Buffer; entries: PackEntry[] } {
  const plain = Buffer.from('incompressible');
  const entries = [
    entry(plain, plain, PACK_HEADER.length, 'none'),
    entry(RAW, RAW_ZSTD, PACK_HEADER.length + plain.length, 'zstd'),
  ];
  return { bytes: pack(entries, [plain, RAW_ZSTD]), entries };
}

async function golden(): Promise<Buffer> {
  return Buffer.from((await readFile(GOLDEN, 'utf8')).replaceAll(/\s/g, ''), 'hex');
}

describe('pack', () => {
  it('is written byte for byte as the golden file of version 1', async () => {
    expect(samplePack().bytes.toString('hex')).toBe((await golden()).toString('hex'));
  });

  it('is read back from the golden file, chunks included', async () => {
    const bytes = await golden();

    const { entries, packBytes } = decodePackTail(bytes, digestOf, 'golden');

    expect(packBytes).toBe(bytes.length);
    expect(entries).toEqual(samplePack().entries);
    const raws = entries.map((at) =>
      decodeChunk(at.codec, bytes.subarray(at.offset, at.offset + at.storedBytes), at.rawBytes),
    );
    expect(raws.map((raw) => raw && Buffer.from(digestOf(raw)))).toEqual(entries.map((at) => Buffer.from(at.digest)));
  });

  it('is refused when it is cut off at any offset', async () => {
    const bytes = await golden();
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => decodePackTail(bytes.subarray(0, length), digestOf, 'cut')).toThrow(
        expect.objectContaining({ type: 'CheckpointCorrupt' }),
      );
    }
  });

  it('is refused when any bit of index or footer is flipped', async () => {
    const bytes = await golden();
    const { tailBytes } = readPackFooter(bytes, 'golden');
    for (let at = bytes.length - tailBytes; at < bytes.length; at += 1) {
      const damaged = Buffer.from(bytes);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      expect(() => decodePackTail(damaged, digestOf, 'flipped'), `byte ${at}`).toThrow('flipped is damaged');
    }
  });

  it('is read from its tail alone', () => {
    const { bytes, entries } = samplePack();
    const { tailBytes, indexOffset } = readPackFooter(bytes.subarray(-PACK_FOOTER_BYTES), 'pack');

    expect(tailBytes).toBe(2 * PACK_ENTRY_BYTES + PACK_FOOTER_BYTES);
    expect(indexOffset).toBe(bytes.length - tailBytes);
    expect(decodePackTail(bytes.subarray(-tailBytes), digestOf, 'tail').entries).toEqual(entries);
  });

  it('may be empty', () => {
    expect(decodePackTail(pack([], []), digestOf, 'empty').entries).toEqual([]);
  });

  it.each([
    ['chunks that overlap', { offset: PACK_HEADER.length - 1 }],
    ['a chunk longer than a reader allocates', { rawBytes: MAX_CHUNK_BYTES + 1 }],
    ['an empty chunk', { rawBytes: 0 }],
  ])('is refused with %s, though its digest is right', (_, change) => {
    const plain = Buffer.from('x');
    const bytes = pack([{ ...entry(plain, plain, PACK_HEADER.length, 'none'), ...change }], [plain]);

    expect(() => decodePackTail(bytes, digestOf, 'crafted')).toThrow('crafted is damaged');
  });
});
