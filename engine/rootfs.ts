/*
 * The container's own layer at the moment of the freeze. Overlayfs keeps it as an upper directory: what is there was
 * added or changed, a character device 0:0 stands for a deleted name, and a directory with the attribute `opaque` hides
 * everything below it. We write changed paths to fs/rootfs-diff.tar and deleted ones to fs/deleted.files (an opaque
 * directory is deleted first and then unpacked). Other snapshotters go through containerd's Diff service.
 * Source: kernel Documentation/filesystems/overlayfs.rst; OCI image-spec layer.md (whiteouts).
 */
import { lstatSync, readdirSync, readFileSync, type Dirent } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as yieldToLoop } from 'node:timers/promises';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { getXattr, listXattrs } from '../native/libc/xattr.ts';
import { mountAt, readMounts } from '../native/proc/mounts.ts';
import type { Run } from '../native/run/run.ts';
import { compareNames, nameBytes, nameOfBytes, pathBelow, printable } from './byte-names.ts';
import type { ContainerFacts } from './container-facts.ts';
import { writeDeleted } from './deleted-files.ts';
import { captureByDiffService } from './rootfs-diff-service.ts';
import type { RootfsCapture, RootfsDeps } from './rootfs-types.ts';

export type { RootfsCapture, RootfsDeps } from './rootfs-types.ts';

/** Prefix of the hard links that CRIU makes beside a file whose name is gone; source: criu/files-reg.c. */
const LINK_REMAP_PREFIX = 'link_remap.';

export const TAR_CREATE = [
  '--create',
  '--format=posix',
  '--numeric-owner',
  '--sparse',
  '--acls',
  '--xattrs',
  // overlayfs' own are told by deleted.files; a label belongs to the container that is made, not to the one that was
  '--xattrs-exclude=trusted.overlay.*',
  '--xattrs-exclude=security.selinux',
];
// The list is ours: names as they are, one NUL after each, no descent into directories.
const TAR_LIST = ['--no-recursion', '--verbatim-files-from', '--null', '--files-from=-'];
const TAR_QUIET = ['--warning=no-file-ignored'];
/** How tar tells that a file of its list went, or changed, while it read. A hard link that CRIU adds changes one, too. */
const MEANWHILE =
  /: (?:Cannot (?:stat|open): No such file or directory|file changed as we read it|File shrank by .*|File removed before we read it)$/;
const TAR_END = /Exiting with failure status due to previous errors$/;

/** The second is tar's own wording, when the last write before the end of the room was a short one. */
export const FULL = /No space left on device|Wrote only \d+ of \d+ bytes/;

/**
 * The workload stands still, or the archive may hold files of different moments. Others may write meanwhile, processes that
 * came in by exec among them: what goes or changes under our hands is a warning.
 * @param destDir directory of the checkpoint; its `fs/` exists
 * @throws DiskFull, DumpFailed; the caller removes what was written
 */
export async function captureRootfs(
  deps: RootfsDeps,
  facts: ContainerFacts,
  destDir: string,
  op: Op,
): Promise<RootfsCapture> {
  const { snapshotter, snapshotKey } = facts.record;
  if (facts.upperDir !== undefined) {
    const changes = await walkUpper(facts.upperDir, overlayFeatures(facts.initHostPid), op);
    if (!changes.redirected || snapshotter === '') {
      return captureUpper(deps.run, facts.upperDir, changes, destDir, op);
    }
  }
  if (snapshotter === '' || snapshotKey === '') {
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
  /** byte strings relative to the upper directory, parents before children */
  readonly changed: string[];
  readonly deleted: string[];
  readonly sockets: string[];
  /** a directory was renamed, or only metadata was copied up: the upper directory alone does not tell the content */
  redirected: boolean;
  /** directories with attributes of an overlayfs inside the container */
  nested: number;
}

interface OverlayFeatures {
  readonly redirectDir: boolean;
  readonly metacopy: boolean;
}

/** Off with containerd's and Docker's mounts, unless the kernel was built or loaded with another default. */
function overlayFeatures(initHostPid: number): OverlayFeatures {
  const options = mountAt(readMounts(initHostPid), '/')?.superOptions ?? [];
  const isOn = (name: string): boolean => {
    const set = options.find((option) => option.startsWith(`${name}=`));
    return set === undefined ? moduleDefault(name) : set === `${name}=on`;
  };
  return { redirectDir: isOn('redirect_dir'), metacopy: isOn('metacopy') };
}

function moduleDefault(name: string): boolean {
  try {
    return readFileSync(`/sys/module/overlay/parameters/${name}`, 'utf8').startsWith('Y');
  } catch {
    // ENOENT: overlayfs is not loaded, so nothing is mounted with it.
    return false;
  }
}

async function walkUpper(upperDir: string, features: OverlayFeatures, op: Op): Promise<UpperChanges> {
  const changes: UpperChanges = { changed: [], deleted: [], sockets: [], redirected: false, nested: 0 };
  const pending = [''];
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    op.signal.throwIfAborted();
    for (const entry of entriesOf(pathBelow(upperDir, dir))) {
      const base = nameOfBytes(entry.name);
      const name = dir === '' ? base : `${dir}/${base}`;
      if (entry.isDirectory()) {
        pending.push(name);
      }
      if (!base.startsWith(LINK_REMAP_PREFIX)) {
        visitEntry(upperDir, name, entry, features, changes);
      }
    }
    // the freeze budget and CRIU's script must be heard between two directories
    await yieldToLoop();
  }
  return changes;
}

