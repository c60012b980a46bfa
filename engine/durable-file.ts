/*
 * Files that others find by their names after a power failure: their content is on the disk before the name is, and the name
 * before the call returns. Without it a file system may keep the new name and none of the content.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** Flushes a file with its attributes, or the names in a directory. */
export function syncPath(path: string): void {
  const handle = openSync(path, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/**
 * @param write makes the file, with owner and mode, at the path that it is given
 * Crash: the old file or the new one is there, and perhaps a `.tmp`.
 */
export function replaceDurably(path: string, write: (temporary: string) => void): void {
  const temporary = `${path}.${process.pid}.tmp`;
  rmSync(temporary, { force: true });
  write(temporary);
  syncPath(temporary);
  renameDurably(temporary, path);
}

/** What is renamed has been flushed. */
export function renameDurably(from: string, to: string): void {
  renameSync(from, to);
  syncPath(dirname(to));
}

/** Makes `path` and its parents, each new name flushed in its own parent. */
export function makeDirsDurably(path: string, mode: number): void {
  const first = mkdirSync(path, { recursive: true, mode });
  if (first !== undefined) {
    for (let current = path; current.length >= first.length; current = dirname(current)) {
      syncPath(dirname(current));
    }
  }
}

/** Several at once share the commits of the file system's journal: thousands of files take seconds, not minutes. */
const AT_ONCE = 16;

/** Every file and directory below `dir`, and itself. Links have no content of their own. */
export async function syncTree(dir: string): Promise<void> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isFile() || entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  const left = [...paths, dir].values();
  const syncSome = async (): Promise<void> => {
    for (const path of left) {
      const handle = await open(path, 'r');
      try {
        await handle.sync();
      } finally {
        await handle.close();
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, syncSome));
}
