/* Long work that the CLI does itself: its progress on stderr, and Ctrl-C as a wish to stop and to clean up. */
import type { Op, Progress } from '../core/op.ts';
import type { LocalPhase } from '../core/phases.ts';
import type { Cli } from './cli.ts';
import { CliError } from './exit-codes.ts';
import type { Output } from './output.ts';
import { createProgressPainter, createSilentPainter } from './progress.ts';

const PAINT_MS = 250;

export interface LocalWork {
  readonly output: Output;
  /** first line of the progress */
  readonly title: string;
  readonly phase: LocalPhase;
  /** of the checkpoint, as the user named it */
  readonly name: string;
}

/**
 * @throws what `act` throws; Cancelled at Ctrl-C and SIGTERM, when `act` has cleaned up behind itself
 */
export async function runLocally<Result>(
  cli: Cli,
  { output, title, phase, name }: LocalWork,
  act: (op: Op) => Promise<Result>,
): Promise<Result> {
  const stop = new AbortController();
  const ignore = cli.terminal.onStop(() => {
    stop.abort(new CliError('Cancelled', `${title}: stopped; nothing half-made was left`));
  });
  const stream = cli.streams.stderr;
  // Not before there is something to tell: most of this work is over at once.
  let painter = createSilentPainter();
  const startedMs = Date.now();
  let paintedMs = startedMs;
  const progress = ({ bytesDone, bytesTotal }: Progress): void => {
    const nowMs = Date.now();
    if (output.json || nowMs - paintedMs < PAINT_MS) {
      return;
    }
    if (paintedMs === startedMs) {
      painter = createProgressPainter({ stream, title, now: Date.now });
    }
    paintedMs = nowMs;
    painter.update({
      phase,
      node: cli.config().node,
      container: name,
      phaseStartedAt: new Date(startedMs).toISOString(),
      finished: [],
      ...(bytesDone === undefined ? {} : { bytesDone }),
      ...(bytesTotal === undefined ? {} : { bytesTotal }),
    });
  };
  const note = (_fields: unknown, message: string): void => output.note(`note: ${message}`);
  const quiet = (): void => undefined;
  try {
    return await act({ signal: stop.signal, log: { debug: quiet, info: quiet, warn: note, error: note }, progress });
  } finally {
    painter.end();
    ignore();
  }
}
