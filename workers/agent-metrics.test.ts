import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { completeRestoreRequest } from '../core/contract/restore.ts';
import type { Meter } from '../core/metrics.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { writeRestore } from '../engine/restore-operation.ts';
import { countCheckpoint, countedComplete } from './agent-metrics.ts';

const OPERATION = '0123456789abcdef0123456789abcdef';

let dir = '';
let settings: NodeDeps['settings'];
let counted: string[] = [];
const note = (name: string, labels: object, value?: number): void => {
  counted.push(
    [name, ...Object.values(labels as Record<string, string>), Math.round((value ?? 1) * 10) / 10].join(' '),
  );
};
const meter: Meter = { add: note, observe: note, gauge: () => undefined };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'agent-metrics-'));
  settings = { runDir: join(dir, 'run'), stateDir: join(dir, 'state') } as unknown as NodeDeps['settings'];
  counted = [];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

async function complete(madeBy: 'worker' | 'others', outcome: 'restored' | 'failed', proceed = true): Promise<void> {
  writeRestore(settings, {
    operationId: OPERATION,
    container: { namespace: 'k8s.io', id: 'web' },
    madeBy,
    checkpointDir: '/c',
    imageDir: '/c/criu',
    hasMetadata: true,
    snapshotter: '',
    tcp: 'keep',
    onFailure: 'fail',
    restoreBudgetMs: 5000,
    stdio: { kind: 'null' },
    terminal: false,
    attempt: 1,
    state: 'prepared',
  });
  const word = { operationId: OPERATION, container: { id: 'web' }, outcome, initHostPid: 1, restoreMs: 2500 };
  await countedComplete({ meter, settings }, completeRestoreRequest.parse(word), async () => ({ proceed }));
}

it('a restore that a pod asked for is counted, one of our own steps counts by itself', async () => {
  await complete('others', 'restored');
  await complete('worker', 'restored');

  expect(counted).toEqual(['kybernate_restore_seconds restored 2.5']);
});

it('one that failed, in the runtime or on the GPU, is a failure', async () => {
  await complete('others', 'failed');
  await complete('others', 'restored', false);

  expect(counted).toEqual([
    'kybernate_step_failures_total completeRestore RestoreFailed 1',
    'kybernate_step_failures_total completeRestore RestoreFailed 1',
  ]);
});

it('a checkpoint by the runtime is counted where the agent made it', () => {
  const made = {
    source: 'running',
    gpuProcesses: 1,
    vramBytes: 7,
    freezeMs: 1500,
    imageBytes: 9,
    warnings: [],
  } as const;

  countCheckpoint(meter, { handled: false });
  countCheckpoint(meter, { handled: true, ...made });

  expect(counted).toEqual(['kybernate_freeze_seconds 1.5', 'kybernate_vram_bytes_total checkpoint 7']);
});
