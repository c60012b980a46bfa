/*
 * The transfers that somebody asked the sidecar for on its sockets. Each is written down before it begins and goes on
 * without its caller: after a restart those that had not ended begin again, and send or fetch what is missing.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { parseInput } from '../core/contract/parse.ts';
import {
  hasEnded,
  TRANSFER_CALLS,
  transferId as transferIdSchema,
  transferStatus,
  type TransferKind,
  type TransferStatus,
  type TransferTask,
} from '../core/contract/transfer.ts';
import { isKybernateError, KybernateError, messageOf } from '../core/errors.ts';
import { type Meter, NO_METER } from '../core/metrics.ts';
import type { Logger, Op } from '../core/op.ts';
import { span } from '../core/spans.ts';
import { writeFileDurably } from '../store/files.ts';

/** What a transfer has come to; written into its record. */
export interface TransferResult {
  readonly hash?: string;
  readonly location?: string;
}

/** Does the work of one transfer; the same call again goes on with it. */
export type TransferWork = (id: string, task: TransferTask, op: Op) => Promise<TransferResult>;

const RUNNING_AT_ONCE = 4;
/** How long the end of a transfer can be asked for. */
const KEEP_MS = 7 * 86_400_000;

const record = z.object({ call: z.unknown(), status: transferStatus, changedAt: z.string() });

interface Transfer {
  readonly task: TransferTask;
  readonly stop: AbortController;
  status: TransferStatus;
  /** resolved and replaced at every change */
  changed: PromiseWithResolvers<void>;
}

export interface TransfersParts {
  readonly work: TransferWork;
  readonly log: Logger;
  /** absent: nobody counts */
  readonly meter?: Meter;
}

export class Transfers {
  readonly #dir: string;
  readonly #work: TransferWork;
  readonly #log: Logger;
  readonly #meter: Meter;
  readonly #transfers = new Map<string, Transfer>();
  readonly #queue: string[] = [];
  readonly #running = new Set<Promise<void>>();
  #closed = false;

  private constructor(dir: string, { work, log, meter = NO_METER }: TransfersParts) {
    this.#dir = dir;
    this.#work = work;
    this.#log = log;
    this.#meter = meter;
    meter.gauge('kybernate_transfers', async () =>
      (['queued', 'running'] as const).map((status) => ({
        labels: { status },
        value: this.list().filter((transfer) => transfer.status === status).length,
      })),
    );
  }

