/*
 * Records the histories that replay.test.ts replays: node test/temporal/record-histories.ts [name...]
 * Run it when a change of the workflows is meant to change their commands; the old file is then overwritten, and the
 * commit says why running operations survive the change.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { format, resolveConfig } from 'prettier';

import type { Rung } from '../../core/contract/ladder.ts';
import { lockWorkflowId } from '../../core/ids.ts';
import { CONTROL_QUEUE } from '../../core/task-queues.ts';
import { openTestServers } from '../harness/dev-servers.ts';
import {
  fails,
  nodeQueues,
  onGpu,
  once,
  openHarness,
  outcomeOf,
  silent,
  untilCancelled,
  type Harness,
  type Scenario,
  type Script,
  type StepName,
} from './harness.ts';
import { ARCHIVE, NODE, TIMEOUTS } from './requests.ts';

export const HISTORIES_DIR = join(import.meta.dirname, '..', 'histories');

type Recording = (harness: Harness) => Promise<WorkflowHandle>;

/** Somebody still works in the store when it is looked at first. */
const waitingOnce = once(async (_input, happy) => ({ ...((await happy()) as object), waitingFor: ['upload-x'] }));

const damaged = (): Script =>
  once(async (_input, happy) => ({ ...((await happy()) as object), ok: false, problemCount: 1 }));

function onCopies(harness: Harness, type: string, request: object, workflowId = type): Promise<WorkflowHandle> {
  const args = [{ checkpointId: 'ck-copies', node: NODE, timeouts: TIMEOUTS, ...request }];
  return harness.client.workflow.start(type, { workflowId, taskQueue: CONTROL_QUEUE, args });
}

/** Cancels or terminates the operation inside the step. */
async function stopped(
  harness: Harness,
  how: 'cancel' | 'terminate',
  step: StepName,
  start: (id: string, scenario: Scenario) => Promise<WorkflowHandle>,
): Promise<WorkflowHandle> {
  const id = `${how}-in-${step}`;
  const reached = harness.reached(id, step);
  const handle = await start(id, { steps: { [step]: once(untilCancelled) } });
  await reached;
  await (how === 'cancel' ? handle.cancel() : handle.terminate());
  return handle;
}

