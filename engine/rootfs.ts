/*
 * The container's own layer at the moment of the freeze. Overlayfs keeps it as an upper directory: what is there was
 * added or changed, a character device 0:0 stands for a deleted name, and a directory with the attribute `opaque` hides
 * everything below it. We write changed paths to fs/rootfs-diff.tar and deleted ones to fs/deleted.files (an opaque
 * directory is deleted first and then unpacked). Other snapshotters go through containerd's Diff service.
 * Source: kernel Documentation/filesystems/overlayfs.rst; OCI image-spec layer.md (whiteouts).
 */
import { readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { lstatSync } from 'node:fs';
import { getXattr } from '../native/libc/xattr.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { Run } from '../native/run/run.ts';
import type { ContainerFacts } from './inspect.ts';
import { captureByDiffService } from './rootfs-diff-service.ts';

export interface RootfsCapture {
  readonly bytes: number;
  readonly deletedFiles: number;
  readonly method: 'overlay' | 'diff-service' | 'none';
  readonly warnings: readonly string[];
}

export interface RootfsDeps {
  readonly run: Run;
  readonly containerd: () => Containerd;
}

/** Prefix of the hard links that CRIU makes beside a file whose name is gone; source: criu/files-reg.c. */
const LINK_REMAP_PREFIX = 'link_remap.';

const TAR_CREATE = [
  '--create',
  '--format=posix',
  '--numeric-owner',
  '--sparse',
  '--xattrs',
  '--xattrs-exclude=trusted.overlay.*',
];
// The list is ours: names as they are, one NUL after each, no descent into directories.
const TAR_LIST = ['--no-recursion', '--verbatim-files-from', '--null', '--files-from=-'];
// A hard link that CRIU adds beside us changes a file's ctime, not its content: the workload stands still.
const TAR_QUIET = ['--warning=no-file-changed', '--warning=no-file-ignored'];

/** @throws DiskFull, DumpFailed; the caller removes what was written */
export async function captureRootfs(
  deps: RootfsDeps,
  facts: ContainerFacts,
  destDir: string,
  op: Op,
): Promise<RootfsCapture> {
  if (facts.upperDir !== undefined) {
    const changes = await walkUpper(facts.upperDir, op);
    if (!changes.redirected) {
      return captureUpper(deps.run, facts.upperDir, changes, destDir, op);
    }
  }
  if (facts.record.snapshotter === '' || facts.record.snapshotKey === '') {
    return {
      bytes: 0,
      deletedFiles: 0,
      method: 'none',
      warnings: ['the root file system is a directory of the host: it is not captured, a restore needs it as it is'],
    };
  }
  return captureByDiffService(deps, facts, destDir, op);
}

interface UpperChanges {
  /** relative paths, parents before children */
  readonly changed: string[];
  readonly deleted: string[];
  readonly sockets: number;
  /** a directory was renamed, or only metadata was copied up: the upper directory alone does not tell the content */
  readonly redirected: boolean;
}

async function walkUpper(upperDir: string, op: Op): Promise<UpperChanges> {
  const changes = { changed: [] as string[], deleted: [] as string[], sockets: 0, redirected: false };
  const pending = [''];
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    op.signal.throwIfAborted();
    for (const entry of await readdir(join(upperDir, dir), { withFileTypes: true })) {
      const path = dir === '' ? entry.name : `${dir}/${entry.name}`;
      const full = join(upperDir, path);
      if (entry.isCharacterDevice() && lstatSync(full).rdev === 0) {
        changes.deleted.push(path);
      } else if (entry.isSocket()) {
        changes.sockets += 1;
      } else if (!entry.name.startsWith(LINK_REMAP_PREFIX)) {
        changes.changed.push(path);
        if (entry.isDirectory()) {
          if (getXattr(full, 'trusted.overlay.opaque')?.[0] === 0x79) {
            changes.deleted.push(path);
          }
          changes.redirected ||= getXattr(full, 'trusted.overlay.redirect') !== undefined;
          pending.push(path);
        } else if (entry.isFile()) {
          changes.redirected ||= getXattr(full, 'trusted.overlay.metacopy') !== undefined;
        }
      }
    }
  }
  return changes;
}

async function captureUpper(
  run: Run,
  upperDir: string,
  changes: UpperChanges,
  destDir: string,
  op: Op,
): Promise<RootfsCapture> {
  const tar = join(destDir, FS_FILES.rootfsDiff);
  await createTar(run, upperDir, changes.changed.sort(), tar, op.signal);
  await writeFile(join(destDir, FS_FILES.deletedFiles), `${JSON.stringify(changes.deleted.sort())}\n`, { mode: 0o600 });
  return {
    bytes: (await stat(tar)).size,
    deletedFiles: changes.deleted.length,
    method: 'overlay',
    warnings:
      changes.sockets > 0 ? [`${changes.sockets} socket files are not in the diff; CRIU binds live ones again`] : [],
  };
}

/**
 * Called in CRIU's post-dump script: the links exist only until CRIU returns, and a restore needs them.
 * @returns how many there were
 */
export async function captureLinkRemap(
  deps: { readonly run: Run },
  upperDir: string,
  destDir: string,
): Promise<number> {
  const links: string[] = [];
  for (const entry of await readdir(upperDir, { recursive: true, withFileTypes: true })) {
    if (entry.name.startsWith(LINK_REMAP_PREFIX) && entry.isFile()) {
      links.push(join(entry.parentPath, entry.name).slice(upperDir.length + 1));
    }
  }
  if (links.length > 0) {
    await createTar(deps.run, upperDir, links.sort(), join(destDir, FS_FILES.linkRemap));
  }
  return links.length;
}

/**
 * CRIU saves a tmpfs of the container's own. A /dev/shm that comes from outside (a pod's) it leaves alone: we take its
 * content.
 * @returns warnings
 */
export async function captureDevShm(
  deps: { readonly run: Run },
  facts: ContainerFacts,
  destDir: string,
  op: Op,
): Promise<string[]> {
  const mount = facts.mounts.find((candidate) => candidate.destination === '/dev/shm' && !candidate.captured);
  if (mount === undefined) {
    return [];
  }
  const entries = await readdir(mount.source, { recursive: true }).catch(() => undefined);
  if (entries === undefined) {
    return [`/dev/shm comes from ${mount.source}, which cannot be read: its content is not captured`];
  }
  await createTar(deps.run, mount.source, entries.sort(), join(destDir, FS_FILES.devShm), op.signal);
  return [];
}

async function createTar(
  run: Run,
  dir: string,
  names: readonly string[],
  file: string,
  signal?: AbortSignal,
): Promise<void> {
  const result = await run('tar', [...TAR_CREATE, ...TAR_QUIET, `--directory=${dir}`, `--file=${file}`, ...TAR_LIST], {
    input: names.map((name) => `${name}\0`).join(''),
    ...(signal === undefined ? {} : { signal }),
  });
  if (result.exitCode === 0) {
    return;
  }
  signal?.throwIfAborted();
  const text = result.startError ?? result.stderr.trim().slice(-1000);
  if (/No space left on device/i.test(text)) {
    throw new KybernateError('DiskFull', `no space for ${file}`);
  }
  throw new KybernateError('DumpFailed', `tar of ${dir} failed (${result.exitCode ?? result.signal}): ${text}`);
}
