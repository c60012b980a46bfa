/*
 * The rungs of a restore: which place is tried next after what went wrong, and what is told of each. An attempt that
 * failed is undone before the next begins; where the undo leaves something, or nothing can help, the ladder ends with
 * the error.
 */
import {
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  isCancellation,
  log,
  patched,
} from '@temporalio/workflow';
import type { ControlActivities } from '../activities/contract.ts';
import { canHelp, rungsText, type DamagedCopy, type Rung, type RungReport } from '../core/contract/ladder.ts';
import type { ResolveResult, RestoreInput, RestoreResult } from '../core/contract/restore.ts';
import { isErrorType, messageOf } from '../core/errors.ts';
import type { Compensation } from './compensation.ts';
import { asFailure, failure, outcomeOf } from './failures.ts';
import type { ContainerLockClient } from './lock-client.ts';
import type { ProgressTracker } from './progress.ts';
import type { NodeProxies } from './proxies.ts';

/** The one undo that may fail: a lease runs out by itself, and keeps no container from being made elsewhere. */
const LEASE = 'releaseRestoreLease';

/** Where an attempt takes place, and what it takes. */
export interface Place {
  readonly node: string;
  /** absent for a path */
  readonly checkpointId?: string;
  readonly image: ResolveResult;
  /** UUIDs of the node's GPUs that failed */
  readonly avoidGpus: readonly string[];
  /** none of the checkpoint's state */
  readonly cold?: boolean;
  /** told by the attempt which GPUs it is about to use */
  readonly planned: (map: ReadonlyArray<{ readonly to: string }>) => void;
}

/** What an attempt gives; the ladder adds what came before it. */
export type Attempted = Omit<RestoreResult, 'rungs' | 'damaged'>;
export type TryAt = (at: Place) => Promise<Attempted>;

interface LadderInput {
  readonly input: RestoreInput;
  readonly control: Pick<ControlActivities, 'findCheckpoint' | 'olderStored'>;
  readonly progress: ProgressTracker;
  readonly lock: Pick<ContainerLockClient, 'delivered'>;
  readonly undo: Compensation;
  readonly stepsOn: (node: string) => NodeProxies;
}

/** What a rung is about, for its report. */
export interface Where {
  readonly rung: Rung;
  readonly node: string;
  readonly checkpointId?: string;
  readonly from?: 'local' | 'store';
}

interface LastTry {
  readonly node: string;
  readonly checkpointId?: string;
  readonly image: ResolveResult;
  readonly gpus: readonly string[];
}

export class Ladder {
  readonly run: LadderInput;
  readonly #rungs: RungReport[] = [];
  readonly #damaged: DamagedCopy[] = [];
  readonly #warnings: string[] = [];
  /** rungs that are still to come */
  #left: Rung[] = [];
  /** of the last attempt that found something */
  #error: unknown;
  type: string | undefined;
  last: LastTry | undefined;
  /** the newest description of the checkpoint that could be read, wherever it was */
  image: ResolveResult | undefined;

  /** How the newest rung failed, if it did. */
  get lastType(): string | undefined {
    return this.#rungs.at(-1)?.type;
  }

  constructor(run: LadderInput) {
    this.run = run;
  }

  /** @throws the error of the last attempt; it says what was tried when there was more than one */
  async climb(step: (rung: Rung) => Promise<Attempted | undefined>): Promise<RestoreResult> {
    const { ladder } = this.run.input;
    for (const [at, rung] of ladder.entries()) {
      this.#left = ladder.slice(at + 1);
      const done = await step(rung);
      if (done !== undefined) {
        return this.#result(done);
      }
    }
    throw this.#ending();
  }

  /**
   * One attempt. Afterwards it is told, and what it made is gone.
   * @returns undefined when the next rung may try
   * @throws what nothing can help against, or what the undo left
   */
  async attempt(
    at: Where,
    tryAt: TryAt,
    find: () => Promise<ResolveResult | undefined>,
  ): Promise<Attempted | undefined> {
    const { undo } = this.run;
    const depth = undo.depth;
    let image: ResolveResult | undefined;
    try {
      image = await find();
      if (image === undefined) {
        this.#tell({ ...at, outcome: 'not-there' });
        this.type ??= 'CheckpointNotFound';
        return undefined;
      }
      this.image ??= image;
      const which = at.checkpointId === undefined ? {} : { checkpointId: at.checkpointId };
      const place = { node: at.node, ...which, image, avoidGpus: [] };
      this.last = { ...place, gpus: [] };
      const done = await tryAt({
        ...place,
        planned: (map) => {
          this.last = { ...place, gpus: map.map(({ to }) => to) };
        },
      });
      this.#tell({ ...at, outcome: done.how });
      return done;
    } catch (error) {
      await this.#failed(at, error, { depth, found: image !== undefined });
      return undefined;
    }
  }

