/*
 * Entry of the runtime wrapper, started by `kybernate-runc` with runc's arguments, a `create`. Stdin, stdout and stderr
 * are the container's own: nothing is read from them, and only the reason of a failure is written, as runc does.
 *
 * Environment: KYBERNATE_RUNC, KYBERNATE_AGENT_SOCKET (both absolute, set by `kybernate-runc`).
 */
import { appendFileSync, writeSync } from 'node:fs';
import { messageOf } from '../../core/errors.ts';
import { type RuncCreate, parseRuncCreate } from '../../core/oci/runc-argv.ts';
import { runInherited, runSpawn } from '../../native/run/run-spawn.ts';
import { type Outcome, createOrRestore } from './create.ts';
import { connectAgent } from './node-socket.ts';

const EXIT_FAILED = 1;

async function main(argv: readonly string[]): Promise<number> {
  const { KYBERNATE_AGENT_SOCKET: agentSocket, ...rest } = process.env;
  const env = Object.fromEntries(
    Object.entries(rest).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  const runcPath = env['KYBERNATE_RUNC'] ?? '/usr/bin/runc';
  const stop = new AbortController();
  process.once('SIGTERM', () => stop.abort());
  process.once('SIGINT', () => stop.abort());
  let outcome: Outcome;
  try {
    outcome = await createOrRestore(
      {
        runcPath,
        agent: connectAgent(agentSocket ?? '/run/kybernate/agent.sock'),
        run: runSpawn,
        runInherited,
        env,
        signal: stop.signal,
        log: writeLog,
      },
      argv,
    );
  } catch (error) {
    outcome = { kind: 'failed', message: `kybernate: ${messageOf(error)}` };
  }
  if (outcome.kind === 'pass-through') {
    return becomeRunc(runcPath, argv, env);
  }
  if (outcome.kind === 'failed') {
    fail(argv, outcome.message);
  }
  return outcome.kind === 'restored' ? 0 : EXIT_FAILED;
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
function writeLog(create: RuncCreate, level: 'error' | 'warning' | 'info', message: string): void {
  if (create.log === undefined) {
    return;
  }
  const time = new Date().toISOString();
  const line =
    create.logFormat === 'json'
      ? JSON.stringify({ level, msg: message, time })
      : `time=${JSON.stringify(time)} level=${level} msg=${JSON.stringify(message)}`;
  appendFileSync(create.log, `${line}\n`, { mode: 0o600 });
}

function fail(argv: readonly string[], message: string): void {
  const line = message.replaceAll('\n', ' ');
  try {
    writeLog(parseRuncCreate(argv), 'error', line);
    writeSync(2, `${line}\n`);
  } catch {
    // Arguments that cannot be parsed, or nobody reads the container's stderr: the exit code remains.
  }
}

process.exitCode = await main(process.argv.slice(2));
