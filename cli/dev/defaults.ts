/*
 * While the dev environment is up, commands without settings of their own use it: `up` leaves its settings in a file,
 * `down` removes them. Loaded by every command, so it imports nothing heavy.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { devDir } from './paths.ts';

type Env = Readonly<Record<string, string | undefined>>;

const FILE = 'environment.json';

export function writeDevDefaults(dir: string, variables: Readonly<Record<string, string>>): void {
  const file = join(dir, FILE);
  // Holds the keys of the private S3 server.
  writeFileSync(`${file}.new`, JSON.stringify(variables), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

export function removeDevDefaults(dir: string): void {
  rmSync(join(dir, FILE), { force: true });
}

function readDevDefaults(dir: string): Readonly<Record<string, string>> {
  try {
    return JSON.parse(readFileSync(join(dir, FILE), 'utf8')) as Record<string, string>;
  } catch {
    // Not up, or another user's: the built-in defaults hold.
    return {};
  }
}

/**
 * Settings of the dev environment that is up, for a caller without settings. All or nothing: one variable of the
 * user's own means another Temporal, node or store, with which these must not be mixed.
 */
export function devDefaults(env: Env): Readonly<Record<string, string>> {
  const defaults = readDevDefaults(devDir(env));
  const own = Object.keys(defaults).some((name) => (env[name] ?? '') !== '');
  return own ? {} : defaults;
}
