/*
 * Starting runner processes. Node and its modules take a quarter of a second to load, so a node worker keeps one runner
 * loaded and waiting: it reads the directory of its operation as the first line of its standard input, and ends by
 * itself when that closes without one (the worker is gone). It belongs to nobody and holds nothing until then.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { NodeSettings } from './node-deps.ts';
import type { OperationPaths } from './operation.ts';

/** In place of a directory: it will come by standard input. */
export const STANDBY_ARGUMENT = '-';
/** The next one is loaded when the freeze of the operation that took the last one is likely over. */
const REFILL_MS = 3000;

let standby: ChildProcess | undefined;
let refill: NodeJS.Timeout | undefined;

/** @returns a function that ends the waiting runner and starts no other */
export function keepStandbyRunner(settings: NodeSettings): () => void {
  standby = spawnRunner(settings);
  return () => {
    clearTimeout(refill);
    refill = undefined;
    standby?.stdin?.end();
    standby = undefined;
  };
}

/** Hands the operation to the waiting runner, or starts one. @returns its pid, and whether it has ended */
export function launchRunner(
  settings: NodeSettings,
  paths: OperationPaths,
): { readonly ended: () => boolean; readonly pid: number | undefined } {
  const waiting = standby;
  standby = undefined;
  const usable = waiting !== undefined && waiting.exitCode === null && waiting.signalCode === null;
  const child = usable ? waiting : spawnRunner(settings);
  child.stdin?.end(`${paths.dir}\n`);
  if (waiting !== undefined) {
    refill = setTimeout(() => (standby ??= spawnRunner(settings)), REFILL_MS);
    refill.unref();
  }
  return {
    pid: child.pid,
    ended: () => child.exitCode !== null || child.signalCode !== null || child.pid === undefined,
  };
}

function spawnRunner(settings: NodeSettings): ChildProcess {
  mkdirSync(settings.runDir, { recursive: true, mode: 0o700 });
  const [program, ...args] = settings.runnerCommand;
  // What it says before it knows its operation; afterwards it logs into the operation's directory.
  const log = openSync(join(settings.runDir, 'runners.log'), 'a', 0o600);
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
