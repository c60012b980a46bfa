import { mkdirSync, mkdtempSync, rmSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Op } from '../core/op.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';
import { listOperations, operationPaths } from './operation.ts';
import { claimOperation, thisCommand } from './operation-owner.ts';
import { reconcile } from './reconcile.ts';

const ID = 'd'.repeat(32);
const silent = (): void => undefined;
const op: Op = {
  signal: new AbortController().signal,
  progress: silent,
  log: { debug: silent, info: silent, warn: silent, error: silent },
};

let dir: string;
let deps: NodeDeps;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-reconcile-'));
  const settings = { node: 'n', runDir: join(dir, 'run'), stateDir: dir } as unknown as NodeSettings;
  deps = { settings, gpu: () => ({ reason: 'none' }) } as unknown as NodeDeps;
  mkdirSync(settings.runDir);
});
afterEach(() => rmSync(dir, { recursive: true }));

/** As when its directory has seen nothing for an hour. */
async function cleanedLater(): Promise<readonly string[]> {
  const hourAgo = new Date(Date.now() - 3_600_000);
  utimesSync(operationPaths(deps.settings, ID).dir, hourAgo, hourAgo);
  return (await reconcile(deps, op, () => Promise.resolve(true))).cleaned;
}

test('what a command does itself is wanted as long as the command lives, however long it takes', async () => {
  claimOperation(deps.settings, ID, { command: thisCommand(), checkpointId: 'ck' });

  expect(await cleanedLater()).toEqual([]);
  expect(await listOperations(deps.settings)).toEqual([ID]);
});

test('what a command has left that was killed is ended, also when its pid is another process by now', async () => {
  claimOperation(deps.settings, ID, { command: { ...thisCommand(), startTime: 1 } });

  expect(await cleanedLater()).toEqual([ID]);
  expect(await listOperations(deps.settings)).toEqual([]);
});

test('a directory of which nobody says whose it is goes when it is old', async () => {
  mkdirSync(operationPaths(deps.settings, ID).dir, { recursive: true });

  expect((await reconcile(deps, op, () => Promise.resolve(true))).cleaned).toEqual([]);
  expect(await cleanedLater()).toEqual([ID]);
});
