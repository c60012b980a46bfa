/* From the settings of a node to its tiers. */
import { mkdir, statfs } from 'node:fs/promises';
import { KybernateError } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import { openTier, type Tier, type TierSettings } from './tier.ts';

/** statfs(2) of a tmpfs: TMPFS_MAGIC in linux/magic.h. */
const TMPFS = 0x0102_1994;

export interface TiersSettings {
  readonly ram?: Omit<TierSettings, 'name'>;
  readonly nvme?: Omit<TierSettings, 'name'>;
}

/**
 * Opens the tiers that the settings name, fastest first.
 * @throws Incompatible the directory of the ram tier is on no tmpfs; StorageDenied, StorageUnavailable, DiskFull a
 *   directory cannot be used
 */
export async function openTiers({ ram, nvme }: TiersSettings, log: Logger): Promise<Tier[]> {
  if (ram !== undefined) {
    await checkTmpfs(ram, log);
  }
  const wanted: TierSettings[] = [
    ...(ram === undefined ? [] : [{ name: 'ram' as const, ...ram }]),
    ...(nvme === undefined ? [] : [{ name: 'nvme' as const, ...nvme }]),
  ];
  return Promise.all(wanted.map((settings) => openTier(settings, log)));
}

async function checkTmpfs({ dir, path = dir, budgetBytes }: Omit<TierSettings, 'name'>, log: Logger): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  const { type, blocks, bsize } = await statfs(path);
  if (type !== TMPFS) {
    throw new KybernateError(
      'Incompatible',
      `the ram tier ${dir} is not on a tmpfs, so it is no memory; nothing was written`,
      {
        details: {
          dir,
          fsType: `0x${type.toString(16)}`,
          remedy: `mount -t tmpfs -o size=${budgetBytes},mode=0700 tmpfs ${dir}`,
        },
      },
    );
  }
  if (blocks > 0 && blocks * bsize < budgetBytes) {
    const sizeBytes = blocks * bsize;
    log.warn({ dir, sizeBytes, budgetBytes }, 'the tmpfs of the ram tier is smaller than its budget');
  }
}
