/*
 * CRIU by its RPC: `criu swrk`, one process for one request, on a socket that nobody else has. CRIU tells of each stage
 * and waits for an answer, so whoever asks can act at that moment, or refuse: then CRIU fails and undoes by itself.
 * Source: criu 4.2, criu/cr-service.c and criu/action-scripts.c.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import type { CriuEventName } from '../../../core/hooks.ts';
import { lastErrno } from '../../libc/bindings.ts';
import { receivePacket, seqpacketPair, sendPacket, type Packet } from '../../libc/seqpacket.ts';
import type { Run, RunResult } from '../../run/run.ts';
import { dumpErrorLines } from '../log.ts';
import {
  decodeResponse,
  encodeRequest,
  type CriuFeatures,
  type CriuOptions,
  type CriuRequest,
  type CriuResponse,
  type CriuVersion,
} from './messages.ts';

export interface CriuEvent {
  /** one of CRIU_EVENTS, or what a newer CRIU tells */
  readonly name: CriuEventName | (string & {});
  /** root of the tree, in CRIU's PID namespace; told with setup-namespaces and post-restore, else 0 (criu 4.2.1) */
  readonly pid: number;
  /** with orphan-pts-master: the terminal's master side; the callback's to close */
  readonly fd?: number;
}

/** For query-ext-files: resources that CRIU is to leave alone, as `external` of the options. */
export interface CriuAnswer {
  readonly external?: readonly string[];
}

/** CRIU waits for it. What it throws is a veto: CRIU fails, undoes, and the call throws that very error. */
export type OnCriuEvent = (event: CriuEvent) => CriuAnswer | undefined | Promise<CriuAnswer | undefined>;

export interface CriuDeps {
  readonly run: Run;
  readonly criuPath: string;
}

export interface CriuCallOptions {
  readonly onEvent?: OnCriuEvent;
  /** where the log goes; default: the images' directory */
  readonly workDir?: string;
  /** inherited by CRIU as 4, 5, ... */
  readonly fds?: readonly number[];
  readonly onSpawn?: (pid: number) => void;
  /** CRIU takes the terminal of our standard input for that of the processes (`shellJob`) */
  readonly inheritInput?: boolean;
  /** Aborted, the next event is refused. CRIU is never killed here: that is not harmless to what it dumps. */
  readonly signal?: AbortSignal;
}

/** What CRIU has answered, or that it went away. The log has the reason. */
export class CriuError extends Error {
  readonly request: CriuRequest['type'];
  /** CRIU's errno; absent when it went without an answer */
  readonly errno: number | undefined;

  constructor(request: CriuRequest['type'], message: string, options: { errno?: number; cause?: unknown } = {}) {
    super(`criu ${request}: ${message}`, { cause: options.cause });
    this.name = 'CriuError';
    this.request = request;
    this.errno = options.errno;
  }
}

/** Messages of CRIU are small; the largest carries an error text. */
const MAX_BYTES = 64 * 1024;
const POLL_MS = 1000;
const LOG_FILES: Partial<Record<CriuRequest['type'], string>> = {
  DUMP: 'dump.log',
  SINGLE_PRE_DUMP: 'pre-dump.log',
  RESTORE: 'restore.log',
};

/**
 * Dumps a tree of processes. It has ended when this returns, unless `leaveRunning` says otherwise.
 * @throws CriuError, or what a callback threw: CRIU has let the processes go on
 * Crash: CRIU loses its peer at the next event, fails and undoes; without one it dumps to the end.
 */
export async function criuDump(deps: CriuDeps, opts: CriuOptions, options: CriuCallOptions = {}): Promise<void> {
  await call(deps, 'DUMP', opts, options);
}

/**
 * The memory only, with the processes running on; `trackMem` is what makes the next dump smaller.
 * @throws CriuError; where this kernel has no soft-dirty bits it says that. The processes run on in any case.
 */
