/* One case: a name, what it needs, and how it is run, timed, ended and cleaned up after. */
import type { Environment } from './environment.ts';
import type { Machine } from './machine.ts';

export interface CaseContext {
  readonly env: Environment;
  readonly machine: Machine;
  /** a figure or a fact for the results */
  readonly record: (name: string, value: unknown) => void;
  /** one line of progress */
  readonly note: (text: string) => void;
}

export interface Case {
  readonly name: string;
  /** `cpu`: none; otherwise how many GPUs it takes */
  readonly needs: 'cpu' | 'gpu' | 'two-gpus';
  /** cannot be tried out with host memory instead of a GPU */
  readonly real?: boolean;
  readonly timeoutMs: number;
  readonly run: (context: CaseContext) => Promise<void>;
}

export interface CaseResult {
  readonly name: string;
  readonly passed: boolean;
  readonly seconds: number;
  readonly error?: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

/** Text of an error with everything that caused it. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) {
    return String(error);
  }
  const own = 'type' in error ? `${String(error.type)}: ${error.message}` : error.message;
  return error.cause === undefined ? own : `${own}; because ${errorText(error.cause)}`;
}

async function within<T>(what: string, timeoutMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Never throws: what goes wrong, the removal of its containers included, is in the result. */
export async function runCase({ name, timeoutMs, run }: Case, parts: Omit<CaseContext, 'record'>): Promise<CaseResult> {
  const facts: Record<string, unknown> = {};
  const begin = performance.now();
  let error: string | undefined;
  const context: CaseContext = { ...parts, record: (key, value) => void (facts[key] = value) };
  try {
    await within(name, timeoutMs, run(context));
  } catch (failure) {
    error = errorText(failure);
    parts.note(`node worker: ${parts.env.workerLog('worker-node', 4)}`);
  }
  try {
    await within(`cleaning up after ${name}`, 120_000, parts.env.removeAll());
  } catch (failure) {
    error = [error, errorText(failure)].filter((text) => text !== undefined).join('; then ');
  }
  const seconds = Math.round(performance.now() - begin) / 1000;
  return { name, passed: error === undefined, seconds, ...(error === undefined ? {} : { error }), facts };
}
