/*
 * Steps of an operation that come late, when a newer one has had the container: each is refused before its act. The steps
 * that need a real container are refused by the same check, right before they act (capture-criu.ts, gpu-section.ts).
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import { completeRestoreRequest, prepareRestoreRequest } from '../core/contract/restore.ts';
import type { Op } from '../core/op.ts';
import { ANNOTATIONS, LABELS } from '../core/oci/annotations.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import { captureContainer, discardCapture, saveGpuState, startRunner, stopContainer } from './attach.ts';
import { hasShim } from './dead-bundle.ts';
import { NO_GPU } from './gpu/gpu-plan.ts';
import type { NodeDeps, NodeSettings } from './node-deps.ts';
import { checkToken, newestToken, operationPaths, retireToken, writePlan, type OperationPlan } from './operation.ts';
import { AGENT, claimOperation } from './operation-owner.ts';
import { planCheckpoint, type PlanRequest } from './plan.ts';
import { completeRestore } from './complete-restore.ts';
import { prepareRestore } from './prepare-restore.ts';
import { nameFindings } from './preflight/image.ts';
import { endRestore, removeRestored } from './restore-end.ts';
import { listNotes, writeNote } from './restore-notes.ts';
import { createRestoreContainer, endEarlierRuns, planRestore } from './restore.ts';
import { startRestored } from './restore-start.ts';
import { readRestore, restoresUsing, writeRestore, type RestoreRecord } from './restore-operation.ts';

const CHECKPOINT = 'a'.repeat(32);
const RESTORE = 'b'.repeat(32);
const container = { namespace: 'default', id: 'c1' };
const workflow = { workflowId: 'w', runId: 'r' };
const silent = (): void => undefined;
const op: Op = {
  signal: new AbortController().signal,
  progress: silent,
  log: { debug: silent, info: silent, warn: silent, error: silent },
};

let dir: string;
let deps: NodeDeps;
let calls: string[];
/** as containerd would tell it; undefined: no task */
let task: 'created' | 'running' | 'stopped' | undefined;
let isThere: boolean;

/** Writes down what would change the world. */
function fakeContainerd(): Containerd {
  const noted =
    (name: string, act: () => void = silent) =>
    () => {
      calls.push(name);
      act();
      return Promise.resolve({ pid: process.pid });
    };
  return {
    getContainer: () =>
      Promise.resolve(isThere ? { labels: { [LABELS.operation]: RESTORE }, snapshotter: 'overlayfs' } : undefined),
    getTask: () => Promise.resolve(task === undefined ? undefined : { status: task, pid: process.pid }),
    createContainer: noted('createContainer'),
    createTask: noted('createTask'),
    startTask: noted('startTask'),
    killTask: noted('killTask', () => (task = 'stopped')),
    deleteTask: noted('deleteTask', () => (task = undefined)),
    deleteContainer: noted('deleteContainer', () => (isThere = false)),
    removeSnapshot: noted('removeSnapshot'),
    deleteLease: noted('deleteLease'),
  } as unknown as Containerd;
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-fencing-'));
  calls = [];
  task = undefined;
  isThere = true;
  const settings = {
    node: 'n',
    runDir: join(dir, 'run'),
    stateDir: dir,
    runnerCommand: ['/bin/false'],
  } as unknown as NodeSettings;
  deps = { settings, containerd: fakeContainerd(), gpu: () => ({ reason: 'none' }) } as unknown as NodeDeps;
  mkdirSync(settings.runDir);
  writePlan({
    operationId: CHECKPOINT,
    container,
    workflow,
    token: 1,
    gpu: NO_GPU,
    freezeBudgetMs: 1000,
    checkpointDir: join(dir, 'checkpoints', 'checkpoint-a'),
    settings,
  } as unknown as OperationPlan);
});
afterEach(() => rmSync(dir, { recursive: true }));

