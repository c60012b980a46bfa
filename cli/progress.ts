/*
 * Live progress of one operation on stderr: on a terminal one block that is repainted in place, otherwise a line when a
 * phase ends and one every five seconds while bytes move.
 */
import type { OperationProgress } from '../core/contract/progress.ts';
import type { TextStream } from './output.ts';
import { formatBytes, formatDuration, formatRate } from './units.ts';

const RATE_WINDOW_MS = 5_000;
const PLAIN_INTERVAL_MS = 5_000;
const BAR_CELLS = 12;

interface Sample {
  readonly atMs: number;
  readonly bytes: number;
}

/** Bytes a second over the last five seconds; knows nothing before the second sample. */
export interface RateMeter {
  add(bytes: number): void;
  perSecond(): number | undefined;
  reset(): void;
}

export function createRateMeter(now: () => number): RateMeter {
  let samples: Sample[] = [];
  return {
    add: (bytes) => {
      const atMs = now();
      const newest = samples.at(-1);
      if (newest !== undefined && bytes < newest.bytes) {
        samples = [];
      }
      samples.push({ atMs, bytes });
      // One sample older than the window stays: it is the window's left edge.
      while (samples.length > 2 && atMs - (samples[1]?.atMs ?? atMs) >= RATE_WINDOW_MS) {
        samples.shift();
      }
    },
    perSecond: () => {
      const oldest = samples[0];
      const newest = samples.at(-1);
      if (oldest === undefined || newest === undefined || newest.atMs <= oldest.atMs) {
        return undefined;
      }
      return ((newest.bytes - oldest.bytes) * 1000) / (newest.atMs - oldest.atMs);
    },
    reset: () => {
      samples = [];
    },
  };
}

/** `45 %  1.20 GiB of 2.60 GiB  210.0 MiB/s  ETA 7.0 s`; what is not known is left out. */
export function renderTransfer(progress: OperationProgress, perSecond: number | undefined): string {
  const { bytesDone, bytesTotal } = progress;
  if (bytesDone === undefined) {
    return '';
  }
  const parts: string[] = [];
  if (bytesTotal !== undefined && bytesTotal > 0) {
    const percent = Math.min(100, Math.floor((bytesDone * 100) / bytesTotal));
    parts.push(`${String(percent).padStart(3)} %`, `${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`);
  } else {
    parts.push(formatBytes(bytesDone));
  }
  if (perSecond !== undefined && perSecond > 0) {
    parts.push(formatRate(perSecond));
    if (bytesTotal !== undefined && bytesTotal > bytesDone) {
      parts.push(`ETA ${formatDuration(((bytesTotal - bytesDone) * 1000) / perSecond)}`);
    }
  }
  return parts.join('  ');
}

function renderBar(progress: OperationProgress): string {
  const { bytesDone, bytesTotal } = progress;
  if (bytesDone === undefined || bytesTotal === undefined || bytesTotal <= 0) {
    return '';
  }
  const full = Math.min(BAR_CELLS, Math.floor((bytesDone * BAR_CELLS) / bytesTotal));
  return `[${'#'.repeat(full)}${'.'.repeat(BAR_CELLS - full)}]`;
}

export interface BlockInput {
  readonly title: string;
  readonly progress: OperationProgress | undefined;
  readonly perSecond: number | undefined;
  readonly nowMs: number;
  readonly columns: number;
  readonly rows: number;
}

/** The lines of the block, none longer than the terminal is wide: a wrapped line would break the repainting. */
export function renderBlock(input: BlockInput): string[] {
  const { progress, title } = input;
  const lines = [title];
  if (progress === undefined) {
    lines.push('  waiting for a worker of the control queue');
  } else {
    if (progress.gpu !== undefined) {
      lines.push(`  ${renderGpu(progress.gpu)}`);
    }
    for (const done of progress.finished) {
      lines.push(`  ${done.phase.padEnd(16)} ${formatDuration(done.durationMs).padStart(10)}`);
    }
    if (!isOver(progress)) {
      const elapsedMs = Math.max(0, input.nowMs - Date.parse(progress.phaseStartedAt));
      lines.push(
        `> ${progress.phase.padEnd(16)} ${formatDuration(Number.isNaN(elapsedMs) ? 0 : elapsedMs).padStart(10)}`,
      );
      const moving = [renderBar(progress), renderTransfer(progress, input.perSecond)].filter((text) => text !== '');
      lines.push(...(moving.length > 0 ? [`    ${moving.join('  ')}`] : []));
      const left = renderBudget(progress, input.nowMs);
      lines.push(...(left === '' ? [] : [`    ${left}`]));
    }
    // The error of an operation that is over is printed in full behind the block.
    if (progress.lastError !== undefined && !isOver(progress)) {
      lines.push(`  last error: ${progress.lastError.split('\n')[0] ?? ''}`);
    }
  }
  const room = Math.max(2, input.rows - 1);
  const kept = lines.length <= room ? lines : [title, ...lines.slice(lines.length - room + 1)];
  return kept.map((line) => (line.length < input.columns ? line : `${line.slice(0, Math.max(1, input.columns - 2))}…`));
}

