/*
 * A cold start after a failed restore must find the root file system as if no restore had been asked for. The rw layer
 * was unpacked through the mount; only in the upper directory itself can it be taken back, and that is allowed only
 * while the overlay is not mounted: unmount, empty the upper directory, mount again with the same options.
 */
import { chmodSync, chownSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { KybernateError } from '../../core/errors.ts';
import type { Run } from '../../native/run/run.ts';

export interface PristineRootfs {
  readonly path: string;
  /** of the root directory itself, which unpacking may change */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** absent: no overlay is mounted there, or its upper directory already held something */
  readonly overlay?: Overlay;
}

interface Overlay {
  readonly upperDir: string;
  readonly options: string;
}

/** What /proc/mounts shows and mount(8) takes back. Source: Documentation/filesystems/overlayfs.rst. */
const OPTIONS = /^(lowerdir|upperdir|workdir|index|redirect_dir|metacopy|userxattr|volatile|xino|nfs_export|uuid)(=|$)/;

/** Looks at the mounted root before anything is unpacked into it. */
export function rememberRootfs(path: string, mountInfo = readFileSync('/proc/self/mountinfo', 'utf8')): PristineRootfs {
  const { mode, uid, gid } = statSync(path);
  const overlay = overlayAt(path, mountInfo);
  const pristine = { path, mode: mode & 0o7777, uid, gid };
  return overlay !== undefined && readdirSync(overlay.upperDir).length === 0 ? { ...pristine, overlay } : pristine;
}

/** A directory outside the container that was written to: nobody knows what it held before. */
export function unrevertable(path: string): PristineRootfs {
  return { path, mode: 0, uid: 0, gid: 0 };
}

/** The overlay mounted at a path; undefined when it is something else, or its layers are named by relative paths. */
export function overlayAt(path: string, mountInfo: string): Overlay | undefined {
  const mounted = mountInfo
    .split('\n')
    .map((line) => line.split(' '))
    .findLast((fields) => fields[4] !== undefined && unescaped(fields[4]) === path);
  const dash = mounted?.indexOf('-') ?? -1;
  if (mounted === undefined || dash < 0 || mounted[dash + 1] !== 'overlay') {
    return undefined;
  }
  const options = unescaped(mounted[dash + 3] ?? '')
    .split(',')
    .filter((option) => OPTIONS.test(option));
  const value = (key: string): string =>
    options.find((option) => option.startsWith(`${key}=`))?.slice(key.length + 1) ?? '';
  const dirs = [...value('lowerdir').split(':'), value('upperdir'), value('workdir')];
  return dirs.every((dir) => dir.startsWith('/'))
    ? { upperDir: value('upperdir'), options: options.join(',') }
    : undefined;
}

/**
 * @throws Internal it cannot be done; the root then holds files of the checkpoint, and nothing may be started in it
 * Crash: the container's creation fails with us, and its snapshot is removed with it.
 */
export async function revertRootfs(pristine: PristineRootfs, run: Run): Promise<void> {
  const { overlay, path } = pristine;
  if (overlay === undefined) {
    throw new KybernateError('Internal', `${path} is no overlay with a fresh upper directory`);
  }
  await must(run, 'umount', [path]);
  emptyDirectory(overlay.upperDir);
  await must(run, 'mount', ['-t', 'overlay', 'overlay', '-o', overlay.options, path]);
  chownSync(path, pristine.uid, pristine.gid);
  chmodSync(path, pristine.mode);
}

function emptyDirectory(dir: string): void {
  for (const name of readdirSync(dir)) {
    rmSync(join(dir, name), { recursive: true, force: true });
  }
}

async function must(run: Run, program: string, args: readonly string[]): Promise<void> {
  const result = await run(program, args);
  if (result.exitCode !== 0) {
    throw new KybernateError('Internal', `${program} ${args.join(' ')}: ${result.startError ?? result.stderr.trim()}`);
  }
}

/** The kernel writes blanks and the like as `\040`. */
function unescaped(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