function record(state: RestoreRecord['state'], more: Partial<RestoreRecord> = {}): void {
  claimOperation(deps.settings, RESTORE, { workflow, checkpointId: 'ck' });
  writeNote(deps.settings, { operationId: RESTORE, workflow, container, token: 1, snapshotter: 'overlayfs' });
  writeRestore(deps.settings, {
    operationId: RESTORE,
    container,
    token: 1,
    madeBy: 'worker',
    checkpointId: 'ck',
    checkpointDir: dir,
    imageDir: dir,
    hasMetadata: false,
    snapshotter: 'overlayfs',
    tcp: 'close',
    onFailure: 'fail',
    restoreBudgetMs: 1000,
    stdio: { kind: 'null' },
    terminal: false,
    attempt: 1,
    state,
    ...more,
  });
}

const ref = { operationId: CHECKPOINT, checkpointId: 'a', container, token: 1 };
const context = { container, token: 1, checkpointId: 'ck' };
const created = { tcp: 'close', gpuMap: [], onFailure: 'fail', stdio: { kind: 'null' } } as const;
const run = { operationId: RESTORE, workflow };
const agentCall = { operationId: RESTORE, container: { id: 'c1', namespace: 'default' } };

const LATE: Readonly<Record<string, () => Promise<unknown>>> = {
  'the plan of a checkpoint': () =>
    planCheckpoint(deps, op, { context: ref, operationId: 'c'.repeat(32), workflow } as unknown as PlanRequest),
  'the start of its runner': () => startRunner(deps, op, ref),
  'the save of GPUs': () => saveGpuState(deps, op, ref),
  'freeze and dump': () => captureContainer(deps, op, ref),
  'the end of the source': () => stopContainer(deps, op, ref),
  'the plan of a restore': () => planRestore(deps, op, { ...run, ...created, context, checkpointDir: dir }),
  'the container of a restore': () => createRestoreContainer(deps, op, { ...run, ...created, context, localPath: dir }),
  'the start of a restore': () => startRestored(deps, op, { context, operationId: RESTORE, restoreBudgetMs: 1000 }),
  'the call of its wrapper': () =>
    prepareRestore(
      deps,
      op,
      { fetchCheckpoint: () => Promise.reject(new Error('not asked')) },
      prepareRestoreRequest.parse({ ...agentCall, restoreFrom: 'ck', origin: 'annotation', bundle: '/b' }),
    ),
  'the restore of its GPUs': () =>
    completeRestore(
      deps,
      op,
      completeRestoreRequest.parse({ ...agentCall, outcome: 'restored', initHostPid: 1, restoreMs: 1 }),
    ),
};

test.each(Object.keys(LATE))('%s is refused when a newer token was seen, and nothing is done', async (step) => {
  record('prepared');
  checkToken(deps.settings, container, 2);

  await expect(LATE[step]?.()).rejects.toMatchObject({ type: 'LockLost' });

  expect(calls).toEqual([]);
  expect(readRestore(deps.settings, RESTORE)?.state).toBe('prepared');
  expect(existsSync(operationPaths(deps.settings, CHECKPOINT).journal)).toBe(false);
});

test('the end of an operation retires its token, and leaves a newer one alone', async () => {
  await discardCapture(deps, op, ref);
  expect(newestToken(deps.settings, container)).toBe(2);

  checkToken(deps.settings, container, 7);
  retireToken(deps.settings, container, 1);

  expect(newestToken(deps.settings, container)).toBe(7);
});

test.each([
  ['before a task was made', 'registered', undefined, 'removed', ['deleteContainer', 'removeSnapshot']],
  [
    'with a task that has ended before its restore',
    'prepared',
    'stopped',
    'removed',
    ['deleteTask', 'deleteContainer', 'removeSnapshot'],
  ],
  ['whose processes run', 'restored', 'running', 'kept', []],
  ['whose processes run, and nobody lived to write that down', 'prepared', 'running', 'kept', []],
  ['whose processes run, and containerd was not told', 'restored', 'created', 'kept', ['startTask']],
  ['whose processes have run, and ended by themselves', 'restored', 'stopped', 'kept', []],
  [
    'about to start afresh',
    'cold-started',
    'created',
    'removed',
    ['killTask', 'deleteTask', 'deleteContainer', 'removeSnapshot'],
  ],
] as const)('a restore of a closed workflow %s', async (_, state, status, expected, acts) => {
  record(state);
  task = status;

  expect(await endRestore(deps, op, RESTORE)).toBe(expected);

  expect(calls).toEqual(acts);
  expect([listNotes(deps.settings), restoresUsing(deps.settings, 'ck')]).toEqual([[], []]);
  expect(existsSync(operationPaths(deps.settings, RESTORE).dir)).toBe(false);
});

