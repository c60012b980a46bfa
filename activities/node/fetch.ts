import type { FetchImageResult } from '../../core/contract/restore.ts';
import { KybernateError } from '../../core/errors.ts';
import { claimOperation } from '../../engine/operation-owner.ts';
import { restoresUsing, takeLease } from '../../engine/restore-operation.ts';
import { resolveSource } from '../../engine/restore-source.ts';
import type { FetchImageInput } from '../contract.ts';
import type { ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';
import { fetchFromStore, verifyDirectory } from './source-access.ts';

/** Brings the images to the node, or checks those that are there; leases them until `releaseRestoreLease`. */
export async function fetchImage(
  deps: NodeActivityDeps,
  op: ActivityOp,
  { context, from }: FetchImageInput,
): Promise<FetchImageResult> {
  const { catalog, node } = deps;
  const { settings } = node;
  const { checkpointId, path } = context;
  if (path !== undefined) {
    const verifyCheckpoint = (dir: string): Promise<void> => verifyDirectory(deps, dir, op);
    const fetchCheckpoint = (): Promise<never> =>
      Promise.reject(new KybernateError('InvalidInput', `${path} is no id`));
    const wish = { restoreFrom: path, origin: 'annotation', unverified: true } as const;
    const signedOnly = deps.trust?.mode === 'required';
    const source = await resolveSource(settings, { fetchCheckpoint, verifyCheckpoint, signedOnly }, wish);
    return { localPath: source.checkpointDir, fetchedBytes: 0, from };
  }
  if (checkpointId === undefined) {
    throw new KybernateError('InvalidInput', 'give either checkpointId or path');
  }
  claimOperation(settings, op.operationId, { workflow: op.workflow, checkpointId });
  takeLease(settings, checkpointId, op.operationId);
  if (from === 'local') {
    const { path: localPath } = await catalog.get(checkpointId);
    await verifyDirectory(deps, localPath, op);
    return { localPath, fetchedBytes: 0, from };
  }
  const mayReplace = (): boolean => restoresUsing(settings, checkpointId).every((id) => id === op.operationId);
  const { dir, bytes } = await fetchFromStore(deps, op, { checkpointId, operationId: op.operationId, mayReplace });
  return { localPath: dir, fetchedBytes: bytes, from };
}
