/* The one way to start a program: an argument list, no shell, bounded output, facts instead of a status string. */

export interface RunOptions {
  readonly signal?: AbortSignal;
  /** the process is killed afterwards; absent means no limit */
  readonly timeoutMs?: number;
  /** replaces the environment (PATH is kept unless given) */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly input?: string | Uint8Array;
  /** standard input is our own: a terminal; default: none */
  readonly inheritInput?: boolean;
  /** inherited as fd 3, 4, ... */
  readonly extraFds?: readonly number[];
  /** called with the pid as soon as it is known */
  readonly onSpawn?: (pid: number) => void;
  /** kept of each stream's end; 64 KiB by default */
  readonly maxOutputBytes?: number;
}

export interface RunResult {
  /** absent when a signal ended it or it could not be started */
  readonly exitCode?: number;
  readonly signal?: string;
  readonly timedOut: boolean;
  readonly cancelled: boolean;
  readonly forceKilled: boolean;
  readonly durationMs: number;
  readonly stdout: string;
  readonly stderr: string;
  /** why it could not be started: ENOENT, EACCES, ... */
  readonly startError?: string;
}

/** Never throws for what the program does; look at the result. */
export type Run = (file: string, args: readonly string[], options?: RunOptions) => Promise<RunResult>;
