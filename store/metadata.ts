import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { METADATA_FILE } from '../core/checkpoint/file-names.ts';
import { parseJson } from '../core/checkpoint/manifest.ts';
import { metadata, type Metadata } from '../core/checkpoint/metadata.ts';
import { isKybernateError } from '../core/errors.ts';
import { errnoOf } from './files.ts';

/** @throws CheckpointCorrupt naming `where` */
export function parseMetadata(text: string, where: string): Metadata {
  return parseJson(metadata, text, where);
}

/** Merkle root of the checkpoint in `dir`; undefined when there is none. */
export async function committedRoot(dir: string): Promise<string | undefined> {
  try {
    const text = await readFile(join(dir, METADATA_FILE), 'utf8');
    return parseMetadata(text, join(dir, METADATA_FILE)).merkleRoot;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') {
      return undefined;
    }
    throw error;
  }
}

/** As `committedRoot`; a copy with damaged metadata counts as none. */
export async function readableRoot(dir: string): Promise<string | undefined> {
  try {
    return await committedRoot(dir);
  } catch (error) {
    if (isKybernateError(error, 'CheckpointCorrupt')) {
      return undefined;
    }
    throw error;
  }
}