  /**
   * @param how.depth of the undo stack before the attempt
   * @param how.found it failed on the node that restores, not where it looked for a copy
   */
  async #failed(at: Where, error: unknown, { depth, found }: { depth: number; found: boolean }): Promise<void> {
    const { undo, progress, lock } = this.run;
    if (isCancellation(error) || !(error instanceof Error) || CancellationScope.current().consideredCancelled) {
      throw error;
    }
    const told = asFailure(error, at.node);
    const type = told instanceof ApplicationFailure ? (told.type ?? 'Internal') : undefined;
    if (type === undefined) {
      // A bug of the workflow's code: it blocks the task, as Temporal intends.
      throw error;
    }
    const reason = messageOf(told);
    // With the GPUs that failed left out nothing on the node fits: there was no other GPU, and why it failed there counts.
    const noPlace = at.rung === 'another-gpu' && type === 'Incompatible';
    if (noPlace) {
      this.skip(at, reason);
    } else if (at.rung === 'peer' && !found && canHelp('another-node', type) && !canHelp('peer', type)) {
      // A peer that cannot be asked says nothing of the other peers, nor of the copies that were tried before.
      this.#tell({ ...at, outcome: 'failed', type, reason });
      this.#error ??= error;
      this.type ??= 'CheckpointNotFound';
    } else {
      this.#note(at, error, { type, reason });
    }
    if (!this.#goesOn(at, this.type ?? type)) {
      throw this.#ending();
    }
    log.info('a rung of the restore failed', { rung: at.rung, node: at.node, type, reason });
    if (undo.depth > depth) {
      progress.enter('rolling-back');
      const report = await CancellationScope.nonCancellable(() => undo.run(depth));
      if (report.failed.some(({ name }) => name !== LEASE)) {
        throw outcomeOf(this.#error ?? error, report, at.node);
      }
      for (const { message } of report.failed) {
        log.warn('the lease on the images was not released', { node: at.node, error: message });
        this.#warnings.push(`the lease on the images was not released: ${message}`);
      }
      await lock.delivered();
    }
    if (this.#isCancelled()) {
      throw new CancelledFailure('the operation was cancelled');
    }
  }

  #note(at: Where, error: Error, { type, reason }: { readonly type: string; readonly reason: string }): void {
    this.#tell({ ...at, outcome: 'failed', type, reason });
    if (type === 'CheckpointCorrupt' && at.checkpointId !== undefined) {
      const place = at.from === 'store' ? 'store' : 'node';
      this.#damaged.push({ place, node: at.node, checkpointId: at.checkpointId, reason });
    }
    this.#error = error;
    this.type = type;
  }

  /** Asked anew: it may have come during the undo. */
  #isCancelled(): boolean {
    return CancellationScope.current().consideredCancelled;
  }

  /** May anything that is left help? */
  #goesOn(at: Where, type: string): boolean {
    const several = ['another-node', 'older-checkpoint', 'peer', 'cold-start'].includes(at.rung);
    const rungs = several ? [at.rung, ...this.#left] : this.#left;
    const gpu = this.last !== undefined && this.last.gpus.length > 0;
    const open = rungs.filter((rung) => canHelp(rung, type) && (rung !== 'another-gpu' || gpu));
    return open.length > 0 && patched('restore-ladder');
  }

  skip(at: Where, reason: string): void {
    this.#tell({ ...at, outcome: 'skipped', reason });
  }

  #tell(report: RungReport): void {
    this.#rungs.push(report);
    this.run.progress.rung(report);
  }

  #result(done: Attempted): RestoreResult {
    const damaged = this.#damaged.map(({ place, node, checkpointId, reason }) => {
      const same = done.from === 'store' && done.node === node && done.checkpointId === checkpointId;
      const now =
        place === 'node' && same
          ? 'it was replaced from the store'
          : `\`kybernate repair ${checkpointId} --node ${node}\` makes it whole, where another copy is`;
      const where = place === 'node' ? `on ${node}` : 'in the store';
      return `the copy of ${checkpointId} ${where} was damaged (${reason}): ${now}`;
    });
    const warnings = [...damaged, ...this.#warnings, ...done.warnings];
    return { ...done, rungs: this.#rungs, damaged: this.#damaged, warnings };
  }

  /** What the operation fails with; a single attempt's error stays as it is. */
  #ending(): unknown {
    const { input } = this.run;
    const error = this.#error ?? this.#notFound();
    const tried = this.#rungs.filter(({ outcome }) => outcome === 'failed');
    const told = asFailure(error, tried.at(-1)?.node ?? input.node);
    if (!(told instanceof ApplicationFailure) || this.#rungs.length < 2 || !isErrorType(told.type)) {
      return error;
    }
    const first = this.#rungs.findIndex(({ outcome }) => outcome === 'failed');
    const after = this.#rungs.slice(first + 1).filter(({ outcome }) => outcome !== 'skipped');
    const text = first === -1 || after.length === 0 ? '' : ` (tried: ${rungsText(this.#rungs)})`;
    const [details] = (told.details ?? []) as Array<Record<string, unknown> | undefined>;
    return failure(
      told.type,
      `${told.message}${text}`,
      { ...details, rungs: this.#rungs, damaged: this.#damaged },
      error instanceof Error ? error : undefined,
    );
  }

  #notFound(): ApplicationFailure {
    const { node, source, checkpointId, path } = this.run.input;
    const places = { auto: `on node ${node} nor in the store`, local: `on node ${node}`, store: 'in the store' };
    const what = checkpointId === undefined ? `no image directory ${path}` : `no checkpoint ${checkpointId}`;
    return failure('CheckpointNotFound', `${what} ${places[source]}`, { node });
  }
}
