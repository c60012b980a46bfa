/*
 * The support matrix as data: what was really run is kept in test/matrix/results.json, of which docs/support.md has the table.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Kind to what the table calls it. */
export const KINDS = {
  counter: 'counter',
  redis: 'redis',
  tcp: 'Python with TCP client',
  threads: 'threads',
  tty: 'TTY',
  fds: 'many fds',
  deleted: 'deleted files',
  unix: 'unix sockets',
} as const;
export type Kind = keyof typeof KINDS;
export const ALL_KINDS = Object.keys(KINDS) as Kind[];

/** `passed`, or why it was refused before the freeze, or why another engine could not restore it. */
export type Outcome = 'passed' | { readonly refused: string } | { readonly failed: string };

/** Why it is not `passed`. */
export function reasonOf(outcome: Exclude<Outcome, 'passed'>): string {
  return 'refused' in outcome ? outcome.refused : outcome.failed;
}

/** Built by `npm run matrix`. Modules of 1.2 replace others, which `go install` refuses; Debian has 1.1. */
export const RUNC_VERSIONS = ['1.3.6', '1.4.3'] as const;

/** The last line of containerd that restores archives of the kubelet; built by `npm run matrix`, too. */
export const RESTORING_CONTAINERD = '2.3.7';

/** Of an error's message, without what belongs to one run. */
export function reasonIn(message: string): string {
  return message
    .replace(/^[^]*cannot be checkpointed: /, '')
    .replace(/; the (?:container|process) was not touched[^]*$/, '')
    .replaceAll(/\bprocess \d+(?: \([^)]*\))?/g, 'a process')
    .replaceAll(/\/tmp\/\S+\//g, '');
}

export interface Row {
  /** with its version, as the table shows it */
  readonly platform: string;
  /** OCI runtime with its version, and how it was reached */
  readonly runtime: string;
  readonly cells: Readonly<Partial<Record<Kind, Outcome>>>;
}

const RESULTS = join(import.meta.dirname, '../matrix/results.json');

export function readRows(): Row[] {
  return (JSON.parse(readFileSync(RESULTS, 'utf8')) as { readonly rows: Row[] }).rows;
}

/** Puts the cells of a row that were run in the place of those of before. */
export function recordRow(row: Row): void {
  const rows = readRows();
  const before = rows.find(({ platform, runtime }) => platform === row.platform && runtime === row.runtime);
  const others = rows.filter((other) => other !== before);
  const all = [...others, { ...row, cells: { ...before?.cells, ...row.cells } }];
  all.sort((a, b) => `${a.platform} ${a.runtime}`.localeCompare(`${b.platform} ${b.runtime}`));
  writeFileSync(RESULTS, `${JSON.stringify({ rows: all }, undefined, 2)}\n`);
}
