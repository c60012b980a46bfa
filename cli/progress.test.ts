import { describe, expect, it } from 'vitest';
import type { OperationProgress } from '../core/contract/progress.ts';
import { createProgressPainter, createRateMeter, renderBlock, renderBudget, renderTransfer } from './progress.ts';

const START = Date.parse('2026-03-01T09:30:00.000Z');
const MIB = 1024 * 1024;

function progress(fields: Partial<OperationProgress>): OperationProgress {
  return {
    phase: 'uploading',
    node: 'node-a',
    container: 'default/redis',
    phaseStartedAt: new Date(START).toISOString(),
    finished: [],
    ...fields,
  };
}

function recorder(isTTY: boolean) {
  const written: string[] = [];
  let nowMs = START;
  return {
    written,
    stream: { isTTY, columns: 100, rows: 24, write: (text: string) => written.push(text) },
    now: () => nowMs,
    advance: (ms: number) => {
      nowMs += ms;
    },
  };
}

describe('createRateMeter', () => {
  it('knows no rate before the second sample', () => {
    const meter = createRateMeter(() => 0);

    meter.add(100);

    expect(meter.perSecond()).toBeUndefined();
  });

  it('follows the last five seconds, not the whole transfer', () => {
    let nowMs = 0;
    const meter = createRateMeter(() => nowMs);
    for (let second = 0, bytes = 0; second <= 30; second += 1) {
      nowMs = second * 1000;
      bytes += second <= 20 ? 100 : 10;
      meter.add(bytes);
    }

    expect(meter.perSecond()).toBe(10);
  });

  it('starts over when the count goes back, as after a retry', () => {
    let nowMs = 0;
    const meter = createRateMeter(() => nowMs);
    meter.add(1000);
    nowMs = 1000;

    meter.add(10);

    expect(meter.perSecond()).toBeUndefined();
  });
});

describe('renderTransfer', () => {
  it.each([
    ['nothing without bytes', progress({}), undefined, ''],
    ['only the count without a total', progress({ bytesDone: 3 * MIB }), undefined, '3.0 MiB'],
    [
      'percent, rate and the time left',
      progress({ bytesDone: 25 * MIB, bytesTotal: 100 * MIB }),
      10 * MIB,
      ' 25 %  25.0 MiB of 100.0 MiB  10.0 MiB/s  ETA 7.50 s',
    ],
    [
      'no time left at the end',
      progress({ bytesDone: MIB, bytesTotal: MIB }),
      MIB,
      '100 %  1.0 MiB of 1.0 MiB  1.0 MiB/s',
    ],
    ['never more than all', progress({ bytesDone: 3 * MIB, bytesTotal: MIB }), undefined, '100 %  3.0 MiB of 1.0 MiB'],
  ])('shows %s', (_, shown, perSecond, text) => {
    expect(renderTransfer(shown, perSecond)).toBe(text);
  });
});

describe('renderBudget', () => {
  const budget = { kind: 'hold', endsAt: new Date(START + 90_000).toISOString() } as const;

  it('says what is left while the source may stand still', () => {
    expect(renderBudget(progress({ budget }), START + 30_000)).toBe('hold budget: 1 min 00 s left');
    expect(renderBudget(progress({ budget }), START + 90_001)).toBe('hold budget: over');
    expect(renderBudget(progress({}), START)).toBe('');
  });

  it('is told every five seconds where there is no terminal', () => {
    const { written, stream, now, advance } = recorder(false);
    const painter = createProgressPainter({ stream, title: 'checkpoint', now });

    for (const ms of [0, 3000, 3000]) {
      advance(ms);
      painter.update(progress({ phase: 'holding', budget }));
    }

    expect(written).toEqual(['checkpoint\n', 'holding: hold budget: 1 min 24 s left\n']);
  });
});

