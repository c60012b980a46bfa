/*
 * The journal of one operation: one JSON object a line, appended with a single write, never rewritten. It lies on tmpfs
 * and is not fsynced: a reboot ends the frozen processes too, so a journal that a reboot took describes nothing.
 * Whoever finds the journal of an operation without a live runner reads from it whether the workload stands still.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
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

/**
 * For every entry but those that must be there before the act: a journal that cannot be written (no room on the tmpfs)
 * must not keep a workload frozen. Without the entry the workload counts as frozen a little longer than it is.
 */
export function tryAppendJournal(file: string, entry: Omit<JournalEntry, 'at'>, log: Logger): void {
  try {
    appendJournal(file, entry);
  } catch (error) {
    log.error({ step: entry.step, state: entry.state, error: messageOf(error) }, 'the journal cannot be written');
  }
}

/**
 * Entries in order; what was torn (the writer died in the write, or found no room) is left out, also where a later entry
 * follows on the same line. An absent file is an empty journal.
 */
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
    const entry = parseEntry(line) ?? parseEntry(line.slice(line.lastIndexOf('{"at":')));
    if (entry !== undefined) {
      entries.push(entry);
    }
  }
  return entries;
}

function parseEntry(line: string): JournalEntry | undefined {
  try {
    return JSON.parse(line) as JournalEntry;
  } catch {
    // Only what is not JSON arrives here: a torn write.
    return undefined;
  }
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

/**
 * When a runner must have let the workload go by itself, in ms since the epoch; undefined while nothing stands still.
 * The budget of the freeze runs from its begin, that of a hold from the hold.
 */
export function releaseDueMs(
  entries: readonly JournalEntry[],
  budgets: { readonly freezeBudgetMs: number; readonly holdBudgetMs: number },
): number | undefined {
  if (!mayBeFrozen(entries)) {
    return undefined;
  }
  const held = lastDone(entries, 'held');
  const begun = entries.find((entry) => entry.step === 'freezing');
  return held === undefined
    ? Date.parse(begun?.at ?? '') + budgets.freezeBudgetMs
    : Date.parse(held.at) + budgets.holdBudgetMs;
}

export function lastDone(entries: readonly JournalEntry[], step: RunnerStep): JournalEntry | undefined {
  return entries.findLast((entry) => entry.step === step && entry.state === 'done');
}
