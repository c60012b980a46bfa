/* Sequences as the workloads write them (test/workloads/sequence.py): numbers, times, pauses. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Tick {
  readonly number: number;
  /** ms since 1970 */
  readonly time: number;
  readonly token: string;
}

/** In the order of their writing; a line that is being written is left out. */
export function readTicks(file: string): Tick[] {
  const text = [`${file}.old`, file].map((path) => (existsSync(path) ? readFileSync(path, 'utf8') : '')).join('');
  return parseTicks(text);
}

function parseTicks(text: string): Tick[] {
  return text
    .slice(0, text.lastIndexOf('\n') + 1)
    .split('\n')
    .filter((line) => /^\d/.test(line))
    .map((line) => {
      const [number, seconds, token = ''] = line.split(' ');
      return { number: Number(number), time: Number(seconds) * 1000, token };
    });
}

/** The newest tick, without reading the others. */
export function lastTick(file: string): Tick | undefined {
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch {
    // Between two files, or its process is gone.
    return undefined;
  }
  try {
    const buffer = Buffer.alloc(400);
    const from = Math.max(0, fstatSync(fd).size - buffer.length);
    const text = buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, from));
    return parseTicks(text.slice(from === 0 ? 0 : text.indexOf('\n') + 1)).at(-1);
  } finally {
    closeSync(fd);
  }
}

/** Lines about the connection and the keys, with their time: `connected`, `wrong <key>`. */
export function readNotes(file: string): Array<{ readonly note: string; readonly time: number }> {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  return text
    .split('\n')
    .filter((line) => line.startsWith('# '))
    .map((line) => {
      const words = line.slice(2).split(' ');
      return { note: words.slice(0, -1).join(' '), time: Number(words.at(-1)) * 1000 };
    });
}

export interface Pause {
  readonly from: number;
  readonly to: number;
  readonly ms: number;
}

/** The longest time without a tick between `from` and `to`, the edges included. */
export function longestPause(ticks: readonly Tick[], from: number, to: number): Pause {
  const times = [from, ...ticks.map(({ time }) => time).filter((time) => time > from && time < to), to];
  let longest: Pause = { from, to: from, ms: 0 };
  for (let at = 1; at < times.length; at += 1) {
    const [before = 0, after = 0] = [times[at - 1], times[at]];
    if (after - before > longest.ms) {
      longest = { from: before, to: after, ms: after - before };
    }
  }
  return longest;
}

/** The first number that does not follow the one before it. */
export function firstMissing(ticks: readonly Tick[]): number | undefined {
  const at = ticks.findIndex(({ number }, index) => index > 0 && number !== (ticks[index - 1]?.number ?? 0) + 1);
  return at < 0 ? undefined : ticks[at]?.number;
}

/** A process of the host that does nothing but tick: when it stands still, the machine does. */
export class IdleTicker {
  readonly #file: string;
  readonly #child: ChildProcess;

  constructor(dir: string) {
    this.#file = join(dir, 'idle', 'sequence');
    const counter = fileURLToPath(new URL('../workloads/counter.py', import.meta.url));
    this.#child = spawn('python3', ['-B', counter, this.#file], { stdio: 'ignore' });
  }

  /** How long it stood still in that time, in ms, its normal pauses left out. */
  stall(from: number, to: number): number {
    const USUAL_MS = 50;
    const times = readTicks(this.#file).map(({ time }) => time);
    let stall = 0;
    for (let at = 1; at < times.length; at += 1) {
      const before = Math.max(times[at - 1] ?? 0, from);
      stall += Math.max(0, Math.min(times[at] ?? 0, to) - before - USUAL_MS);
    }
    return stall;
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }
}
