/* The checkpoints of a node: directories with a metadata.json. What has none is half-made and never listed. */
import { readdir, readFile, rm, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { checkpointDirName, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest, type Manifest } from '../core/checkpoint/manifest.ts';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import { isKybernateError, KybernateError, messageOf } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import { errnoOf, syncDir } from './files.ts';
import { parseMetadata } from './metadata.ts';

export interface LocalCheckpoint {
  readonly checkpointId: string;
  readonly path: string;
  readonly metadata: Metadata;
  /** an upload is wanted and its manifest not yet published */
  readonly uploadPending: boolean;
}

export interface LocalList {
  /** in the order of their ids */
  readonly checkpoints: readonly LocalCheckpoint[];
  readonly damaged: ReadonlyArray<{ readonly checkpointId: string; readonly reason: string }>;
}

export interface LocalCatalog {
  /** Committed checkpoints; no directory counts as none. */
  list(): Promise<LocalList>;
  /** @throws CheckpointNotFound, CheckpointCorrupt, InvalidInput */
  get(checkpointId: string): Promise<LocalCheckpoint>;
  /** @throws CheckpointNotFound, CheckpointCorrupt, InvalidInput */
  manifest(checkpointId: string): Promise<Manifest>;
  /** Where the checkpoint of this id lies or would lie. @throws InvalidInput */
  pathOf(checkpointId: string): string;
  /**
   * Removes a checkpoint, or what a half-made one left: metadata.json first.
   * Crash: a directory without metadata.json; the next call removes it.
   * @throws CheckpointNotFound when there is no such directory
   */
  remove(checkpointId: string): Promise<void>;
}

/**
 * @param checkpointsDir the node's `checkpoints` directory
 * @param named what messages call it, where the path is only how it is reached
 */
export function localCatalog(checkpointsDir: string, named = checkpointsDir): LocalCatalog {
  function pathOf(checkpointId: string): string {
    return join(checkpointsDir, checkpointDirName(parseCheckpointId(checkpointId)));
  }

  async function get(checkpointId: string): Promise<LocalCheckpoint> {
    const path = pathOf(checkpointId);
    const text = await readOrNotFound(join(path, METADATA_FILE), checkpointId, named);
    const metadata = parseMetadata(text, join(path, METADATA_FILE));
    if (metadata.checkpointId !== checkpointId) {
      throw new KybernateError('CheckpointCorrupt', `${path} holds the checkpoint ${metadata.checkpointId}`);
    }
    return { checkpointId, path, metadata, uploadPending: await exists(join(path, OWN_FILES.uploadPending)) };
  }

  return {
    pathOf,
    get,
    manifest: async (checkpointId) => {
      const path = join(pathOf(checkpointId), OWN_FILES.manifest);
      return parseManifest(await readOrNotFound(path, checkpointId, named), path);
    },
    list: async () => {
      const checkpoints: LocalCheckpoint[] = [];
      const damaged: Array<{ checkpointId: string; reason: string }> = [];
      for (const checkpointId of await idsIn(checkpointsDir)) {
        try {
          checkpoints.push(await get(checkpointId));
        } catch (error) {
          if (isKybernateError(error, 'CheckpointCorrupt')) {
            damaged.push({ checkpointId, reason: messageOf(error) });
          } else if (!isKybernateError(error, 'CheckpointNotFound')) {
            throw error;
          }
        }
      }
      return { checkpoints, damaged };
    },
    remove: async (checkpointId) => {
      const path = pathOf(checkpointId);
      if (!(await exists(path))) {
        throw notFound(checkpointId, named);
      }
      if (await exists(join(path, METADATA_FILE))) {
        await unlink(join(path, METADATA_FILE));
        await syncDir(path);
      }
      await rm(path, { recursive: true, force: true });
      await syncDir(checkpointsDir);
    },
  };
}

const DIR_PREFIX = checkpointDirName('');

async function idsIn(dir: string): Promise<string[]> {
  const names = await readdir(dir).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') {
      return [];
    }
    throw error;
  });
  return names
    .filter((name) => name.startsWith(DIR_PREFIX))
    .map((name) => name.slice(DIR_PREFIX.length))
    .filter(isId)
    .sort();
}

function isId(text: string): boolean {
  try {
    parseCheckpointId(text);
    return true;
  } catch (error) {
    if (isKybernateError(error, 'InvalidInput')) {
      return false;
    }
    throw error;
  }
}

async function readOrNotFound(path: string, checkpointId: string, dir: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw isAbsent(error) ? notFound(checkpointId, dir) : error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isAbsent(error)) {
      return false;
    }
    throw error;
  }
}

/** A file in the place of a checkpoint's directory is no checkpoint either. */
function isAbsent(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR';
}

function notFound(checkpointId: string, dir: string): KybernateError {
  return new KybernateError('CheckpointNotFound', `${dir} has no checkpoint ${checkpointId}`, {
    details: { checkpointId, dir },
  });
}
