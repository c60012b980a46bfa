import type { NativeConnection, Worker } from '@temporalio/worker';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';

export interface RunningWorker {
  /** Lets running activities end for a grace time, then cancels them. May be called twice. */
  shutdown(): void;
  /** resolves after the shutdown; rejects when a worker failed (the others are stopped then) */
  readonly done: Promise<void>;
}

export interface WorkerSet {
  readonly workers: readonly Worker[];
  readonly connection: NativeConnection;
  readonly log: Logger;
  /** after the workers have ended, before the connection closes */
  readonly cleanUp?: () => Promise<void>;
}

/** Runs several workers over one connection as one: they end together. */
export function runWorkers({ workers, connection, log, cleanUp }: WorkerSet): RunningWorker {
  const shutdown = (): void => {
    for (const worker of workers) {
      if (worker.getState() === 'RUNNING') {
        worker.shutdown();
      }
    }
  };
  const run = async (worker: Worker): Promise<void> => {
    try {
      await worker.run();
    } catch (error) {
      log.error({ taskQueue: worker.options.taskQueue, error: messageOf(error) }, 'worker failed');
      throw error;
    } finally {
      shutdown();
    }
  };
  const end = async (): Promise<void> => {
    const ends = await Promise.allSettled(workers.map(run));
    await cleanUp?.();
    await connection.close();
    const failed = ends.find((one) => one.status === 'rejected');
    if (failed !== undefined) {
      throw failed.reason;
    }
    log.info({}, 'worker ended');
  };
  return { shutdown, done: end() };
}
