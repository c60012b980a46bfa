/*
 * Our runtimes in the configuration of a node's containerd, which reads it at its start only. A node whose containerd
 * does not come back would be lost: then the configuration of before is put back and containerd is started once more.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { isKybernateError, KybernateError, messageOf } from '../../core/errors.ts';
import { makeDirsDurably, replaceDurably } from '../../engine/durable-file.ts';
import type { CriState } from '../../native/containerd/cri.ts';
import { compareVersions } from '../../native/criu/version.ts';
import type { Run } from '../../native/run/run.ts';
import {
  configVersion,
  RUNTIME_HANDLERS,
  minimalConfig,
  runtimesConfig,
  usesSystemdCgroup,
  withImport,
  withoutImport,
} from '../../shim/containerd-config.ts';

/** Older ones ignore `runtime_path`, silently: their pods would run without us. */
const MINIMUM = '1.7.1';
const ANSWER_MS = 60_000;
/** A restart may be over before its command is known to be: so long it may be the containerd of before that answers. */
const SETTLE_MS = 3000;

export interface ContainerdOptions {
  readonly configFile: string;
  /** containerd's own word, when it answers */
  readonly version: () => Promise<string>;
  /** whether pods can be run, and by which runtimes */
  readonly cri: () => Promise<CriState>;
  /** pods are to run under ours: without the CRI plug-in nothing is changed */
  readonly requireCri?: boolean;
  /** shell command that restarts containerd; absent: a person does it */
  readonly restart?: string;
  /** default: 3 s */
  readonly settleMs?: number;
  readonly run: Run;
  readonly say: (line: string) => void;
}

export type Change = 'unchanged' | 'restarted' | 'restart needed';

function dropInOf(configFile: string): string {
  return join(dirname(configFile), 'conf.d', 'kybernate.toml');
}

/**
 * Written before a change, removed when containerd has read it: a killed installer is repeated to its end. Where it restarts
 * containerd itself the mark holds the files of before, which are those that containerd is known to start with.
 */
function markOf(configFile: string): string {
  return join(dirname(configFile), 'conf.d', '.kybernate-restart');
}

/** @throws Incompatible it is a link to nowhere: what is written in its place would be all that containerd knows */
function read(path: string): string | undefined {
  if (existsSync(path)) {
    return readFileSync(path, 'utf8');
  }
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
    throw new KybernateError(
      'Incompatible',
      `${path} is a link to a file that cannot be seen here; name the file itself`,
    );
  }
  return undefined;
}

/** The file that a link leads to, with the owner and the mode that it has: it may hold passwords of registries. */
function write(path: string, text: string | undefined, modeOfNew = 0o644): void {
  if (text === undefined) {
    rmSync(path, { force: true });
    return;
  }
  const file = existsSync(path) ? realpathSync(path) : path;
  const known = statSync(file, { throwIfNoEntry: false });
  replaceDurably(file, (temporary) => {
    writeFileSync(temporary, text, { mode: 0o600, flag: 'wx' });
    if (known !== undefined) {
      chownSync(temporary, known.uid, known.gid);
    }
    chmodSync(temporary, (known?.mode ?? modeOfNew) & 0o7777);
  });
}

interface Files {
  readonly config?: string | undefined;
  readonly dropIn?: string | undefined;
}

interface Changed {
  readonly before: Files;
  readonly after: Files;
}

/** @returns the change whose end nobody has seen; undefined also where a person was to restart containerd */
function openChange(configFile: string): Changed | undefined {
  const text = read(markOf(configFile)) ?? '';
  return text.startsWith('{') ? (JSON.parse(text) as Changed) : undefined;
}

/** What containerd starts with for sure: not what a killed installer has left, unless somebody has changed it since. */
function knownGood(configFile: string, now: Files): Files {
  const open = openChange(configFile);
  const isAsLeft = now.config === open?.after.config || now.config === open?.before.config;
  return open !== undefined && isAsLeft ? open.before : now;
}

function readFiles(configFile: string): Files {
  return { config: read(configFile), dropIn: read(dropInOf(configFile)) };
}

/** Our file first: containerd does not start with an import that is not there. */
function writeFiles(configFile: string, { config, dropIn }: Files): void {
  makeDirsDurably(dirname(dropInOf(configFile)), 0o755);
  if (dropIn !== undefined) {
    write(dropInOf(configFile), dropIn);
  }
  write(configFile, config);
  if (dropIn === undefined) {
    write(dropInOf(configFile), undefined);
  }
}

/**
 * Before anything of the node is changed: can this containerd take our runtimes? What a killed installer has left, and what
 * keeps pods from running, is taken back.
 * @returns `runsPods` false: its CRI plug-in is off, and nobody needs it
 * @throws Incompatible it is too old, or its CRI plug-in does not work, or is off where pods are to run
 */
export async function requireContainerd(options: ContainerdOptions): Promise<{ readonly runsPods: boolean }> {
  await requireVersion(options);
  return requireCri(options);
}

/**
 * Adds the runtimes `kybernate` and `kybernate-gpu`. Idempotent; a containerd that runs no pods stays as it is.
 * @throws Incompatible containerd is too old, its configuration is not understood, its CRI plug-in does not work, or it does
 *   not start with the change, or without knowing our runtimes: then the change has been taken back
 */
