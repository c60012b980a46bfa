/*
 * Threads for work on chunks, shared by everything in this process. They start at the first larger operation and end
 * when there has been nothing to do for a while. Whoever calls keeps few jobs under way (`chunkJobsAhead`), so memory is
 * bounded: a thread has one buffer of a job to read into, and a job under way one for its result.
 */
import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { KybernateError } from '../core/errors.ts';
import { JOB_BYTES, runJob, type DigestJob, type Job, type Result, type ResultOf } from './chunk-jobs.ts';

/** More threads outrun disks and networks, and each takes about 20 MiB. */
const MAX_THREADS = 4;
/** Of an operation; below it the start of a thread costs more than it gains. */
const THREADS_FROM_BYTES = 8 * 2 ** 20;
const IDLE_MS = 5000;

export type RunChunkJob = <Given extends Job>(job: Given) => Promise<ResultOf[Given['kind']]>;

/** Jobs that a caller keeps under way: one running and one waiting a thread. */
export function chunkJobsAhead(): number {
  return 2 * threadCount();
}

function threadCount(): number {
  return Math.min(MAX_THREADS, availableParallelism());
}

/** @param bytes of the whole operation: a small one runs on the calling thread, one job at a time */
export function chunkJobRunner(bytes: number): RunChunkJob {
  const scratch = bytes < THREADS_FROM_BYTES ? Buffer.allocUnsafeSlow(Math.min(JOB_BYTES, bytes)) : undefined;
  return async <Given extends Job>(job: Given) => {
    const result = scratch === undefined ? await runOnThread(job) : runJob(job, scratch);
    // The kind of a result follows from that of its job.
    return result as ResultOf[Given['kind']];
  };
}

interface Waiting {
  readonly job: Job;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  /** in the order of their answers */
  readonly jobs: Waiting[];
}

const threads = new Set<Thread>();
let idle: NodeJS.Timeout | undefined;
let kept = false;

/**
 * Starts the threads and keeps them for the life of the process: for one that gives up the right to read its own code.
 * @throws Internal when they cannot be started
 */
export async function keepChunkThreads(): Promise<void> {
  kept = true;
  startThreads();
  const nothing: DigestJob = { kind: 'digest', fd: -1, extents: [] };
  await Promise.all([...threads].map(() => runOnThread(nothing)));
}

function startThreads(): void {
  while (threads.size < threadCount()) {
    threads.add(startThread());
  }
}

function runOnThread(job: Job): Promise<Result> {
  clearTimeout(idle);
  startThreads();
  const least = [...threads].reduce((best, thread) => (thread.jobs.length < best.jobs.length ? thread : best));
  return new Promise((resolve, reject) => {
    least.worker.ref();
    least.jobs.push({ job, resolve, reject });
    least.worker.postMessage(job, memoryOf(job));
  });
}

/** What is handed over instead of copied. */
function memoryOf(job: Job): ArrayBuffer[] {
  return job.kind === 'digest' || job.spare === undefined ? [] : [job.spare];
}

function startThread(): Thread {
  const url = new URL(`./chunk-worker${extname(import.meta.url)}`, import.meta.url);
  const resourceLimits = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 4 };
  const thread: Thread = { worker: new Worker(url, { execArgv: [], resourceLimits }), jobs: [] };
  thread.worker.unref();
  thread.worker.on('message', (answer: { readonly result: Result } | { readonly error: unknown }) => {
    const waiting = thread.jobs.shift();
    rest(thread);
    if ('error' in answer) {
      waiting?.reject(answer.error);
    } else {
      waiting?.resolve(answer.result);
    }
  });
  thread.worker.on('error', (error) => end(thread, error));
  thread.worker.on('exit', () => end(thread, undefined));
  return thread;
}

/** A thread without a job keeps neither the process nor, after a while, its memory. */
function rest(thread: Thread): void {
  if (thread.jobs.length > 0) {
    return;
  }
  thread.worker.unref();
  if (!kept && [...threads].every(({ jobs }) => jobs.length === 0)) {
    clearTimeout(idle);
    idle = setTimeout(() => {
      for (const { worker } of threads) {
        void worker.terminate();
      }
      threads.clear();
    }, IDLE_MS).unref();
  }
}

function end(thread: Thread, cause: unknown): void {
  threads.delete(thread);
  for (const { reject } of thread.jobs.splice(0)) {
    reject(new KybernateError('Internal', 'a thread that works on chunks has ended', { cause }));
  }
}
