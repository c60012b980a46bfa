/*
 * Starting the two processes of an operation, its runner and its freeze guard, and finding them. Node and its modules take
 * a quarter of a second to load, so a node worker keeps one of each loaded and waiting: it reads the directory of its
 * operation as the first line of its standard input, and ends by itself when that closes without one (the worker is gone).
 * It belongs to nobody and holds nothing until then.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { readProcess } from '../native/proc/tree.ts';
import type { NodeSettings } from './node-deps.ts';
import { readJson, type OperationPaths } from './operation.ts';

/** In place of a directory: it will come by standard input. */
export const STANDBY_ARGUMENT = '-';
/** The next one is loaded when the freeze of the operation that took the last one is likely over. */
const REFILL_MS = 3000;

export interface Launched {
  readonly pid: number | undefined;
  readonly ended: () => boolean;
}

type Role = 'runner' | 'guard';
const ROLES: readonly Role[] = ['runner', 'guard'];

const standbys = new Map<Role, ChildProcess>();
const refills = new Map<Role, NodeJS.Timeout>();

/** @returns a function that ends the waiting processes and starts no others */
export function keepStandbys(settings: NodeSettings): () => void {
  ROLES.forEach((role) => fill(settings, role));
  return () => {
    refills.forEach((refill) => clearTimeout(refill));
    standbys.forEach((standby) => standby.stdin?.end());
    refills.clear();
    standbys.clear();
  };
}

function fill(settings: NodeSettings, role: Role): void {
  const command = commandOf(settings, role);
  if (command !== undefined && !standbys.has(role)) {
    standbys.set(role, spawnStandby(settings, role, command));
  }
}

function commandOf(settings: NodeSettings, role: Role): readonly string[] | undefined {
  return role === 'runner' ? settings.runnerCommand : settings.guardCommand;
}

/** Hands the operation to the waiting process, or starts one; undefined where the node has none of that kind. */
export function launch(settings: NodeSettings, role: Role, paths: OperationPaths): Launched | undefined {
  const command = commandOf(settings, role);
  if (command === undefined) {
    return undefined;
  }
  const waiting = standbys.get(role);
  standbys.delete(role);
  const usable = waiting !== undefined && waiting.exitCode === null && waiting.signalCode === null;
  const child = usable ? waiting : spawnStandby(settings, role, command);
  child.stdin?.end(`${paths.dir}\n`);
  if (waiting !== undefined) {
    const refill = setTimeout(() => fill(settings, role), REFILL_MS);
    refill.unref();
    refills.set(role, refill);
  }
  return {
    pid: child.pid,
    ended: () => child.exitCode !== null || child.signalCode !== null || child.pid === undefined,
  };
}

function spawnStandby(settings: NodeSettings, role: Role, [program, ...args]: readonly string[]): ChildProcess {
  mkdirSync(settings.runDir, { recursive: true, mode: 0o700 });
  // What it says before it knows its operation; afterwards it logs into the operation's directory.
  const log = openSync(join(settings.runDir, `${role}s.log`), 'a', 0o600);
  const child = spawn(String(program), [...args, STANDBY_ARGUMENT], {
    detached: true,
    stdio: ['pipe', log, log],
    cwd: '/',
  });
  closeSync(log);
  // A program that is not there is seen by `ended`; EPIPE of one that died, too.
  child.on('error', () => undefined);
  child.stdin?.on('error', () => undefined);
  child.unref();
  (child.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  return child;
}

/** In the process itself: its operation's directory, undefined when the input ends without one (the worker is gone). */
export async function directoryOf(argument: string): Promise<string | undefined> {
  if (argument !== STANDBY_ARGUMENT) {
    return argument;
  }
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdin.destroy();
    return line;
  }
  return undefined;
}

/** Pid of the live runner that has finished its start. */
export function runnerPid(paths: OperationPaths): number | undefined {
  return livePid(paths.runner);
}

/** Pid of the live guard that is armed. */
export function guardPid(paths: OperationPaths): number | undefined {
  return livePid(paths.guard);
}

function livePid(file: string): number | undefined {
  const state = readJson(file) as { pid?: number; startTime?: number } | undefined;
  if (state?.pid === undefined) {
    return undefined;
  }
  const live = readProcess(state.pid);
  return live !== undefined && live.startTime === state.startTime && live.state !== 'Z' ? state.pid : undefined;
}
