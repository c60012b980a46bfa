/*
 * Files in a directory that other containers of a pod may have, too: they can put a symbolic link in the place of any
 * directory at any moment, and root would follow it out of there. So tar and rm work where a link leads to nothing: in a mount
 * namespace of their own, in a root that is the node's, read-only and without what is mounted on it, with the directory at
 * /dev. Used by the runtime wrapper: node: modules and an injected `Run` only.
 */
import { mkdirSync, rmdirSync } from 'node:fs';
import { KybernateError } from '../core/errors.ts';
import type { Run, RunResult } from '../native/run/run.ts';
import { nameBytes } from './byte-names.ts';
import { readTarMembers } from './tar-members.ts';
import { saidBy, UNPACK_OPTIONS, unpackError } from './unpack.ts';

/** $1 an empty directory, $2 the shared one, $3 a file for standard input or nothing, then the command. */
const CONFINED = `
root=$1 dir=$2
if [ -n "$3" ]; then exec <"$3"; fi
shift 3
mount --bind -o ro / "$root"
for top in usr bin sbin lib lib64; do
  if [ ! -L "/$top" ] && mountpoint -q "/$top"; then
    mount --bind -o ro "/$top" "$root/$top"
  fi
done
mount --bind "$dir" "$root/dev"
cd /
exec chroot "$root" "$@"
`;

export interface SharedDirectory {
  /** nobody but root can put a link in its place, or above it */
  readonly dir: string;
  /** is made, and removed again */
  readonly scratch: string;
}

/**
 * Unpacks an archive there. What has the same name is replaced, everything else stays.
 * @throws DiskFull, RestoreFailed
 * Crash: part of it lies there; the next call writes it again. The mounts are gone with the process.
 */
export async function fillShared(run: Run, shared: SharedDirectory, tar: string): Promise<void> {
  const result = await confined(run, shared, { file: tar }, ['tar', ...UNPACK_OPTIONS, '--directory=/dev', '--file=-']);
  if (result.exitCode !== 0) {
    throw unpackError(result, tar, shared.dir);
  }
}

/**
 * Removes what `fillShared` has put there, or a part of it, and nothing that has come since.
 * @throws RestoreFailed
 */
export async function takeBack(run: Run, shared: SharedDirectory, tar: string): Promise<void> {
  const files: string[] = [];
  const directories: string[] = [];
  for await (const { name, type } of readTarMembers(tar)) {
    if (name !== '') {
      (type === 'directory' ? directories : files).push(name);
    }
  }
  const removed = await remove(run, shared, ['rm', '-f', '--'], files);
  if (removed.exitCode !== 0) {
    throw new KybernateError(
      'RestoreFailed',
      `what was put into ${shared.dir} cannot be taken back: ${saidBy(removed)}`,
    );
  }
  // Some may not have been made yet, others may have content of others by now.
  await remove(run, shared, ['rmdir', '--ignore-fail-on-non-empty', '--'], directories.reverse());
}

function remove(
  run: Run,
  shared: SharedDirectory,
  command: readonly string[],
  names: readonly string[],
): Promise<RunResult> {
  const input = nameBytes(names.map((name) => `/dev/${name}\0`).join(''));
  return confined(run, shared, { input }, ['xargs', '--null', '--no-run-if-empty', ...command]);
}

async function confined(
  run: Run,
  { dir, scratch }: SharedDirectory,
  stdin: { readonly file: string } | { readonly input: Uint8Array },
  command: readonly string[],
): Promise<RunResult> {
  mkdirSync(scratch, { recursive: true, mode: 0o700 });
  try {
    const script = ['sh', '-euc', CONFINED, 'sh', scratch, dir, 'file' in stdin ? stdin.file : ''];
    const options = 'file' in stdin ? {} : { input: stdin.input };
    return await run('unshare', ['--mount', '--propagation', 'private', '--', ...script, ...command], options);
  } finally {
    rmdirSync(scratch);
  }
}
