import { zstdCompressSync } from 'node:zlib';
import { compressSync } from 'lz4-napi';
import { describe, expect, it } from 'vitest';
import { CODECS, MAX_CHUNK_BYTES } from '../core/pack/pack.ts';
import { noise } from '../test/harness/checkpoint-dir.ts';
import { decodeChunk, encodeChunk, ENCODE_SPARE_BYTES } from './codec.ts';
import { createZstdDecoder, createZstdEncoder, FRAME_SPARE_BYTES } from './zstd.ts';

const promising = (rawBytes: number, rest: Uint8Array): Buffer => {
  const header = Buffer.alloc(4);
  header.writeUInt32LE(rawBytes);
  return Buffer.concat([header, rest]);
};

describe('chunk codec', () => {
  const samples = [
    ['one byte', Buffer.from('x'), false],
    ['noise', noise(65_536, 'noise'), false],
    ['text', Buffer.alloc(65_536, 'text '), true],
    ['the largest chunk', Buffer.alloc(MAX_CHUNK_BYTES, 'text '), true],
    ['half noise', Buffer.concat([noise(32_768, 'half'), Buffer.alloc(32_768)]), true],
  ] as const;
  it.each(CODECS.flatMap((codec) => samples.map((sample) => [codec, ...sample] as const)))(
    '%s brings %s back',
    (wanted, _, raw, shrinks) => {
      const out = Buffer.alloc(raw.length + ENCODE_SPARE_BYTES + 10);
      const encoded = encodeChunk(raw, wanted, out, 10);

      const decoded = decodeChunk(encoded.codec, encoded.bytes, raw.length);

      expect(encoded.codec).toBe(shrinks ? wanted : 'none');
      expect(decoded !== undefined && Buffer.compare(decoded, raw)).toBe(0);
    },
  );

  it.each([
    ['a frame that unpacks to far more than promised', 'zstd' as const, zstdCompressSync(Buffer.alloc(2 ** 26)), 4096],
    ['a frame that unpacks to less', 'zstd' as const, zstdCompressSync(Buffer.alloc(100)), 4096],
    ['a frame that is cut off', 'zstd' as const, zstdCompressSync(noise(4096, 'cut')).subarray(0, 2000), 4096],
    ['bytes that are no frame', 'zstd' as const, noise(4096, 'none'), 4096],
    ['an lz4 body that promises 4 GB', 'lz4' as const, promising(0xffff_ffff, Buffer.alloc(9)), 4096],
    ['an lz4 body of another length', 'lz4' as const, compressSync(Buffer.alloc(100)), 4096],
    ['an lz4 body that yields more than its header says', 'lz4' as const, longer(), 4096],
    ['an lz4 body that is cut off', 'lz4' as const, compressSync(Buffer.alloc(4096, 'abcde')).subarray(0, 20), 4096],
    ['an lz4 body without a header', 'lz4' as const, Buffer.from([0, 16]), 4096],
    ['plain bytes of another length', 'none' as const, noise(4095, 'short'), 4096],
  ])('gives nothing for %s', (_, codec, stored, rawBytes) => {
    expect(decodeChunk(codec, stored, rawBytes)).toBeUndefined();
  });

  it('refuses a zstd frame that asks for a window of 128 MiB', () => {
    // magic, header without a content size, window descriptor, one last block: 4096 times the byte 7
    const frame = (log: number): Buffer => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 0x03, 0x80, 0, 7]);

    expect(decodeChunk('zstd', frame(18), 4096)).toEqual(Buffer.alloc(4096, 7));
    expect(decodeChunk('zstd', frame(27), 4096)).toBeUndefined();
  });
});

function longer(): Buffer {
  const body = compressSync(Buffer.alloc(8192, 'abcde'));
  return promising(4096, body.subarray(4));
}

describe('zstd encoder', () => {
  it('writes frames that stand alone, one after the other, whatever was before', () => {
    const encode = createZstdEncoder(1);
    const inputs = [
      noise(65_536, 'a'),
      Buffer.alloc(65_536, 'text '),
      Buffer.from('x'),
      noise(4096, 'b'),
      Buffer.alloc(1),
    ];

    const frames = inputs.map((raw) => {
      const out = Buffer.alloc(raw.length + FRAME_SPARE_BYTES);
      return out.subarray(0, encode(raw, out, 0));
    });

    expect(frames.map((frame, index) => decodeChunk('zstd', frame, inputs[index]?.length ?? 0))).toEqual(inputs);
  });
});

describe('zstd decoder', () => {
  const whole = zstdCompressSync(Buffer.alloc(4096, 'text '));
  // magic, header without a content size, window descriptor, one block that is not the last: 4096 times the byte 7
  const unfinished = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 8 << 3, 0x02, 0x80, 0, 7]);

  it.each([
    ['a frame that is cut off', whole.subarray(0, -1)],
    ['a frame that never ends', unfinished],
    ['a frame that unpacks to more', zstdCompressSync(Buffer.alloc(2 ** 20))],
    ['bytes that are no frame', noise(4096, 'none')],
  ])('decodes a frame after %s', (_, before) => {
    const decode = createZstdDecoder();
    const into = Buffer.alloc(4096);

    decode(before, into);

    expect(decode(whole, into)).toBe(true);
    expect(into).toEqual(Buffer.alloc(4096, 'text '));
  });
});
