import { zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { MAX_CHUNK_BYTES } from '../core/pack/pack.ts';
import { noise } from '../test/harness/checkpoint-dir.ts';
import { decodeChunk, encodeChunk } from './codec.ts';

describe('chunk codec', () => {
  it.each([
    ['one byte', Buffer.from('x'), 'none'],
    ['noise', noise(131_072, 'noise'), 'none'],
    ['text', Buffer.alloc(131_072, 'text '), 'zstd'],
    ['the largest chunk', Buffer.alloc(MAX_CHUNK_BYTES, 'text '), 'zstd'],
    ['half noise', Buffer.concat([noise(65_536, 'half'), Buffer.alloc(65_536)]), 'zstd'],
  ])('brings %s back', async (_, raw, codec) => {
    const encoded = await encodeChunk(raw);

    const decoded = await decodeChunk(encoded.codec, encoded.bytes, raw.length);

    expect(encoded.codec).toBe(codec);
    expect(decoded !== undefined && Buffer.compare(decoded, raw)).toBe(0);
  });

  it.each([
    ['a frame that unpacks to far more than promised', 'zstd' as const, zstdCompressSync(Buffer.alloc(2 ** 26)), 4096],
    ['a frame that unpacks to less', 'zstd' as const, zstdCompressSync(Buffer.alloc(100)), 4096],
    ['a frame that is cut off', 'zstd' as const, zstdCompressSync(noise(4096, 'cut')).subarray(0, 2000), 4096],
    ['bytes that are no frame', 'zstd' as const, noise(4096, 'none'), 4096],
    ['plain bytes of another length', 'none' as const, noise(4095, 'short'), 4096],
  ])('gives nothing for %s', async (_, codec, stored, rawBytes) => {
    expect(await decodeChunk(codec, stored, rawBytes)).toBeUndefined();
  });
});
