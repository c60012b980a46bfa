/*
 * The runtime io.containerd.runc.kybernate.v1 for a private containerd: launcher and wrapper in a folder of its own.
 * The package brings the wrapper's bundle; in the repository it is made when its sources have changed.
 */
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { installShim } from '../../shim/install.ts';
import { type Env, requireProgram } from '../setup/programs.ts';

const FROM_SOURCE = extname(import.meta.url) === '.ts';

/** Path of the bundle of this version. */
export async function wrapperBundle(): Promise<string> {
  if (!FROM_SOURCE) {
    return fileURLToPath(new URL('../../shim/kybernate-wrapper.mjs', import.meta.url));
  }
  // Not in the package: it needs the bundler.
  const { wrapperBundlePath } = await import('../../tools/wrapper-bundle.ts');
  return wrapperBundlePath();
}

/** Folder of the shim below the directory of a private containerd. */
export function shimDirOf(dir: string): string {
  return join(dir, 'shim');
}

/**
 * Puts the shim of this version into place; running containers keep working.
 * @param runDir the node worker's KYBERNATE_RUN_DIR, where its agent listens
 * @throws Incompatible when runc or CRIU is not installed
 */
export async function ensureShim(dir: string, runDir: string, env: Env): Promise<void> {
  installShim({
    targetDir: shimDirOf(dir),
    nodePath: process.execPath,
    wrapperPath: await wrapperBundle(),
    runcPath: requireProgram('runc', env),
    criuPath: requireProgram('criu', env),
    agentSocket: join(runDir, 'agent.sock'),
  });
}
