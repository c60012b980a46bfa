/* A commit that comes late: the operation was ended meanwhile, or the node was rebooted. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { METADATA_FILE } from '../../core/checkpoint/file-names.ts';
import { parseOperationId } from '../../core/ids.ts';
import { draftPath } from '../../engine/draft.ts';
import type { NodeSettings } from '../../engine/node-deps.ts';
import { bootId, checkToken, operationPaths, writePlan, type OperationPlan } from '../../engine/operation.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import type { ActivityOp } from '../op.ts';
import { commitLocal } from './commit.ts';
import type { NodeActivityDeps } from './deps.ts';

const operationId = parseOperationId('a'.repeat(32));
const container = { namespace: 'default', id: 'c1' };
const workflow = { workflowId: 'w', runId: 'r' };
const silent = (): void => undefined;
const op: ActivityOp = {
  operationId,
  workflow,
  signal: new AbortController().signal,
  progress: silent,
  log: { debug: silent, info: silent, warn: silent, error: silent },
};

let dir: string;
let checkpointDir: string;
let settings: NodeSettings;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-commit-'));
  settings = { node: 'n', runDir: join(dir, 'run'), stateDir: dir } as unknown as NodeSettings;
  checkpointDir = join(dir, 'checkpoints', 'checkpoint-a');
  mkdirSync(checkpointDir, { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true }));

function commit(): Promise<unknown> {
  const deps = { node: { settings }, catalog: localCatalog(join(dir, 'checkpoints')) } as unknown as NodeActivityDeps;
  const context = { checkpointId: 'a', container, token: 1 };
  return commitLocal(deps, op, { context, labels: {}, uploadPending: false });
}

function draft(boot: string): void {
  writeFileSync(draftPath(checkpointDir), JSON.stringify({ bootId: boot }));
}

test.each([
  ['of an operation that was ended, its capture gone', undefined, 'LockLost'],
  ['of an operation that was ended, its capture about to go', bootId(), 'LockLost'],
  ['of a capture that a reboot has seen', 'another boot', 'CheckpointCorrupt'],
])('a commit %s makes no checkpoint', async (_, boot, type) => {
  if (boot !== undefined) {
    draft(boot);
  }

  await expect(commit()).rejects.toMatchObject({ type });

  expect(existsSync(join(checkpointDir, METADATA_FILE))).toBe(false);
});

test('a commit of a held container is refused when a newer operation has it', async () => {
  draft(bootId());
  writePlan({
    operationId,
    container,
    workflow,
    token: 1,
    after: 'hold',
    checkpointDir,
    settings,
  } as unknown as OperationPlan);
  checkToken(settings, container, 2);

  await expect(commit()).rejects.toMatchObject({ type: 'LockLost' });

  expect(existsSync(join(checkpointDir, METADATA_FILE))).toBe(false);
});

test.each([
  ['resume', false],
  ['hold', true],
  ['stop', true],
] as const)('a commit after a runner that died keeps what tells that a source was held: %s', async (after, isKept) => {
  writeFileSync(draftPath(checkpointDir), JSON.stringify({ bootId: bootId(), bytes: { image: 5, rootfs: 0 } }));
  writePlan({ operationId, container, workflow, token: 1, after, checkpointDir, settings } as unknown as OperationPlan);

  await commit();

  expect(existsSync(join(checkpointDir, METADATA_FILE))).toBe(true);
  expect(existsSync(operationPaths(settings, operationId).dir)).toBe(isKept);
});
