/*
 * The runner: one process for the frozen section of one operation, in a cgroup of its own and parent of runc, so that
 * neither the worker's death nor its unit's or pod's restart touches a workload that stands still. It holds the
 * container's flock, writes the journal, and finishes or undoes by itself; activities ask it over a unix socket and may
 * come back as often as they like.
 *
 *   armed → freezing → frozen → dumped → captured → thawed → resumed          (after: resume)
 *                                                 → held → thawed → resumed   (after: hold)
 *                                                 → held → handover → killed  (after: stop)
 * and from anywhere before `captured`: undone. Where processes use a GPU, it is locked and saved before `freezing` and
 * comes back after every thaw (gpu-section.ts). What is held of the workload, and how it is let go: held.ts.
 */
import type { CaptureResult, ResumeResult, SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { RunnerStep } from '../core/phases.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { GpuDriverOrNot } from '../native/cuda/gpu-driver.ts';
import type { Run } from '../native/run/run.ts';
import type { Capture } from './capture.ts';
import { createCriuCapture } from './capture-criu.ts';
import { createProcessCapture } from './capture-process.ts';
import { takeContainerLock } from './container-flock.ts';
import { asDiskFull } from './disk-full.ts';
import { writeDraft } from './draft.ts';
import { errorAfterUndo, keepFailedLogs } from './failed-operation.ts';
import { FreezeBudget } from './freeze-budget.ts';
import { GpuSave } from './gpu-save.ts';
import { refuseUnguarded } from './guard-start.ts';
import { Handover } from './handover.ts';
import { Held, type Holder } from './held.ts';
import { journalStep } from './journal.ts';
import { checkToken, operationPaths, type OperationPaths, type OperationPlan } from './operation.ts';
import { PhaseTimer } from './phase-timer.ts';
import { Release } from './release.ts';
import { initIsAlive } from './verify-running.ts';

export interface RunnerDeps {
  readonly run: Run;
  readonly containerd: () => Containerd;
  /** the node's GPU driver, loaded at the first call */
  readonly gpu: () => GpuDriverOrNot;
  readonly log: Logger;
}

export class Runner {
  readonly plan: OperationPlan;
  readonly #deps: RunnerDeps;
  readonly #paths: OperationPaths;
  readonly #abort = new AbortController();
  readonly #budget: FreezeBudget;
  readonly #held: Held;
  readonly #release: Release;
  readonly #handover: Handover;
  readonly #gpu: GpuSave;
  readonly #lockFd: number;
  #timer: PhaseTimer | undefined;
  #capture: Promise<CaptureResult> | undefined;
  #method: Capture | undefined;
  #capturing = false;
  #captured = false;

  constructor(plan: OperationPlan, deps: RunnerDeps) {
    this.plan = plan;
    this.#deps = deps;
    this.#budget = new FreezeBudget(plan);
    this.#held = new Held(plan, deps);
    this.#release = new Release({
      log: deps.log,
      isHeld: () => this.#held.isHeld(),
      isGone: () => !initIsAlive(plan),
      // A source that was given up is ended, whatever that takes; every other one is let go.
      again: () => (this.#handover.done ? this.stop() : this.resume()),
    });
    this.#handover = new Handover({
      plan,
      held: this.#held,
      budget: this.#budget,
      note: () => this.#journal('handover', 'done'),
    });
    this.#gpu = new GpuSave({
      section: { plan, ...deps },
      signal: this.#abort.signal,
      onLocking: () => {
        this.#held.locksGpu();
        this.#startBudget();
      },
      undo: (error) => this.#undo(error),
      onBusy: () => {
        this.#timer = undefined;
        this.#release.reopen();
      },
    });
    this.#paths = operationPaths(plan.settings, plan.operationId);
    this.#lockFd = takeContainerLock(plan);
    checkToken(plan.settings, plan.container, plan.token);
    this.#journal('armed', 'done', { freezeBudgetMs: plan.freezeBudgetMs });
  }

  /** Locks and saves the GPU processes; without one nothing is done. Joins a save that is under way. */
  saveGpuState(): Promise<SaveGpuStateResult> {
    return this.#gpu.run(
      () => this.#refuseBegin(),
      () => this.#startTimer(),
    );
  }

  /** Captures; with `after: resume` the workload runs again when this returns. Joins a capture that is under way. */
  capture(): Promise<CaptureResult> {
    if (this.#capture === undefined) {
      this.#refuseBegin();
      this.#capturing = true;
      this.#capture = this.#captureOnce().finally(() => (this.#capturing = false));
    }
    return this.#capture;
  }

  /** @throws why it was ended: the budget that was over between two steps, or a resume that was asked for; no guard */
  #refuseBegin(): void {
    if (this.#release.current !== undefined) {
      this.#abort.signal.throwIfAborted();
      throw new KybernateError(
        'DumpFailed',
        `operation ${this.plan.operationId} was ended before its capture began; the container runs`,
      );
    }
    if (!this.#held.any) {
      refuseUnguarded(this.plan);
    }
  }

  /**
   * Lets the workload run, whatever state the operation is in, and verifies it. Idempotent; also the compensation.
   * @throws Poisoned; LockLost it was handed over
   */
  async resume(): Promise<ResumeResult> {
    this.#handover.refuseDone();
    this.cancel(
      new KybernateError('DumpFailed', 'the operation was asked to resume the workload before its capture ended'),
    );
    await this.#gpu.over();
    if (!this.#captured) {
      await this.#capture?.catch(() => undefined);
    }
    // Of a capture that is whole and thawed only the GPU is left: an undo would end what still writes its files.
    const isThawed = this.#captured && this.#held.any && !this.#held.frozen;
    const undoes = this.#release.failed && !isThawed;
    return this.#release.by(() => (undoes ? this.#held.undo() : this.#resumeOnce()));
  }

  /**
   * Gives the held source up for a second owner: from now on nobody lets it go, this process and its guard included.
   * @throws LockLost it was let go already
   */
  async handOver(): Promise<{ handedOver: true }> {
    await this.#capture;
    if (this.#release.current !== undefined) {
      await this.#release.current;
      throw this.#handover.tooLate();
    }
    this.#handover.giveUp();
    return { handedOver: true };
  }

  /** Ends the frozen source. It never runs again; its connections stay locked when the capture asked for that. */
  async stop(): Promise<ResumeResult> {
    await this.#capture;
    if (this.#release.current !== undefined) {
      return this.#release.current;
    }
    this.#handover.giveUp();
    return this.#release.by(() => this.#held.end(this.#holder()));
  }

  /** Stops a save or a capture that is under way; it undoes itself and fails with the reason. */
  cancel(reason: Error): void {
    if (this.#gpu.underWay || (this.#capture !== undefined && !this.#captured)) {
      this.#abort.abort(reason);
    }
  }

  /** A step is under way, or the workload or its GPU stands still: the process must not end. */
  get busy(): boolean {
    return this.#gpu.underWay || this.#capturing || this.frozen;
  }

  get frozen(): boolean {
    return this.#held.any;
  }

  /** Of the whole frozen section: the save of the GPU begins it, where there is one. */
  #startTimer(): PhaseTimer {
    return (this.#timer ??= new PhaseTimer());
  }

  async #captureOnce(): Promise<CaptureResult> {
    checkToken(this.plan.settings, this.plan.container, this.plan.token);
    await this.saveGpuState();
    const timer = this.#startTimer();
    timer.part('prepare');
    const method = this.#createMethod(timer);
    this.#method = method;
    try {
      await method.plan();
      this.#abort.signal.throwIfAborted();
      await method.freeze();
      this.#abort.signal.throwIfAborted();
      this.#journal('dumped', 'done');
    } catch (error) {
      throw await this.#undo(asDiskFull(error, this.plan.checkpointDir));
    }
    this.#captured = true;
    this.#budget.stop();
    this.#journal('captured', 'done');
    if (this.plan.after === 'resume') {
      await this.#runOn();
    } else {
      this.#hold();
    }
    timer.part('finish');
    try {
      return await this.#finish(method, timer);
    } catch (error) {
      throw asDiskFull(error, this.plan.checkpointDir);
    } finally {
      if (this.#held.any && !this.#held.isLettingGo) {
        timer.part('hold');
      }
    }
  }

  async #finish(method: Capture, timer: PhaseTimer): Promise<CaptureResult> {
    const outcome = await method.finish();
    const phases = timer.times();
    await writeDraft(this.plan, { method: method.method, outcome, phases });
    const warnings = [...outcome.warnings, ...this.#held.warnings];
    return { phases, imageBytes: outcome.imageBytes, rootfsBytes: outcome.rootfsBytes, warnings };
  }

  #createMethod(timer: PhaseTimer): Capture {
    const create = this.plan.facts.tree === undefined ? createCriuCapture : createProcessCapture;
    return create({
      plan: this.plan,
      paths: this.#paths,
      run: this.#deps.run,
      containerd: this.#deps.containerd,
      lockFd: this.#lockFd,
      timer,
      log: this.#deps.log,
      signal: this.#abort.signal,
      onFreezing: () => {
        this.#journal('freezing', 'begin');
        this.#held.freezes();
        this.#startBudget();
      },
      onFrozen: () => this.#journal('frozen', 'done'),
      onLost: (reason) => {
        this.#deps.log.error({ error: String(reason) }, 'the hold of the workload was ended: it is put in order');
        this.#budget.stop();
        this.#release.by(() => this.#held.undo()).catch(() => undefined);
      },
    });
  }

  #startBudget(): void {
    this.#budget.start((reason) => {
      this.#abort.abort(reason);
      if (!this.#gpu.underWay && !this.#capturing) {
        // Between two steps nobody hears the signal.
        this.resume().catch(() => undefined);
      }
    });
  }

  /** @returns the error to report: the reason of the abort rather than what it caused */
  async #undo(error: unknown): Promise<unknown> {
    this.#budget.stop();
    const reported: unknown = this.#abort.signal.aborted ? this.#abort.signal.reason : error;
    const undoing = this.#release.by(() => this.#held.undo());
    const toReport = await errorAfterUndo(reported, undoing);
    await keepFailedLogs(this.plan, this.#method, this.#deps.log);
    return toReport;
  }

  /** The images are whole whatever becomes of the source's GPU: who asks for the release hears of that. */
  async #runOn(): Promise<void> {
    try {
      await this.#held.letGo(this.#holder());
    } catch (error) {
      if (this.#held.frozen) {
        throw error;
      }
      this.#release.wentWrong(error);
    }
  }

  #holder(): Holder {
    return { method: this.#method, timer: this.#timer };
  }

  /** The budget of the hold begins now; when it ends, the workload runs on by itself. */
  #hold(): void {
    this.#journal('held', 'done', { holdBudgetMs: this.plan.holdBudgetMs });
    this.#budget.hold(() => {
      this.#deps.log.warn({ operationId: this.plan.operationId }, 'the hold budget is over: the workload runs on');
      this.resume().catch((error: unknown) => {
        this.#deps.log.error({ error: String(error) }, 'the workload could not be resumed after its hold');
      });
    });
  }

  #resumeOnce(): Promise<ResumeResult> {
    this.#budget.stop();
    return this.#held.resume(this.#holder());
  }

  #journal(step: RunnerStep, state: 'begin' | 'done' | 'failed', data?: Record<string, unknown>): void {
    journalStep(this.#paths.journal, { step, state, ...(data === undefined ? {} : { data }) }, this.#deps.log);
  }
}
