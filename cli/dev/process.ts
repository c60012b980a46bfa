/*
 * Daemons of the dev environment: started detached with a log file, recorded with pid and start time, stopped only
 * when both still match. Every daemon carries OWNER_VARIABLE in its environment, and its children inherit it: that
 * finds a daemon whose starter died between the spawn and the record, and shims and runners that outlive their parent.
 */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as z from 'zod';

import { KybernateError, isErrorType } from '../../core/errors.ts';

export const OWNER_VARIABLE = 'KYBERNATE_DEV_OWNER';

const daemonRecord = z.object({
  name: z.string(),
  pid: z.int().positive(),
  /** field 22 of /proc/<pid>/stat: clock ticks after boot */
  startTicks: z.string(),
  logFile: z.string(),
  /** addresses and the like that the starter wants back from a second `up` */
  facts: z.record(z.string(), z.string()),
});
export type DaemonRecord = z.infer<typeof daemonRecord>;

const stateFile = z.object({ version: z.literal(1), daemons: z.array(daemonRecord) });

export interface DaemonOptions {
  readonly name: string;
  readonly file: string;
  readonly args: readonly string[];
  /** the whole environment, but for OWNER_VARIABLE */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly facts?: Readonly<Record<string, string>>;
}

interface ProcStat {
  readonly state: string;
  readonly parentPid: number;
  readonly startTicks: string;
}

/** State, parent and start time of a process, undefined when there is none. The name may hold spaces and brackets. */
export function readProcStat(pid: number): ProcStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    // ENOENT and ESRCH: the process is gone.
    return undefined;
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0] ?? '', parentPid: Number(fields[1]), startTicks: fields[19] ?? '' };
}

/** The recorded process itself runs: not a zombie, not another one with its pid. */
export function isAlive(record: { readonly pid: number; readonly startTicks: string }): boolean {
  const stat = readProcStat(record.pid);
  return stat !== undefined && stat.startTicks === record.startTicks && !/[ZX]/.test(stat.state);
}

function statePath(dir: string): string {
  return join(dir, 'processes.json');
}

/** Records in the order of their start; an absent file is an empty list. */
export function readDaemons(dir: string): DaemonRecord[] {
  let text: string;
  try {
    text = readFileSync(statePath(dir), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  }
  return stateFile.parse(JSON.parse(text)).daemons;
}

function writeDaemons(dir: string, daemons: readonly DaemonRecord[]): void {
  if (daemons.length === 0) {
    rmSync(statePath(dir), { force: true });
    return;
  }
  const next = `${statePath(dir)}.new`;
  writeFileSync(next, `${JSON.stringify({ version: 1, daemons }, undefined, 2)}\n`, { mode: 0o600 });
  renameSync(next, statePath(dir));
}

/** The live record of that name, undefined when it never started or is dead. */
export function findDaemon(dir: string, name: string): DaemonRecord | undefined {
  return readDaemons(dir).find((record) => record.name === name && isAlive(record));
}

/** Last lines of a daemon's log, for error messages. */
export function logTail(logFile: string, lines = 15): string {
  try {
    return readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  } catch {
    // No log was written: nothing to add to the message.
    return '';
  }
}

/**
 * Why a daemon has ended that was just started. One of our own has said so as every command does, at the end of its log:
 * that is the error, with its type and remedy. Of any other program the end of the log is all there is.
 */
export function endedAtStart({ name, logFile }: Pick<DaemonRecord, 'name' | 'logFile'>): KybernateError {
  const tail = logTail(logFile);
  const said = /(?:^|\n)kybernate: (\w+): ((?:(?!\nkybernate: |\n\{)[^])*)$/.exec(tail);
  const [message = '', ...lines] = (said?.[2] ?? '').split(/\n {2}(?=(?:workload|where|remedy): )/);
  const remedy = lines.find((line) => line.startsWith('remedy:'))?.replace(/^remedy: */, '');
  return isErrorType(said?.[1])
    ? new KybernateError(said[1], `${name} ended at its start: ${message}`, {
        details: { log: logFile, ...(remedy === undefined ? {} : { remedy }) },
      })
    : new KybernateError('Internal', `${name} ended at its start:\n${tail}`, { details: { log: logFile } });
}

/**
 * Starts a daemon in its own session, or returns the live one of that name.
 * Crash: between spawn and record the process is known only by OWNER_VARIABLE; `stopOwned` finds it.
 */
export async function startDaemon(dir: string, options: DaemonOptions): Promise<DaemonRecord> {
  const live = findDaemon(dir, options.name);
  if (live !== undefined) {
    return live;
  }
  const logFile = join(dir, 'logs', `${options.name}.log`);
  mkdirSync(dirname(logFile), { recursive: true });
  const log = openSync(logFile, 'a', 0o640);
  const child = spawn(options.file, options.args, {
    cwd: '/',
    detached: true,
    env: { ...options.env, [OWNER_VARIABLE]: dir },
    stdio: ['ignore', log, log],
  });
  const startError = new Promise<unknown>((resolve) => child.once('error', resolve));
  closeSync(log);
  const stat = child.pid === undefined ? undefined : readProcStat(child.pid);
  if (child.pid === undefined || stat === undefined) {
    throw new KybernateError('Internal', `cannot start ${options.name} (${options.file})`, { cause: await startError });
  }
  child.unref();
  const record: DaemonRecord = {
    name: options.name,
    pid: child.pid,
    startTicks: stat.startTicks,
    logFile,
    facts: { ...options.facts },
  };
  writeDaemons(dir, [...readDaemons(dir).filter((other) => other.name !== options.name), record]);
  return record;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') {
      throw error;
    }
  }
}

