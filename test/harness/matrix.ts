/*
 * A cell of the support matrix: a workload of a kind on a platform is checkpointed, ended and restored. It passes when it goes
 * on where it was, with what it had in memory; it is refused when the checkpoint says no and the workload runs on untouched.
 * Anything else is a failure.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { type Kind, type Outcome, reasonIn } from './matrix-data.ts';
import { until } from './stack.ts';

export interface Platform {
  /** in the container, for a user who may not write elsewhere; `/state` otherwise */
  readonly stateDir?: string;
  /** of the first process, whichever container has it now */
  pid(): Promise<number>;
  start(kind: Kind, command: readonly string[]): Promise<void>;
  checkpoint(kind: Kind): Promise<void>;
  /** The source is gone; what comes back is `pid` from now on. */
  restore(kind: Kind): Promise<void>;
  remove(): Promise<void>;
}

/** Within the container; /w is test/workloads. */
export function commandOf(kind: Kind, stateDir: string): readonly string[] {
  return kind === 'redis'
    ? ['redis-server', '--save', '', '--protected-mode', 'no']
    : ['python3', '/w/kinds.py', kind, stateDir];
}

export const WORKLOADS_DIR = join(import.meta.dirname, '../workloads');

function dirOf({ stateDir = '/state' }: Platform): string {
  return stateDir;
}

interface State {
  readonly token: string;
  readonly sequence: number;
}

async function stateOf(platform: Platform, kind: Kind): Promise<State | undefined> {
  const pid = await platform.pid();
  try {
    if (kind !== 'redis') {
      return JSON.parse(readFileSync(`/proc/${pid}/root${dirOf(platform)}/state.json`, 'utf8')) as State;
    }
    const ask = async (...words: string[]): Promise<string> => {
      const client = await runExeca('nsenter', [`--net=/proc/${pid}/ns/net`, 'redis-cli', ...words]);
      return client.exitCode === 0 ? client.stdout.trim() : '';
    };
    await ask('SETNX', 'token', String(Math.random()));
    return { token: await ask('GET', 'token'), sequence: Number(await ask('INCR', 'sequence')) || 0 };
  } catch {
    // Not there yet.
    return undefined;
  }
}

/** Its state when it has moved. @throws Error it does not within 60 s */
async function moving(platform: Platform, kind: Kind): Promise<State> {
  let first: State | undefined;
  let last: State | undefined;
  await until(
    `${kind} to move`,
    async () => {
      last = await stateOf(platform, kind);
      first ??= last;
      return (last?.sequence ?? 0) > (first?.sequence ?? 0);
    },
    60_000,
    100,
  );
  if (last === undefined || last.token === '') {
    throw new Error(`${kind} tells nothing`);
  }
  return last;
}

/** @throws Error neither passed nor refused */
export async function runCell(platform: Platform, kind: Kind): Promise<Outcome> {
  try {
    await platform.start(kind, commandOf(kind, dirOf(platform)));
    const before = await moving(platform, kind);
    let refused: string | undefined;
    try {
      await platform.checkpoint(kind);
    } catch (error) {
      refused = reasonIn(messageOf(error));
    }
    if (refused === undefined) {
      await platform.restore(kind);
    }
    const after = await moving(platform, kind);
    if (after.token !== before.token || after.sequence <= before.sequence) {
      const what = refused === undefined ? 'came back as' : `refused (${refused}), was`;
      throw new Error(`${kind} ${what} ${JSON.stringify(after)}, before it was ${JSON.stringify(before)}`);
    }
    return refused === undefined ? 'passed' : { refused };
  } finally {
    await platform.remove();
  }
}
