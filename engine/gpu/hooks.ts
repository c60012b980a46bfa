/*
 * What the workload does for us before the lock and after the unlock: a program run in its container, or a signal to its
 * first process that it acknowledges by a file. The container's files are opened name by name and no link is followed:
 * the path is the caller's, the files are the workload's.
 */
import { closeSync, constants, lstatSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { constants as osConstants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkloadHook } from '../../core/contract/gpu.ts';
import { KybernateError } from '../../core/errors.ts';
import { cgroupPids } from '../../native/proc/cgroup.ts';
import { readProc } from '../../native/proc/read.ts';
import { readProcess } from '../../native/proc/tree.ts';
import type { Run, RunResult } from '../../native/run/run.ts';
import type { OperationPlan } from '../operation.ts';

export type HookPlan = Pick<OperationPlan, 'facts' | 'container'> & {
  readonly settings: Pick<OperationPlan['settings'], 'runcPath'>;
};

const POLL_MS = 20;
const OUTPUT_BYTES = 4096;
/** What a killed program may take to be gone. */
const KILL_MS = 5000;

/**
 * Returns when the workload has acknowledged, and nothing of ours is left in the container.
 * @param hook of the plan: `gpu.quiesce` or `gpu.resume`
 * @throws InvalidInput the program, or a handler of the signal, does not exist; DumpFailed everything else; the reason
 * of the signal's abort. In each case the container runs on.
 */
export async function runHook(run: Run, plan: HookPlan, hook: WorkloadHook, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  refuseEnded(plan);
  if (hook.command !== undefined) {
    await runCommand(run, plan, hook.command, { timeoutMs: hook.timeoutMs, signal });
  } else if (hook.signal !== undefined && hook.acknowledgement !== undefined) {
    await sendSignal(plan, hook.signal, hook.acknowledgement, { timeoutMs: hook.timeoutMs, signal });
  }
}

function refuseEnded(plan: HookPlan): void {
  const init = readProcess(plan.facts.initHostPid);
  if (init?.startTime !== plan.facts.initStartTime || init.state === 'Z') {
    throw new KybernateError('DumpFailed', `${nameOf(plan)} has ended before or in its hook`);
  }
}

function nameOf(plan: HookPlan): string {
  return `container ${plan.container.namespace}/${plan.container.id}`;
}

interface Bounds {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

async function runCommand(run: Run, plan: HookPlan, command: readonly string[], bounds: Bounds): Promise<void> {
  const result = await execInContainer(run, plan, command, bounds);
  if (result.exitCode === 0 && !result.timedOut && !result.cancelled) {
    return;
  }
  bounds.signal.throwIfAborted();
  throw commandError(plan, command, result, bounds.timeoutMs);
}

/** A program of the container, run in it without a shell. One that does not succeed is gone when this returns. */
export async function execInContainer(
  run: Run,
  plan: HookPlan,
  command: readonly string[],
  bounds: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<RunResult> {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-hook-'));
  const pidFile = join(dir, 'pid');
  try {
    const args = ['--root', plan.facts.runcRoot, 'exec', '--pid-file', pidFile, plan.container.id, ...command];
    const result = await run(plan.settings.runcPath, args, { ...bounds, maxOutputBytes: OUTPUT_BYTES });
    if (result.exitCode !== 0 || result.timedOut || result.cancelled) {
      await endProgram(plan, pidFile);
    }
    return result;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** A killed runc leaves its program behind in the container, and a killed program what it has started. */
async function endProgram(plan: HookPlan, pidFile: string): Promise<void> {
  let hostPid: number;
  try {
    hostPid = Number(readFileSync(pidFile, 'utf8'));
  } catch {
    // ENOENT: it was never started.
    return;
  }
  const until = Date.now() + KILL_MS;
  for (let left = sessionOf(plan, hostPid); left.length > 0 && Date.now() < until; left = sessionOf(plan, hostPid)) {
    left.forEach(killProcess);
    await sleep(POLL_MS);
  }
}

/** runc makes the program the leader of a session of its own. Source: runc, libcontainer/setns_init_linux.go. */
function sessionOf(plan: HookPlan, leaderHostPid: number): number[] {
  return cgroupPids(plan.facts.freezer.path).filter((pid) => {
    const found = readProcess(pid);
    return found?.sessionHostPid === leaderHostPid && found.state !== 'Z';
  });
}

function killProcess(hostPid: number): void {
  try {
    process.kill(hostPid, 'SIGKILL');
  } catch {
    // ESRCH: it has ended.
  }
}

/** runc's own words for a program that it could not start. Source: runc, libcontainer/standard_init_linux.go. */
const NOT_STARTED =
  /exec failed: .*(?:executable file not found|no such file or directory|permission denied|exec format error|is a directory)/;

function commandError(
  plan: HookPlan,
  command: readonly string[],
  result: RunResult,
  timeoutMs: number,
): KybernateError {
  const output = `${result.stderr}${result.stdout}`.trim().slice(-OUTPUT_BYTES);
  const what = `the hook ${JSON.stringify(command)} in ${nameOf(plan)}`;
  const details = { command, ...(result.exitCode === undefined ? {} : { exitCode: result.exitCode }), output };
  if (!result.timedOut && NOT_STARTED.test(result.stderr)) {
    return new KybernateError(
      'InvalidInput',
      `${what} cannot be started: ${output}; give a program of the container by its path; the container runs`,
      { details },
    );
  }
  const how = result.timedOut
    ? `did not end within ${timeoutMs} ms and was killed: raise its timeoutMs`
    : `failed (${result.startError ?? (result.signal === undefined ? `exit code ${result.exitCode}` : result.signal)})`;
  return new KybernateError(
    'DumpFailed',
    `${what} ${how}${output === '' ? '' : `: ${output}`}; nothing was locked or frozen, the container runs`,
    { details },
  );
}

/** What tells a new or touched file from the old one. */
interface Seen {
  readonly inode: bigint;
  readonly modifiedNs: bigint;
}

async function sendSignal(
  plan: HookPlan,
  name: NonNullable<WorkloadHook['signal']>,
  acknowledgement: string,
  bounds: Bounds,
): Promise<void> {
  const { initHostPid } = plan.facts;
  refuseUnhandled(plan, name);
  const root = `/proc/${initHostPid}/root`;
  const before = look(root, acknowledgement);
  process.kill(initHostPid, name);
  const until = Date.now() + bounds.timeoutMs;
  for (;;) {
    refuseEnded(plan);
    const now = look(root, acknowledgement);
    if (now !== undefined && (now.inode !== before?.inode || now.modifiedNs !== before.modifiedNs)) {
      return;
    }
    bounds.signal.throwIfAborted();
    if (Date.now() > until) {
      throw new KybernateError(
        'DumpFailed',
        `${nameOf(plan)} did not acknowledge ${name} within ${bounds.timeoutMs} ms: ${acknowledgement} was ` +
          `${before === undefined ? 'not made' : 'not touched'} by its process ${initHostPid}; nothing was locked or ` +
          'frozen, the container runs; let the program make the file when it is done, or raise timeoutMs',
        { details: { signal: name, acknowledgement, timeoutMs: bounds.timeoutMs } },
      );
    }
    await sleep(POLL_MS);
  }
}

/** A signal without a handler ends a process, or is lost on the first one of a pid namespace. Source: proc_pid_status(5). */
function refuseUnhandled(plan: HookPlan, name: NonNullable<WorkloadHook['signal']>): void {
  const status = readProc(`/proc/${plan.facts.initHostPid}/status`) ?? '';
  const bit = 1n << BigInt(osConstants.signals[name] - 1);
  // blocked ones are waited for by sigwait or signalfd
  const takes = ['SigCgt', 'SigBlk'].some((field) => {
    const mask = new RegExp(`^${field}:\\s*([0-9a-f]+)$`, 'm').exec(status)?.[1] ?? '0';
    return (BigInt(`0x${mask}`) & bit) !== 0n;
  });
  if (!takes) {
    throw new KybernateError(
      'InvalidInput',
      `the first process of ${nameOf(plan)} (${plan.facts.initHostPid}) has no handler for ${name}, which it should ` +
        'acknowledge; it was not sent; install one, or give a command',
      { details: { signal: name } },
    );
  }
}

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * @returns undefined while there is no such file
 * @throws InvalidInput a link is on the way: it could lead out of the container
 */
export function look(root: string, path: string): Seen | undefined {
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  const last = names.pop();
  if (last === undefined) {
    throw new KybernateError('InvalidInput', `acknowledgement: ${path} names no file`);
  }
  // the root itself is a link of /proc, the only one that is followed
  let fd = openSync(`${root}/`, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    for (const name of names) {
      const next = openSync(`/proc/self/fd/${fd}/${name}`, DIRECTORY);
      closeSync(fd);
      fd = next;
    }
    const stats = lstatSync(`/proc/self/fd/${fd}/${last}`, { bigint: true });
    if (stats.isSymbolicLink()) {
      throw linkError(path);
    }
    return { inode: stats.ino, modifiedNs: stats.mtimeNs };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // ENOTDIR is what O_DIRECTORY with O_NOFOLLOW answers for a link
    if (code === 'ELOOP' || code === 'ENOTDIR') {
      throw linkError(path);
    }
    if (code === 'ENOENT') {
      return undefined;
    }
    throw error;
  } finally {
    closeSync(fd);
  }
}

function linkError(path: string): KybernateError {
  return new KybernateError(
    'InvalidInput',
    `acknowledgement: ${path} leads over a symbolic link or something that is no directory: give its real path`,
  );
}