export async function addRuntimes(launcher: string, options: ContainerdOptions): Promise<Change> {
  const { configFile } = options;
  if (!(await requireContainerd(options)).runsPods) {
    return 'unchanged';
  }
  const before = readFiles(configFile);
  const config = withImport(before.config ?? minimalConfig(dropInOf(configFile)), dropInOf(configFile), configFile);
  const systemdCgroup = usesSystemdCgroup(config);
  const dropIn = runtimesConfig(configVersion(config, configFile), { launcher, systemdCgroup });
  const check = (): Promise<void> => checkRuntimes(launcher, options);
  const changed = await change(options, before, { config, dropIn }, check);
  if (changed === 'unchanged') {
    await check();
  }
  return changed;
}

/** The reverse; the user's file is as it was before, but for what others have changed in it. */
export async function removeRuntimes(options: ContainerdOptions): Promise<Change> {
  const { configFile } = options;
  const before = readFiles(configFile);
  const own = before.config === minimalConfig(dropInOf(configFile));
  const config = own || before.config === undefined ? undefined : withoutImport(before.config, dropInOf(configFile));
  return change(options, before, { config, dropIn: undefined }, () => Promise.resolve());
}

/** @param check of a containerd that answers again */
async function change(
  options: ContainerdOptions,
  before: Files,
  after: Files,
  check: () => Promise<void>,
): Promise<Change> {
  const { configFile } = options;
  const same = before.config === after.config && before.dropIn === after.dropIn;
  if (same && !existsSync(markOf(configFile))) {
    return 'unchanged';
  }
  const good = knownGood(configFile, before);
  makeDirsDurably(dirname(markOf(configFile)), 0o755);
  const mark = options.restart === undefined ? 'restart containerd\n' : JSON.stringify({ before: good, after });
  write(markOf(configFile), mark, 0o600);
  writeFiles(configFile, after);
  if (options.restart === undefined) {
    return 'restart needed';
  }
  try {
    await restart(options, check);
  } catch (error) {
    writeFiles(configFile, good);
    await restart(options, () => Promise.resolve());
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

async function restart(
  { restart: command = 'true', version, run, say, settleMs = SETTLE_MS }: ContainerdOptions,
  check: () => Promise<void>,
): Promise<void> {
  say(`restarting containerd: ${command}`);
  const result = await run('/bin/sh', ['-c', command], { timeoutMs: 120_000 });
  if (result.exitCode !== 0) {
    throw new KybernateError('Incompatible', `${command}: ${result.startError ?? result.stderr}`);
  }
  const restarted = performance.now();
  for (;;) {
    try {
      await version();
      await check();
      return;
    } catch (error) {
      const waited = performance.now() - restarted;
      if (waited > ANSWER_MS || (isKybernateError(error, 'Incompatible') && waited >= settleMs)) {
        throw error;
      }
    }
    await sleep(200);
  }
}

async function requireVersion({ version: ask }: ContainerdOptions): Promise<void> {
  const version = /\d+\.\d+\.\d+/.exec(await ask())?.[0];
  if (version !== undefined && compareVersions(version, MINIMUM) < 0) {
    throw new KybernateError('Incompatible', `containerd is ${version}: ${MINIMUM} or newer is needed`);
  }
}

/** What does not work without us is not our doing, and would not be mended by going back. */
async function requireCri(options: ContainerdOptions): Promise<{ readonly runsPods: boolean }> {
  const { cri, requireCri: required, say } = options;
  const state = await cri();
  if (state.plugin === 'failed') {
    const done = (await takeBackLeft(options))
      ? 'a killed installation had left our runtimes in its configuration, which is as it was before'
      : 'nothing was changed: mend its configuration first (`containerd config dump` prints it)';
    throw new KybernateError(
      'Incompatible',
      `the CRI plug-in of containerd does not work, so no pod runs on this node: ${state.error}; ${done}`,
    );
  }
  if (state.plugin === 'off') {
    const what =
      'the CRI plug-in of this containerd is off, so pods cannot use its runtimes: take "cri" out of disabled_plugins in its ' +
      'configuration, or name the containerd that kubelet uses (--containerd-address, --containerd-config)';
    if (required === true) {
      throw new KybernateError('Incompatible', `${what}; nothing was changed`);
    }
    say(what);
  }
  return { runsPods: state.plugin !== 'off' };
}

/** @returns whether there was a change whose end nobody has seen */
async function takeBackLeft(options: ContainerdOptions): Promise<boolean> {
  const { configFile } = options;
  const open = openChange(configFile);
  if (open === undefined || options.restart === undefined || read(configFile) !== open.after.config) {
    return false;
  }
  writeFiles(configFile, open.before);
  await restart(options, () => Promise.resolve());
  write(markOf(configFile), undefined);
  return true;
}

/** @throws Incompatible containerd runs, and its CRI plug-in does not, or has read something else than what was written */
async function checkRuntimes(launcher: string, { cri, configFile }: ContainerdOptions): Promise<void> {
  const state = await cri();
  if (state.plugin === 'failed') {
    throw new KybernateError('Incompatible', `its CRI plug-in does not work: ${state.error}`);
  }
  const { runtimes } = state.plugin === 'loaded' ? state : {};
  const missing =
    runtimes === undefined ? [] : RUNTIME_HANDLERS.filter((handler) => runtimes.get(handler) !== launcher);
  if (missing.length > 0) {
    throw new KybernateError(
      'Incompatible',
      `its CRI plug-in knows no runtime ${missing.join(', ')} with the shim ${launcher}: containerd reads another file than ` +
        `${configFile} (its option --config says which; name it with --containerd-config), or was not restarted since`,
    );
  }
}
