import { execa } from 'execa';
import type { RunOptions, RunResult } from './run.ts';

const DEFAULT_OUTPUT_BYTES = 64 * 1024;
const FORCE_KILL_AFTER_MS = 5000;
/** An orphan that inherited a pipe must not hold the caller for ever after the program itself has ended. */
const PIPE_GRACE_MS = 1000;
/** setTimeout's own limit: longer values would fire at once. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Keeps the last `limit` bytes of a stream. */
class Tail {
  readonly #limit: number;
  #chunks: Uint8Array[] = [];
  #bytes = 0;
  #cut = false;

  constructor(limit: number) {
    this.#limit = limit;
  }

  add(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    while (this.#chunks.length > 1 && this.#bytes - (this.#chunks[0]?.length ?? 0) >= this.#limit) {
      this.#bytes -= this.#chunks.shift()?.length ?? 0;
      this.#cut = true;
    }
  }

  text(): string {
    let bytes: Uint8Array = Buffer.concat(this.#chunks);
    if (bytes.length > this.#limit) {
      bytes = bytes.subarray(bytes.length - this.#limit);
      this.#cut = true;
    }
    // a cut may fall inside a UTF-8 sequence: drop its continuation bytes (0b10xxxxxx)
    let start = 0;
    while (this.#cut && start < 3 && start < bytes.length && ((bytes[start] ?? 0) & 0xc0) === 0x80) {
      start += 1;
    }
    return new TextDecoder().decode(bytes.subarray(start));
  }
}

/** The program's environment: the caller's and PATH, or all of ours when the caller says nothing. */
function environmentOf(env: RunOptions['env']): { extendEnv: boolean; env?: Record<string, string> } {
  if (env === undefined) {
    return { extendEnv: true };
  }
  // PATH is no setting of ours: without it neither the program nor what it starts (runc → criu) would be found
  const path = process.env['PATH'];
  return { extendEnv: false, env: { ...(path === undefined ? {} : { PATH: path }), ...env } };
}

/**
 * `Run` for workers, runner and CLI. Our own exit does not kill the program: half a dump is worse than a whole one.
 * A cancelled or late program gets SIGTERM, and SIGKILL 5 s later.
 */
export async function runExeca(file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const limit = options.maxOutputBytes ?? DEFAULT_OUTPUT_BYTES;
  const stdout = new Tail(limit);
  const stderr = new Tail(limit);
  const stdio: ['ignore' | 'pipe' | 'inherit', 'pipe', 'pipe', ...3[]] = [
    options.inheritInput === true ? 'inherit' : options.input === undefined ? 'ignore' : 'pipe',
    'pipe',
    'pipe',
    // execa's types stop at 9, execa itself does not
    ...(options.extraFds ?? []).map((fd) => fd as 3),
  ];
  const subprocess = execa(file, [...args], {
    stdio,
    ...(options.input === undefined ? {} : { input: options.input }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
    ...(options.timeoutMs === undefined ? {} : { timeout: Math.min(Math.ceil(options.timeoutMs), MAX_TIMEOUT_MS) }),
    ...environmentOf(options.env),
    forceKillAfterDelay: FORCE_KILL_AFTER_MS,
    reject: false,
    buffer: false,
    cleanup: false,
    encoding: 'buffer',
    stripFinalNewline: false,
  });
  subprocess.stdout?.on('data', (chunk: Uint8Array) => stdout.add(chunk));
  subprocess.stderr?.on('data', (chunk: Uint8Array) => stderr.add(chunk));
  subprocess.nodeChildProcess.once('exit', () => {
    setTimeout(() => {
      subprocess.stdout?.destroy();
      subprocess.stderr?.destroy();
    }, PIPE_GRACE_MS).unref();
  });
  if (subprocess.pid !== undefined) {
    options.onSpawn?.(subprocess.pid);
  }
  const result = await subprocess;
  return {
    ...(result.exitCode === undefined ? {} : { exitCode: result.exitCode }),
    ...(result.signal === undefined ? {} : { signal: result.signal }),
    timedOut: result.timedOut,
    cancelled: result.isCanceled,
    forceKilled: result.isForcefullyTerminated,
    durationMs: result.durationMs,
    stdout: stdout.text(),
    stderr: stderr.text(),
    ...(subprocess.pid === undefined && !result.isCanceled ? { startError: startErrorOf(result) } : {}),
  };
}

function startErrorOf(result: {
  readonly code?: string | undefined;
  readonly originalMessage?: string | undefined;
}): string {
  return result.code ?? result.originalMessage ?? 'unknown';
}