export async function criuPreDump(deps: CriuDeps, opts: CriuOptions, options: CriuCallOptions = {}): Promise<void> {
  try {
    await call(deps, 'SINGLE_PRE_DUMP', opts, options);
  } catch (error) {
    if (error instanceof CriuError && opts.trackMem === true && !(await criuFeatures(deps)).memTrack) {
      const why =
        'this kernel does not tell which pages were written since (no soft-dirty bits: CONFIG_MEM_SOFT_DIRTY, x86-64 or ' +
        'arm64 with CRIU support), so there is no pre-dump on it: the dump takes all of the memory';
      throw new CriuError('SINGLE_PRE_DUMP', `${why}; the processes run on`, { cause: error });
    }
    throw error;
  }
}

/** @returns pid of the restored tree's root @throws CriuError, or what a callback threw: nothing of the tree is left */
export async function criuRestore(deps: CriuDeps, opts: CriuOptions, options: CriuCallOptions = {}): Promise<number> {
  const { restore } = await call(deps, 'RESTORE', opts, options);
  if (restore === undefined) {
    throw new CriuError('RESTORE', 'it told no pid of what it restored');
  }
  return restore.pid;
}

/** Can this CRIU work on this kernel? @throws CriuError with what is missing */
export async function criuCheck(deps: CriuDeps, workDir: string): Promise<void> {
  await call(deps, 'CHECK', { imagesDir: workDir }, {});
}

/** Asks of the features that CRIU tells by RPC; `hasCriuFeature` knows more of them. */
export async function criuFeatures(deps: CriuDeps): Promise<CriuFeatures> {
  const wanted = { memTrack: true, lazyPages: true, pidfdStore: true };
  const { features } = await exchange(deps, { type: 'FEATURE_CHECK', features: wanted }, {});
  return {
    memTrack: features?.memTrack === true,
    lazyPages: features?.lazyPages === true,
    pidfdStore: features?.pidfdStore === true,
  };
}

export async function criuVersionByRpc(deps: CriuDeps): Promise<CriuVersion> {
  const { version } = await exchange(deps, { type: 'VERSION' }, {});
  if (version === undefined) {
    throw new CriuError('VERSION', 'it told none');
  }
  return version;
}

async function call(
  deps: CriuDeps,
  type: CriuRequest['type'],
  opts: CriuOptions,
  options: CriuCallOptions,
): Promise<CriuResponse> {
  const logFile = opts.logFile ?? LOG_FILES[type] ?? 'criu.log';
  // CRIU opens it through /proc/<our pid>/fd.
  const workDirFd = options.workDir === undefined ? undefined : openSync(options.workDir, constants.O_DIRECTORY);
  try {
    const notifyScripts = options.onEvent !== undefined || options.signal !== undefined;
    const request = {
      ...opts,
      logFile,
      imagesDirFd: -1,
      notifyScripts,
      ...(workDirFd === undefined ? {} : { workDirFd }),
    };
    return await exchange(deps, { type, opts: request }, options);
  } catch (error) {
    throw error instanceof CriuError ? await withLog(error, join(options.workDir ?? opts.imagesDir, logFile)) : error;
  } finally {
    if (workDirFd !== undefined) {
      closeSync(workDirFd);
    }
  }
}

/** CRIU answers with its first error line, which may be one that explains nothing. */
async function withLog(error: CriuError, file: string): Promise<CriuError> {
  const lines = await dumpErrorLines(file);
  return lines.length === 0
    ? error
    : new CriuError(error.request, lines.join('; '), {
        ...(error.errno === undefined ? {} : { errno: error.errno }),
        cause: error,
      });
}