/** None of a directory that has gone meanwhile. */
function entriesOf(dir: Parameters<typeof readdirSync>[0]): Array<Dirent<Buffer>> {
  try {
    return readdirSync(dir, { encoding: 'buffer', withFileTypes: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  }
}

function visitEntry(
  upperDir: string,
  name: string,
  entry: Dirent<Buffer>,
  features: OverlayFeatures,
  changes: UpperChanges,
): void {
  const path = pathBelow(upperDir, name);
  if (entry.isCharacterDevice() && lstatSync(path, { throwIfNoEntry: false })?.rdev === 0) {
    changes.deleted.push(name);
    return;
  }
  if (entry.isSocket()) {
    changes.sockets.push(name);
    return;
  }
  changes.changed.push(name);
  if (entry.isFile() && features.metacopy) {
    changes.redirected ||= getXattr(path, 'trusted.overlay.metacopy') !== undefined;
  }
  if (entry.isDirectory()) {
    const attributes = listXattrs(path).filter((attribute) => attribute.startsWith('trusted.overlay.'));
    if (attributes.includes('trusted.overlay.opaque') && getXattr(path, 'trusted.overlay.opaque')?.[0] === 0x79) {
      changes.deleted.push(name);
    }
    changes.redirected ||= features.redirectDir && attributes.includes('trusted.overlay.redirect');
    changes.nested += attributes.some((attribute) => attribute.startsWith('trusted.overlay.overlay.')) ? 1 : 0;
  }
}

async function captureUpper(
  run: Run,
  upperDir: string,
  changes: UpperChanges,
  destDir: string,
  op: Op,
): Promise<RootfsCapture> {
  const tar = join(destDir, FS_FILES.rootfsDiff);
  const warnings = await createTar(run, upperDir, changes.changed.sort(compareNames), tar, op);
  await writeDeleted(destDir, changes.deleted);
  return {
    bytes: (await stat(tar)).size,
    deletedFiles: changes.deleted.length,
    method: 'overlay',
    warnings: [...warningsOf(changes), ...warnings],
  };
}

function warningsOf(changes: UpperChanges): string[] {
  const warnings: string[] = [];
  if (changes.sockets.length > 0) {
    const names = changes.sockets.slice(0, 3).map(printable).join(', ');
    warnings.push(`${changes.sockets.length} socket files are not in the diff (${names}); CRIU binds live ones again`);
  }
  if (changes.nested > 0) {
    warnings.push(`${changes.nested} directories belong to an overlayfs inside the container: its deletions are lost`);
  }
  if (changes.redirected) {
    warnings.push('directories of the image were renamed: their old content is not in the diff');
  }
  return warnings;
}

/**
 * Called in CRIU's post-dump script: the links exist only until CRIU returns, and a restore needs them. Other names of
 * the same file are archived with them, so that the restored process and those names share one file as before.
 *
 * @returns how many links there were
 */
export async function captureLinkRemap(
  deps: { readonly run: Run },
  upperDir: string,
  destDir: string,
): Promise<number> {
  const byInode = new Map<bigint, string[]>();
  const links: bigint[] = [];
  const pending = [''];
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    for (const entry of entriesOf(pathBelow(upperDir, dir))) {
      const base = nameOfBytes(entry.name);
      const name = dir === '' ? base : `${dir}/${base}`;
      if (entry.isDirectory()) {
        pending.push(name);
      } else if (entry.isFile()) {
        const ino = lstatSync(pathBelow(upperDir, name), { bigint: true, throwIfNoEntry: false })?.ino;
        if (ino === undefined) {
          continue;
        }
        byInode.set(ino, [...(byInode.get(ino) ?? []), name]);
        if (base.startsWith(LINK_REMAP_PREFIX)) {
          links.push(ino);
        }
      }
    }
    await yieldToLoop();
  }
  if (links.length > 0) {
    const names = [...new Set(links)].flatMap((ino) => byInode.get(ino) ?? []);
    await createTar(deps.run, upperDir, names.sort(compareNames), join(destDir, FS_FILES.linkRemap));
  }
  return links.length;
}

/** @returns warnings: what went or changed while it was read */
async function createTar(
  run: Run,
  dir: string,
  names: readonly string[],
  file: string,
  op?: Op,
): Promise<readonly string[]> {
  const progress = setInterval(() => {
    void stat(file).then(
      ({ size }) => op?.progress({ phase: 'capturing', bytesDone: size }),
      // not made yet
      () => undefined,
    );
  }, 1000).unref();
  const result = await run('tar', [...TAR_CREATE, ...TAR_QUIET, `--directory=${dir}`, `--file=${file}`, ...TAR_LIST], {
    input: nameBytes(names.map((name) => `${name}\0`).join('')),
    ...(op === undefined ? {} : { signal: op.signal }),
  });
  clearInterval(progress);
  const said = result.stderr.split('\n').filter((line) => line !== '' && !TAR_END.test(line));
  if (result.exitCode === 0) {
    return [];
  }
  if (
    result.exitCode === 1 ||
    (result.exitCode === 2 && said.length > 0 && said.every((line) => MEANWHILE.test(line)))
  ) {
    const some = said.slice(0, 3).map((line) => line.replace(/^tar: /, ''));
    return [`${said.length} files of the root were changed by others while they were read: ${some.join('; ')}`];
  }
  op?.signal.throwIfAborted();
  const text = result.startError ?? result.stderr.trim().slice(-1000);
  if (FULL.test(text)) {
    throw new KybernateError('DiskFull', `no space for ${file}`);
  }
  throw new KybernateError('DumpFailed', `tar of ${dir} failed (${result.exitCode ?? result.signal}): ${text}`);
}
