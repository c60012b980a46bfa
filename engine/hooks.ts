/*
 * The hooks of one operation: which there are is settled when the operation is planned (`planHooks`), before anything is
 * touched, and each file is opened and checked again when it runs (hook-file.ts). Whoever hears CRIU's events calls
 * `onEvent`: the runner, the runtime wrapper, or the caller of CRIU's RPC. Layout: `<dir>/<event>/<hook>`, in the order of
 * the names' bytes, as NetworkManager's and systemd's directories have it.
 */
import { appendFileSync, closeSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { KybernateError, messageOf } from '../core/errors.ts';
import {
  CRIU_EVENTS,
  eventsOf,
  hookEvent,
  isCriuEvent,
  type CriuEventName,
  type HookKind,
  type HookOperation,
  type HookPlan,
  type HookPolicy,
  type HookSettings,
  type HooksOfEvent,
} from '../core/hooks.ts';
import type { Logger } from '../core/op.ts';
import { runInGroup } from '../native/run/run-spawn.ts';
import type { RunOptions, RunResult } from '../native/run/run.ts';
import { HOOK_PATH, openHook, type Trust } from './hook-file.ts';

/** What an operation is, for the environment of its hooks. */
export interface HookFacts {
  readonly operation: HookOperation;
  readonly kind: HookKind;
  readonly operationId: string;
  /** absent for a bare image directory */
  readonly checkpointId?: string;
  readonly node: string;
  /** directory of CRIU's images */
  readonly imageDir: string;
  readonly container?: { readonly namespace: string; readonly id: string };
  /** host pid of the root of the tree, where it is known before CRIU tells it */
  readonly pid?: number;
  /** what the hooks print is appended there; absent: it is in errors and warnings alone */
  readonly logFile?: string;
  /** W3C Trace Context, for hooks that tell of themselves in the same trace; absent without traces */
  readonly traceparent?: string;
}

/** CRIU's, by RPC or by an action script. */
export interface HookEvent {
  readonly name: string;
  /** host pid of the root of the tree; absent or 0: not known yet */
  readonly pid?: number;
  /** with orphan-pts-master; stays the caller's */
  readonly fd?: number;
}

export interface HookOp {
  /** aborted, a hook that runs is ended with its process group */
  readonly signal: AbortSignal;
  readonly log: Logger;
}

export interface Hooks {
  /** events that have a hook; empty: nobody needs to ask */
  readonly events: readonly CriuEventName[];
  /**
   * Runs the hooks of an event, one after the other; none is no work.
   * @throws HookFailed one of them refused: the operation must be undone. Or the signal's reason.
   */
  readonly onEvent: (event: HookEvent) => Promise<undefined>;
  /** of hooks that failed and may not refuse */
  readonly warnings: readonly string[];
}

/** Names that editors and package managers leave. */
const NO_HOOK = /^\.|~$|\.(?:bak|orig|rej|swp|tmp|dpkg-\w+|rpm\w+)$/;
const MAX_TOLD = 1000;
/** What the hook sees of its own file; libuv gives it the number. */
const HOOK_FD = 3;
const PTS_MASTER_FD = 4;

/** Files below the directory, and what lies there to no purpose. */
export interface FoundHooks {
  readonly files: Readonly<Partial<Record<CriuEventName, readonly string[]>>>;
  /** absolute: directories of no event, and files beside them */
  readonly strange: readonly string[];
}

/** @throws the file system's error where the directory is there and cannot be read */
export function findHooks({ dir }: Pick<HookSettings, 'dir'>): FoundHooks {
  const root = resolve(dir);
  const files: Partial<Record<CriuEventName, readonly string[]>> = {};
  const strange: string[] = [];
  for (const name of namesIn(root)) {
    const path = join(root, name);
    if (!isCriuEvent(name)) {
      strange.push(path);
      continue;
    }
    const hooks = namesIn(path).map((hook) => join(path, hook));
    if (hooks.length > 0) {
      files[name] = hooks;
    }
  }
  return { files, strange };
}

/** In the order of their bytes. */
function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
      .filter((name) => !NO_HOOK.test(name))
      .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return [];
    }
    throw error;
  }
}

