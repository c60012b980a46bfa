/*
 * Entry of the runtime wrapper, started by `kybernate-runc` with runc's arguments, a `create`, `checkpoint` or `restore`.
 * Stdin, stdout and stderr may be the container's own: nothing is read from them, and only the reason of a failure is written,
 * as runc does.
 *
 * Environment, set by `kybernate-runc`: KYBERNATE_RUNC and KYBERNATE_AGENT_SOCKET, both absolute; KYBERNATE_DRIVER_ROOT,
 * where the GPU driver's files lie when not at `/`.
 */
import { appendFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { isInPod } from '../../core/oci/annotations.ts';
import {
  type RuncCommand,
  parseRuncCheckpoint,
  parseRuncCreate,
  parseRuncRestore,
  runcCommandName,
} from '../../core/oci/runc-argv.ts';
import { runInherited, runSpawn } from '../../native/run/run-spawn.ts';
import { type CheckpointDeps, type CheckpointOutcome, checkpointByAgent, usesGpu } from './checkpoint.ts';
import { giveGpus } from './cold-start.ts';
import { type Outcome, createOrRestore } from './create.ts';
import { prepareForeignRestore } from './foreign-restore.ts';
import type { WrapperDeps } from './job.ts';
import { connectAgent } from './node-socket.ts';

const EXIT_FAILED = 1;
/** As a shell tells of a program that a signal has ended. */
const EXIT_SIGNAL = { SIGTERM: 143, SIGINT: 130 } as const;
const DEFAULT_AGENT = '/run/kybernate/agent.sock';

type Deps = WrapperDeps & CheckpointDeps;

async function main(argv: readonly string[]): Promise<number> {
  const { KYBERNATE_AGENT_SOCKET: agentSocket, KYBERNATE_DRIVER_ROOT: driverRoot, ...rest } = process.env;
  const env = Object.fromEntries(
    Object.entries(rest).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  const runcPath = env['KYBERNATE_RUNC'] ?? '/usr/bin/runc';
  const stop = new AbortController();
  let failedWith = EXIT_FAILED;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      failedWith = EXIT_SIGNAL[signal];
      stop.abort(new Error(`ended by ${signal}`));
    });
  }
  const deps: Deps = {
    runcPath,
    runDir: dirname(agentSocket ?? DEFAULT_AGENT),
    agent: connectAgent(agentSocket ?? DEFAULT_AGENT),
    run: runSpawn,
    runInherited,
    env,
    signal: stop.signal,
    log: writeLog,
    cwd: process.cwd(),
    usesGpu,
  };
  let outcome: Outcome | CheckpointOutcome;
  try {
    outcome = await actOn(deps, argv, driverRoot ?? '');
  } catch (error) {
    outcome = { kind: 'failed', message: `kybernate: ${messageOf(error)}` };
  }
  if (outcome.kind === 'pass-through') {
    return becomeRunc(runcPath, argv, env);
  }
  if (outcome.kind === 'failed') {
    fail(argv, outcome.message);
    return failedWith;
  }
  return 0;
}

async function actOn(deps: Deps, argv: readonly string[], driverRoot: string): Promise<Outcome | CheckpointOutcome> {
  const command = runcCommandName(argv);
  if (command === 'checkpoint') {
    return checkpointByAgent(deps, argv);
  }
  if (command === 'restore') {
    prepareForeignRestore(argv, deps.cwd);
    return { kind: 'pass-through' };
  }
  // Before a pod's specification is compared with that of the checkpoint, which has the files of the driver.
  await giveGpus(deps, argv, driverRoot, isInPod);
  const outcome = await createOrRestore(deps, argv);
  if (outcome.kind === 'pass-through') {
    await giveGpus(deps, argv, driverRoot);
  }
  return outcome;
}

/** Replaces this process, so that the shim waits for runc itself. */
function becomeRunc(runcPath: string, argv: readonly string[], env: Record<string, string>): number {
  if (process.execve === undefined) {
    fail(argv, `kybernate: Node ${process.version} cannot replace itself; Node 24 is needed`);
    return EXIT_FAILED;
  }
  return process.execve(runcPath, ['runc', ...argv], env);
}

/** One line of logrus, as runc writes it: the shim takes the last error of this file for its own answer. */
function writeLog(command: RuncCommand, level: 'error' | 'warning' | 'info', message: string): void {
  if (command.log === undefined) {
    return;
  }
  const time = new Date().toISOString();
  const line =
    command.logFormat === 'json'
      ? JSON.stringify({ level, msg: message, time })
      : `time=${JSON.stringify(time)} level=${level} msg=${JSON.stringify(message)}`;
  appendFileSync(command.log, `${line}\n`, { mode: 0o600 });
}

function fail(argv: readonly string[], message: string): void {
  const line = message.replaceAll('\n', ' ');
  try {
    writeLog(commandIn(argv), 'error', line);
    writeSync(2, `${line}\n`);
  } catch {
    // Arguments that cannot be parsed, or nobody reads the container's stderr: the exit code remains.
  }
}

function commandIn(argv: readonly string[]): RuncCommand {
  const command = runcCommandName(argv);
  if (command === 'checkpoint') {
    return parseRuncCheckpoint(argv);
  }
  return command === 'restore' ? parseRuncRestore(argv) : parseRuncCreate(argv);
}

process.exitCode = await main(process.argv.slice(2));
