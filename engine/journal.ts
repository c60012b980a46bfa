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

/** Without these nobody would undo what follows them, or somebody would let a source go that was given up. */
const MUST_BE_WRITTEN: readonly RunnerStep[] = ['armed', 'freezing', 'handover'];

/** A step of the runner. @throws what keeps an entry from being written that must be there before the act */
export function journalStep(file: string, entry: Omit<JournalEntry, 'at'>, log: Logger): void {
  if (MUST_BE_WRITTEN.includes(entry.step)) {
    appendJournal(file, entry);
  } else {
    tryAppendJournal(file, entry, log);
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

/** Steps of the GPU, from the first to the one after which nothing of it is held. */
const GPU_BEGINS: readonly RunnerStep[] = ['quiescing', 'gpu-locking'];
const GPU_ENDS: readonly RunnerStep[] = ['gpu-restored', 'killed', 'resumed', 'undone'];

/**
 * May the workload stand still, or its GPU be out of use, as far as the journal tells? A begun step counts: it may have
 * happened although nobody lived to write it down.
 */
export function mayBeFrozen(entries: readonly JournalEntry[]): boolean {
  return mayStandStill(entries) || mayHoldGpu(entries);
}

/**
 * Has the source been given up for a second owner? It may stand still, and must: two of it would run. Whoever undoes has
 * to ask this again after the runner's end, since the runner may have written it a moment before.
 */
export function handedOver(entries: readonly JournalEntry[]): boolean {
  return entries.findLast(({ step }) => step === 'handover')?.state === 'done';
}

/** Was the end of the source begun after it was given up, and may it be unfinished? */
export function mustEnd(entries: readonly JournalEntry[]): boolean {
  const last = entries.at(-1);
  return handedOver(entries) && last?.step === 'killed' && last.state === 'begin';
}

/** Does it stand still because it was given up, and has nobody begun to end it? Then nobody but its owner touches it. */
export function standsOnPurpose(entries: readonly JournalEntry[]): boolean {
  return handedOver(entries) && !mustEnd(entries);
}

/** Must somebody let it go, or end it, when the runner does not? */
export function mustBeUndone(entries: readonly JournalEntry[]): boolean {
  return mayBeFrozen(entries) && !standsOnPurpose(entries);
}

/**
 * Has somebody begun to undo it? He has the container's flock, so nothing of the dump lives any more; he may have opened the
 * freezer already.
 */
export function undoBegan(entries: readonly JournalEntry[]): boolean {
  return entries.findLast(({ step }) => !isGpuStep(step))?.step === 'undone';
}

/** May the freezer be closed, or something of a dump be left? */
export function mayStandStill(entries: readonly JournalEntry[]): boolean {
  const last = entries.findLast(({ step }) => !isGpuStep(step));
  if (last === undefined) {
    return false;
  }
  if (RUNNER_STEPS[last.step].frozen) {
    return true;
  }
  // A thaw or kill that was begun and not done has to be done again.
  return last.state !== 'done' && ['thawed', 'killed', 'resumed', 'undone'].includes(last.step);
}

function isGpuStep(step: RunnerStep): boolean {
  return step === 'quiescing' || step.startsWith('gpu-');
}

/** May GPU processes be locked or saved, limits be raised, or the workload wait for its hook? */
export function mayHoldGpu(entries: readonly JournalEntry[]): boolean {
  const last = entries.findLast(
    ({ step, state }) => GPU_BEGINS.includes(step) || (state === 'done' && GPU_ENDS.includes(step)),
  );
  return last !== undefined && GPU_BEGINS.includes(last.step);
}

/** The first lock or freeze of what is under way: what was undone before is over, a step on a busy GPU is tried again. */
export function begunAt(entries: readonly JournalEntry[]): JournalEntry | undefined {
  return sinceUndone(entries).find(({ step }) => step === 'gpu-locking' || step === 'freezing');
}

/** All of them when nothing was undone yet. */
export function sinceUndone(entries: readonly JournalEntry[]): readonly JournalEntry[] {
  return entries.slice(entries.findLastIndex(({ step, state }) => step === 'undone' && state === 'done') + 1);
}

export function lastDone(entries: readonly JournalEntry[], step: RunnerStep): JournalEntry | undefined {
  return entries.findLast((entry) => entry.step === step && entry.state === 'done');
}