const RECORDINGS: Record<string, Recording> = {
  'checkpoint-resume-verified': (harness) => harness.checkpoint('resume', {}, { durability: 'verified' }),
  'checkpoint-hold': (harness) => harness.checkpoint('hold', {}, { after: 'hold', holdBudgetMs: 100 }),
  'checkpoint-stop': (harness) => harness.checkpoint('stop', {}, { after: 'stop' }),
  'checkpoint-throw-at-capture': (harness) =>
    harness.checkpoint('throw', { steps: { captureContainer: fails('DumpFailed') } }),
  'checkpoint-undo-poisoned': (harness) =>
    harness.checkpoint('poisoned', {
      steps: { captureContainer: fails('DumpFailed'), resumeContainer: fails('Poisoned') },
    }),
  'checkpoint-cancelled-in-capture': (harness) =>
    stopped(harness, 'cancel', 'captureContainer', (id, scenario) => harness.checkpoint(id, scenario)),
  'checkpoint-cancelled-in-upload': (harness) =>
    stopped(harness, 'cancel', 'uploadImage', (id, scenario) => harness.checkpoint(id, scenario)),
  'checkpoint-terminated': (harness) =>
    stopped(harness, 'terminate', 'commitLocal', (id, scenario) => harness.checkpoint(id, scenario)),
  'rehearse-cancelled': (harness) =>
    stopped(harness, 'cancel', 'saveGpuState', (id, scenario) => harness.rehearse(id, scenario)),
  'restore-cancelled': (harness) =>
    stopped(harness, 'cancel', 'startRestored', (id, scenario) => harness.restore(id, scenario)),
  'restore-undo-failed': (harness) =>
    harness.restore('undo-failed', {
      steps: { startRestored: fails('RestoreFailed'), removeRestored: fails('Poisoned') },
    }),
  'prefetch-cancelled': (harness) =>
    stopped(harness, 'cancel', 'prefetchPacks', (id, scenario) => harness.prefetch(id, scenario)),
  'collect-garbage-cancelled': (harness) =>
    stopped(harness, 'cancel', 'condemnGarbage', (id, scenario) => harness.collectGarbage(id, scenario)),
  'verify-failed': (harness) => {
    harness.script('verifyFailed', { steps: { surveyStored: fails('StorageDenied') } });
    return onCopies(harness, 'verifyCheckpoint', {}, 'verifyFailed');
  },
  'repair-failed': (harness) => {
    const steps = { surveyStored: damaged(), repairStored: fails('CheckpointCorrupt') };
    harness.script('repairFailed', { steps });
    return onCopies(harness, 'repairCheckpoint', {}, 'repairFailed');
  },
  'checkpoint-node-lost': async (harness) => {
    const stop = await harness.serve(nodeQueues('node-lost'));
    const reached = harness.reached('lost', 'captureContainer');
    const request = { node: 'node-lost', timeouts: { ...TIMEOUTS, nodePickupMs: 500 } };
    const handle = await harness.checkpoint('lost', { steps: { captureContainer: silent } }, request);
    await reached;
    await stop();
    return handle;
  },
  'checkpoint-invalid-input': (harness) => harness.checkpoint('invalid', {}, { container: {} }),
  rehearse: (harness) => harness.rehearse('rehearsed'),
  'rehearse-undone': (harness) => harness.rehearse('undone', { steps: { saveGpuState: fails('GpuUnsupported') } }),
  'checkpoint-gpu': (harness) => harness.checkpoint('gpu', onGpu({}), { gpu: { lockTimeoutMs: 500 } }),
  'restore-from-store': (harness) =>
    harness.restore('restored', { steps: { resolveLocal: () => Promise.resolve({}) } }, { container: {} }),
  'restore-failed': (harness) => harness.restore('failed', { steps: { startRestored: fails('RestoreFailed') } }),
  'restore-looks-first': (harness) => harness.restore('looked', {}, { container: {} }),
  'restore-ladder': (harness) => {
    const damaged: Script = (input, happy) =>
      (input as { from: string }).from === 'local' ? fails('CheckpointCorrupt')(input, happy) : happy();
    return harness.restore('climbed', { steps: { fetchImage: damaged } });
  },
  'restore-another-node': async (harness) => {
    const stop = await harness.serve(nodeQueues('node-b'));
    const steps = { fetchImage: once(fails('DiskFull')), releaseRestoreLease: once(fails('Internal')) };
    const ladder = { ladder: ['local-copy', 'another-node'] as Rung[], otherNodes: ['node-b'] };
    const handle = await harness.restore('elsewhere', { steps }, ladder);
    await outcomeOf(handle);
    await stop();
    return handle;
  },
  'restore-older': (harness) => {
    const older: Script = () =>
      Promise.resolve({ checkpoints: [{ checkpointId: 'ck-older', createdAt: '2026-02-01T00:00:00.000Z' }] });
    const steps = { fetchImage: once(fails('CheckpointCorrupt')), olderLocal: fails('Internal'), olderStored: older };
    return harness.restore('older', { steps }, { ladder: ['local-copy', 'older-checkpoint'] });
  },
  'restore-process': (harness) => onCopies(harness, 'restoreProcess', { stdio: { stdout: '/var/log/job.log' } }),
  'restore-process-failed': (harness) => {
    harness.script('unrevived', { steps: { restoreProcess: fails('RestoreFailed') } });
    return onCopies(harness, 'restoreProcess', {}, 'unrevived');
  },
  preflight: (harness) => onCopies(harness, 'preflight', {}),
  'prefetch-partial': (harness) => {
    const timeouts = { ...TIMEOUTS, nodePickupMs: 500 };
    return harness.prefetch(
      'prefetched',
      {},
      { nodes: [NODE, 'node-gone'], pin: { expiresAfterMs: 60_000 }, timeouts },
    );
  },
  'prefetch-local-failed': (harness) =>
    harness.prefetch('unfetched', { steps: { fetchImage: fails('CheckpointCorrupt') } }, { tier: 'local' }),
  'collect-garbage': (harness) =>
    harness.collectGarbage('collected', { steps: { confirmGarbage: waitingOnce } }, { lookEveryMs: 100 }),
  'collect-garbage-dry-run': (harness) => harness.collectGarbage('told', {}, { dryRun: true }),
  'collect-garbage-failed': (harness) =>
    harness.collectGarbage('uncollected', { steps: { confirmGarbage: fails('CheckpointCorrupt') } }),
  'delete-checkpoint': (harness) =>
    harness.start('deleteCheckpoint', 'deleted', {}, { checkpointId: 'ck-copies', nodes: [NODE], timeouts: TIMEOUTS }),
  'delete-in-use': (harness) => {
    const request = { checkpointId: 'ck-copies', nodes: [NODE], timeouts: TIMEOUTS };
    return harness.start('deleteCheckpoint', 'in-use', { steps: { removeStored: fails('CheckpointInUse') } }, request);
  },
  'import-checkpoint': (harness) => {
    const request = { node: NODE, archive: ARCHIVE, durability: 'verified', timeouts: TIMEOUTS };
    return harness.start('importCheckpoint', 'imported', {}, request);
  },
  'inspect-restore': (harness) =>
    harness.start(
      'inspectRestore',
      'inspected',
      {},
      { node: NODE, pod: { uid: 'u-1', container: 'app' }, timeouts: TIMEOUTS },
    ),
  'verify-checkpoint': (harness) => onCopies(harness, 'verifyCheckpoint', { mode: 'full' }),
  'repair-checkpoint': (harness) => {
    harness.script('repairCheckpoint', { steps: { surveyStored: damaged() } });
    return onCopies(harness, 'repairCheckpoint', {});
  },
  'container-lock-of-a-dead-holder': async (harness) => {
    const container = { container: { id: 'dead' }, durability: 'local' } as const;
    await stopped(harness, 'terminate', 'planCheckpoint', (id, scenario) =>
      harness.checkpoint(id, scenario, container),
    );
    await (await harness.checkpoint('lock-after-dead', {}, container)).result();
    return harness.client.workflow.getHandle(lockWorkflowId({ node: NODE, namespace: 'default', id: 'dead' }));
  },
  'container-lock': async (harness) => {
    const container = { container: { id: 'shared' }, durability: 'local' } as const;
    const first = await harness.checkpoint('lock-first', {}, container);
    const second = await harness.checkpoint('lock-second', {}, container);
    await Promise.all([first.result(), second.result()]);
    return harness.client.workflow.getHandle(lockWorkflowId({ node: NODE, namespace: 'default', id: 'shared' }));
  },
};

