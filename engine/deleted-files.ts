import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import { compareNames, fromJsonName, toJsonName } from './byte-names.ts';

/** @param names byte strings */
export async function writeDeleted(checkpointDir: string, names: readonly string[]): Promise<void> {
  const list = [...names].sort(compareNames).map(toJsonName);
  await writeFile(join(checkpointDir, FS_FILES.deletedFiles), `${JSON.stringify(list)}\n`, { mode: 0o600 });
}

/** @returns byte strings; none when the checkpoint has no such file @throws CheckpointCorrupt */
export async function readDeleted(checkpointDir: string): Promise<string[]> {
  const file = join(checkpointDir, FS_FILES.deletedFiles);
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') {
      return '[]';
    }
    throw error;
  });
  const names = parseList(text)?.map(fromJsonName);
  if (names === undefined || !names.every((name) => name !== undefined && name !== '')) {
    throw new KybernateError('CheckpointCorrupt', `${file} is not a list of paths`);
  }
  return names as string[];
}

function parseList(text: string): unknown[] | undefined {
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) ? list : undefined;
  } catch {
    // SyntaxError: the file is damaged, which the caller reports.
    return undefined;
  }
}