/** One `criu swrk` from its start to its end. */
async function exchange(deps: CriuDeps, request: CriuRequest, options: CriuCallOptions): Promise<CriuResponse> {
  const [own, theirs] = seqpacketPair();
  let theirsIsOpen = true;
  const closeTheirs = (): void => {
    if (theirsIsOpen) {
      theirsIsOpen = false;
      closeSync(theirs);
    }
  };
  try {
    const ended = deps.run(deps.criuPath, ['swrk', '3'], {
      extraFds: [theirs, ...(options.fds ?? [])],
      ...(options.inheritInput === true ? { inheritInput: true } : {}),
      onSpawn: (pid) => {
        // Only CRIU has it now: its end is seen as the end of the connection.
        closeTheirs();
        options.onSpawn?.(pid);
      },
    });
    // One that could not be started never had it.
    ended.then(closeTheirs, closeTheirs);
    const answered = await converse(own, request, options).catch((error: unknown) => ({ error }));
    // Its peer is gone for it: one that still waits for an answer fails, and undoes.
    closeSync(own);
    const result = await ended;
    if ('error' in answered) {
      throw withReason(answered.error, request, result);
    }
    return answered;
  } finally {
    closeTheirs();
  }
}

/** The end of the connection is explained by how the process ended. */
function withReason(error: unknown, { type }: CriuRequest, result: RunResult): unknown {
  if (!(error instanceof ConnectionClosed)) {
    return error;
  }
  const how = result.startError ?? result.signal ?? `exit code ${result.exitCode}`;
  const said = result.stderr.trim();
  return new CriuError(type, `it ended without an answer (${how})${said === '' ? '' : `: ${said.slice(-400)}`}`, {
    cause: error.cause,
  });
}

class ConnectionClosed extends Error {}

async function converse(fd: number, request: CriuRequest, options: CriuCallOptions): Promise<CriuResponse> {
  send(fd, request);
  let veto: { readonly reason: Error } | undefined;
  for (;;) {
    const packet = await receivePacket(fd, { timeoutMs: POLL_MS, maxBytes: MAX_BYTES });
    if (packet === undefined) {
      continue;
    }
    if (packet === 'closed') {
      throw veto?.reason ?? new ConnectionClosed('criu closed the connection');
    }
    const response = decodeResponse(packet.data);
    if (response.type !== 'NOTIFY') {
      closeAll(packet.fds);
      return concluded(response, request, veto);
    }
    const { answer, refused } = await ask(response, packet, options);
    veto ??= refused;
    send(fd, answer);
  }
}

function concluded(
  response: CriuResponse,
  { type }: CriuRequest,
  veto: { readonly reason: Error } | undefined,
): CriuResponse {
  if (response.success) {
    return response;
  }
  if (veto !== undefined) {
    throw veto.reason;
  }
  const { crErrno, crErrmsg } = response;
  const message = crErrmsg?.trim() ?? (crErrno === undefined ? 'it failed' : `errno ${crErrno}`);
  throw new CriuError(type, message, crErrno === undefined ? {} : { errno: crErrno });
}

interface Asked {
  readonly answer: CriuRequest;
  readonly refused?: { readonly reason: Error };
}

async function ask({ notify }: CriuResponse, { fds }: Packet, options: CriuCallOptions): Promise<Asked> {
  const [fd, ...more] = fds;
  closeAll(more);
  try {
    options.signal?.throwIfAborted();
    if (options.onEvent === undefined) {
      closeAll(fds.slice(0, 1));
      return { answer: { type: 'NOTIFY', notifySuccess: true } };
    }
    const event = { name: notify?.script ?? '', pid: notify?.pid ?? 0, ...(fd === undefined ? {} : { fd }) };
    const external = (await options.onEvent(event))?.external;
    const opts = external === undefined ? {} : { opts: { imagesDirFd: -1, external } };
    return { answer: { type: 'NOTIFY', notifySuccess: true, ...opts } };
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error));
    return { answer: { type: 'NOTIFY', notifySuccess: false }, refused: { reason } };
  }
}

function send(fd: number, request: CriuRequest): void {
  try {
    sendPacket(fd, encodeRequest(request));
  } catch (error) {
    if (['EPIPE', 'ECONNRESET'].includes(lastErrno())) {
      throw new ConnectionClosed('criu is gone', { cause: error });
    }
    throw error;
  }
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) {
    closeSync(fd);
  }
}
