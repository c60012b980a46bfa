import { decodePackTail } from '../../core/pack/pack.ts';
import { KybernateError } from '../../core/errors.ts';
import { groupForJobs } from '../chunk-jobs.ts';
import { chunkJobRunner } from '../chunk-workers.ts';
import { digestOf } from '../digest.ts';
import { forEachLimit } from '../limit.ts';

const PARALLEL_JOBS = 2;

/**
 * Checks a pack by itself: index and footer by their digest, and each chunk by its own where the pack is plain. The
 * bodies of an encrypted pack are checked by those who have its key, as they read them.
 * @throws CheckpointCorrupt
 */
export async function checkPack(pack: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  const { packBytes, entries, dataKey } = decodePackTail(bytes, digestOf, `pack ${pack}`);
  if (packBytes !== bytes.length) {
    throw new KybernateError('CheckpointCorrupt', `pack ${pack} has ${bytes.length} bytes instead of ${packBytes}`);
  }
  if (dataKey !== undefined) {
    return;
  }
  const run = chunkJobRunner(entries.reduce((sum, { rawBytes }) => sum + rawBytes, 0));
  const groups = groupForJobs(entries, ({ rawBytes }) => rawBytes);
  await forEachLimit(groups, PARALLEL_JOBS, signal, async (group) => {
    const start = group[0]?.offset ?? 0;
    const stored = new SharedArrayBuffer(group.reduce((sum, { storedBytes }) => sum + storedBytes, 0));
    new Uint8Array(stored).set(bytes.subarray(start, start + stored.byteLength));
    const { whole } = await run({
      kind: 'decode',
      stored,
      chunks: group.map(({ offset, codec, storedBytes, rawBytes }) => {
        return { offset: offset - start, codec, storedBytes, rawBytes };
      }),
      digests: Buffer.concat(group.map(({ digest }) => digest)),
    });
    const damaged = whole.indexOf(false);
    if (damaged !== -1) {
      throw new KybernateError('CheckpointCorrupt', `pack ${pack} is damaged: chunk at ${group[damaged]?.offset ?? 0}`);
    }
  });
}
