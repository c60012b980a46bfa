/*
 * Starts programs with node:child_process alone: for the runtime wrapper, whose bundle must stay small. The same
 * contract as run-execa.ts, and one more function for a program that takes over our standard streams.
 */
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import type { RunOptions, RunResult } from './run.ts';

const DEFAULT_OUTPUT_BYTES = 64 * 1024;
/** Somebody who left the group may hold our pipes for ever; what the program itself has written is read by then. */
const PIPE_GRACE_MS = 100;

/** Whom a timeout, a cancellation and, with `whole`, the end of the program itself end. */
type Group = 'none' | 'own' | 'whole';

/** As `Run`: never throws for what the program does. */
export async function runSpawn(file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const stdio: StdioOptions = [
    options.input === undefined ? 'ignore' : 'pipe',
    'pipe',
    'pipe',
    ...(options.extraFds ?? []),
  ];
  return start(file, args, options, stdio, 'none');
}

/**
 * As `Run`, in a session and process group of its own, which ends with it: nothing that it started and left behind
 * outlives it, unless that has left the group. A timeout and a cancellation end the group at once (SIGKILL).
 */
export async function runInGroup(file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return start(file, args, options, ['ignore', 'pipe', 'pipe', ...(options.extraFds ?? [])], 'whole');
}

/**
 * The program gets our stdin, stdout and stderr themselves, as runc must: they are the container's. It leads a process
 * group of its own, so that a timeout ends what it started too. Output is not collected.
 */
export async function runInherited(
  file: string,
  args: readonly string[],
  options: Omit<RunOptions, 'input' | 'maxOutputBytes'> = {},
): Promise<RunResult> {
  return start(file, args, options, ['inherit', 'inherit', 'inherit', ...(options.extraFds ?? [])], 'own');
}

async function start(
  file: string,
  args: readonly string[],
  options: RunOptions,
  stdio: StdioOptions,
  group: Group,
): Promise<RunResult> {
  const begun = performance.now();
  const facts = { timedOut: false, cancelled: false, forceKilled: false };
  if (options.signal?.aborted === true) {
    return { ...facts, cancelled: true, durationMs: 0, stdout: '', stderr: '', startError: 'cancelled' };
  }
  const child = spawn(file, [...args], {
    stdio,
    detached: group !== 'none',
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: withPath(options.env) }),
  });
  if (child.pid !== undefined) {
    options.onSpawn?.(child.pid);
  }
  const stop = (why: 'timedOut' | 'cancelled'): void => {
    facts[why] = true;
    facts.forceKilled = kill(child, group) || facts.forceKilled;
  };
  if (group === 'whole') {
    child.once('exit', () => endGroup(child));
  }
  const onAbort = (): void => stop('cancelled');
  options.signal?.addEventListener('abort', onAbort, { once: true });
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(() => stop('timedOut'), options.timeoutMs);
  const stdout = tail(child.stdout, options.maxOutputBytes);
  const stderr = tail(child.stderr, options.maxOutputBytes);
  // A program that ends without reading its input must not end us by EPIPE; its exit status tells enough.
  child.stdin?.on('error', () => undefined);
  if (options.input !== undefined) {
    child.stdin?.end(options.input);
  }
  const end = await ended(child);
  clearTimeout(timer);
  options.signal?.removeEventListener('abort', onAbort);
  return { ...facts, ...end, durationMs: performance.now() - begun, stdout: stdout(), stderr: stderr() };
}

function ended(child: ChildProcess): Promise<Pick<RunResult, 'exitCode' | 'signal' | 'startError'>> {
  return new Promise((resolve) => {
    child.once('error', (error: NodeJS.ErrnoException) => resolve({ startError: error.code ?? error.message }));
    child.once('close', (code, signal) => {
      resolve({ ...(code === null ? {} : { exitCode: code }), ...(signal === null ? {} : { signal }) });
    });
  });
}

function endGroup(child: ChildProcess): void {
  kill(child, 'whole');
  setTimeout(() => {
    child.stdout?.destroy();
    child.stderr?.destroy();
  }, PIPE_GRACE_MS).unref();
}

/** @returns false when it was gone already */
function kill(child: ChildProcess, group: Group): boolean {
  if (child.pid === undefined) {
    return false;
  }
  try {
    return process.kill(group === 'none' ? child.pid : -child.pid, 'SIGKILL');
  } catch {
    // ESRCH: it ended by itself in the meantime.
    return false;
  }
}

/** Keeps the last bytes of a stream; without a stream, nothing. */
function tail(stream: ChildProcess['stdout'], maxBytes = DEFAULT_OUTPUT_BYTES): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    bytes += chunk.length;
    while (bytes - (chunks[0]?.length ?? 0) >= maxBytes && chunks.length > 1) {
      bytes -= chunks.shift()?.length ?? 0;
    }
  });
  return () => Buffer.concat(chunks).subarray(-maxBytes).toString('utf8');
}

function withPath(env: Readonly<Record<string, string>>): Record<string, string> {
  const path = process.env['PATH'];
  return { ...(path === undefined ? {} : { PATH: path }), ...env };
}
