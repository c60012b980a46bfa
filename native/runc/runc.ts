/* runc beside containerd: what its state directory and its own commands tell about a container that containerd made. */
import { readFile, stat } from 'node:fs/promises';
import { delimiter, isAbsolute, join } from 'node:path';
import { KybernateError } from '../../core/errors.ts';
import type { Run } from '../run/run.ts';

export interface RuncState {
  readonly initHostPid: number;
  readonly bundle: string;
  /** of the container, as mounted by the shim */
  readonly rootfs: string;
}

/**
 * What runc keeps of a container in `<root>/<id>/state.json`; undefined when runc does not know it: another runtime
 * (crun, kata) runs it, or another root is in use.
 * Source: libcontainer State (init_process_pid, config.rootfs, config.labels with `bundle=`), runc 1.1 to 1.5.
 */
export async function readRuncState(root: string, id: string): Promise<RuncState | undefined> {
  let text: string;
  try {
    text = await readFile(join(root, id, 'state.json'), 'utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return undefined;
    }
    throw error;
  }
  const state = JSON.parse(text) as {
    init_process_pid?: number;
    config?: { rootfs?: string; labels?: string[] | null };
  };
  const bundle = (state.config?.labels ?? []).find((label) => label.startsWith('bundle='))?.slice('bundle='.length);
  return { initHostPid: state.init_process_pid ?? 0, bundle: bundle ?? '', rootfs: state.config?.rootfs ?? '' };
}

/** The oldest that takes the options of a checkpoint: `--link-remap`, `--tcp-skip-in-flight`. Source: runc, CHANGELOG.md. */
export const MIN_RUNC_VERSION = '1.3';

/** @returns for example `1.5.2` @throws Incompatible when the program does not run */
export async function runcVersion(run: Run, runcPath: string): Promise<string> {
  const result = await run(runcPath, ['--version'], { timeoutMs: 10_000 });
  const version = /^runc version (\S+)/m.exec(result.stdout)?.[1];
  if (version === undefined) {
    const why = result.startError ?? (result.stderr.trim() || `exit code ${result.exitCode}`);
    throw new KybernateError(
      'Incompatible',
      `runc does not run as ${runcPath}: ${why}; \`kybernate setup\` installs it`,
    );
  }
  return version;
}

/**
 * The file that a program's name stands for, with what changes when it is replaced.
 * @returns undefined when it is not on the path
 */
export async function locateProgram(
  name: string,
  searchPath: string,
): Promise<{ readonly path: string; readonly identity: string } | undefined> {
  const candidates = isAbsolute(name) ? [name] : searchPath.split(delimiter).map((dir) => join(dir, name));
  for (const path of candidates) {
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() === true && (found.mode & 0o111) !== 0) {
      return { path, identity: `${path}:${found.dev}:${found.ino}:${found.mtimeMs}:${found.size}` };
    }
  }
  return undefined;
}
