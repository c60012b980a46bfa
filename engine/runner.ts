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
import { workloadName } from '../core/contract/process.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { RunnerStep } from '../core/phases.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { GpuDriverOrNot } from '../native/cuda/gpu-driver.ts';
import type { Run } from '../native/run/run.ts';
import { handedOverError } from './undo-dead.ts';
import type { Capture } from './capture.ts';
import { createCriuCapture } from './capture-criu.ts';
import { createProcessCapture } from './capture-process.ts';
import { takeContainerLock } from './container-flock.ts';
import { asDiskFull } from './disk-full.ts';
import { writeDraft } from './draft.ts';
import { failedLogsDir, pruneFailedLogs } from './failed-logs.ts';
import { FreezeBudget, refuseSmallBudget } from './freeze-budget.ts';
import { checkDriver, hasGpu, saveGpuSection } from './gpu-section.ts';
import { Held, type Holder } from './held.ts';
import { appendJournal, tryAppendJournal } from './journal.ts';
import { checkToken, operationPaths, type OperationPaths, type OperationPlan } from './operation.ts';
import { PhaseTimer } from './phase-timer.ts';
import { Release } from './release.ts';
import { guardPid } from './runner-process.ts';
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
  readonly #lockFd: number;
  #timer: PhaseTimer | undefined;
  #gpu: Promise<SaveGpuStateResult> | undefined;
  #capture: Promise<CaptureResult> | undefined;
  #method: Capture | undefined;
  #saving = false;
  #capturing = false;
  #captured = false;
  #handedOver = false;

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
      again: () => (this.#handedOver ? this.stop() : this.resume()),
    });
    this.#paths = operationPaths(plan.settings, plan.operationId);
    this.#lockFd = takeContainerLock(plan);
    checkToken(plan.settings, plan.container, plan.token);
    this.#journal('armed', 'done', { freezeBudgetMs: plan.freezeBudgetMs });
  }

  /** Locks and saves the GPU processes; without one nothing is done. Joins a save that is under way. */
  saveGpuState(): Promise<SaveGpuStateResult> {
    if (this.#gpu === undefined) {
      if (hasGpu(this.plan)) {
        this.#refuseEnded();
        this.#refuseUnguarded();
        this.#saving = true;
        this.#gpu = this.#saveOnce().finally(() => (this.#saving = false));
      } else {
        this.#gpu = Promise.resolve({ gpuProcesses: 0, vramBytes: 0, durationMs: 0, parts: {} });
      }
    }
    return this.#gpu;
  }

  /** Captures; with `after: resume` the workload runs again when this returns. Joins a capture that is under way. */
  capture(): Promise<CaptureResult> {
    if (this.#capture === undefined) {
      this.#refuseEnded();
      this.#refuseUnguarded();
      this.#capturing = true;
      this.#capture = this.#captureOnce().finally(() => (this.#capturing = false));
    }
    return this.#capture;
  }

  /** @throws why it was ended: the budget that was over between two steps, or a resume that somebody asked for */
  #refuseEnded(): void {
    if (this.#release.current !== undefined) {
      this.#abort.signal.throwIfAborted();
      throw new KybernateError(
        'DumpFailed',
        `operation ${this.plan.operationId} was ended before its capture began; the container runs`,
      );
    }
  }

  /** Nothing is locked or frozen unless somebody is there who lets it go when this process cannot. @throws Internal */
  #refuseUnguarded(): void {
    if (this.plan.settings.guardCommand !== undefined && !this.#held.any && guardPid(this.#paths) === undefined) {
      throw new KybernateError(
        'Internal',
        `the freeze guard of operation ${this.plan.operationId} is not there (see ${this.#paths.guardLog}); the ` +
          'container was not touched and runs; the next attempt starts another guard',
      );
    }
  }

  /**
   * Lets the workload run, whatever state the operation is in, and verifies it. Idempotent; also the compensation.
   * @throws Poisoned; LockLost it was handed over
   */
  async resume(): Promise<ResumeResult> {
    if (this.#handedOver) {
      throw handedOverError(this.plan);
    }
    this.cancel(
      new KybernateError('DumpFailed', 'the operation was asked to resume the workload before its capture ended'),
    );
    await this.#gpu?.catch(() => undefined);
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
      const { namespace, id } = this.plan.container;
      throw new KybernateError(
        'LockLost',
        `container ${namespace}/${id} was let go before it could be handed over: it runs on, no second owner may run`,
      );
    }
    this.#giveUp();
    return { handedOver: true };
  }

  /** Ends the frozen source. It never runs again; its connections stay locked when the capture asked for that. */
  async stop(): Promise<ResumeResult> {
    await this.#capture;
    if (this.#release.current !== undefined) {
      return this.#release.current;
    }
    this.#giveUp();
    return this.#release.by(() => this.#held.end(this.#holder()));
  }

  /** The hold has no end of its own any more. */
  #giveUp(): void {
    if (this.#handedOver) {
      return;
    }
    checkToken(this.plan.settings, this.plan.container, this.plan.token);
    // A tree is held by a CRIU that somebody else may have ended.
    const hasSlipped = this.plan.facts.tree !== undefined && initIsAlive(this.plan) && !this.#held.isHeld();
    if (!this.#held.frozen || hasSlipped) {
      throw new KybernateError(
        'Internal',
        `${workloadName(this.plan.container)} is not held by this operation (any more); it runs on`,
      );
    }
    this.#held.staysStill();
    this.#journal('handover', 'done');
    this.#handedOver = true;
    this.#budget.stop();
  }

  /** Stops a save or a capture that is under way; it undoes itself and fails with the reason. */
  cancel(reason: Error): void {
    if (this.#saving || (this.#capture !== undefined && !this.#captured)) {
      this.#abort.abort(reason);
    }
  }

  /** A step is under way, or the workload or its GPU stands still: the process must not end. */
  get busy(): boolean {
    return this.#saving || this.#capturing || this.frozen;
  }

  get frozen(): boolean {
    return this.#held.any;
  }

  async #saveOnce(): Promise<SaveGpuStateResult> {
    checkToken(this.plan.settings, this.plan.container, this.plan.token);
    refuseSmallBudget(this.plan);
    const section = { plan: this.plan, ...this.#deps };
    checkDriver(section);
    const timer = (this.#timer ??= new PhaseTimer());
    try {
      const saved = await saveGpuSection(section, timer, this.#abort.signal, () => {
        this.#held.locksGpu();
        this.#startBudget();
      });
      timer.part('step-gap');
      return saved;
    } catch (error) {
      const reported = await this.#undo(error);
      if (isKybernateError(reported, 'GpuBusy')) {
        // Everything is as it was, and nobody asked for an end: the same step may be tried again.
        this.#gpu = undefined;
        this.#timer = undefined;
        this.#release.reopen();
      }
      throw reported;
    }
  }

  async #captureOnce(): Promise<CaptureResult> {
    checkToken(this.plan.settings, this.plan.container, this.plan.token);
    await this.saveGpuState();
    const timer = (this.#timer ??= new PhaseTimer());
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
      if (!this.#saving && !this.#capturing) {
        // Between two steps nobody hears the signal.
        this.resume().catch(() => undefined);
      }
    });
  }

  /** @returns the error to report: the reason of the abort rather than what it caused */
  async #undo(error: unknown): Promise<unknown> {
    this.#budget.stop();
    const reported: unknown = this.#abort.signal.aborted ? this.#abort.signal.reason : error;
    try {
      await this.#release.by(() => this.#held.undo());
    } catch (undoError) {
      await this.#keepLogs();
      if (isKybernateError(undoError, 'Poisoned')) {
        return new KybernateError('Poisoned', `${undoError.message} (after: ${String(reported)})`, {
          details: undoError.details,
          cause: reported,
        });
      }
      return undoError;
    }
    await this.#keepLogs();
    return isKybernateError(reported, 'Poisoned') ? broughtBack(reported) : reported;
  }

  /** The evidence of a failed capture, after the undo. */
  async #keepLogs(): Promise<void> {
    try {
      await this.#method?.saveLogs(failedLogsDir(this.plan.settings, this.plan.checkpointId));
      await pruneFailedLogs(this.plan.settings);
    } catch (error) {
      this.#deps.log.error({ error: String(error) }, 'the logs of the failed capture could not be kept');
    }
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
    const entry = { step, state, ...(data === undefined ? {} : { data }) };
    if (step === 'armed' || step === 'freezing' || step === 'handover') {
      // Without this entry nobody would undo what follows it, or somebody would let a source go that was given up.
      appendJournal(this.#paths.journal, entry);
    } else {
      tryAppendJournal(this.#paths.journal, entry, this.#deps.log);
    }
  }
}

/** What a save could not bring back by itself runs by now, as the undo has read back: why it failed is left to tell. */
function broughtBack(poisoned: KybernateError): unknown {
  const { cause, message, details } = poisoned;
  if (isKybernateError(cause, 'Poisoned')) {
    return broughtBack(cause);
  }
  return (
    cause ??
    new KybernateError('DumpFailed', `${message}; a later try brought it back, and the container runs`, {
      details,
      cause: poisoned,
    })
  );
}
