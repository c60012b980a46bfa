/* The registry of queue `kybernate-node-<node>-transfer`: bytes between this node and the store. */
import { publishManifest } from '../../store/publish.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { verifyRemote } from '../../store/verify.ts';
import type { TransferActivities } from '../contract.ts';
import { withOp } from '../op.ts';
import { fetchImage } from './fetch.ts';
import { storeOf, type TransferDeps } from './source-access.ts';

export type { TransferDeps } from './source-access.ts';

export function createTransferActivities(deps: TransferDeps): TransferActivities {
  const { catalog } = deps;
  return {
    uploadImage: ({ checkpointId }) =>
      withOp({ phase: 'uploading' }, async (op) => {
        const { path: dir } = await catalog.get(checkpointId);
        const manifest = await catalog.manifest(checkpointId);
        const backend = await storeOf(deps);
        const { sentBytes, newChunks, reusedChunks } = await uploadCheckpoint({
          checkpointId,
          dir,
          manifest,
          backend,
          op,
        });
        return { sentBytes, newChunks, reusedChunks };
      }),

    publishManifest: ({ checkpointId }) =>
      withOp({ phase: 'publishing' }, async (op) => {
        const { path: dir } = await catalog.get(checkpointId);
        const { remote } = await publishManifest({ checkpointId, dir, backend: await storeOf(deps), op });
        return { remote };
      }),

    verifyRemote: ({ checkpointId }) =>
      withOp({ phase: 'verifying' }, async (op) => {
        const { files, bytes } = await verifyRemote({ checkpointId, backend: await storeOf(deps), op });
        return { files, bytes };
      }),

    fetchImage: (input) => withOp({ phase: 'fetching' }, (op) => fetchImage(deps, op, input)),
  };
}
