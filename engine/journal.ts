/*
 * The journal of one operation: one JSON object a line, appended with a single write, never rewritten. It lies on tmpfs
 * and is not fsynced: a reboot ends the frozen processes too, so a journal that a reboot took describes nothing.
 * Whoever finds the journal of an operation without a live runner reads from it whether the workload stands still.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { RUNNER_STEPS, type RunnerStep } from '../core/phases.ts';

export interface JournalEntry {
  /** ISO time */
  readonly at: string;
  readonly step: RunnerStep;
  /** `begin` is written before the act, `done` after it: a crash between leaves `begin` alone */
  readonly state: 'begin' | 'done' | 'failed';
  readonly data?: Readonly<Record<string, unknown>>;
}

export function appendJournal(file: string, entry: Omit<JournalEntry, 'at'>): void {
  appendFileSync(file, `${JSON.stringify({ at: new Date().toISOString(), ...entry })}\n`, { mode: 0o600 });
}

/** Entries in order; a torn last line (the writer died in the write) is left out. An absent file is an empty journal. */
export function readJournal(file: string): JournalEntry[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw error;
  }
  const entries: JournalEntry[] = [];
  for (const line of text.split('\n').slice(0, -1)) {
    entries.push(JSON.parse(line) as JournalEntry);
  }
  return entries;
}

/**
 * May the workload stand still, as far as the journal tells? A begun freezing step counts: the freeze may have
 * happened although nobody lived to write it down.
 */
export function mayBeFrozen(entries: readonly JournalEntry[]): boolean {
  const last = entries.at(-1);
  if (last === undefined) {
    return false;
  }
  if (RUNNER_STEPS[last.step].frozen) {
    return true;
  }
  // A thaw or kill that was begun and not done has to be done again.
  return last.state !== 'done' && ['thawed', 'killed', 'resumed', 'undone'].includes(last.step);
}

export function lastDone(entries: readonly JournalEntry[], step: RunnerStep): JournalEntry | undefined {
  return entries.findLast((entry) => entry.step === step && entry.state === 'done');
}
