/*
 * Puts the runtime `io.containerd.runc.kybernate.v1` into a directory that is in containerd's PATH:
 *   containerd-shim-kybernate-v1         launcher, found by containerd by its name
 *   kybernate-runtime/runc               fast path, found by the stock shim because the launcher puts it first in PATH
 *   kybernate-runtime/kybernate-wrapper.mjs
 *   kybernate-runtime/kybernate-yaml.mjs   loaded by the wrapper when it meets a CDI file in YAML
 *   kybernate-runtime/kybernate-shim.conf
 * The directory of `runc` is not in containerd's own PATH, so containers of other runtimes never meet it.
 */
import { chmodSync, copyFileSync, existsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KybernateError } from '../core/errors.ts';
import { makeDirsDurably, replaceDurably } from '../engine/durable-file.ts';

export const SHIM_NAME = 'containerd-shim-kybernate-v1';
/** What a container names to be made by this shim. */
export const RUNTIME_NAME = 'io.containerd.runc.kybernate.v1';
const RUNTIME_DIR = 'kybernate-runtime';
/** Beside the wrapper's bundle, here and there. */
export const YAML_BUNDLE = 'kybernate-yaml.mjs';

export interface ShimInstallation {
  /** made when absent; belongs in containerd's PATH */
  readonly targetDir: string;
  /** Node 24 or newer */
  readonly nodePath: string;
  /** the bundled wrapper, dist/shim/kybernate-wrapper.mjs */
  readonly wrapperPath: string;
  /** the real runc */
  readonly runcPath: string;
  readonly criuPath: string;
  /** socket of the node's agent */
  readonly agentSocket: string;
}

/**
 * Each file is replaced atomically: shims of running containers start `runc` at any time. They are on the disk when this
 * returns, the launcher last: an empty one would fail every container of the node. Idempotent.
 * @param hostRoot where the root is seen that `runcPath` belongs to: `/`, but in a container
 * @returns path of the launcher
 * @throws InvalidInput a path is relative, missing or holds a line break
 */
export function installShim(installation: ShimInstallation, hostRoot = '/'): string {
  const { targetDir, nodePath, wrapperPath, runcPath, criuPath, agentSocket } = installation;
  for (const [name, path] of Object.entries(installation)) {
    if (!path.startsWith('/') || /[\n\r]/.test(path)) {
      throw new KybernateError('InvalidInput', `${name}: ${JSON.stringify(path)} is not an absolute path`);
    }
  }
  const own = [nodePath, wrapperPath, join(dirname(wrapperPath), YAML_BUNDLE), criuPath];
  for (const path of [...own, join(hostRoot, runcPath)]) {
    if (!existsSync(path)) {
      throw new KybernateError('InvalidInput', `the shim cannot be installed: ${path} does not exist`);
    }
  }
  const runtimeDir = join(targetDir, RUNTIME_DIR);
  makeDirsDurably(runtimeDir, 0o755);
  const wrapper = join(runtimeDir, 'kybernate-wrapper.mjs');
  const settings = { runc: runcPath, criu: criuPath, node: nodePath, wrapper, agent: agentSocket };
  const text = Object.entries(settings).map(([key, value]) => `${key}=${value}\n`);
  replace(join(runtimeDir, 'kybernate-shim.conf'), 0o644, (path) => writeFileSync(path, text.join('')));
  const yaml = join(dirname(wrapperPath), YAML_BUNDLE);
  replace(join(runtimeDir, YAML_BUNDLE), 0o644, (path) => copyFileSync(yaml, path));
  // Before the wrapper: what the new one leaves for `start` the old script would not understand.
  replace(join(runtimeDir, 'runc'), 0o755, (path) => copyFileSync(script('kybernate-runc'), path));
  replace(wrapper, 0o644, (path) => copyFileSync(wrapperPath, path));
  const launcher = join(targetDir, SHIM_NAME);
  replace(launcher, 0o755, (path) => copyFileSync(script(SHIM_NAME), path));
  return launcher;
}

/** The scripts lie beside this file in a source tree, and in `shim/` beside `dist/` in the package. */
function script(name: string): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const found = [join(here, name), join(here, '../../shim', name)].find((path) => existsSync(path));
  if (found === undefined) {
    throw new KybernateError('Internal', `${name} is missing beside ${here}`);
  }
  return found;
}

function replace(path: string, mode: number, write: (path: string) => void): void {
  replaceDurably(path, (temporary) => {
    write(temporary);
    chmodSync(temporary, mode);
  });
}
