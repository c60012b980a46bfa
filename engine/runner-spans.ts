/*
 * What a runner and a guard did, as spans of the step that asked for it. Told by the node worker, afterwards, from journal
 * and report: a runner knows no tracer, so that a trace costs the frozen workload nothing.
 */
import { readGuardReport } from './guard-report.ts';
import { readJournal, type JournalEntry } from './journal.ts';
import type { NodeSettings } from './node-deps.ts';
import { operationPaths } from './operation.ts';
import { pastSpans, type PastSpan } from '../core/spans.ts';

/** How many entries of an operation's journal were told; of this process, so that after its death some are told twice. */
const told = new Map<string, number>();

/** Runs a step that the runner does, and tells what was added to its journal meanwhile. */
export async function withRunnerSpans<Result>(
  settings: Pick<NodeSettings, 'runDir'>,
  operationId: string,
  act: () => Promise<Result>,
): Promise<Result> {
  try {
    return await act();
  } finally {
    pastSpans(() => news(settings, operationId));
  }
}

/** The operation is over: its journal is about to go. */
export function forgetSpans(operationId: string): void {
  told.delete(operationId);
}

function news(settings: Pick<NodeSettings, 'runDir'>, operationId: string): readonly PastSpan[] {
  const paths = operationPaths(settings, operationId);
  try {
    const entries = readJournal(paths.journal);
    const from = told.get(operationId) ?? 0;
    told.set(operationId, entries.length);
    const spans = spansOfJournal(entries, from);
    const report = spans.length > 0 ? readGuardReport(paths) : undefined;
    if (report === undefined) {
      return spans;
    }
    const startMs = Date.parse(report.at);
    const guard = { name: 'freeze guard', startMs, endMs: startMs + report.tookMs, error: report.cause };
    return [...spans, guard];
  } catch {
    // A journal that cannot be read is told by those who need it: a trace never fails a step.
    return [];
  }
}

/** The time that the workload stood still ends with one of these. */
const RELEASES: ReadonlySet<string> = new Set(['thawed', 'undone', 'killed', 'resumed']);

/**
 * One span a step, from its own begin or else the end of the step before, and one over each time that the workload stood
 * still. @param from number of the first entry that was not told before
 */
export function spansOfJournal(entries: readonly JournalEntry[], from = 0): readonly PastSpan[] {
  const spans: PastSpan[] = [];
  for (const [index, entry] of entries.entries()) {
    if (index < from || entry.state === 'begin') {
      continue;
    }
    const earlier = entries.slice(0, index);
    const begin = earlier.findLast(({ step, state }) => step === entry.step && state === 'begin');
    const startMs = Date.parse((begin ?? earlier.at(-1) ?? entry).at);
    const endMs = Date.parse(entry.at);
    const failed = entry.state === 'failed' ? { error: `${entry.step} failed` } : {};
    spans.push({ name: `runner ${entry.step}`, startMs, endMs, ...failed });
    const freeze = RELEASES.has(entry.step) && entry.state === 'done' ? frozenSince(earlier) : undefined;
    if (freeze !== undefined) {
      spans.push({ name: 'freeze', startMs: Date.parse(freeze.at), endMs });
    }
  }
  return spans;
}

/** @returns undefined when it ran already */
function frozenSince(entries: readonly JournalEntry[]): JournalEntry | undefined {
  const released = entries.findLastIndex(({ step, state }) => RELEASES.has(step) && state === 'done');
  return entries.slice(released + 1).find(({ step }) => step === 'freezing');
}