/** Stack traces name the machine that recorded; nothing in a replay reads them. */
function withoutStacks(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(withoutStacks);
  }
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([key]) => key !== 'stackTrace');
    return Object.fromEntries(entries.map(([key, part]) => [key, withoutStacks(part)]));
  }
  return value;
}

async function main(wanted: readonly string[]): Promise<void> {
  const servers = await openTestServers();
  const harness = await openHarness({
    server: await servers.temporal(),
    lock: { idleMs: 1000, holderCheckMs: 60_000 },
  });
  await mkdir(HISTORIES_DIR, { recursive: true });
  try {
    for (const [name, record] of Object.entries(RECORDINGS)) {
      if (wanted.length > 0 && !wanted.includes(name)) {
        continue;
      }
      const handle = await record(harness);
      await outcomeOf(handle);
      const history = withoutStacks(JSON.parse(historyToJSON(await handle.fetchHistory())));
      const file = join(HISTORIES_DIR, `${name}.json`);
      const config = (await resolveConfig(file)) ?? {};
      await writeFile(
        file,
        await format(JSON.stringify({ workflowId: handle.workflowId, history }), { ...config, filepath: file }),
      );
      console.log(`recorded ${name}`);
    }
  } finally {
    await harness.close();
    await servers.close();
  }
}

if (import.meta.main) {
  await main(process.argv.slice(2));
}
