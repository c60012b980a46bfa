import { describe, expect, it } from 'vitest';
import type { OperationProgress } from '../core/contract/progress.ts';
import { detailsTable, entered, reported } from './progress.ts';

const START: OperationProgress = {
  phase: 'probing',
  node: 'node-a',
  container: 'default/web',
  checkpointId: 'ck-1',
  phaseStartedAt: '2026-01-01T00:00:00.000Z',
  finished: [],
};

describe('progress of an operation', () => {
  it('closes a phase with its duration and forgets its bytes', () => {
    const uploading = reported({ ...START, phase: 'uploading' }, { phase: 'uploading', bytesDone: 5, bytesTotal: 10 });

    const state = entered(uploading, 'publishing', '2026-01-01T00:00:02.500Z');

    expect(state).toEqual({
      ...START,
      phase: 'publishing',
      phaseStartedAt: '2026-01-01T00:00:02.500Z',
      finished: [{ phase: 'uploading', durationMs: 2500 }],
    });
  });

  it('stays as it is when the phase is entered again', () => {
    expect(entered(START, 'probing', '2026-01-01T00:00:09.000Z')).toBe(START);
  });

  it('drops a report that comes after its phase', () => {
    expect(reported(START, { phase: 'uploading', bytesDone: 5 })).toBe(START);
  });

  it('sums the bytes of several nodes, and knows the total when each has told its own', () => {
    const fetching: OperationProgress = { ...START, phase: 'fetching', node: 'a,b' };

    const first = reported(fetching, { phase: 'fetching', node: 'a', bytesDone: 5, bytesTotal: 10 });
    const second = reported(first, { phase: 'fetching', node: 'b', bytesDone: 1 });
    const third = reported(second, { phase: 'fetching', node: 'b', bytesDone: 7, bytesTotal: 20 });

    expect(first).toMatchObject({ bytesDone: 5, bytesTotal: 10 });
    expect(second.bytesDone).toBe(6);
    expect(second.bytesTotal).toBeUndefined();
    expect(third).toMatchObject({
      bytesDone: 12,
      bytesTotal: 30,
      nodes: { a: { bytesDone: 5, bytesTotal: 10 }, b: { bytesDone: 7, bytesTotal: 20 } },
    });
    expect(entered(third, 'done', '2026-01-01T00:00:02.500Z').nodes).toBeUndefined();
  });

  it('is a table with the bytes of the current phase', () => {
    const state = reported(entered(START, 'uploading', '2026-01-01T00:00:00.120Z'), {
      phase: 'uploading',
      bytesDone: 5_242_880,
      bytesTotal: 10_485_760,
    });

    expect(detailsTable(state, 'checkpoint:web:1').split('\n')).toEqual([
      '**default/web** on **node-a**, checkpoint `ck-1`',
      '',
      '| phase | time |',
      '|---|---|',
      '| probing | 0.12 s |',
      '| **uploading** | 5.0 of 10.0 MiB |',
    ]);
  });

  it('ends with the error of a failed operation', () => {
    const table = detailsTable(
      { ...START, phase: 'failed', outcome: 'DumpFailed', lastError: 'DumpFailed: no' },
      'checkpoint:web:1',
    );

    expect(table).toContain('| **failed** | DumpFailed |');
    expect(table.endsWith('\n\nDumpFailed: no')).toBe(true);
  });

  it('says how a held source is let go, and only while it is held', () => {
    const text = 'To let it run on: `kybernate release checkpoint:web:1`';

    expect(detailsTable({ ...START, phase: 'holding' }, 'checkpoint:web:1')).toContain(text);
    expect(detailsTable({ ...START, phase: 'uploading' }, 'checkpoint:web:1')).not.toContain(text);
  });

  it('shows the budget of a source that stands still, and what an undo has read back of it', () => {
    const budget = { kind: 'freeze', endsAt: '2026-01-01T00:01:00.000Z' } as const;
    const rollback = {
      source: 'running',
      by: 'guard',
      processCount: 1,
      checks: { freezerThawed: true, notTraced: true },
      health: { healthy: false, tookMs: 1, output: 'PONG missing' },
    } as const;

    expect(detailsTable({ ...START, budget }, 'x')).toContain('The freeze budget ends at 2026-01-01T00:01:00.000Z');
    expect(detailsTable({ ...START, rollback }, 'x')).toContain(
      'Source after the undo: running; brought back by the guard; 1 process; 2 checks hold; its health command fails: PONG missing',
    );
  });

  it('says that a committed checkpoint stays, and only of an operation that did not end well', () => {
    const text = 'The checkpoint had been committed before and stays on the node';

    expect(detailsTable({ ...START, committed: true, phase: 'cancelled' }, 'x')).toContain(text);
    expect(detailsTable({ ...START, committed: true, phase: 'done' }, 'x')).not.toContain(text);
    expect(detailsTable({ ...START, phase: 'cancelled' }, 'x')).not.toContain(text);
  });

  it('shows the VRAM of a workload on a GPU', () => {
    const gpu = { processes: 2, vramBytes: 3 * 1_073_741_824 };

    expect(detailsTable({ ...START, gpu }, 'checkpoint:web:1')).toContain('GPU: 2 processes, 3072.0 MiB of VRAM');
    expect(detailsTable({ ...START, gpu: { ...gpu, processes: 1 } }, 'x')).toContain('GPU: 1 process, ');
  });
});
