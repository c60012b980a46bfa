/* From the settings of a node to its store with tiers. */
import { statfs } from 'node:fs/promises';
import { KybernateError } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import type { Backend } from '../backend/backend.ts';
import type { Peer } from './bring.ts';
import { openTier, type Tier, type TierSettings } from './tier.ts';
import { TieredBackend } from './tiered.ts';

/** statfs(2) of a tmpfs: TMPFS_MAGIC in linux/magic.h. */
const TMPFS = 0x0102_1994;

export interface TiersSettings {
  readonly ram?: Omit<TierSettings, 'name'>;
  readonly nvme?: Omit<TierSettings, 'name'>;
  readonly peers?: readonly Peer[];
}

/**
 * Opens the tiers that the settings name, over `store`.
 * @throws Incompatible the directory of the ram tier is on no tmpfs; StorageDenied, StorageUnavailable, DiskFull a
 *   directory cannot be used
 */
export async function openTieredBackend(store: Backend, settings: TiersSettings, log: Logger): Promise<TieredBackend> {
  const tiers: Tier[] = [];
  if (settings.ram !== undefined) {
    const ram = await openTier({ name: 'ram', ...settings.ram }, log);
    await checkTmpfs(ram, log);
    tiers.push(ram);
  }
  if (settings.nvme !== undefined) {
    tiers.push(await openTier({ name: 'nvme', ...settings.nvme }, log));
  }
  return new TieredBackend({ store, tiers, peers: settings.peers ?? [], log });
}

async function checkTmpfs({ dir, budgetBytes }: Tier, log: Logger): Promise<void> {
  const { type, blocks, bsize } = await statfs(dir);
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
