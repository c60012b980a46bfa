/* Content of directories outside of the container, taken while it stands still: volumes of its pod, and a /dev/shm. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Run } from '../native/run/run.ts';
import type { OperationPlan } from './operation.ts';
import { type ChosenVolume, volumeLimit } from './pod-volumes.ts';
import { FULL, TAR_CREATE } from './rootfs.ts';

/**
 * One after the other: what one leaves of the limit is the next one's.
 * @returns warnings
 * @throws DiskFull, DumpFailed
 */
export async function captureVolumes(
  run: Run,
  { analysis, checkpointDir, settings }: Pick<OperationPlan, 'analysis' | 'checkpointDir' | 'settings'>,
  op: Pick<Op, 'signal'>,
): Promise<readonly string[]> {
  const warnings: string[] = [];
  let limitBytes = volumeLimit(settings);
  for (const volume of analysis.volumes ?? []) {
    const { bytes, warnings: more } = await captureVolume(run, volume, { checkpointDir, limitBytes }, op);
    limitBytes -= bytes;
    warnings.push(...more);
  }
  return warnings;
}

/**
 * The content of a directory outside of the container: a volume of its pod, or the pod's /dev/shm. Other containers of the
 * pod may write there while the workload stands still, and put a link in the place of a directory at any moment: tar
 * descends by itself, by descriptors, and follows none. What has a mount of its own below it stays out.
 * @throws DiskFull; DumpFailed, also for what has grown beyond the limit since it was measured
 */
async function captureVolume(
  run: Run,
  { name, destination, source, file }: ChosenVolume,
  { checkpointDir, limitBytes }: { readonly checkpointDir: string; readonly limitBytes: number },
  op: Pick<Op, 'signal'>,
): Promise<{ readonly bytes: number; readonly warnings: readonly string[] }> {
  const tar = join(checkpointDir, file);
  const limit = [`--fsize=${Math.max(0, limitBytes)}`, '--'];
  const what = ['--one-file-system', '--warning=no-file-ignored', `--directory=${source}`, `--file=${tar}`, '.'];
  const result = await run('prlimit', [...limit, 'tar', ...TAR_CREATE, ...what], { signal: op.signal });
  const said = (result.startError ?? result.stderr).trim();
  // 1: files changed or went while they were read
  if (result.exitCode !== 0 && result.exitCode !== 1) {
    op.signal.throwIfAborted();
    const failed = `tar of ${destination} (${source}) failed (${result.exitCode ?? result.signal})`;
    if (result.signal === 'SIGXFSZ') {
      throw new KybernateError(
        'DumpFailed',
        `${failed}: the volume ${name} has grown, and all volumes together are larger than allowed (KYBERNATE_VOLUME_LIMIT)`,
      );
    }
    throw new KybernateError(FULL.test(said) ? 'DiskFull' : 'DumpFailed', `${failed}: ${said.slice(-1000)}`);
  }
  const changed = `files of the volume ${name} at ${destination} were changed by others while they were read: ${said.slice(0, 300)}`;
  return { bytes: (await stat(tar)).size, warnings: result.exitCode === 1 ? [changed] : [] };
}
