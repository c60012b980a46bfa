/*
 * Brings the lines of runners, guards and wrappers into the log of the node worker. The file is renamed before it is read
 * to its end, and read once more before it is removed, since a writer may have opened it just before. After a worker's
 * death the next one reads the renamed file again: a line may come twice, none is lost.
 */
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import type { Logger } from '../core/op.ts';
import { messageOf } from '../core/errors.ts';
import { nodeLogFile } from '../engine/node-log.ts';

const EVERY_MS = 1000;

export interface NodeLogCollector {
  /** Now, not at the next second. */
  collect(): void;
  /** Collects once more and ends. */
  close(): void;
}

export function collectNodeLog(runDir: string, log: Logger): NodeLogCollector {
  const file = nodeLogFile(runDir);
  const taken = `${file}.taken`;
  let readBytes = 0;
  const readTaken = (): void => {
    const text = readFileSync(taken);
    const end = text.lastIndexOf(0x0a) + 1;
    text
      .subarray(readBytes, Math.max(readBytes, end))
      .toString('utf8')
      .split('\n')
      .filter((line) => line !== '')
      .forEach((line) => tell(log, line));
    readBytes = Math.max(readBytes, end);
  };
  const collect = (): void => {
    try {
      if (existsSync(taken)) {
        readTaken();
        rmSync(taken);
      }
      readBytes = 0;
      if (existsSync(file)) {
        renameSync(file, taken);
        readTaken();
      }
    } catch (error) {
      log.warn({ file, error: messageOf(error) }, 'lines of other processes could not be collected');
    }
  };
  const timer = setInterval(collect, EVERY_MS);
  timer.unref();
  collect();
  return {
    collect,
    close() {
      clearInterval(timer);
      collect();
    },
  };
}

/** What was said, when and by whom; the level is the worker's own business. */
function tell(log: Logger, line: string): void {
  const entry = entryIn(line);
  if (entry === undefined) {
    log.warn({ line: line.slice(0, 1000) }, 'a line of another process is no JSON');
    return;
  }
  // Its node is this one, which the log says by itself.
  const { level, time, msg, node: _node, ...fields } = entry;
  const at = typeof time === 'number' ? { at: new Date(time).toISOString() } : {};
  log[levelOf(Number(level))]({ ...fields, ...at }, typeof msg === 'string' ? msg : '');
}

function entryIn(line: string): Record<string, unknown> | undefined {
  try {
    const entry: unknown = JSON.parse(line);
    return typeof entry === 'object' && entry !== null ? (entry as Record<string, unknown>) : undefined;
  } catch {
    // Torn: its writer died, or found no room.
    return undefined;
  }
}

function levelOf(level: number): 'debug' | 'info' | 'warn' | 'error' {
  if (level >= 50) {
    return 'error';
  }
  if (level >= 40) {
    return 'warn';
  }
  return level >= 30 ? 'info' : 'debug';
}