  /** Reads the records in `dir` and begins again what had not ended. */
  static async open(dir: string, parts: TransfersParts): Promise<Transfers> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const transfers = new Transfers(dir, parts);
    await transfers.#load();
    transfers.#startNext();
    return transfers;
  }

  /** @throws InvalidInput naming every wrong field */
  async start(kind: TransferKind, call: unknown): Promise<TransferStatus> {
    const task = taskOf(kind, call);
    const transferId = randomBytes(8).toString('hex');
    const { checkpointId } = task.call;
    const status: TransferStatus = { transferId, kind, checkpointId, status: 'queued', bytes: 0 };
    const transfer = { task, stop: new AbortController(), status, changed: Promise.withResolvers<void>() };
    await this.#write(transfer);
    this.#transfers.set(transferId, transfer);
    this.#queue.push(transferId);
    this.#startNext();
    return status;
  }

  /** @throws InvalidInput no transfer has this id, or none has any more */
  status(id: string): TransferStatus {
    return this.#get(id).status;
  }

  list(): TransferStatus[] {
    return [...this.#transfers.values()].map(({ status }) => status);
  }

  /** The status now and after every change, the last one with the end. Changes that come fast are taken together. */
  async *follow(id: string, signal?: AbortSignal): AsyncGenerator<TransferStatus> {
    const transfer = this.#get(id);
    const aborted = new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve(), { once: true }));
    for (;;) {
      const { status, changed } = transfer;
      yield status;
      if (hasEnded(status)) {
        return;
      }
      await Promise.race([changed.promise, aborted]);
      if (signal?.aborted === true) {
        return;
      }
    }
  }

  /** Waits for the end; one that had ended stays what it was. */
  async cancel(id: string): Promise<TransferStatus> {
    const transfer = this.#get(id);
    transfer.stop.abort(new DOMException('the transfer was cancelled', 'AbortError'));
    if (transfer.status.status === 'queued') {
      await this.#end(transfer, { status: 'cancelled' });
    }
    while (!hasEnded(transfer.status)) {
      await transfer.changed.promise;
    }
    return transfer.status;
  }

  /** Stops the work; the records say that it goes on at the next start. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const { stop } of this.#transfers.values()) {
      stop.abort(new DOMException('the sidecar ends', 'AbortError'));
    }
    await Promise.all(this.#running);
  }

  #get(id: string): Transfer {
    const transfer = this.#transfers.get(id);
    if (transfer === undefined) {
      throw new KybernateError('InvalidInput', `no transfer ${id}: there was none, or it ended over a week ago`, {
        details: { remedy: 'give the id that `kybernate transfer upload --detach` and its like print' },
      });
    }
    return transfer;
  }

  #startNext(): void {
    while (!this.#closed && this.#running.size < RUNNING_AT_ONCE) {
      const transfer = this.#transfers.get(this.#queue.shift() ?? '');
      if (transfer === undefined && this.#queue.length === 0) {
        return;
      }
      if (transfer?.status.status === 'queued') {
        const running = this.#run(transfer).finally(() => {
          this.#running.delete(running);
          this.#startNext();
        });
        this.#running.add(running);
      }
    }
  }

  async #run(transfer: Transfer): Promise<void> {
    const { task, stop, status } = transfer;
    this.#change(transfer, { status: 'running' });
    const op: Op = {
      signal: stop.signal,
      log: this.#log,
      progress: ({ phase, bytesDone, bytesTotal }) => {
        const moved = (bytesDone ?? 0) - transfer.status.bytes;
        this.#meter.add('kybernate_moved_bytes_total', { phase }, Math.max(0, moved));
        this.#change(transfer, {
          ...(bytesDone === undefined ? {} : { bytes: bytesDone }),
          ...(bytesTotal === undefined ? {} : { totalBytes: bytesTotal }),
        });
      },
    };
    try {
      const fields = { 'kybernate.transfer': status.transferId, 'kybernate.checkpoint': status.checkpointId };
      const result = await span(`transfer ${status.kind}`, fields, () => this.#work(status.transferId, task, op));
      await this.#end(transfer, { status: 'done', ...result });
    } catch (error) {
      if (this.#closed) {
        return;
      }
      const known = isKybernateError(error);
      const failed = { type: known ? error.type : 'Internal', message: messageOf(error) };
      await this.#end(transfer, stop.signal.aborted ? { status: 'cancelled' } : { status: 'failed', error: failed });
    }
  }

  #change(transfer: Transfer, change: Partial<TransferStatus>): void {
    transfer.status = { ...transfer.status, ...change };
    const { changed } = transfer;
    transfer.changed = Promise.withResolvers<void>();
    changed.resolve();
  }

  async #end(transfer: Transfer, change: Partial<TransferStatus>): Promise<void> {
    const status = { ...transfer.status, ...change };
    try {
      await this.#write({ task: transfer.task, status });
    } catch (error) {
      // The transfer has ended all the same; after a restart it ends once more.
      this.#log.error({ transfer: status.transferId, reason: messageOf(error) }, 'end of a transfer not written down');
    }
    this.#meter.add('kybernate_transfers_total', { kind: status.kind, status: status.status });
    this.#log.info({ ...status }, 'transfer ended');
    this.#change(transfer, change);
  }

  async #write({ task, status }: Pick<Transfer, 'task' | 'status'>): Promise<void> {
    const content = { call: task.call, status, changedAt: new Date().toISOString() };
    await writeFileDurably(join(this.#dir, `${status.transferId}.json`), JSON.stringify(content));
  }

  async #load(): Promise<void> {
    for (const name of await readdir(this.#dir)) {
      const path = join(this.#dir, name);
      const found = recordOf(name, await readFile(path, 'utf8'));
      const ended = found !== undefined && hasEnded(found.status);
      if (found === undefined || (ended && Date.parse(found.changedAt) < Date.now() - KEEP_MS)) {
        await rm(path);
        continue;
      }
      const { transferId, kind } = found.status;
      const status: TransferStatus = ended ? found.status : { ...found.status, status: 'queued' };
      const task = taskOf(kind, found.call);
      const transfer = { task, stop: new AbortController(), status, changed: Promise.withResolvers<void>() };
      this.#transfers.set(transferId, transfer);
      if (!ended) {
        this.#queue.push(transferId);
      }
    }
  }
}

function taskOf(kind: TransferKind, call: unknown): TransferTask {
  // The kind and its schema belong together, which the compiler cannot see through the table.
  return { kind, call: parseInput(TRANSFER_CALLS[kind], call) } as TransferTask;
}

/** undefined: a temporary file of a sidecar that died, or nothing of ours */
function recordOf(name: string, text: string): z.output<typeof record> | undefined {
  if (!transferIdSchema.safeParse(name.replace(/\.json$/, '')).success) {
    return undefined;
  }
  try {
    return record.safeParse(JSON.parse(text)).data;
  } catch {
    // Not JSON: cut off by a full disk.
    return undefined;
  }
}