describe('renderBlock', () => {
  const base = {
    title: 'checkpoint of redis on node-a',
    perSecond: undefined,
    nowMs: START + 1500,
    columns: 100,
    rows: 24,
  };

  it('shows finished phases with their times and the running one with its transfer', () => {
    const shown = progress({
      bytesDone: 50 * MIB,
      bytesTotal: 100 * MIB,
      finished: [
        { phase: 'probing', durationMs: 12 },
        { phase: 'capturing', durationMs: 340.2 },
      ],
    });

    expect(renderBlock({ ...base, progress: shown, perSecond: 20 * MIB })).toEqual([
      'checkpoint of redis on node-a',
      '  probing               12 ms',
      '  capturing            340 ms',
      '> uploading            1.50 s',
      '    [######......]   50 %  50.0 MiB of 100.0 MiB  20.0 MiB/s  ETA 2.50 s',
    ]);
  });

  it('shows what the container holds on GPUs', () => {
    const shown = progress({ gpu: { processes: 2, vramBytes: 12 * 1024 * MIB } });

    expect(renderBlock({ ...base, progress: shown })[1]).toBe('  GPU: 2 processes, 12.00 GiB of VRAM');
  });

  it('says that no worker has answered yet', () => {
    expect(renderBlock({ ...base, progress: undefined })).toEqual([
      'checkpoint of redis on node-a',
      '  waiting for a worker of the control queue',
    ]);
  });

  it('shows no running phase when the operation is over', () => {
    expect(renderBlock({ ...base, progress: progress({ phase: 'done' }) })).toEqual(['checkpoint of redis on node-a']);
  });

  it('shows the first line of the last error', () => {
    const shown = progress({ phase: 'uploading', lastError: 'StorageUnavailable: no answer\nmore' });

    expect(renderBlock({ ...base, progress: shown }).at(-1)).toBe('  last error: StorageUnavailable: no answer');
  });

  it('is never longer than the terminal is high nor wider than it is wide', () => {
    const finished = Array.from({ length: 50 }, () => ({ phase: 'probing' as const, durationMs: 1 }));

    const lines = renderBlock({ ...base, columns: 20, rows: 10, progress: progress({ finished }) });

    expect(lines).toHaveLength(9);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(20);
    expect(lines.at(-1)).toMatch(/^> uploading/);
  });
});

describe('createProgressPainter on a terminal', () => {
  it('repaints its block in place', () => {
    const target = recorder(true);
    const painter = createProgressPainter({ stream: target.stream, title: 'title', now: target.now });

    painter.update(undefined);
    painter.update(progress({ phase: 'probing' }));

    expect(target.written[0]).toBe('title\n  waiting for a worker of the control queue\n');
    expect(target.written[1]).toBe('\u001B[2A\u001B[0Jtitle\n> probing                0 ms\n');
  });

  it('takes the block away while it is paused and draws it anew afterwards', () => {
    const target = recorder(true);
    const painter = createProgressPainter({ stream: target.stream, title: 'title', now: target.now });
    painter.update(progress({ phase: 'probing' }));

    painter.pause();
    painter.update(progress({ phase: 'locking' }));

    expect(target.written[1]).toBe('\u001B[2A\u001B[0J');
    expect(target.written[2]).toBe('title\n> locking                0 ms\n');
  });
});

describe('createProgressPainter without a terminal', () => {
  it('writes one line a finished phase, and bytes at most every five seconds', () => {
    const target = recorder(false);
    const painter = createProgressPainter({ stream: target.stream, title: 'title', now: target.now });
    const finished = [{ phase: 'capturing' as const, durationMs: 340 }];

    painter.update(progress({ phase: 'capturing' }));
    for (let second = 0; second <= 11; second += 1) {
      painter.update(progress({ finished, bytesDone: second * MIB, bytesTotal: 100 * MIB }));
      target.advance(1000);
    }
    painter.update(progress({ phase: 'done', finished: [...finished, { phase: 'uploading', durationMs: 12_000 }] }));
    painter.end();

    expect(target.written).toEqual([
      'title\n',
      'capturing: done in 340 ms\n',
      'uploading: 5 %  5.0 MiB of 100.0 MiB  1.0 MiB/s  ETA 1 min 35 s\n',
      'uploading: 10 %  10.0 MiB of 100.0 MiB  1.0 MiB/s  ETA 1 min 30 s\n',
      'uploading: done in 12.0 s\n',
    ]);
  });

  it('writes an error of an attempt once', () => {
    const target = recorder(false);
    const painter = createProgressPainter({ stream: target.stream, title: 'title', now: target.now });

    painter.update(progress({ lastError: 'no answer' }));
    painter.update(progress({ lastError: 'no answer' }));

    expect(target.written).toEqual(['title\n', 'uploading: last error: no answer\n']);
  });
});
