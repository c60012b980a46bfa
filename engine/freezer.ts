/*
 * The freezer of a container's own cgroup. Written by us alone during an operation: it spans CRIU's dump and the diff
 * of the rw layer. CRIU finds the group frozen, thaws it while it holds every task by ptrace, and freezes it again
 * before it lets go (criu/seize.c): the tasks run no instruction between our freeze and our thaw.
 * Sources: kernel Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst (cgroup.freeze).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KybernateError } from '../core/errors.ts';
import { continueTree, signalState, stopTree, type SignalFreezer } from './signal-freezer.ts';

export interface FreezerCgroup {
  readonly version: 1 | 2;
  /** absolute directory of the cgroup */
  readonly path: string;
}

/** A cgroup of the workload's own, or, where it has none, signals. */
export type Freezer = FreezerCgroup | SignalFreezer;

export type FreezerState = 'thawed' | 'freezing' | 'frozen' | 'gone';

export function freezerState(cgroup: Freezer): FreezerState {
  if (cgroup.version === 'signals') {
    return signalState(cgroup);
  }
  try {
    if (cgroup.version === 1) {
      const text = readFileSync(join(cgroup.path, 'freezer.state'), 'utf8').trim();
      return text === 'FROZEN' ? 'frozen' : text === 'FREEZING' ? 'freezing' : 'thawed';
    }
    const wanted = readFileSync(join(cgroup.path, 'cgroup.freeze'), 'utf8').trim() === '1';
    const events = readFileSync(join(cgroup.path, 'cgroup.events'), 'utf8');
    return /^frozen 1$/m.test(events) ? 'frozen' : wanted ? 'freezing' : 'thawed';
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return 'gone';
    }
    throw error;
  }
}

/** What freezes and thaws is written here. */
export function freezerFile(cgroup: Freezer): string {
  if (cgroup.version === 'signals') {
    return cgroup.path;
  }
  return join(cgroup.path, cgroup.version === 1 ? 'freezer.state' : 'cgroup.freeze');
}

function write(cgroup: Freezer, frozen: boolean): void {
  if (cgroup.version === 'signals') {
    (frozen ? stopTree : continueTree)(cgroup);
    return;
  }
  const [on, off] = cgroup.version === 1 ? ['FROZEN', 'THAWED'] : ['1', '0'];
  writeFileSync(freezerFile(cgroup), frozen ? on : off);
}

/**
 * Freezes every task of the cgroup and returns when none runs.
 * @param timeoutMs a task in an uninterruptible sleep can delay the freeze
 * @throws DumpFailed when it does not come to rest; the cgroup is thawed again
 * Crash: the cgroup stays frozen; the journal says so.
 */
export async function freeze(cgroup: Freezer, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  write(cgroup, true);
  for (;;) {
    const state = freezerState(cgroup);
    if (state === 'frozen') {
      return;
    }
    if (state === 'gone') {
      throw new KybernateError('ContainerNotRunning', `the container's cgroup ${cgroup.path} is gone`);
    }
    if (performance.now() > deadline) {
      write(cgroup, false);
      throw new KybernateError(
        'DumpFailed',
        `the cgroup ${cgroup.path} did not freeze in ${timeoutMs} ms (a task sleeps uninterruptibly?); it was thawed`,
      );
    }
    await sleep(1);
  }
}

/** Asks for the freeze without waiting: what an undo does before it kills CRIU. */
export function freezeNow(cgroup: Freezer): void {
  if (freezerState(cgroup) !== 'gone') {
    write(cgroup, true);
  }
}

/** Lets the tasks run. A cgroup that is gone is success. Idempotent. */
export async function thaw(cgroup: Freezer): Promise<void> {
  if (cgroup.version === 'signals') {
    // Also where its root has ended: others of the tree may be stopped.
    continueTree(cgroup);
  }
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const state = freezerState(cgroup);
    if (state === 'gone') {
      return;
    }
    write(cgroup, false);
    if (freezerState(cgroup) === 'thawed') {
      return;
    }
    await sleep(5);
  }
  throw new KybernateError('Poisoned', `the cgroup ${cgroup.path} does not thaw: its processes stand still`);
}
