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

  it('is a table with the bytes of the current phase', () => {
    const state = reported(entered(START, 'uploading', '2026-01-01T00:00:00.120Z'), {
      phase: 'uploading',
      bytesDone: 5_242_880,
      bytesTotal: 10_485_760,
    });

    expect(detailsTable(state).split('\n')).toEqual([
      '**default/web** on **node-a**, checkpoint `ck-1`',
      '',
      '| phase | time |',
      '|---|---|',
      '| probing | 0.12 s |',
      '| **uploading** | 5.0 of 10.0 MiB |',
    ]);
  });

  it('ends with the error of a failed operation', () => {
    const table = detailsTable({ ...START, phase: 'failed', outcome: 'DumpFailed', lastError: 'DumpFailed: no' });

    expect(table).toContain('| **failed** | DumpFailed |');
    expect(table.endsWith('\n\nDumpFailed: no')).toBe(true);
  });
});
