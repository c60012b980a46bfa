/* From the settings of a node to its tiers. */
import { mkdir, readdir, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KybernateError } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import { openLocalBackend } from '../backend/local.ts';
import { PREFIX } from '../keys.ts';
import { Pins } from './pins.ts';
import { Stock } from './stock.ts';
import { Tier, type TierSettings } from './tier.ts';
import { kindOf } from './units.ts';

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

/** Tells a tier from a directory that holds something else, a store above all: what a tier holds may be evicted. */
const MARK = '.tier';
/** Of the file system, not ours. */
const OTHERS = new Set([MARK, '.tmp', 'lost+found']);

/**
 * Opens the directory, removes what a dead writer left, and takes stock.
 * @throws InvalidInput the directory holds something else; StorageDenied, StorageUnavailable, DiskFull it cannot be made
 *   or read
 */
export async function openTier(settings: TierSettings, log: Logger): Promise<Tier> {
  const path = settings.path ?? settings.dir;
  const place = await openLocalBackend(path);
  await checkMark(path, settings);
  // All of it: one process at a time. The clock of a file runs a little ahead of ours.
  await place.sweep(-60_000);
  const found: Array<{ readonly key: string; readonly bytes: number; readonly modifiedMs: number }> = [];
  for (const prefix of [PREFIX.packs, PREFIX.index, PREFIX.checkpoints]) {
    for await (const entry of place.list(prefix)) {
      if (kindOf(entry.key) !== undefined) {
        found.push(entry);
      }
    }
  }
  const stock = new Stock();
  for (const { key, bytes } of found.sort((left, right) => left.modifiedMs - right.modifiedMs)) {
    stock.add(key, bytes);
  }
  return new Tier({ settings, place, stock, pins: await Pins.open(place), log });
}

async function checkMark(path: string, { name, dir }: TierSettings): Promise<void> {
  const names = await readdir(path);
  if (!names.includes(MARK)) {
    const foreign = names.filter((entry) => !OTHERS.has(entry));
    if (foreign.length > 0) {
      throw new KybernateError(
        'InvalidInput',
        `${dir} is not empty and no tier (it holds ${foreign.slice(0, 3).join(', ')}): the tier ${name} needs a directory ` +
          `of its own, whose content may be evicted; nothing was changed`,
      );
    }
    await writeFile(join(path, MARK), '', { mode: 0o600 });
  }
}
