import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Run } from '../native/run/run.ts';
import { dumpLogPlaces, networkLockTables } from './network-locks.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-locks-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

const OURS = 'CRIU-88d04616-dcf2-4257-95';
const NAMES = ['filter', 'kybernate-1', 'kybernate-2', OURS, 'CRIU-of-somebody-else'];
const run: Run = () =>
  Promise.resolve({
    exitCode: 0,
    timedOut: false,
    cancelled: false,
    forceKilled: false,
    durationMs: 1,
    stderr: '',
    stdout: JSON.stringify({ nftables: NAMES.map((name) => ({ table: { family: 'inet', name } })) }),
  });

async function found(privateNetwork: boolean): Promise<string[]> {
  const dumpLogs = dumpLogPlaces(join(dir, 'operation'), join(dir, 'checkpoint'));
  const tables = await networkLockTables({ namespace: 1, privateNetwork, dumpLogs, holdTable: 'kybernate-1' }, run);
  return tables.map((table) => table.name);
}

function writeLog(...path: string[]): void {
  mkdirSync(join(dir, ...path.slice(0, -1)), { recursive: true });
  writeFileSync(
    join(dir, ...path),
    '(00.0) CRIU run id = other\n(00.0) CRIU run id = 88d04616-dcf2-4257-95d0-d6d26cd9eea8\n',
  );
}

test('in a private network namespace every table of a CRIU is a left-over', async () => {
  expect(await found(true)).toEqual(['kybernate-1', OURS, 'CRIU-of-somebody-else']);
});

test.each([
  ['while CRIU runs', ['operation', 'criu-work', 'dump.log']],
  ['after its log was saved', ['checkpoint', 'logs', 'dump.log']],
])('in a shared one only the table of our own run is, known from its log %s', async (_title, path) => {
  writeLog(...path);

  expect(await found(false)).toEqual(['kybernate-1', OURS]);
});

test('in a shared one without a log no CRIU of ours has come so far', async () => {
  expect(await found(false)).toEqual(['kybernate-1']);
});
