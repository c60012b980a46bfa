/*
 * One file of log lines for the short-lived processes of a node: runners, guards, runtime wrappers. A node worker collects
 * them into its own log (workers/node-log.ts), so that who reads the worker's log reads everything. Each line is one
 * append to a file that is opened for it: the file may be renamed between two lines.
 */
import { appendFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** On tmpfs: while no worker collects, what is beyond is not kept. */
const MAX_BYTES = 4 * 2 ** 20;

export function nodeLogFile(runDir: string): string {
  return join(runDir, 'processes.log');
}

/** @param line one JSON object with its line break; a log that cannot be written keeps nobody from anything */
export function appendNodeLog(runDir: string, line: string): void {
  const file = nodeLogFile(runDir);
  try {
    if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) < MAX_BYTES) {
      appendFileSync(file, line, { mode: 0o600 });
    }
  } catch {
    // No room, or no such directory: this node has no worker.
  }
}
