import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { noise } from '../test/harness/checkpoint-dir.ts';
import { JOB_BYTES, type EncodeJob } from './chunk-jobs.ts';
import { chunkJobRunner } from './chunk-workers.ts';
import { digestOf, hexDigestOf, toHex } from './digest.ts';

const PIECE = 65_536;
let dir = '';
let file: FileHandle;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kybernate-jobs-'));
  file = await open(join(dir, 'file'), 'w+');
});
afterEach(async () => {
  await file.close();
  await rm(dir, { recursive: true, force: true });
});

async function encodeJob(content: Buffer, unshrunk = 0): Promise<EncodeJob> {
  await file.write(content, 0, content.length, 0);
  const extents = Array.from({ length: content.length / PIECE }, (_, chunk) => ({
    offset: chunk * PIECE,
    bytes: PIECE,
  }));
  const digests = Buffer.concat(extents.map(({ offset, bytes }) => digestOf(content.subarray(offset, offset + bytes))));
  return { kind: 'encode', fd: file.fd, extents, digests, codec: 'zstd', unshrunk };
}

describe.each([
  ['on this thread', JOB_BYTES],
  ['on threads', 2 ** 30],
])('chunk jobs %s', (_, bytes) => {
  const run = chunkJobRunner(bytes);

  it('compress chunks and bring them back', async () => {
    const content = Buffer.concat([Buffer.alloc(PIECE, 'text '), noise(PIECE, 'noise'), Buffer.alloc(PIECE, 'more ')]);
    const job = await encodeJob(content);

    const encoded = await run(job);

    expect(encoded).toMatchObject({ kind: 'encoded', codecs: ['zstd', 'none', 'zstd'], unshrunk: 0 });
    if (encoded.kind === 'encoded') {
      const stored = new SharedArrayBuffer(encoded.memory.byteLength);
      new Uint8Array(stored).set(new Uint8Array(encoded.memory));
      let offset = 0;
      const chunks = encoded.storedBytes.map((storedBytes, index) => {
        offset += storedBytes;
        return { offset: offset - storedBytes, codec: encoded.codecs[index] ?? 'none', storedBytes, rawBytes: PIECE };
      });
      const decoded = await run({ kind: 'decode', stored, chunks, digests: job.digests });
      expect(decoded.whole).toEqual([true, true, true]);
      // The second one was stored as it is and is read where it lies.
      const compressed = Buffer.concat([content.subarray(0, PIECE), content.subarray(2 * PIECE)]);
      expect(Buffer.compare(Buffer.from(decoded.memory, 0, 2 * PIECE), compressed)).toBe(0);
      const plain = new Uint8Array(stored, chunks[1]?.offset, PIECE);
      expect(Buffer.compare(plain, content.subarray(PIECE, 2 * PIECE))).toBe(0);
      const digests = Buffer.concat(chunks.map(() => digestOf(Buffer.from('other'))));
      const { whole } = await run({ kind: 'decode', stored, chunks, digests, spare: decoded.memory });
      expect(whole).toEqual([false, false, false]);
    }
  });

  it('read chunks that do not lie side by side, and tell which are zeros', async () => {
    const content = Buffer.concat([noise(PIECE, 'first'), Buffer.alloc(PIECE), noise(PIECE, 'third')]);
    await file.write(content, 0, content.length, 0);
    const extents = [
      { offset: 0, bytes: 4096 },
      { offset: 4096, bytes: 4096 },
      { offset: PIECE, bytes: PIECE },
      { offset: 2 * PIECE + 100, bytes: 1000 },
    ];

    const digested = await run({ kind: 'digest', fd: file.fd, extents });

    const expected = extents.map(({ offset, bytes: length }) => hexDigestOf(content.subarray(offset, offset + length)));
    const found = digested.kind === 'digests' ? digested.digests.map((digest) => digest && toHex(digest)) : [];
    expect(found).toEqual([expected[0], expected[1], undefined, expected[3]]);
  });

  it('name a chunk that is not what it was, and a file that ends early', async () => {
    const job = await encodeJob(noise(2 * PIECE, 'before'));
    await file.write(Buffer.from('x'), 0, 1, PIECE);
    expect(await run(job)).toMatchObject({ kind: 'changed', chunk: 1 });

    await file.truncate(PIECE + 1);
    expect(await run({ kind: 'digest', fd: file.fd, extents: job.extents })).toEqual({ kind: 'short' });
  });

  it('stop trying what does not shrink, and begin again when it does', async () => {
    const noisy = await run(await encodeJob(noise(16 * PIECE, 'noise')));
    expect(noisy).toMatchObject({ unshrunk: 16 });

    const text = await run(await encodeJob(Buffer.alloc(16 * PIECE, 'text '), 17));

    // chunk 7 is the 24th in a row and is tried; all behind it are
    expect(text).toMatchObject({
      codecs: [...Array.from({ length: 7 }, () => 'none'), ...Array.from({ length: 9 }, () => 'zstd')],
      unshrunk: 0,
    });
  });

  it('fail when the file is closed', async () => {
    const closed = await open(join(dir, 'closed'), 'w+');
    const { fd } = closed;
    await closed.close();

    await expect(run({ kind: 'digest', fd, extents: [{ offset: 0, bytes: 1 }] })).rejects.toThrow();
  });
});
