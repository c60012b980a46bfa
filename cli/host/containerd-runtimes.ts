/*
 * Our runtimes in the configuration of a node's containerd, which reads it at its start only. A node whose containerd
 * does not come back would be lost: then the configuration of before is put back and containerd is started once more.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { KybernateError, messageOf } from '../../core/errors.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import { compareVersions } from '../../native/criu/version.ts';
import type { Run } from '../../native/run/run.ts';
import {
  configVersion,
  minimalConfig,
  runtimesConfig,
  usesSystemdCgroup,
  withImport,
  withoutImport,
} from '../../shim/containerd-config.ts';

/** Older ones ignore `runtime_path`, silently: their pods would run without us. */
const MINIMUM = '1.7.1';
const ANSWER_MS = 60_000;

export interface ContainerdOptions {
  readonly configFile: string;
  readonly address: string;
  /** shell command that restarts containerd; absent: a person does it */
  readonly restart?: string;
  readonly run: Run;
  readonly say: (line: string) => void;
}

export type Change = 'unchanged' | 'restarted' | 'restart needed';

function dropInOf(configFile: string): string {
  return join(dirname(configFile), 'conf.d', 'kybernate.toml');
}

/** Written before a change, removed when containerd has read it: a killed installer is repeated to its end. */
function markOf(configFile: string): string {
  return join(dirname(configFile), 'conf.d', '.kybernate-restart');
}

function read(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
}

function write(path: string, text: string | undefined): void {
  if (text === undefined) {
    rmSync(path, { force: true });
    return;
  }
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text, { mode: 0o644 });
  renameSync(temporary, path);
}

interface Files {
  readonly config: string | undefined;
  readonly dropIn: string | undefined;
}

function readFiles(configFile: string): Files {
  return { config: read(configFile), dropIn: read(dropInOf(configFile)) };
}

/** Our file first: containerd does not start with an import that is not there. */
function writeFiles(configFile: string, { config, dropIn }: Files): void {
  mkdirSync(dirname(dropInOf(configFile)), { recursive: true, mode: 0o755 });
  if (dropIn !== undefined) {
    write(dropInOf(configFile), dropIn);
  }
  write(configFile, config);
  if (dropIn === undefined) {
    write(dropInOf(configFile), undefined);
  }
}

/**
 * Adds the runtimes `kybernate` and `kybernate-gpu`. Idempotent.
 * @throws Incompatible containerd is too old, its configuration is not understood, or it does not start with the change,
 *   which has been taken back then
 */
export async function addRuntimes(launcher: string, options: ContainerdOptions): Promise<Change> {
  const { configFile, address } = options;
  await requireVersion(address);
  const before = readFiles(configFile);
  const config = withImport(before.config ?? minimalConfig(dropInOf(configFile)), dropInOf(configFile), configFile);
  const systemdCgroup = usesSystemdCgroup(config);
  const dropIn = runtimesConfig(configVersion(config, configFile), { launcher, systemdCgroup });
  return change(options, before, { config, dropIn });
}

/** The reverse; the user's file is as it was before, but for what others have changed in it. */
export async function removeRuntimes(options: ContainerdOptions): Promise<Change> {
  const { configFile } = options;
  const before = readFiles(configFile);
  const own = before.config === minimalConfig(dropInOf(configFile));
  const config = own || before.config === undefined ? undefined : withoutImport(before.config, dropInOf(configFile));
  return change(options, before, { config, dropIn: undefined });
}

async function change(options: ContainerdOptions, before: Files, after: Files): Promise<Change> {
  const { configFile } = options;
  const same = before.config === after.config && before.dropIn === after.dropIn;
  if (same && !existsSync(markOf(configFile))) {
    return 'unchanged';
  }
  mkdirSync(dirname(markOf(configFile)), { recursive: true, mode: 0o755 });
  write(markOf(configFile), 'containerd has not read kybernate.toml as it is now\n');
  writeFiles(configFile, after);
  if (options.restart === undefined) {
    return 'restart needed';
  }
  try {
    await restart(options);
  } catch (error) {
    writeFiles(configFile, before);
    await restart(options);
    write(markOf(configFile), undefined);
    throw new KybernateError(
      'Incompatible',
      `containerd does not work with our runtimes (${messageOf(error)}); its configuration is as it was before, and it ` +
        `runs again; see its log`,
      { cause: error },
    );
  }
  write(markOf(configFile), undefined);
  return 'restarted';
}

async function restart({ restart: command = 'true', address, run, say }: ContainerdOptions): Promise<void> {
  say(`restarting containerd: ${command}`);
  const result = await run('/bin/sh', ['-c', command], { timeoutMs: 120_000 });
  if (result.exitCode !== 0) {
    throw new KybernateError('Incompatible', `${command}: ${result.startError ?? result.stderr}`);
  }
  const deadline = performance.now() + ANSWER_MS;
  for (;;) {
    try {
      return await asked(address, async () => undefined);
    } catch (error) {
      if (performance.now() > deadline) {
        throw error;
      }
    }
    await sleep(200);
  }
}

async function asked<T>(address: string, ask: (version: string) => Promise<T>): Promise<T> {
  const containerd = connectContainerd(address);
  try {
    return await ask(await containerd.version());
  } finally {
    containerd.close();
  }
}

async function requireVersion(address: string): Promise<void> {
  await asked(address, async (text) => {
    const version = /\d+\.\d+\.\d+/.exec(text)?.[0];
    if (version !== undefined && compareVersions(version, MINIMUM) < 0) {
      throw new KybernateError('Incompatible', `containerd ${version} at ${address}: ${MINIMUM} or newer is needed`);
    }
  });
}
