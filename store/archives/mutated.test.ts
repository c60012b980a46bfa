/* Archives of other engines, damaged at random: each is refused with one clear error, or is whole. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { isKybernateError } from '../../core/errors.ts';
import { testOp } from '../../test/harness/checkpoint-dir.ts';
import { sampleMembers, tarOf } from '../../test/harness/foreign-archive.ts';
import { seeded } from '../../test/harness/random.ts';
import { times } from '../../test/harness/soak.ts';
import { surveyDirectory } from '../survey.ts';
import { importArchive } from './any-archive.ts';
import { DEFAULT_LIMITS } from './limits.ts';

const SEED = Number(process.env['KYBERNATE_SEED'] ?? 7);
/** What one case may add: the archive has 40 KiB. */
const MAX_GROWTH_BYTES = 256 * 2 ** 20;
/** Of the processor: what else the machine does is not the archive's fault. */
const MAX_CASE_CPU_MS = 5000;
/** Each case flushes every file; a disk would be all that is measured. */
const MEMORY = '/dev/shm';

/** A whole number below. */
type Random = (below: number) => number;

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(existsSync(MEMORY) ? MEMORY : tmpdir(), 'kybernate-mutated-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

it(`an archive that is damaged at random is refused or whole, and nothing else is written (seed ${SEED})`, async () => {
  const next = seeded(SEED);
  const random: Random = (below) => Math.floor(next() * below);
  const archive = tarOf([...sampleMembers().values()]);
  const home = join(root, 'checkpoints');
  const limits = { ...DEFAULT_LIMITS, maxBytes: 2 ** 26 };
  let refused = 0;
  const before = process.memoryUsage().rss;
  for (let number = 0; number < times(5000); number += 1) {
    const plain = mutated(random, archive);
    const bytes =
      [plain, plain, plain, gzipSync(plain), mutated(random, zstdCompressSync(archive))][random(5)] ?? plain;
    const stream = (async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(bytes);
    })();
    const begun = process.cpuUsage();

    const outcome = await importArchive({
      stream,
      checkpointsDir: home,
      op: testOp(),
      acceptForeign: () => undefined,
      foreign: { limits, namespace: 'default', missingMounts: random(2) === 0 ? 'keep' : 'empty' },
    }).catch((error: unknown) => error);

    const { user, system } = process.cpuUsage(begun);
    expect((user + system) / 1000, `case ${number}`).toBeLessThan(MAX_CASE_CPU_MS);
    if (outcome instanceof Error) {
      refused += 1;
      expect(isKybernateError(outcome, 'CheckpointCorrupt'), `case ${number}: ${outcome.stack}`).toBe(true);
      expect(await readdir(home).catch((): string[] => []), `case ${number}`).toEqual([]);
    } else {
      const { path } = outcome as { readonly path: string };
      expect(await surveyDirectory({ dir: path, mode: 'full', op: testOp() }), `case ${number}`).toMatchObject({
        ok: true,
      });
      await rm(home, { recursive: true });
    }
    expect(
      (await readdir(root)).filter((name) => name !== 'checkpoints'),
      `case ${number}`,
    ).toEqual([]);
  }
  expect(process.memoryUsage().rss - before).toBeLessThan(MAX_GROWTH_BYTES);
  expect(refused).toBeGreaterThan(0);
}, 3_600_000);

/** One to three changes: bits, bytes, cuts, blocks left out, doubled, exchanged or filled. */
function mutated(random: Random, archive: Buffer): Buffer {
  let bytes: Buffer = Buffer.from(archive);
  for (let change = random(3); change >= 0 && bytes.length > 0; change -= 1) {
    const at = random(bytes.length);
    const block = at - (at % 512);
    switch (random(7)) {
      case 0:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8));
        break;
      case 1:
        bytes[at] = random(256);
        break;
      case 2:
        bytes = bytes.subarray(0, at);
        break;
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, block), bytes.subarray(block + 512 * (1 + random(4)))]);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, block), bytes.subarray(block, block + 512), bytes.subarray(block)]);
        break;
      case 5:
        bytes = header(random, bytes, block);
        break;
      default:
        bytes.fill(random(2) === 0 ? 0 : 0xff, at, Math.min(bytes.length, at + random(600)));
    }
  }
  return bytes;
}

/** Another byte in a header, whose checksum is right all the same. */
function header(random: Random, bytes: Buffer, block: number): Buffer {
  const at = block + random(500);
  if (block + 512 <= bytes.length) {
    bytes[at] = random(256);
    const target = bytes.subarray(block, block + 512);
    target.fill(0x20, 148, 156);
    const sum = target.reduce((total, byte) => total + byte, 0);
    target.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 'latin1');
  }
  return bytes;
}
