/* How the bytes of a checkpoint come to this node and are checked there: for our own restores and for the agent's. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { parseManifest } from '../../core/checkpoint/manifest.ts';
import { isKybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { checkDirectorySignature, type TrustPolicy } from '../../store/crypto/signing.ts';
import { shareTree } from '../../engine/sharing.ts';
import { fetchCheckpoint } from '../../store/fetch.ts';
import { refetchCheckpoint } from '../../store/refetch.ts';
import { verifyLocal } from '../../store/verify.ts';
import type { NodeActivityDeps } from './deps.ts';

/**
 * Checks who has signed a committed directory, then reads every file and compares it with its manifest.
 * @throws SignatureInvalid, CheckpointCorrupt
 */
export async function verifyDirectory({ trust }: Pick<NodeActivityDeps, 'trust'>, dir: string, op: Op): Promise<void> {
  if (trust !== undefined) {
    await checkDirectorySignature(dir, trust, op);
  }
  const file = join(dir, OWN_FILES.manifest);
  await verifyLocal(dir, parseManifest(await readFile(file, 'utf8'), file), op);
}

/**
 * Brings a checkpoint from the store, every chunk checked. A copy that is there already is read and checked instead;
 * a damaged one is replaced unless another restore uses it.
 * @returns its directory and the bytes that were read from the store
 */
export async function fetchVerified(
  deps: NodeActivityDeps,
  op: Op,
  checkpointId: string,
  mayReplace: () => boolean,
): Promise<{ dir: string; bytes: number }> {
  const backend = await deps.backend();
  const dir = deps.catalog.pathOf(checkpointId);
  await mkdir(dirname(dir), { recursive: true, mode: 0o700 });
  const request = { checkpointId, backend, destDir: dir, op, ...limitsOf(deps) };
  const { bytes } = await fetchCheckpoint(request);
  if (bytes > 0) {
    await share(deps, dir);
    return { dir, bytes };
  }
  try {
    await verifyDirectory(deps, dir, op);
    return { dir, bytes: 0 };
  } catch (error) {
    if (!isKybernateError(error, 'CheckpointCorrupt') || !mayReplace()) {
      throw error;
    }
    op.log.warn({ checkpointId, dir, reason: error.message }, 'damaged local copy is replaced from the store');
  }
  await deps.catalog.remove(checkpointId);
  const again = await fetchCheckpoint(request);
  await share(deps, dir);
  return { dir, bytes: again.bytes };
}

/**
 * Brings a checkpoint from the store, every chunk read there, also where the node has a copy.
 * @param operationId names the place of the new copy until it is whole
 * @param mayReplace false while others use the copy that is there
 */
export async function fetchFromStore(
  deps: NodeActivityDeps,
  op: Op,
  wish: { readonly checkpointId: string; readonly operationId: string; readonly mayReplace: () => boolean },
): Promise<{ dir: string; bytes: number }> {
  const { checkpointId, operationId, mayReplace } = wish;
  const dir = deps.catalog.pathOf(checkpointId);
  const stagingDir = join(dirname(dir), `.fetch-${operationId}`);
  if (!existsSync(join(dir, METADATA_FILE))) {
    // An earlier attempt may have died between taking the old copy away and putting the new one in its place.
    await rm(stagingDir, { recursive: true, force: true });
    return fetchVerified(deps, op, checkpointId, mayReplace);
  }
  const backend = await deps.backend();
  const request = { checkpointId, backend, destDir: dir, stagingDir, mayReplace, op, ...limitsOf(deps) };
  const { bytes } = await refetchCheckpoint(request);
  await share(deps, dir);
  return { dir, bytes };
}

/** What came from a store may be sent to another one. A crash before leaves a copy that root alone can read. */
async function share({ node }: NodeActivityDeps, dir: string): Promise<void> {
  const { sidecarGroupId } = node.settings;
  if (sidecarGroupId !== undefined) {
    await shareTree(dir, sidecarGroupId);
  }
}

function limitsOf({ trust, node }: NodeActivityDeps): { readonly trust?: TrustPolicy; readonly minFreeBytes: number } {
  return { ...(trust === undefined ? {} : { trust }), minFreeBytes: node.settings.minFreeBytes ?? 0 };
}