/** SIGTERM, then SIGKILL after `graceMs`; returns when the process is gone. Nothing happens to another process. */
export async function endProcess(
  record: { readonly pid: number; readonly startTicks: string },
  graceMs: number,
): Promise<void> {
  const killAt = performance.now() + graceMs;
  const giveUpAt = killAt + 10_000;
  if (isAlive(record)) {
    signal(record.pid, 'SIGTERM');
  }
  for (let killed = false; isAlive(record); await sleep(20)) {
    const now = performance.now();
    if (now > giveUpAt) {
      throw new KybernateError('Internal', `process ${record.pid} does not end on SIGKILL`);
    }
    if (!killed && now > killAt) {
      signal(record.pid, 'SIGKILL');
      killed = true;
    }
  }
}

/** Stops one recorded daemon and forgets it. True when it was running. */
export async function stopDaemon(dir: string, name: string, graceMs = 10_000): Promise<boolean> {
  const record = readDaemons(dir).find((candidate) => candidate.name === name);
  if (record === undefined) {
    return false;
  }
  const wasAlive = isAlive(record);
  await endProcess(record, graceMs);
  writeDaemons(
    dir,
    readDaemons(dir).filter((other) => other.name !== name),
  );
  return wasAlive;
}

/** Every live process that carries this directory, or one below it, in OWNER_VARIABLE, but for this one and its ancestors. */
export function ownedProcesses(dir: string): { pid: number; startTicks: string }[] {
  const marker = `${OWNER_VARIABLE}=${dir}`;
  const own = new Set<number>();
  for (let pid = process.pid; pid > 1 && !own.has(pid); pid = readProcStat(pid)?.parentPid ?? 0) {
    own.add(pid);
  }
  const owned: { pid: number; startTicks: string }[] = [];
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || own.has(pid)) {
      continue;
    }
    const stat = readProcStat(pid);
    const owns = (entry: string): boolean => entry === marker || entry.startsWith(`${marker}/`);
    if (stat !== undefined && !/[ZX]/.test(stat.state) && environmentOf(pid).some(owns)) {
      owned.push({ pid, startTicks: stat.startTicks });
    }
  }
  return owned;
}

function environmentOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    // Gone meanwhile, or another user's: not ours.
    return [];
  }
}

/** Ends whatever else was started under this directory. */
export async function stopOwned(dir: string, graceMs = 2000): Promise<number> {
  const owned = ownedProcesses(dir);
  await Promise.all(owned.map((record) => endProcess(record, graceMs)));
  return owned.length;
}
