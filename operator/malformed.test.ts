/*
 * Objects that an older CRD let through, or another program has written: each gets a condition that says what is wrong,
 * nothing is started, and no turn fails, since one that fails comes again for ever.
 */
import { describe, expect, it } from 'vitest';
import { malformed, pick, shown } from '../test/harness/malformed.ts';
import { CHECKPOINT_SPEC, RESTORE_SPEC } from '../test/harness/object-shapes.ts';
import { seeded } from '../test/harness/random.ts';
import { handleCheckpoint } from './checkpoint-controller.ts';
import type { Cluster } from './cluster.ts';
import type { CheckpointObject, RestoreObject } from './objects.ts';
import type { Operations } from './operations.ts';
import { handleRestore } from './restore-controller.ts';

const OBJECTS = 500;
const NOW = new Date('2026-11-22T04:00:00Z');
/** What else may stand in an object that somebody else has written. */
const STATUSES: readonly unknown[] = [
  undefined,
  {},
  { phase: 'Unheard-of' },
  { phase: 7, conditions: 'none' },
  { conditions: [null, 7, { type: 'Ready' }] },
  { startedAt: 'yesterday', checkpointId: [] },
];

let done: string[];
let told: Record<string, unknown> | undefined;

const cluster: Cluster = {
  pod: () => Promise.resolve(undefined),
  createPod: () => {
    done.push('made a pod');
    return Promise.resolve({ metadata: { uid: 'u' } });
  },
  deletePod: () => Promise.resolve(),
  checkpoint: () => Promise.resolve(undefined),
  restores: () => Promise.resolve([]),
  hasNode: () => Promise.resolve(true),
  patchStatus: (_ref, status) => {
    told = status as Record<string, unknown>;
    return Promise.resolve();
  },
  setFinalizers: () => Promise.resolve(),
};
const start = (): Promise<void> => {
  done.push('started a workflow');
  return Promise.resolve();
};
const operations: Operations = {
  startCheckpoint: start,
  startImport: start,
  startDelete: start,
  startInspect: start,
  nodesOf: () => Promise.resolve([]),
  look: () => Promise.resolve({ state: 'unknown' }),
  cancel: () => Promise.resolve(),
};
const deps = { cluster, operations, now: () => NOW };

function objectOf(spec: unknown, status: unknown): CheckpointObject & RestoreObject {
  const metadata = { namespace: 'ml', name: 'odd', uid: '11111111-2222', generation: 1, creationTimestamp: NOW };
  return { metadata, spec, status } as CheckpointObject & RestoreObject;
}

describe.each([
  ['Checkpoint', CHECKPOINT_SPEC, (object: CheckpointObject) => handleCheckpoint(deps, object)],
  ['Restore', RESTORE_SPEC, (object: RestoreObject) => handleRestore(deps, object)],
] as const)('a %s', (_kind, shape, turn) => {
  it(`that is wrong in any of ${OBJECTS} ways fails with its reason, once and for all`, async () => {
    const random = seeded(8);
    const wrong: object[] = [];
    for (let count = 0; count < OBJECTS; count += 1) {
      done = [];
      told = undefined;
      const { what, body } = malformed(shape, random);
      const status = pick(STATUSES, random);
      const again = await turn(objectOf(body, status)).catch(String);
      const [condition] = (told?.['conditions'] ?? []) as Array<{ readonly reason: string; readonly message: string }>;
      const isRefused =
        told?.['phase'] === 'Failed' && condition?.reason === 'InvalidInput' && condition.message.length > 5;
      if (again !== undefined || !isRefused || done.length > 0) {
        wrong.push({ what, status: shown(status), again, done, told });
      }
    }

    expect(wrong).toEqual([]);
  });

  it('that is right is none of these', async () => {
    done = [];
    told = undefined;

    expect(await turn(objectOf(shape.valid, undefined))).toBeGreaterThan(0);

    expect(told?.['phase']).toMatch(/Pending|Restoring/);
  });
});