/**
 * What runs in an operation, settled now.
 * @param settings absent: this node has no hooks
 * @returns undefined when there is none
 */
export function planHooks(
  settings: HookSettings | undefined,
  { operation, kind }: Pick<HookFacts, 'operation' | 'kind'>,
): HookPlan | undefined {
  if (settings === undefined) {
    return undefined;
  }
  const { files } = findHooks(settings);
  const events: Partial<Record<CriuEventName, HooksOfEvent>> = {};
  for (const name of CRIU_EVENTS) {
    const { operations, kinds, vetoes } = hookEvent(name);
    const found = files[name];
    if (found !== undefined && operations.includes(operation) && kinds.includes(kind)) {
      const policy = vetoes.includes(operation) ? (settings.policies[name] ?? 'fail') : 'warn';
      events[name] = { policy, files: found };
    }
  }
  return Object.keys(events).length === 0 ? undefined : { timeoutMs: settings.timeoutMs, events };
}

export interface HookRefusal {
  readonly event: CriuEventName;
  readonly policy: HookPolicy;
  readonly path: string;
  readonly why: string;
}

/** Hooks of the plan that would not be run now. */
export function refusedHooks(plan: HookPlan | undefined, trust?: Trust): readonly HookRefusal[] {
  return eventsOf(plan).flatMap((event) => {
    const { policy, files } = plan?.events[event] ?? { policy: 'fail', files: [] };
    return files.flatMap((path) => {
      const opened = openHook(path, trust);
      if ('refusal' in opened) {
        return [{ event, policy, path, why: opened.refusal }];
      }
      closeSync(opened.fd);
      return [];
    });
  });
}

/** @param plan undefined: no hooks */
export function createHooks(plan: HookPlan | undefined, op: HookOp, facts: HookFacts, trust?: Trust): Hooks {
  const warnings: string[] = [];
  return {
    events: eventsOf(plan),
    warnings,
    onEvent: async (event) => {
      const known = isCriuEvent(event.name) ? plan?.events[event.name] : undefined;
      for (const path of known?.files ?? []) {
        op.signal.throwIfAborted();
        const failure = await runHook(path, { op, facts, event, timeoutMs: plan?.timeoutMs ?? 0, trust });
        op.signal.throwIfAborted();
        if (failure !== undefined && known?.policy === 'warn') {
          warnings.push(failure);
        } else if (failure !== undefined) {
          throw new KybernateError('HookFailed', `${failure}; ${afterwards(facts)}`, {
            details: { hook: path, event: event.name },
          });
        }
      }
      return undefined;
    },
  };
}

function afterwards({ operation, kind }: HookFacts): string {
  return operation === 'checkpoint'
    ? `the checkpoint is undone and the ${kind} runs on`
    : `nothing of the restored ${kind} is left, and the checkpoint is as it was`;
}

interface HookRun {
  readonly op: HookOp;
  readonly facts: HookFacts;
  readonly event: HookEvent;
  readonly timeoutMs: number;
  readonly trust: Trust | undefined;
}

/** @returns how it failed; undefined when it ended well */
async function runHook(path: string, { op, facts, event, timeoutMs, trust }: HookRun): Promise<string | undefined> {
  const opened = openHook(path, trust);
  if ('refusal' in opened) {
    return `hook ${path} at ${event.name} is refused: ${opened.refusal}`;
  }
  let result: RunResult;
  try {
    result = await start(facts.operation, {
      cwd: '/',
      env: environmentOf(path, facts, event, timeoutMs),
      extraFds: [opened.fd, ...(event.fd === undefined ? [] : [event.fd])],
      timeoutMs,
      signal: op.signal,
    });
  } finally {
    closeSync(opened.fd);
  }
  const output = [result.stdout, result.stderr].map((text) => text.trim()).filter((text) => text !== '');
  const { exitCode, signal, durationMs } = result;
  op.log.info({ operationId: facts.operationId, event: event.name, hook: path, exitCode, signal, durationMs }, 'hook');
  const how = howItEnded(result, timeoutMs);
  keepOutput(facts, op.log, [
    `${event.name} ${path}: ${how ?? 'exit code 0'}, ${Math.round(durationMs)} ms`,
    ...output,
  ]);
  return how === undefined ? undefined : [`hook ${path} at ${event.name} ${how}`, cut(output.join(' | '))].join('');
}

