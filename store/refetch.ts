/*
 * Reads a checkpoint from the store although the node has a copy. The new copy is made beside the old one and takes its
 * place only when it is whole: a damaged store must not cost the node what it has.
 */
import { readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest } from '../core/checkpoint/manifest.ts';
import { KybernateError } from '../core/errors.ts';
import { fetchCheckpoint, type Fetched, type FetchRequest } from './fetch.ts';
import { syncDir } from './files.ts';
import { readableRoot } from './metadata.ts';
import { verifyLocal } from './verify.ts';

export interface RefetchRequest extends FetchRequest {
  /** on the file system of `destDir`, beside it; gone afterwards */
  readonly stagingDir: string;
  /** asked when the new copy is whole: false while others use the old one */
  readonly mayReplace: () => boolean;
}

/**
 * Fetches every chunk and replaces the copy in `destDir`. A copy that others use stays, if it is what the store has;
 * needs room for a second copy meanwhile.
 * Crash: the old copy, or none, and the staging directory, which a call with the same one removes.
 * @throws as `fetchCheckpoint`, the old copy unharmed; CheckpointCorrupt the copy in use is damaged
 */
export async function refetchCheckpoint(request: RefetchRequest): Promise<Fetched> {
  const { destDir, stagingDir, mayReplace, op } = request;
  await rm(stagingDir, { recursive: true, force: true });
  try {
    const fetched = await fetchCheckpoint({ ...request, destDir: stagingDir });
    // One with damaged metadata is about to be replaced.
    const ours = await readableRoot(destDir);
    if (ours !== undefined && ours !== fetched.merkleRoot) {
      throw new KybernateError('InvalidInput', `${destDir} is another checkpoint of the id ${request.checkpointId}`, {
        details: { present: ours, published: fetched.merkleRoot },
      });
    }
    if (!mayReplace()) {
      const file = join(destDir, OWN_FILES.manifest);
      await verifyLocal(destDir, parseManifest(await readFile(file, 'utf8'), file), op);
      return fetched;
    }
    await rm(join(destDir, METADATA_FILE), { force: true });
    await rm(destDir, { recursive: true, force: true });
    await rename(stagingDir, destDir);
    await syncDir(dirname(destDir));
    return fetched;
  } finally {
    await rm(stagingDir, { recursive: true, force: true });
  }
}
