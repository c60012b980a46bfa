/*
 * Watches one operation to its end. Ctrl-C never ends an operation by accident: on a terminal it asks, elsewhere it
 * stops watching and says how to cancel. The workflow itself needs nobody who watches.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../core/errors.ts';
import type { OperationProgress } from '../core/contract/progress.ts';
import { CliError, reportOf } from './exit-codes.ts';
import type { Operation } from './operation.ts';
import type { ProgressPainter } from './progress.ts';
import type { Interrupts, Terminal } from './terminal.ts';

export type Followed<Result> = { readonly kind: 'done'; readonly result: Result } | { readonly kind: 'detached' };

export interface FollowOptions {
  readonly painter: ProgressPainter;
  readonly terminal: Terminal;
  readonly note: (text: string) => void;
  /** as long as nobody tells of progress: why nobody works on it, looked for until there is something to say */
  readonly unserved?: { readonly afterMs: number; readonly look: () => Promise<string | undefined> };
  /** between two looks at the progress */
  readonly pollMs: number;
}

const LAST_LOOK_MS = 1_000;

type Answer = 'detach' | 'cancel' | 'watch';

function question(progress: OperationProgress | undefined): string {
  const fate = progress?.committed ? 'its checkpoint stays' : 'it is undone';
  return `Ctrl-C: [d]etach (the operation goes on), [c]ancel it (${fate}), or [w]atch on? `;
}

/**
 * @returns the result, or `detached` when the user stopped watching
 * @throws what the operation failed with; a cancelled one throws Temporal's CancelledFailure, or Cancelled naming the
 *   checkpoint that stays
 */
export async function follow<Result>(operation: Operation<Result>, options: FollowOptions): Promise<Followed<Result>> {
  const interrupts = options.terminal.listen();
  const watch: Watch = { over: new AbortController(), asking: false, served: false };
  // Settles once and never rejects, so that racing against it leaves no unhandled rejection behind.
  const end = settle(operation.result());
  void paint(operation, options, watch);
  void tellUnserved(options, watch);
  try {
    let cancelling = false;
    for (;;) {
      const outcome = await Promise.race([end, interrupts.next()]);
      if (outcome !== undefined) {
        watch.over.abort();
        watch.progress = (await paintLast(operation, options)) ?? watch.progress;
        return finish(outcome, watch.progress);
      }
      const answer = cancelling ? 'detach' : await decide(interrupts, end, options, watch);
      if (answer === 'detach') {
        options.painter.pause();
        options.note(detachedText(operation.workflowId, cancelling));
        return { kind: 'detached' };
      }
      if (answer === 'cancel') {
        cancelling = true;
        options.painter.pause();
        options.note(cancellingText(watch.progress));
        await operation.cancel();
      }
    }
  } finally {
    watch.over.abort();
    interrupts.close();
  }
}

interface Watch {
  readonly over: AbortController;
  /** a question stands on the screen: do not paint over it */
  asking: boolean;
  /** a worker has told of progress */
  served: boolean;
  /** what was told last */
  progress?: OperationProgress | undefined;
}

type Settled<Result> = { readonly result: Result } | { readonly error: unknown };

async function settle<Result>(promise: Promise<Result>): Promise<Settled<Result>> {
  try {
    return { result: await promise };
  } catch (error) {
    // Not swallowed: `finish` throws it again.
    return { error };
  }
}

function finish<Result>(outcome: Settled<Result>, progress: OperationProgress | undefined): Followed<Result> {
  if ('result' in outcome) {
    return { kind: 'done', result: outcome.result };
  }
  const { committed, checkpointId, node } = progress ?? {};
  if (committed !== true || checkpointId === undefined || reportOf(outcome.error).type !== 'Cancelled') {
    throw outcome.error;
  }
  const message = `the operation was cancelled; checkpoint ${checkpointId} had been committed before and stays on node ${node}`;
  const remedy = `nothing to do; to remove it: kybernate rm ${checkpointId}`;
  throw new CliError('Cancelled', message, { details: { checkpointId, node, remedy }, cause: outcome.error });
}