/** `freeze budget: 41 s left`; empty while the workload runs. */
export function renderBudget({ budget }: OperationProgress, nowMs: number): string {
  if (budget === undefined) {
    return '';
  }
  const leftMs = Date.parse(budget.endsAt) - nowMs;
  return `${budget.kind} budget: ${leftMs > 0 ? `${formatDuration(leftMs)} left` : 'over'}`;
}

function renderGpu({ processes, vramBytes }: NonNullable<OperationProgress['gpu']>): string {
  return `GPU: ${processes === 1 ? '1 process' : `${String(processes)} processes`}, ${formatBytes(vramBytes)} of VRAM`;
}

function isOver(progress: OperationProgress): boolean {
  return progress.phase === 'done' || progress.phase === 'failed' || progress.phase === 'cancelled';
}

export interface ProgressPainter {
  /** @param progress undefined while nobody has answered yet */
  update(progress: OperationProgress | undefined): void;
  /** takes the block away, so that something else may be written; the next update draws it again */
  pause(): void;
  /** draws for the last time and leaves it standing */
  end(): void;
}

export interface PainterOptions {
  readonly stream: TextStream;
  readonly title: string;
  readonly now: () => number;
}

export function createProgressPainter(options: PainterOptions): ProgressPainter {
  return options.stream.isTTY === true ? createBlockPainter(options) : createLinePainter(options);
}

/** Says nothing: with --json only the result is printed. */
export function createSilentPainter(): ProgressPainter {
  return { update: () => undefined, pause: () => undefined, end: () => undefined };
}

function createBlockPainter({ stream, title, now }: PainterOptions): ProgressPainter {
  const meter = createRateMeter(now);
  let painted = 0;
  let last: OperationProgress | undefined;
  function clear(): string {
    return painted === 0 ? '' : `\u001B[${String(painted)}A\u001B[0J`;
  }
  function paint(): void {
    const lines = renderBlock({
      title,
      progress: last,
      perSecond: meter.perSecond(),
      nowMs: now(),
      columns: stream.columns ?? 80,
      rows: stream.rows ?? 24,
    });
    stream.write(`${clear()}${lines.join('\n')}\n`);
    painted = lines.length;
  }
  return {
    update: (progress) => {
      meterUpdate(meter, last, progress);
      last = progress ?? last;
      paint();
    },
    pause: () => {
      stream.write(clear());
      painted = 0;
    },
    end: () => {
      paint();
      painted = 0;
    },
  };
}

function createLinePainter({ stream, title, now }: PainterOptions): ProgressPainter {
  const meter = createRateMeter(now);
  let last: OperationProgress | undefined;
  let told = 0;
  let toldGpu = false;
  let lastError: string | undefined;
  let quietUntilMs = 0;
  stream.write(`${title}\n`);
  function tellFinished(): void {
    if (last?.gpu !== undefined && !toldGpu) {
      toldGpu = true;
      stream.write(`${renderGpu(last.gpu)}\n`);
    }
    for (const done of last?.finished.slice(told) ?? []) {
      stream.write(`${done.phase}: done in ${formatDuration(done.durationMs)}\n`);
    }
    told = Math.max(told, last?.finished.length ?? 0);
    if (last?.lastError !== undefined && last.lastError !== lastError && !isOver(last)) {
      lastError = last.lastError;
      stream.write(`${last.phase}: last error: ${lastError.split('\n')[0] ?? ''}\n`);
    }
  }
  return {
    update: (progress) => {
      meterUpdate(meter, last, progress);
      if (progress !== undefined && progress.phase !== last?.phase) {
        quietUntilMs = now() + PLAIN_INTERVAL_MS;
      }
      last = progress ?? last;
      tellFinished();
      const still = last === undefined || isOver(last) ? '' : renderBudget(last, now());
      if (
        last !== undefined &&
        !isOver(last) &&
        now() >= quietUntilMs &&
        (last.bytesDone !== undefined || still !== '')
      ) {
        quietUntilMs = now() + PLAIN_INTERVAL_MS;
        const told = [renderTransfer(last, meter.perSecond()).trimStart(), still].filter((text) => text !== '');
        stream.write(`${last.phase}: ${told.join('; ')}\n`);
      }
    },
    pause: () => undefined,
    end: tellFinished,
  };
}

function meterUpdate(
  meter: RateMeter,
  last: OperationProgress | undefined,
  progress: OperationProgress | undefined,
): void {
  if (progress === undefined) {
    return;
  }
  if (progress.phase !== last?.phase) {
    meter.reset();
  }
  if (progress.bytesDone !== undefined) {
    meter.add(progress.bytesDone);
  }
}
