import { describe, expect, it } from 'vitest';
import { CRIU_OPTIONS, type CriuOptionRow, criuOptionNamed } from './criu-options.ts';

const ROWS = Object.entries(CRIU_OPTIONS) as [string, CriuOptionRow][];

describe('the table of CRIU options', () => {
  it.each(ROWS)('%s can be passed somewhere, and is found by each of its spellings', (name, row) => {
    expect(row.runc ?? row.criu ?? row.rpc).toBeDefined();
    expect(row.runc ?? '--x').toMatch(/^--[a-z-]+$/);
    for (const spelling of [name, row.runc, row.criu, row.criu === undefined ? undefined : `--${row.criu}`]) {
      expect(spelling === undefined ? name : criuOptionNamed(spelling)).toBe(name);
    }
  });

  it('gives no spelling to two options', () => {
    for (const spellings of [ROWS.map(([, row]) => row.runc), ROWS.map(([, row]) => row.criu)]) {
      const named = spellings.filter((spelling) => spelling !== undefined);
      expect(new Set(named).size).toBe(named.length);
    }
  });

  it('finds an option that comes with its value, and none for another word', () => {
    expect(criuOptionNamed('manage-cgroups ignore')).toBe('manageCgroups');
    expect(criuOptionNamed('--manage-cgroups-mode=ignore')).toBe('manageCgroups');
    expect(criuOptionNamed('--tcp')).toBeUndefined();
    expect(criuOptionNamed('')).toBeUndefined();
  });
});
