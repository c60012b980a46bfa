/*
 * The runner: one process for the frozen section of one operation, in a cgroup of its own and parent of runc, so that
 * neither the worker's death nor its unit's or pod's restart touches a workload that stands still. It holds the
 * container's flock, writes the journal, and finishes or undoes by itself; activities ask it over a unix socket and may
 * come back as often as they like.
 *
 *   armed → gpu-saved → freezing → frozen → dumped → captured → thawed → resumed          (after: resume)
 *                                                             → held → thawed → resumed   (after: hold)
 *                                                             → held → killed             (after: stop)
 * and from anywhere before `captured`: undone.
 */
import { closeSync, openSync } from 'node:fs';
import type { CaptureResult, ResumeResult, SaveGpuStateResult } from '../core/contract/checkpoint.ts';
import { isKybernateError, KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { RunnerStep } from '../core/phases.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import { tryLockExclusive } from '../native/libc/flock.ts';
import type { Run } from '../native/run/run.ts';
import type { Capture } from './capture.ts';
import { createCriuCapture } from './capture-criu.ts';
import { draftMetadata, writeDraft } from './commit.ts';
import { asDiskFull } from './disk-full.ts';
import { DUMP_GRACE_MS } from './end-dump.ts';
import { failedLogsDir, pruneFailedLogs } from './failed-logs.ts';
import { freezerState, thaw } from './freezer.ts';
import { appendJournal, tryAppendJournal } from './journal.ts';
import { killFrozen } from './kill.ts';
import { checkToken, lockFile, operationPaths, type OperationPaths, type OperationPlan } from './operation.ts';
import { PhaseTimer } from './phase-timer.ts';
import { undoCapture } from './undo.ts';
import { removeNetworkLocks, verifyRunning } from './verify-running.ts';

/** Between two tries of our own to let a workload go that still stands. */
const RETRY_MS = 5000;

export interface RunnerDeps {
  readonly run: Run;
  readonly containerd: () => Containerd;
  readonly log: Logger;
}

/**
 * The guarantee that one operation at a time touches the container. Whoever undoes a dead runner's work takes it too:
 * the token orders operations, but never keeps a frozen workload frozen.
 *
 * @returns the descriptor that holds the lock
 * @throws LockLost when another operation holds the container
 */
export function takeContainerLock(plan: OperationPlan): number {
  const fd = openSync(lockFile(plan.settings, plan.container), 'a', 0o600);
  if (!tryLockExclusive(fd)) {
    closeSync(fd);
    throw new KybernateError(
      'LockLost',
      `another operation holds the lock of container ${plan.container.namespace}/${plan.container.id} on this node; ` +
        `this one touched nothing`,
    );
  }
  return fd;
}

export class Runner {
  readonly plan: OperationPlan;
  readonly #deps: RunnerDeps;
  readonly #paths: OperationPaths;
  readonly #abort = new AbortController();
  readonly #lockFd: number;
  #gpu: SaveGpuStateResult | undefined;
  #capture: Promise<CaptureResult> | undefined;
  #release: Promise<ResumeResult> | undefined;
  #method: Capture | undefined;
  #budget: NodeJS.Timeout | undefined;
  #frozen = false;
  #capturing = false;
  #releaseFailed = false;

  constructor(plan: OperationPlan, deps: RunnerDeps) {
    this.plan = plan;
    this.#deps = deps;
    this.#paths = operationPaths(plan.settings, plan.operationId);
    this.#lockFd = takeContainerLock(plan);
    checkToken(plan.settings, plan.container, plan.token);
    this.#journal('armed', 'done', { freezeBudgetMs: plan.freezeBudgetMs });
  }

  /** CPU-only: the analysis refused every process that holds a GPU, so there is nothing to save. Idempotent. */
  saveGpuState(): SaveGpuStateResult {
    if (this.#gpu === undefined) {
      this.#gpu = { gpuProcesses: this.plan.gpu.processes.length, vramBytes: 0, durationMs: 0, parts: {} };
    }
    return this.#gpu;
  }

  /** Captures; with `after: resume` the workload runs again when this returns. Joins a capture that is under way. */
  capture(): Promise<CaptureResult> {
    if (this.#capture === undefined) {
      if (this.#release !== undefined) {
        throw new KybernateError(
          'DumpFailed',
          `operation ${this.plan.operationId} was ended before its capture began; the container runs`,
        );
      }
      this.#capturing = true;
      this.#capture = this.#captureOnce().finally(() => (this.#capturing = false));
    }
    return this.#capture;
  }

  /**
   * Lets the workload run, whatever state the operation is in, and verifies it. Idempotent; also the compensation.
   * @throws Poisoned
   */
  async resume(): Promise<ResumeResult> {
    this.cancel(
      new KybernateError('DumpFailed', 'the operation was asked to resume the workload before its capture ended'),
    );
    if (!this.#captured) {
      await this.#capture?.catch(() => undefined);
    }
    return this.#releaseBy(() => (this.#releaseFailed ? this.#undoOnce() : this.#resumeOnce()));
  }

  /** Ends the frozen source. It never runs again; its connections stay locked when the capture asked for that. */
  async stop(): Promise<ResumeResult> {
    await this.#capture;
    if (this.#release !== undefined) {
      return this.#release;
    }
    checkToken(this.plan.settings, this.plan.container, this.plan.token);
    if (!this.#frozen) {
      const { namespace, id } = this.plan.container;
      throw new KybernateError('Internal', `container ${namespace}/${id} is not held by this operation; it runs on`);
    }
    return this.#releaseBy(() => this.#stopOnce());
  }

  /**
   * One release at a time, and one for good. One that failed is tried again: by who asks, and by ourselves as long as the
   * workload stands still, since worker and Temporal may be away.
   */
  #releaseBy(act: () => Promise<ResumeResult>): Promise<ResumeResult> {
    this.#release ??= act().catch((error: unknown) => {
      this.#release = undefined;
      this.#releaseFailed = true;
      this.#deps.log.error({ operationId: this.plan.operationId, error: String(error) }, 'the release failed');
      setTimeout(() => this.#retryRelease(), RETRY_MS);
      throw error;
    });
    return this.#release;
  }

  #retryRelease(): void {
    if (this.#frozen && this.#standsStill()) {
      // Its failure is logged, and brings us here again.
      this.resume().catch(() => undefined);
    }
  }

  #standsStill(): boolean {
    return ['frozen', 'freezing'].includes(freezerState(this.plan.facts.freezer));
  }

  /** Stops a capture that is under way; it undoes itself and fails with the reason. */
  cancel(reason: Error): void {
    if (this.#capture !== undefined && !this.#captured) {
      this.#abort.abort(reason);
    }
  }

  /** A capture is under way, or the workload stands still: the process must not end. */
  get busy(): boolean {
    return this.#capturing || this.#frozen;
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  #captured = false;

  async #captureOnce(): Promise<CaptureResult> {
    const timer = new PhaseTimer();
    timer.part('prepare');
    this.saveGpuState();
    checkToken(this.plan.settings, this.plan.container, this.plan.token);
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
    clearTimeout(this.#budget);
    this.#journal('captured', 'done');
    if (this.plan.after === 'resume') {
      await this.#thaw(method);
    } else {
      this.#hold();
    }
    timer.part('finish');
    try {
      return await this.#finish(method, timer);
    } catch (error) {
      throw asDiskFull(error, this.plan.checkpointDir);
    }
  }

  async #finish(method: Capture, timer: PhaseTimer): Promise<CaptureResult> {
    const outcome = await method.finish();
    const phases = timer.times();
    await writeDraft(this.plan, draftMetadata(this.plan, method.method, outcome, phases));
    return { phases, imageBytes: outcome.imageBytes, rootfsBytes: outcome.rootfsBytes, warnings: outcome.warnings };
  }

  #createMethod(timer: PhaseTimer): Capture {
    return createCriuCapture({
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
        this.#frozen = true;
        // Ending CRIU cleanly takes part of the budget.
        const dumpMs = Math.max(this.plan.freezeBudgetMs - DUMP_GRACE_MS, this.plan.freezeBudgetMs / 2);
        this.#budget = setTimeout(() => this.#abort.abort(this.#overBudget()), dumpMs);
      },
      onFrozen: () => this.#journal('frozen', 'done'),
    });
  }

  #overBudget(): KybernateError {
    const { id, namespace } = this.plan.container;
    return new KybernateError(
      'FreezeBudgetExceeded',
      `the capture of container ${namespace}/${id} does not fit into its freeze budget of ` +
        `${this.plan.freezeBudgetMs} ms; it was undone and the container runs`,
      { details: { freezeBudgetMs: this.plan.freezeBudgetMs } },
    );
  }

  /** @returns the error to report: the reason of the abort rather than what it caused */
  async #undo(error: unknown): Promise<unknown> {
    clearTimeout(this.#budget);
    const reported: unknown = this.#abort.signal.aborted ? this.#abort.signal.reason : error;
    try {
      await this.#releaseBy(() => this.#undoOnce());
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
    return reported;
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

  async #undoOnce(): Promise<ResumeResult> {
    try {
      return await undoCapture(this.plan, this.#deps.run, this.#deps.log);
    } finally {
      this.#frozen = this.#standsStill();
    }
  }

  async #thaw(method: Capture): Promise<void> {
    this.#journal('thawed', 'begin');
    await method.release();
    this.#frozen = false;
    this.#journal('thawed', 'done');
  }

  /** The budget of the hold begins now; when it ends, the workload runs on by itself. */
  #hold(): void {
    this.#journal('held', 'done', { holdBudgetMs: this.plan.holdBudgetMs });
    this.#budget = setTimeout(() => {
      this.#deps.log.warn({ operationId: this.plan.operationId }, 'the hold budget is over: the workload runs on');
      this.resume().catch((error: unknown) => {
        this.#deps.log.error({ error: String(error) }, 'the workload could not be resumed after its hold');
      });
    }, this.plan.holdBudgetMs);
  }

  async #resumeOnce(): Promise<ResumeResult> {
    clearTimeout(this.#budget);
    if (this.#frozen) {
      this.#journal('thawed', 'begin');
      await removeNetworkLocks(this.plan, this.#deps.run).catch((error: unknown) => {
        // The verification tells whether a lock is left; the workload runs in any case.
        this.#deps.log.error({ error: String(error) }, 'the network locks could not be removed');
      });
      await (this.#method?.release() ?? thaw(this.plan.facts.freezer));
      this.#frozen = false;
      this.#journal('thawed', 'done');
    }
    const result = await verifyRunning(this.plan, this.#deps.run);
    this.#journal('resumed', 'done', { ...result });
    return result;
  }

  async #stopOnce(): Promise<ResumeResult> {
    clearTimeout(this.#budget);
    this.#journal('killed', 'begin');
    await killFrozen(this.plan);
    this.#frozen = false;
    this.#journal('killed', 'done');
    return { source: 'stopped', checks: { initGone: true } };
  }

  #journal(step: RunnerStep, state: 'begin' | 'done' | 'failed', data?: Record<string, unknown>): void {
    const entry = { step, state, ...(data === undefined ? {} : { data }) };
    if (step === 'armed' || step === 'freezing') {
      // Without this entry nobody would undo what follows it.
      appendJournal(this.#paths.journal, entry);
    } else {
      tryAppendJournal(this.#paths.journal, entry, this.#deps.log);
    }
  }
}
