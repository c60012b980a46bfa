/*
 * A held source is given up for a second owner, or for good: from then on nobody lets it go, its runner and its guard
 * included, since two owners of one state must never run.
 */
import { workloadName } from '../core/contract/process.ts';
import { KybernateError } from '../core/errors.ts';
import type { FreezeBudget } from './freeze-budget.ts';
import type { Held } from './held.ts';
import { checkToken, type OperationPlan } from './operation.ts';
import { handedOverError } from './undo-dead.ts';
import { initIsAlive } from './verify-running.ts';

export interface HandoverOptions {
  readonly plan: OperationPlan;
  readonly held: Held;
  readonly budget: FreezeBudget;
  /** writes it down, or throws: without the entry somebody would let the source go */
  readonly note: () => void;
}

export class Handover {
  readonly #options: HandoverOptions;
  #done = false;

  constructor(options: HandoverOptions) {
    this.#options = options;
  }

  get done(): boolean {
    return this.#done;
  }

  /** Idempotent. The hold has no end of its own any more. @throws LockLost; Internal the source is not held */
  giveUp(): void {
    if (this.#done) {
      return;
    }
    const { plan, held, budget, note } = this.#options;
    checkToken(plan.settings, plan.container, plan.token);
    // A tree is held by a CRIU that somebody else may have ended.
    const hasSlipped = plan.facts.tree !== undefined && initIsAlive(plan) && !held.isHeld();
    if (!held.frozen || hasSlipped) {
      throw new KybernateError(
        'Internal',
        `${workloadName(plan.container)} is not held by this operation (any more); it runs on`,
      );
    }
    held.staysStill();
    note();
    this.#done = true;
    budget.stop();
  }

  /** @throws LockLost it was handed over */
  refuseDone(): void {
    if (this.#done) {
      throw handedOverError(this.#options.plan);
    }
  }

  /** For one that was let go already. */
  tooLate(): KybernateError {
    const { namespace, id } = this.#options.plan.container;
    return new KybernateError(
      'LockLost',
      `container ${namespace}/${id} was let go before it could be handed over: it runs on, no second owner may run`,
    );
  }
}
