/*
 * The registry of queue `kybernate-node-<node>-transfer`: bytes of this node's checkpoints on their way to the store.
 * The sidecar serves it: it may read the files of a checkpoint, and write nothing there.
 */
import { join } from 'node:path';
import type { Codec } from '../../core/pack/pack.ts';
import { isKybernateError } from '../../core/errors.ts';
import { publishManifest } from '../../store/publish.ts';
import type { Backend } from '../../store/backend/backend.ts';
import type { LocalCatalog } from '../../store/local-catalog.ts';
import { repairStore } from '../../store/repair.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { residentBackend } from '../../store/tiers/resident.ts';
import type { TieredBackend } from '../../store/tiers/tiered.ts';
import type { TransferActivities } from '../contract.ts';
import { withOp } from '../op.ts';
import { prefetchPacks } from './prefetch.ts';

export interface TransferDeps {
  /** the committed checkpoints of this node */
  readonly catalog: LocalCatalog;
  /** opened at its first use, so that a store that is away does not keep the sidecar from starting */
  readonly backend: () => Promise<Backend>;
  /** the same, for what is done with its tiers */
  readonly tiered: () => Promise<TieredBackend>;
  /** the sidecar's own directory for the ledgers of its uploads */
  readonly ledgerDir: string;
  /** how chunks are compressed that shrink; zstd otherwise */
  readonly codec?: Codec;
}

/** The ledger of a checkpoint's upload: the sidecar's own, since it writes nothing into checkpoints. */
export function ledgerPathOf(ledgerDir: string, checkpointId: string): string {
  return join(ledgerDir, `${checkpointId}.ledger`);
}

export function createTransferActivities(deps: TransferDeps): TransferActivities {
  const { catalog, backend, tiered, ledgerDir, codec = 'zstd' } = deps;
  return {
    uploadImage: ({ checkpointId }) =>
      withOp({ phase: 'uploading' }, async (op) => {
        const { path: dir } = await catalog.get(checkpointId);
        const manifest = await catalog.manifest(checkpointId);
        const { sentBytes, newChunks, reusedChunks } = await uploadCheckpoint({
          checkpointId,
          dir,
          manifest,
          backend: await backend(),
          op,
          ledgerPath: ledgerPathOf(ledgerDir, checkpointId),
          codec,
        });
        return { sentBytes, newChunks, reusedChunks };
      }),

    publishManifest: ({ checkpointId }) =>
      withOp({ phase: 'publishing' }, async (op) => {
        const { path: dir } = await catalog.get(checkpointId);
        const ledgerPath = ledgerPathOf(ledgerDir, checkpointId);
        const { remote } = await publishManifest({ checkpointId, dir, backend: await backend(), op, ledgerPath });
        return { remote };
      }),

    prefetchPacks: (input) =>
      withOp({ phase: 'fetching', node: input.node }, async (op) => prefetchPacks(await tiered(), op, input)),

    repairStored: ({ checkpointId }) =>
      withOp({ phase: 'repairing' }, async (op) => {
        const tiers = await tiered();
        return repairStore({
          checkpointId,
          dir: await copyHere(catalog, checkpointId),
          backend: await backend(),
          behind: tiers.behind(),
          copies: residentBackend(tiers.tiers),
          op,
          ledgerPath: ledgerPathOf(ledgerDir, checkpointId),
        });
      }),
  };
}

/** undefined where there is none, or none whose metadata can be read: it cannot be sent. */
async function copyHere(catalog: LocalCatalog, checkpointId: string): Promise<string | undefined> {
  try {
    return (await catalog.get(checkpointId)).path;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointNotFound') || isKybernateError(error, 'CheckpointCorrupt')) {
      return undefined;
    }
    throw error;
  }
}
