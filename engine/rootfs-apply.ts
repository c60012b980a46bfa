/*
 * Puts a captured layer into a container's fresh root file system, before anything runs in it. Used by the runtime
 * wrapper: node: modules and an injected `Run` only. The root is seen from the host, so no name may lead through a
 * symbolic link: an image may contain one that points out of it, and tar would follow it.
 */
import { lstat, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Run } from '../native/run/run.ts';
import { pathBelow, printable } from './byte-names.ts';
import { readDeleted } from './deleted-files.ts';
import { readTarMembers, type TarMember } from './tar-members.ts';
import { UNPACK_OPTIONS, unpackError } from './unpack.ts';

/**
 * Idempotent. Missing files of the checkpoint mean that there is nothing of their kind.
 * @throws CheckpointCorrupt for names that would leave the root; DiskFull; RestoreFailed
 */
export async function applyRootfs(rootfsDir: string, checkpointDir: string, run: Run): Promise<void> {
  for (const name of await readDeleted(checkpointDir)) {
    await checkParents(rootfsDir, name, new Map());
    await rm(pathBelow(rootfsDir, name), { recursive: true, force: true });
  }
  for (const name of [FS_FILES.rootfsDiff, FS_FILES.linkRemap]) {
    await unpackIfPresent(run, join(checkpointDir, name), rootfsDir);
  }
}

async function unpackIfPresent(run: Run, tar: string, dir: string): Promise<void> {
  const present = await lstat(tar).catch(() => undefined);
  if (present === undefined) {
    return;
  }
  await prepare(tar, dir);
  const result = await run('tar', [...UNPACK_OPTIONS, `--directory=${dir}`, `--file=${tar}`]);
  if (result.exitCode !== 0) {
    throw unpackError(result, tar, dir);
  }
}

/** Refuses what must not be unpacked, and clears the way where tar would not replace what is there. */
async function prepare(tar: string, dir: string): Promise<void> {
  const parents = new Map<string, boolean>();
  const inArchive = new Map<string, TarMember['type']>();
  for await (const member of readTarMembers(tar)) {
    if (member.name === '') {
      continue;
    }
    await checkParents(dir, member.name, parents, inArchive);
    if (member.type === 'hardlink') {
      await checkParents(dir, member.link.replace(/^(?:\.\/+)+/, ''), parents, inArchive);
    }
    inArchive.set(member.name, member.type);
    const path = pathBelow(dir, member.name);
    const present = await lstat(path).catch(() => undefined);
    if (present !== undefined && present.isDirectory() !== (member.type === 'directory')) {
      await rm(path, { recursive: true, force: true });
      // what was below a removed directory, or behind a removed link, is no longer known
      parents.clear();
    }
  }
}

/** Every parent must be a real directory or absent, on disk and in the archive; `..` and absolute names are refused. */
async function checkParents(
  rootfsDir: string,
  name: string,
  checked: Map<string, boolean>,
  inArchive: ReadonlyMap<string, TarMember['type']> = new Map(),
): Promise<void> {
  const parts = name.split('/');
  if (parts.some((part) => part === '..' || part === '.' || part === '' || part.includes('\0'))) {
    throw new KybernateError('CheckpointCorrupt', `the name ${printable(name)} would leave the root file system`);
  }
  let parent = '';
  for (const part of parts.slice(0, -1)) {
    parent = parent === '' ? part : `${parent}/${part}`;
    const type = inArchive.get(parent) ?? 'directory';
    let onDisk = checked.get(parent);
    if (onDisk === undefined) {
      const stats = await lstat(pathBelow(rootfsDir, parent)).catch(() => undefined);
      onDisk = stats === undefined || stats.isDirectory() || inArchive.has(parent);
      checked.set(parent, onDisk);
    }
    if (!onDisk || type !== 'directory') {
      throw new KybernateError(
        'CheckpointCorrupt',
        `the name ${printable(name)} leads through ${printable(parent)}, which is no directory`,
      );
    }
  }
}
