/*
 * Puts a captured layer into a container's fresh root file system, before anything runs in it. Used by the runtime
 * wrapper: node: modules and an injected `Run` only. The root is seen from the host, so a name must not lead through a
 * symbolic link: an image may contain one that points out of it.
 */
import { lstat, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Run } from '../native/run/run.ts';
import { listTar } from './tar-list.ts';

/**
 * Idempotent. Missing files of the checkpoint mean that there is nothing of their kind.
 * @throws CheckpointCorrupt for names that would leave the root; DiskFull; RestoreFailed
 */
export async function applyRootfs(rootfsDir: string, checkpointDir: string, run: Run): Promise<void> {
  const checked = new Set<string>();
  for (const path of await deletedFiles(checkpointDir)) {
    await checkParents(rootfsDir, path, checked);
    await rm(join(rootfsDir, path), { recursive: true, force: true });
  }
  for (const name of [FS_FILES.rootfsDiff, FS_FILES.linkRemap]) {
    const tar = join(checkpointDir, name);
    if ((await lstat(tar).catch(() => undefined)) !== undefined) {
      await unpackInto(run, tar, rootfsDir, checked);
    }
  }
}

/** The content of an external /dev/shm, into the directory that is mounted there. */
export async function applyDevShm(sourceDir: string, checkpointDir: string, run: Run): Promise<void> {
  const tar = join(checkpointDir, FS_FILES.devShm);
  if ((await lstat(tar).catch(() => undefined)) !== undefined) {
    await unpackInto(run, tar, sourceDir, new Set());
  }
}

async function deletedFiles(checkpointDir: string): Promise<string[]> {
  const file = join(checkpointDir, FS_FILES.deletedFiles);
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') {
      return '[]';
    }
    throw error;
  });
  const list: unknown = JSON.parse(text);
  if (!Array.isArray(list) || !list.every((path) => typeof path === 'string' && path !== '')) {
    throw new KybernateError('CheckpointCorrupt', `${file} is not a list of paths`);
  }
  return list as string[];
}

async function unpackInto(run: Run, tar: string, dir: string, checked: Set<string>): Promise<void> {
  for (const name of await listTar(run, tar)) {
    const path = name.replace(/\/$/, '');
    if (path === '' || path === '.') {
      continue;
    }
    await checkParents(dir, path, checked);
    // A directory where the archive has a file, or the reverse: tar would not replace one by the other.
    const present = await lstat(join(dir, path)).catch(() => undefined);
    if (present !== undefined && present.isDirectory() !== name.endsWith('/')) {
      await rm(join(dir, path), { recursive: true, force: true });
    }
  }
  const result = await run('tar', [
    ...['--extract', '--numeric-owner', '--same-owner', '--same-permissions', '--xattrs', '--xattrs-include=*'],
    ...[`--directory=${dir}`, `--file=${tar}`],
  ]);
  if (result.exitCode !== 0) {
    const text = result.startError ?? result.stderr.trim().slice(-1000);
    throw new KybernateError(
      /No space left on device/i.test(text) ? 'DiskFull' : 'RestoreFailed',
      `${tar} could not be unpacked into ${dir}: ${text}`,
    );
  }
}

/** Every parent must be a real directory or absent; `..` and absolute names are refused. */
async function checkParents(rootfsDir: string, path: string, checked: Set<string>): Promise<void> {
  const parts = path.split('/');
  if (path.startsWith('/') || parts.some((part) => part === '..' || part === '' || part.includes('\0'))) {
    throw new KybernateError('CheckpointCorrupt', `the name ${JSON.stringify(path)} would leave the root file system`);
  }
  let parent = '';
  for (const part of parts.slice(0, -1)) {
    parent = parent === '' ? part : `${parent}/${part}`;
    if (checked.has(parent)) {
      continue;
    }
    const stats = await lstat(join(rootfsDir, parent)).catch(() => undefined);
    if (stats !== undefined && stats.isSymbolicLink()) {
      throw new KybernateError(
        'CheckpointCorrupt',
        `the name ${JSON.stringify(path)} leads through the link ${parent}`,
      );
    }
    checked.add(parent);
  }
}
