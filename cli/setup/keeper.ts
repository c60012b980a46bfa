/*
 * criu-keeper, compiled from its one source file into the cache. The folder is named by the digest of the source: a new
 * version lies beside the one that a running worker uses. Its program is called `criu`, since runc looks for that.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { cacheDir } from '../dev/paths.ts';
import { runLong } from './long-command.ts';
import { type Env, inDirs } from './programs.ts';
import type { Installation, Step } from './step.ts';

/** It lies two folders up in the repository and three in the built package. */
function sourceFile(): string {
  const [repository = '', built = ''] = ['../..', '../../..'].map((dir) =>
    fileURLToPath(new URL(`${dir}/native/src/criu-keeper.c`, import.meta.url)),
  );
  return existsSync(repository) ? repository : built;
}

function buildDir(env: Env): string {
  const digest = createHash('sha256').update(readFileSync(sourceFile())).digest('hex').slice(0, 12);
  return join(cacheDir(env), 'programs', `criu-keeper-${digest}`);
}

/** Value for KYBERNATE_KEEPER_DIR: the cache's folder; undefined when set-up has not compiled it. */
export function findKeeper(env: Env): string | undefined {
  const dir = buildDir(env);
  return inDirs('criu', [dir]).length > 0 ? dir : undefined;
}

/** Crash: it is compiled in a folder beside its place, which is renamed when it is there. */
async function compile({ env, logFile }: Installation): Promise<void> {
  const target = buildDir(env);
  const making = `${target}.new`;
  rmSync(making, { recursive: true, force: true });
  mkdirSync(making, { recursive: true });
  // Static: it is started in every dump, and half of its start would be the loader's.
  const flags = ['-O2', '-Wall', '-Wextra', '-static'];
  await runLong(['cc', ...flags, '-o', join(making, 'criu'), sourceFile()], { env, logFile });
  rmSync(target, { recursive: true, force: true });
  renameSync(making, target);
}

export const KEEPER_STEP: Step = {
  name: 'criu-keeper',
  why: 'keeps a container frozen when its CRIU is killed; without it open TCP connections may break then',
  neededFor: ['run', 'demo', 'test'],
  remedy: 'kybernate setup',
  check: async (env) => {
    const dir = findKeeper(env);
    return dir === undefined ? { ok: false, detail: `not in ${buildDir(env)}` } : { ok: true, detail: dir };
  },
  install: compile,
};
