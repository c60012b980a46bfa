/* Every step of `checkpoint` × (throws, cancelled): what is undone, and in which order. */
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import type { CheckpointRequest } from '../../core/contract/checkpoint.ts';
import '../harness/provided.ts';
import { openHarness, outcomeOf, stepsOf, type Harness, type StepName } from './harness.ts';
import { SCRIPTED_TYPE, endingWhenCancelledIn, endingWhenStepThrows, upTo } from './order.ts';

const BEFORE = ['probeNode', 'requestLock', 'planCheckpoint', 'startRunner', 'saveGpuState', 'captureContainer'];
const STORIES = {
  resume: [
    ...BEFORE,
    'resumeContainer',
    'endOperation',
    'releaseLock',
    'commitLocal',
    'uploadImage',
    'publishManifest',
    'confirmUpload',
    'verifyRemote',
  ],
  hold: [
    ...BEFORE,
    'commitLocal',
    'resumeContainer',
    'endOperation',
    'releaseLock',
    'uploadImage',
    'publishManifest',
    'confirmUpload',
    'verifyRemote',
  ],
  stop: [
    ...BEFORE,
    'commitLocal',
    'uploadImage',
    'publishManifest',
    'confirmUpload',
    'verifyRemote',
    'stopContainer',
    'endOperation',
    'releaseLock',
  ],
} as const;

const LETS_GO = ['resumeContainer', 'endOperation', 'releaseLock'];
const REMOVES_ALL = ['resumeContainer', 'discardCapture', 'endOperation', 'releaseLock'];

type Table = ReadonlyArray<readonly [after: keyof typeof STORIES, step: StepName, undo: readonly string[]]>;

/** What follows when the step throws. */
const THROWS: Table = [
  ['resume', 'probeNode', []],
  ['resume', 'requestLock', ['releaseLock']],
  ['resume', 'planCheckpoint', ['discardCapture', 'endOperation', 'releaseLock']],
  ['resume', 'startRunner', REMOVES_ALL],
  ['resume', 'saveGpuState', REMOVES_ALL],
  ['resume', 'captureContainer', REMOVES_ALL],
  ['resume', 'resumeContainer', REMOVES_ALL],
  ['resume', 'endOperation', ['discardCapture', 'endOperation', 'releaseLock']],
  ['resume', 'commitLocal', ['discardCapture']],
  ['resume', 'uploadImage', []],
  ['resume', 'publishManifest', []],
  ['resume', 'confirmUpload', []],
  ['resume', 'verifyRemote', []],
  ['hold', 'saveGpuState', REMOVES_ALL],
  ['hold', 'captureContainer', REMOVES_ALL],
  ['hold', 'commitLocal', REMOVES_ALL],
  ['hold', 'resumeContainer', LETS_GO],
  ['hold', 'endOperation', ['endOperation', 'releaseLock']],
  ['hold', 'uploadImage', []],
  ['stop', 'saveGpuState', REMOVES_ALL],
  ['stop', 'captureContainer', REMOVES_ALL],
  ['stop', 'commitLocal', REMOVES_ALL],
  ['stop', 'uploadImage', LETS_GO],
  ['stop', 'publishManifest', LETS_GO],
  ['stop', 'confirmUpload', LETS_GO],
  ['stop', 'verifyRemote', LETS_GO],
  ['stop', 'stopContainer', LETS_GO],
  ['stop', 'endOperation', ['endOperation', 'releaseLock']],
];

/**
 * A cancellation that is seen after the probe finds the lock being asked for: letting go of nothing does no harm. One
 * that comes between the commit and the end of the upload takes back the wish for an upload.
 */
const CANCELLED: Table = THROWS.map(([after, step, undo]) => {
  const story: readonly string[] = STORIES[after];
  const at = story.indexOf(step);
  const uploadWanted = at >= story.indexOf('commitLocal') && at <= story.indexOf('verifyRemote');
  return [after, step, step === 'probeNode' ? ['releaseLock'] : [...undo, ...(uploadWanted ? ['abandonUpload'] : [])]];
});

let harness: Harness;
beforeAll(async () => {
  harness = await openHarness({ server: inject('temporal') });
});
afterAll(() => harness.close());

const request = (after: keyof typeof STORIES): Partial<CheckpointRequest> => ({
  after,
  durability: 'verified',
  holdBudgetMs: 1,
});

describe('checkpoint whose step succeeds', () => {
  it.concurrent.each(['resume', 'hold', 'stop'] as const)('does every step in order with after: %s', async (after) => {
    const handle = await harness.checkpoint(`order-${after}`, {}, request(after));
    const outcome = await outcomeOf(handle);

    expect(await stepsOf(handle)).toEqual(STORIES[after]);
    expect(outcome).toMatchObject({ result: { source: after === 'stop' ? 'stopped' : 'running' } });
  });
});

describe('checkpoint whose step throws', () => {
  it.concurrent.each(THROWS)('after: %s, %s is followed by %j', async (after, step, undo) => {
    const id = `throws-${after}-${step}`;

    const ending = await endingWhenStepThrows((script) => harness.checkpoint(id, script, request(after)), step);

    expect(ending.steps).toEqual(upTo(STORIES[after], step, undo));
    expect(ending.outcome).toMatchObject({ type: SCRIPTED_TYPE, message: `scripted ${SCRIPTED_TYPE}` });
  });
});

describe('checkpoint cancelled inside a step', () => {
  it.concurrent.each(CANCELLED)('after: %s, %s is followed by %j', async (after, step, undo) => {
    const id = `cancelled-${after}-${step}`;

    const start = (script: object) => harness.checkpoint(id, script, request(after));
    const ending = await endingWhenCancelledIn(harness, id, start, step);

    expect(ending.steps).toEqual(upTo(STORIES[after], step, undo));
    expect(ending.outcome).toMatchObject({ type: 'Cancelled' });
  });
});
