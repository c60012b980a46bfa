/*
 * The save of an operation's GPU processes: done once and joined by whoever asks again, but begun anew where the GPU was
 * only busy. What it holds from its first lock on, and how a failure is undone, its runner says.
 */
import type { SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { isKybernateError } from '../core/errors.ts';
import type { PhaseTimer } from './phase-timer.ts';
import { refuseSmallBudget } from './freeze-budget.ts';
import { checkDriver, hasGpu, saveGpuSection, type GpuSection } from './gpu-section.ts';
import { checkToken } from './operation.ts';

export interface GpuSaveOptions {
  readonly section: GpuSection;
  readonly signal: AbortSignal;
  /** before the first lock */
  readonly onLocking: () => void;
  /** @returns the error to report */
  readonly undo: (error: unknown) => Promise<unknown>;
  /** everything is as it was, and nobody asked for an end: the same step may be tried again */
  readonly onBusy: () => void;
}

export class GpuSave {
  readonly #options: GpuSaveOptions;
  #saved: Promise<SaveGpuStateResult> | undefined;
  #underWay = false;

  constructor(options: GpuSaveOptions) {
    this.#options = options;
  }

  get underWay(): boolean {
    return this.#underWay;
  }

  /** Ends, whatever comes of it, when the save does. */
  async over(): Promise<void> {
    await this.#saved?.catch(() => undefined);
  }

  /**
   * Locks and saves; without GPU processes nothing is done. Joins a save that is under way.
   * @param refuse is asked before it begins
   */
  run(refuse: () => void, timer: () => PhaseTimer): Promise<SaveGpuStateResult> {
    if (this.#saved === undefined) {
      if (hasGpu(this.#options.section.plan)) {
        refuse();
        this.#underWay = true;
        this.#saved = this.#saveOnce(timer).finally(() => (this.#underWay = false));
      } else {
        this.#saved = Promise.resolve({ gpuProcesses: 0, vramBytes: 0, durationMs: 0, parts: {} });
      }
    }
    return this.#saved;
  }

  async #saveOnce(timer: () => PhaseTimer): Promise<SaveGpuStateResult> {
    const { section, signal, onLocking, undo, onBusy } = this.#options;
    const { plan } = section;
    checkToken(plan.settings, plan.container, plan.token);
    refuseSmallBudget(plan);
    checkDriver(section);
    const phases = timer();
    try {
      const saved = await saveGpuSection(section, phases, signal, onLocking);
      phases.part('step-gap');
      return saved;
    } catch (error) {
      const reported = await undo(error);
      if (isKybernateError(reported, 'GpuBusy')) {
        this.#saved = undefined;
        onBusy();
      }
      throw reported;
    }
  }
}
