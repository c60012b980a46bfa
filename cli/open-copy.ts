/* Which copy of a checkpoint a command reads: the one on this node, or the one in the store. */
import { isKybernateError, KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Op } from '../core/op.ts';
import type { CheckpointCopy } from '../store/copy.ts';
import { checkpointsDir, openLocalCatalog, withStore } from './all-checkpoints.ts';
import type { CliConfig } from './config.ts';

export type CopyPlace = 'auto' | 'node' | 'store';

export interface CopyWish {
  readonly checkpointId: string;
  /** `auto`: this node, else the store */
  readonly from: CopyPlace;
  /** undefined: none is configured */
  readonly storeUrl: string | undefined;
  /** it will be read from its beginning to its end */
  readonly whole: boolean;
}

/**
 * Opens a copy for one use.
 * @throws CheckpointNotFound naming every place that was looked at; InvalidInput `--from store` without a store
 */
export async function withCopy<Result>(
  config: CliConfig,
  wish: CopyWish,
  op: Op,
  use: (copy: CheckpointCopy, place: 'node' | 'store') => Promise<Result>,
): Promise<Result> {
  const { storeUrl, from, whole } = wish;
  const checkpointId = parseCheckpointId(wish.checkpointId);
  if (from !== 'store') {
    const { openDirectoryCopy } = await import('../store/copy.ts');
    const dir = (await openLocalCatalog(config)).pathOf(checkpointId);
    const copy = await orAbsent(openDirectoryCopy(dir, op));
    if (copy !== undefined) {
      return use(copy, 'node');
    }
    if (from === 'node' || storeUrl === undefined) {
      const rest = from === 'node' ? '' : ', and no store is configured (KYBERNATE_STORE or --store)';
      throw new KybernateError(
        'CheckpointNotFound',
        `no checkpoint ${checkpointId} in ${checkpointsDir(config)}${rest}`,
        {
          details: { checkpointId },
        },
      );
    }
  }
  if (storeUrl === undefined) {
    throw new KybernateError(
      'InvalidInput',
      '--from store: no store is configured, set KYBERNATE_STORE or give --store',
    );
  }
  return withStore(config, storeUrl, async (backend) => {
    const { openStoredCopy } = await import('../store/segment.ts');
    const copy = await orAbsent(openStoredCopy(backend, checkpointId, op, { whole }));
    if (copy === undefined) {
      const node = from === 'store' ? '' : `in ${checkpointsDir(config)} nor `;
      throw new KybernateError('CheckpointNotFound', `no checkpoint ${checkpointId} ${node}in the store ${storeUrl}`, {
        details: { checkpointId },
      });
    }
    try {
      return await use(copy, 'store');
    } finally {
      await copy.close();
    }
  });
}

async function orAbsent<Found>(promise: Promise<Found>): Promise<Found | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound')) {
      return undefined;
    }
    throw error;
  }
}