/**
 * What is left of a checkpoint whose runner died is ended with its cgroup. Who restores, the wrapper among them, may be killed
 * with nobody behind it: its hook dies with it (setpriv of util-linux; without it, or left alone, it runs to its end).
 */
async function start(operation: HookOperation, options: RunOptions): Promise<RunResult> {
  const file = `/proc/self/fd/${HOOK_FD}`;
  if (operation === 'restore') {
    const bound = await runInGroup('setpriv', ['--pdeathsig', 'KILL', '--', file], options);
    if (bound.startError !== 'ENOENT') {
      return bound;
    }
  }
  return runInGroup(file, [], options);
}

function howItEnded(result: RunResult, timeoutMs: number): string | undefined {
  if (result.startError !== undefined) {
    return `could not be started: ${result.startError}`;
  }
  if (result.timedOut) {
    return `was not done after ${timeoutMs} ms and was ended (KYBERNATE_HOOK_TIMEOUT_MS)`;
  }
  if (result.signal !== undefined) {
    return `was ended by ${result.signal}`;
  }
  return result.exitCode === 0 ? undefined : `ended with exit code ${result.exitCode}`;
}

function cut(output: string): string {
  const line = output.replaceAll(/\s*\n\s*/g, ' | ');
  return line === '' ? '' : `: ${line.length > MAX_TOLD ? `…${line.slice(-MAX_TOLD)}` : line}`;
}

/** A log that cannot be written keeps no operation from its end. */
function keepOutput({ logFile }: HookFacts, log: Logger, lines: readonly string[]): void {
  if (logFile === undefined) {
    return;
  }
  try {
    appendFileSync(logFile, `${lines.join('\n')}\n`, { mode: 0o600 });
  } catch (error) {
    log.warn({ logFile, error: messageOf(error) }, 'the output of a hook could not be kept');
  }
}

/** All that a hook inherits: docs/hooks.md lists it. */
function environmentOf(path: string, facts: HookFacts, event: HookEvent, timeoutMs: number): Record<string, string> {
  const known = event.pid === undefined || event.pid === 0 ? facts.pid : event.pid;
  const { checkpointId, container, traceparent } = facts;
  return {
    PATH: HOOK_PATH,
    KYBERNATE_EVENT: event.name,
    KYBERNATE_HOOK: path,
    KYBERNATE_HOOK_TIMEOUT_MS: String(timeoutMs),
    KYBERNATE_OPERATION: facts.operation,
    KYBERNATE_OPERATION_ID: facts.operationId,
    KYBERNATE_KIND: facts.kind,
    KYBERNATE_NODE: facts.node,
    KYBERNATE_IMAGE_DIR: facts.imageDir,
    CRTOOLS_SCRIPT_ACTION: event.name,
    CRTOOLS_IMAGE_DIR: facts.imageDir,
    ...(checkpointId === undefined ? {} : { KYBERNATE_CHECKPOINT_ID: checkpointId }),
    ...(container === undefined
      ? {}
      : { KYBERNATE_CONTAINER: container.id, KYBERNATE_CONTAINER_NAMESPACE: container.namespace }),
    ...(known === undefined ? {} : { KYBERNATE_PID: String(known), CRTOOLS_INIT_PID: String(known) }),
    ...(event.fd === undefined ? {} : { KYBERNATE_PTS_MASTER_FD: String(PTS_MASTER_FD) }),
    ...(traceparent === undefined ? {} : { TRACEPARENT: traceparent }),
  };
}
