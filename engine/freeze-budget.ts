/*
 * How long a workload may stand still, or its GPU be out of use, and what of it the capture may take: the way back needs
 * its own part. A hold has a budget of its own.
 */
import { KybernateError } from '../core/errors.ts';
import { DUMP_GRACE_MS } from './end-dump.ts';
import { hasGpu } from './gpu-section.ts';
import { begunAt, handedOver, lastDone, mayBeFrozen, sinceUndone, type JournalEntry } from './journal.ts';
import type { OperationPlan } from './operation.ts';

/** From the first lock or freeze until the undo must begin. */
export function workBudgetMs(plan: OperationPlan): number {
  const { freezeBudgetMs, gpu } = plan;
  return hasGpu(plan)
    ? freezeBudgetMs - DUMP_GRACE_MS - gpu.estimatedRestoreMs
    : // Ending CRIU cleanly takes part of the budget.
      Math.max(freezeBudgetMs - DUMP_GRACE_MS, freezeBudgetMs / 2);
}

/** What a runner that works may be late, before its guard takes it for one that hangs. */
const LATE_MS = 150;
/** From the end of a hold to the thaw, and for the end of a hook that was killed. */
const GRACE_MS = 1000;

/** An undo up to its part of the GPU, or from there to the end of its verification. */
const AROUND_RESTORE_MS = 10_000;

/**
 * When the guard stops to wait for a live runner; undefined while nothing stands still. Later than the runner's own end of
 * its work, and so that the way back still fits: a workload stands still for its budget and a second at most.
 */
export function guardDue(
  entries: readonly JournalEntry[],
  plan: OperationPlan,
): { readonly atMs: number; readonly cause: 'freeze-budget' | 'hold-budget' } | undefined {
  if (!mayBeFrozen(entries) || handedOver(entries)) {
    return undefined;
  }
  const last = entries.at(-1);
  const lastMs = last === undefined ? 0 : Date.parse(last.at);
  const held = lastDone(entries, 'held');
  const begun = begunAt(entries);
  const cause = held === undefined ? ('freeze-budget' as const) : ('hold-budget' as const);
  if (last?.data?.['allowMs'] !== undefined) {
    return { atMs: lastMs + Number(last.data['allowMs']) + GRACE_MS, cause };
  }
  if (last?.step === 'gpu-restoring' && last.state === 'failed') {
    // The runner tries again by itself, as often as it takes, and nothing stands still meanwhile but the GPU.
    return undefined;
  }
  if (sinceUndone(entries).some(({ step }) => step === 'gpu-restoring')) {
    // The budget is over by now: what is around a way back of the GPU has its own time.
    return { atMs: lastMs + AROUND_RESTORE_MS, cause };
  }
  if (held !== undefined) {
    return { atMs: Date.parse(held.at) + plan.holdBudgetMs + GRACE_MS, cause };
  }
  // Between a hook and the lock nothing stands still.
  return begun === undefined
    ? undefined
    : { atMs: Date.parse(begun.at) + workBudgetMs(plan) + DUMP_GRACE_MS + LATE_MS, cause };
}

/** @throws FreezeBudgetExceeded when nothing would be left for the work; nothing was touched */
export function refuseSmallBudget(plan: OperationPlan): void {
  if (workBudgetMs(plan) <= 0) {
    throw new KybernateError(
      'FreezeBudgetExceeded',
      `a freeze budget of ${plan.freezeBudgetMs} ms leaves nothing for the save of container ` +
        `${plan.container.namespace}/${plan.container.id}: bringing its GPU back may take ` +
        `${plan.gpu.estimatedRestoreMs + DUMP_GRACE_MS} ms; it was not touched`,
      { details: { freezeBudgetMs: plan.freezeBudgetMs, estimatedRestoreMs: plan.gpu.estimatedRestoreMs } },
    );
  }
}

export class FreezeBudget {
  readonly #plan: OperationPlan;
  #timer: NodeJS.Timeout | undefined;

  constructor(plan: OperationPlan) {
    this.#plan = plan;
  }

  /** Runs from the first call on, and from the first one after a stop. */
  start(onOver: (reason: KybernateError) => void): void {
    this.#timer ??= setTimeout(() => onOver(this.#exceeded()), workBudgetMs(this.#plan));
  }

  /** In place of the budget of the freeze. */
  hold(onOver: () => void): void {
    this.stop();
    this.#timer = setTimeout(onOver, this.#plan.holdBudgetMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #exceeded(): KybernateError {
    const { container, freezeBudgetMs } = this.#plan;
    return new KybernateError(
      'FreezeBudgetExceeded',
      `the capture of container ${container.namespace}/${container.id} does not fit into its freeze budget of ` +
        `${freezeBudgetMs} ms; it was undone and the container runs`,
      { details: { freezeBudgetMs } },
    );
  }
}
