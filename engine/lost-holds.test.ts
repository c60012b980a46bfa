import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readProcess } from '../native/proc/tree.ts';
import { appendJournal } from './journal.ts';
import { lostHolds } from './lost-holds.ts';
import type { NodeSettings } from './node-deps.ts';
import { AGENT } from './operation-owner.ts';
import { operationPaths, writeJson, writePlan, type OperationPlan } from './operation.ts';

const ID = 'e'.repeat(32);

let dir: string;
let settings: NodeSettings;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-lost-holds-'));
  settings = { node: 'n', runDir: join(dir, 'run'), stateDir: dir } as unknown as NodeSettings;
  mkdirSync(settings.runDir);
});
afterEach(() => rmSync(dir, { recursive: true }));

const paths = (): ReturnType<typeof operationPaths> => operationPaths(settings, ID);

/** Whose runner is dead. */
function heldOperation(after: OperationPlan['after'] = 'hold', workflow = { workflowId: 'w', runId: 'r' }): void {
  const container = { namespace: 'default', id: 'c1' };
  const plan = { operationId: ID, after, settings, container, token: 1, workflow };
  writePlan(plan as unknown as OperationPlan);
  appendJournal(paths().journal, { step: 'freezing', state: 'begin' });
  appendJournal(paths().journal, { step: 'held', state: 'done' });
}

const found = async (): Promise<string[]> => (await lostHolds(settings)).map(({ operationId }) => operationId);

test('a hold is over when somebody else than its runner has let the source go', async () => {
  heldOperation();
  expect(await found()).toEqual([]);

  appendJournal(paths().journal, { step: 'undone', state: 'begin' });
  expect(await found()).toEqual([]);
  appendJournal(paths().journal, { step: 'undone', state: 'done' });

  expect(await found()).toEqual([ID]);
});

test('a hold whose workflow has asked for its end is not told again', async () => {
  heldOperation();
  appendJournal(paths().journal, { step: 'undone', state: 'done' });
  appendJournal(paths().journal, { step: 'verified', state: 'done' });

  expect(await found()).toEqual([]);
});

test('a live runner lets the source go by itself, and answers its workflow', async () => {
  heldOperation();
  appendJournal(paths().journal, { step: 'resumed', state: 'done' });
  writeJson(paths().runner, { pid: process.pid, startTime: readProcess(process.pid)?.startTime });

  expect(await found()).toEqual([]);
});

test.each(['resume', 'stop'] as const)('nothing waits in a workflow that asked for %s', async (after) => {
  heldOperation(after);
  appendJournal(paths().journal, { step: 'undone', state: 'done' });

  expect(await found()).toEqual([]);
});

test('a call to the agent is no workflow that could be told', async () => {
  heldOperation('hold', { workflowId: AGENT, runId: ID });
  appendJournal(paths().journal, { step: 'undone', state: 'done' });

  expect(await found()).toEqual([]);
});