test('a restore that a reboot interrupted is ended by its note alone', async () => {
  writeNote(deps.settings, { operationId: RESTORE, workflow, container, token: 1, snapshotter: 'overlayfs' });

  expect(await endRestore(deps, op, RESTORE)).toBe('removed');

  expect(calls).toEqual(['deleteContainer', 'removeSnapshot']);
  expect(readdirSync(join(dir, 'restores'))).toEqual([]);
});

test('a restore into its source in Docker that a reboot ended when its processes ran keeps its files', async () => {
  const upperDir = join(dir, 'layer', 'diff');
  const aside = `${upperDir}.kybernate-${RESTORE}`;
  [upperDir, aside].forEach((path) => mkdirSync(path, { recursive: true }));
  const docker = { name: 'web', id: 'd'.repeat(64), upperDir };
  writeNote(deps.settings, { operationId: RESTORE, workflow, container, token: 1, snapshotter: '', docker });

  expect(await endRestore(deps, op, RESTORE)).toBe('kept');

  expect(readdirSync(join(dir, 'layer'))).toEqual(['diff']);
  expect(readdirSync(join(dir, 'restores'))).toEqual([]);
});

test.each([
  ['what an earlier run of the workflow left is ended', workflow, { ...workflow, runId: 'r2' }, false],
  [
    'a restore that the agent has under way is left to a workflow of the same name',
    { workflowId: AGENT, runId: RESTORE },
    { workflowId: AGENT, runId: '0197f1c2-8a3e-7c11-9d51-0b6a4c1f2e77' },
    true,
  ],
])('%s', async (_fact, owner, next, stays) => {
  record('prepared');
  claimOperation(deps.settings, RESTORE, { workflow: owner, checkpointId: 'ck' });

  await endEarlierRuns(deps, op, { operationId: 'c'.repeat(32), workflow: next });

  expect(readRestore(deps.settings, RESTORE) !== undefined).toBe(stays);
});

test.each([
  ['registered', []],
  ['restored', ['name']],
] as const)('a name is taken by a container of a restore that is over, not by one that is %s', async (state, codes) => {
  record(state);
  isThere = true;

  const findings = await nameFindings(deps, container);

  expect(findings.map(({ code }) => code)).toEqual(codes);
});

test('the undo of a restore leaves a container of the same name alone that is not its own, and waits for no shim of it', async () => {
  record('registered');
  const place = ['-namespace', container.namespace, '-id', container.id, ''];
  const shim = spawn('/bin/sh', ['-c', 'read _', ...place], { argv0: 'containerd-shim-test' });
  onTestFinished(() => void shim.kill('SIGKILL'));
  await expect.poll(() => hasShim(container)).toBe(true);
  deps = {
    ...deps,
    containerd: {
      ...deps.containerd,
      getContainer: () => Promise.resolve({ labels: {} }),
    } as unknown as Containerd,
  };

  await removeRestored(deps, op, { operationId: RESTORE, container, token: 1 });

  expect(calls).toEqual(['removeSnapshot']);
});

test('the undo of a restore does not wait for the runtime of a newer one that has its bundle', async () => {
  const bundle = join(dir, 'bundle');
  mkdirSync(bundle);
  writeFileSync(
    join(bundle, 'config.json'),
    JSON.stringify({ annotations: { [ANNOTATIONS.operation]: 'c'.repeat(32) } }),
  );
  record('prepared', { bundle });
  deps = {
    ...deps,
    containerd: { ...deps.containerd, getContainer: () => Promise.resolve({ labels: {} }) } as unknown as Containerd,
  };

  await removeRestored(deps, op, { operationId: RESTORE, container, token: 1 });

  expect(readRestore(deps.settings, RESTORE)).toBeUndefined();
});
