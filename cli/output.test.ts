import { describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { createOutput, renderPairs, renderTable, writeError } from './output.ts';

function streams() {
  const written = { stdout: '', stderr: '' };
  return {
    written,
    stdout: { write: (text: string) => (written.stdout += text) },
    stderr: { write: (text: string) => (written.stderr += text) },
  };
}

describe('createOutput', () => {
  it('with --json writes one document to stdout and no remark', () => {
    const target = streams();
    const output = createOutput(target, { json: true });

    output.note('a remark');
    output.result({ a: 1 }, () => 'for people');

    expect(target.written).toEqual({ stdout: '{\n  "a": 1\n}\n', stderr: '' });
  });

  it('otherwise writes the text to stdout and remarks to stderr', () => {
    const target = streams();
    const output = createOutput(target, {});

    output.note('a remark');
    output.result({ a: 1 }, () => 'for people');

    expect(target.written).toEqual({ stdout: 'for people\n', stderr: 'a remark\n' });
  });
});

describe('writeError', () => {
  it('with --json puts the error on stdout, as the one document', () => {
    const target = streams();

    expect(writeError(target, new KybernateError('DiskFull', 'no room'), true)).toBe(19);

    expect(JSON.parse(target.written.stdout)).toEqual({
      error: { type: 'DiskFull', message: 'no room', details: {}, remedy: expect.any(String) as string },
    });
    expect(target.written.stderr).toBe('');
  });

  it('otherwise writes it to stderr', () => {
    const target = streams();

    writeError(target, new KybernateError('DiskFull', 'no room'), false);

    expect(target.written.stdout).toBe('');
    expect(target.written.stderr).toMatch(/^kybernate: DiskFull: no room\n/);
  });
});

describe('renderTable', () => {
  it('leaves out the columns of the least weight until the lines fit, and cuts no cell', () => {
    const columns = [
      { title: 'ID', value: () => 'long-id-123' },
      { title: 'WHEN', value: () => 'yesterday', leaves: 1 },
      { title: 'NODE', value: () => 'node-a', leaves: 2 },
    ];

    expect(renderTable([1], columns, 28)).toBe('ID           NODE\nlong-id-123  node-a');
    expect(renderTable([1], columns, 30)).toContain('WHEN');
    expect(renderTable([1], columns, 3)).toBe('ID\nlong-id-123');
  });

  it('aligns columns and leaves no blanks at the end of a line', () => {
    const rows = [
      { name: 'a', bytes: '1.0 KiB', note: '' },
      { name: 'longer', bytes: '512 B', note: 'x' },
    ];

    const text = renderTable(rows, [
      { title: 'NAME', value: (row) => row.name },
      { title: 'SIZE', value: (row) => row.bytes, align: 'right' },
      { title: 'NOTE', value: (row) => row.note },
    ]);

    expect(text).toBe(['NAME       SIZE  NOTE', 'a       1.0 KiB', 'longer    512 B  x'].join('\n'));
  });
});

describe('renderPairs', () => {
  it('leaves out what has no value and indents further lines', () => {
    const text = renderPairs([
      ['a', '1'],
      ['none', undefined],
      ['long name', 'x\ny'],
    ]);

    expect(text).toBe(['a          1', 'long name  x', '           y'].join('\n'));
  });
});