function cancellingText(progress: OperationProgress | undefined): string {
  const stays = `checkpoint ${progress?.checkpointId} is committed and stays, all else is undone`;
  return `cancelling: ${progress?.committed ? stays : 'what was made is undone'}; Ctrl-C stops watching`;
}

async function decide(
  interrupts: Interrupts,
  end: Promise<unknown>,
  options: FollowOptions,
  watch: Watch,
): Promise<Answer> {
  if (!options.terminal.interactive) {
    return 'detach';
  }
  const asked = new AbortController();
  options.painter.pause();
  watch.asking = true;
  try {
    return await Promise.race([
      options.terminal.ask(question(watch.progress), asked.signal).then(answerOf),
      interrupts.next().then((): Answer => 'cancel'),
      end.then((): Answer => 'watch'),
    ]);
  } finally {
    asked.abort();
    watch.asking = false;
  }
}

/** Silence and anything unclear keep watching: neither choice is made by a slip. */
function answerOf(line: string | undefined): Answer {
  const letter = line?.trim().toLowerCase().charAt(0);
  if (letter === 'd') {
    return 'detach';
  }
  return letter === 'c' ? 'cancel' : 'watch';
}

export function detachedText(workflowId: string, cancelling: boolean): string {
  const fate = cancelling ? 'the cancellation goes on' : 'the operation goes on';
  return [
    `detached: ${fate}`,
    `  watch it:  kybernate watch ${workflowId}`,
    ...(cancelling ? [] : [`  cancel it: kybernate cancel ${workflowId}`]),
  ].join('\n');
}

async function paint<Result>(operation: Operation<Result>, options: FollowOptions, watch: Watch): Promise<void> {
  const { signal } = watch.over;
  let told = '';
  while (!signal.aborted) {
    let progress: OperationProgress | undefined;
    try {
      progress = await operation.progress();
      watch.served ||= progress !== undefined;
      watch.progress = progress ?? watch.progress;
    } catch (error) {
      // Progress is a courtesy: a query that fails (no worker, a closed workflow) must not end the watching, and the
      // end of the operation is learnt from its result alone.
      if (messageOf(error) !== told && !signal.aborted) {
        told = messageOf(error);
        options.painter.pause();
        options.note(`no progress to show: ${told}`);
      }
    }
    if (!signal.aborted && !watch.asking) {
      options.painter.update(progress);
    }
    // Woken by the end of the operation; an aborted sleep is not an error here.
    await sleep(options.pollMs, undefined, { signal }).catch(() => undefined);
  }
}

/** Beside the painting: a query that nobody answers takes as long as its own time limit. */
async function tellUnserved({ unserved, painter, note }: FollowOptions, watch: Watch): Promise<void> {
  const { signal } = watch.over;
  if (unserved === undefined) {
    return;
  }
  for (;;) {
    await sleep(unserved.afterMs, undefined, { signal }).catch(() => undefined);
    if (signal.aborted || watch.served) {
      return;
    }
    // A courtesy: a server that does not tell ends nothing.
    const text = await unserved.look().catch(() => undefined);
    if (text !== undefined && !signal.aborted && !watch.served && !watch.asking) {
      painter.pause();
      note(text);
      return;
    }
  }
}

/** The phases that ended since the last look; not worth waiting for when nobody answers. */
async function paintLast<Result>(
  operation: Operation<Result>,
  options: FollowOptions,
): Promise<OperationProgress | undefined> {
  const looked = operation.progress().catch(() => undefined);
  const progress = await Promise.race([looked, sleep(LAST_LOOK_MS, undefined, { ref: false })]);
  if (progress !== undefined) {
    options.painter.update(progress);
  }
  options.painter.end();
  return progress;
}
