/*
 * What an operation holds of its workload: a closed freezer, GPU processes that are locked or saved; and the ways to let
 * go of it: on, back (undo), or to its end. The freezer opens first, always: a call of the driver hangs on a process that
 * stands still.
 */
import type { GpuResumeFacts, ResumeResult } from '../core/contract/checkpoint.ts';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { RunnerStep } from '../core/phases.ts';
import type { Capture } from './capture.ts';
import { freezeNow, freezerState, thaw } from './freezer.ts';
import { hasGpu, putBackLimits, resumeGpuSection } from './gpu-section.ts';
import { tryAppendJournal } from './journal.ts';
import { killFrozen } from './kill.ts';
import type { NodeDeps } from './node-deps.ts';
import { operationPaths, type OperationPlan } from './operation.ts';
import type { PhaseTimer } from './phase-timer.ts';
import { undoCapture } from './undo.ts';
import { removeNetworkLocks, verifyRunning } from './verify-running.ts';

type HeldDeps = Pick<NodeDeps, 'run' | 'gpu'> & { readonly log: Logger };

/** Of the capture that is to be released; none where it had not begun. */
export interface Holder {
  readonly method: Capture | undefined;
  readonly timer: PhaseTimer | undefined;
}

export class Held {
  readonly #plan: OperationPlan;
  readonly #deps: HeldDeps;
  #frozen = false;
  #gpu = false;
  #lettingGo: Promise<void> | undefined;
  #gpuFacts: GpuResumeFacts | undefined;

  constructor(plan: OperationPlan, deps: HeldDeps) {
    this.#plan = plan;
    this.#deps = deps;
  }

  /** From now on GPU processes may be locked or saved. */
  locksGpu(): void {
    this.#gpu = true;
  }

  /** From now on the freezer may be closed. */
  freezes(): void {
    this.#frozen = true;
  }

  /**
   * For a workload that is given up: nobody lets it go any more. A tree is held by a CRIU that lets it go when this process
   * dies, so it is stopped behind that.
   */
  staysStill(): void {
    if (this.#plan.facts.tree !== undefined) {
      freezeNow(this.#plan.facts.freezer);
    }
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  get any(): boolean {
    return this.#frozen || this.#gpu;
  }

  get isLettingGo(): boolean {
    return this.#lettingGo !== undefined;
  }

  /** What is not as before since the GPU came back. */
  get warnings(): readonly string[] {
    return this.#gpuFacts?.warnings ?? [];
  }

  /** As `any`, by the freezer's own word. */
  isHeld(): boolean {
    return this.#gpu || (this.#frozen && this.#standsStill());
  }

  #standsStill(): boolean {
    return ['frozen', 'freezing'].includes(freezerState(this.#plan.facts.freezer));
  }

  /** Thaw, then the GPU. Shared by all who wait for it. @param before between the decision and the thaw */
  letGo(holder: Holder, before: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    this.#lettingGo ??= this.#letGoOnce(holder, before).finally(() => (this.#lettingGo = undefined));
    return this.#lettingGo;
  }

  async #letGoOnce({ method, timer }: Holder, before: () => Promise<void>): Promise<void> {
    if (this.#frozen) {
      this.#journal('thawed', 'begin');
      await before();
      await (method?.release() ?? thaw(this.#plan.facts.freezer));
      this.#frozen = false;
      this.#journal('thawed', 'done');
    }
    if (this.#gpu) {
      const warnings = await resumeGpuSection({ plan: this.#plan, ...this.#deps }, timer);
      this.#gpu = false;
      const { gpuPauseMs = 0, parts } = timer?.times() ?? { parts: {} };
      this.#gpuFacts = { pauseMs: gpuPauseMs, parts, warnings };
    }
  }

  /**
   * Lets the workload run on, and reads back that it does.
   * @throws Poisoned
   */
  async resume(holder: Holder): Promise<ResumeResult> {
    const unlock = (): Promise<void> =>
      removeNetworkLocks(this.#plan, this.#deps.run).catch((error: unknown) => {
        // The verification tells whether a lock is left; the workload runs in any case.
        this.#deps.log.error({ error: messageOf(error) }, 'the network locks could not be removed');
      });
    if (this.#plan.facts.tree === undefined) {
      await this.letGo(holder, unlock);
    } else {
      // The CRIU that holds it takes its own lock away, when its sockets are in order.
      await this.letGo(holder);
      await unlock();
    }
    const verified = await verifyRunning(this.#plan, this.#deps, this.#deps.log);
    const result = { ...verified, ...(this.#gpuFacts === undefined ? {} : { gpu: this.#gpuFacts }) };
    this.#journal('resumed', 'done', { ...result });
    return result;
  }

  /**
   * Brings the workload back from wherever the capture has left it.
   * @throws Poisoned
   */
  async undo(): Promise<ResumeResult> {
    try {
      const result = await undoCapture(this.#plan, this.#deps, this.#deps.log, 'runner');
      this.#gpu = false;
      return result;
    } finally {
      this.#frozen = this.#standsStill();
    }
  }

  /** Ends the frozen workload. @throws Poisoned it outlives that */
  async end({ method }: Holder): Promise<ResumeResult> {
    this.#journal('killed', 'begin');
    await killFrozen(this.#plan);
    await method?.abandon?.();
    const left = hasGpu(this.#plan) ? await putBackLimits(this.#plan) : [];
    left.forEach((warning) => this.#deps.log.warn({ operationId: this.#plan.operationId }, warning));
    this.#frozen = false;
    this.#gpu = false;
    this.#journal('killed', 'done');
    return { source: 'stopped', checks: { initGone: true } };
  }

  #journal(step: RunnerStep, state: 'begin' | 'done', data?: Record<string, unknown>): void {
    const { journal } = operationPaths(this.#plan.settings, this.#plan.operationId);
    tryAppendJournal(journal, { step, state, ...(data === undefined ? {} : { data }) }, this.#deps.log);
  }
}
