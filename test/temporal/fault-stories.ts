/*
 * What every workflow does step by step, and what follows when one of the steps fails. Data only: fault-table.test.ts runs
 * every row with every fault. A new step of a workflow is a word in `order` and a row.
 */
import { Context, getClient } from '@temporalio/activity';

import { RESTORE_STORIES } from './fault-stories-restore.ts';
import type { Differs, Story } from './fault-story.ts';
import { fails, onGpu, once, untilCancelled, type Script } from './harness.ts';
import { ARCHIVE, NODE, checkpointOf, copiesOf, prefetchOf, rehearseOf } from './requests.ts';

/** One look finds the copy damaged, the next one whole. */
const damagedOnce = (): Script =>
  once(async (_input, happy) => ({ ...((await happy()) as object), ok: false, problemCount: 1 }));
const cancelsItself: Script = async (input, happy) => {
  const { workflowId = '' } = Context.current().info.workflowExecution ?? {};
  await getClient().workflow.getHandle(workflowId).cancel();
  return untilCancelled(input, happy);
};
const notThere: Script = () => Promise.resolve({});
const unhealthy: Script = async (_input, happy) => ({
  ...((await happy()) as object),
  health: { healthy: false, tookMs: 5, exitCode: 1, output: 'no answer' },
});

const LETS_GO = ['resumeContainer', 'endOperation', 'releaseLock'];
const FORGETS = ['discardCapture', 'endOperation', 'releaseLock'];
const REMOVES_ALL = ['resumeContainer', ...FORGETS];
const CAPTURES = ['probeNode', 'requestLock', 'planCheckpoint', 'startRunner', 'saveGpuState', 'captureContainer'];
const STORES = ['uploadImage', 'publishManifest', 'confirmUpload', 'verifyRemote'];

/** Who cancels while the upload is wanted takes that wish back. */
const abandons = (follows: readonly string[]): Differs => ({ cancelled: { follows: [...follows, 'abandonUpload'] } });
/** Seen when the step has ended, which finds the lock being asked for: letting go of nothing does no harm. */
const ASKS_FOR_LOCK: Differs = { cancelled: { follows: ['releaseLock'] } };
/** Only a positive answer frees a lock. */
const LOOKS_AGAIN = { follows: ['isRunClosed', 'lockGranted'], outcome: 'done' };

const checkpoint = (after: 'resume' | 'hold' | 'stop', durability: 'local' | 'verified' = 'verified') => ({
  type: 'checkpoint',
  request: (id: string, timeouts: object) => checkpointOf(id, { after, durability, holdBudgetMs: 1, timeouts }),
});
const collectGarbage = { type: 'collectGarbage', request: () => ({ lookEveryMs: 1 }) };

export const STORIES: Record<string, Story> = {
  checkpoint: {
    ...checkpoint('resume'),
    order: [...CAPTURES, ...LETS_GO, 'commitLocal', ...STORES],
    rows: [
      ['probeNode', [], ASKS_FOR_LOCK],
      ['requestLock', ['releaseLock']],
      ['planCheckpoint', FORGETS],
      ['startRunner', REMOVES_ALL],
      ['saveGpuState', REMOVES_ALL],
      ['captureContainer', REMOVES_ALL],
      ['resumeContainer', REMOVES_ALL],
      ['endOperation', FORGETS],
      ['commitLocal', ['discardCapture'], abandons(['discardCapture'])],
      ['uploadImage', [], abandons([])],
      ['publishManifest', [], abandons([])],
      ['confirmUpload', [], abandons([])],
      ['verifyRemote', [], abandons([])],
    ],
  },
  'checkpoint-hold': {
    ...checkpoint('hold'),
    order: [...CAPTURES, 'commitLocal', ...LETS_GO, ...STORES],
    rows: [
      ['commitLocal', REMOVES_ALL, abandons(REMOVES_ALL)],
      ['resumeContainer', LETS_GO, abandons(LETS_GO)],
      ['endOperation', ['endOperation', 'releaseLock'], abandons(['endOperation', 'releaseLock'])],
      ['uploadImage', [], abandons([])],
    ],
  },
  'checkpoint-stop': {
    ...checkpoint('stop'),
    order: [...CAPTURES, 'commitLocal', ...STORES, 'stopContainer', 'endOperation', 'releaseLock'],
    rows: [
      ['commitLocal', REMOVES_ALL, abandons(REMOVES_ALL)],
      ['uploadImage', LETS_GO, abandons(LETS_GO)],
      ['publishManifest', LETS_GO, abandons(LETS_GO)],
      ['confirmUpload', LETS_GO, abandons(LETS_GO)],
      ['verifyRemote', LETS_GO, abandons(LETS_GO)],
      ['stopContainer', LETS_GO],
      ['endOperation', ['endOperation', 'releaseLock']],
    ],
  },
  'checkpoint-undo': {
    ...checkpoint('resume', 'local'),
    steps: () => ({ captureContainer: fails('FreezeBudgetExceeded') }),
    outcome: 'FreezeBudgetExceeded',
    order: [...CAPTURES, ...REMOVES_ALL],
    undo: true,
    rows: [
      ['resumeContainer', ['releaseLock']],
      ['discardCapture', ['endOperation', 'releaseLock']],
      ['endOperation', ['releaseLock']],
    ],
  },
  'checkpoint-unhealthy': {
    ...checkpoint('resume', 'local'),
    steps: () => ({ captureContainer: fails('FreezeBudgetExceeded'), resumeContainer: unhealthy }),
    // The undo of the source has seen that it is not well: what was captured of it is kept.
    outcome: 'Poisoned',
    order: [...CAPTURES, 'resumeContainer', 'releaseLock'],
    undo: true,
    rows: [['resumeContainer', ['releaseLock']]],
  },
  'checkpoint-abandoned': {
    ...checkpoint('resume'),
    steps: () => ({ uploadImage: cancelsItself }),
    outcome: 'Cancelled',
    order: [...CAPTURES, ...LETS_GO, 'commitLocal', 'uploadImage', 'abandonUpload'],
    undo: true,
    rows: [['abandonUpload', []]],
  },
  rehearse: {
    type: 'rehearse',
    request: (id, timeouts) => rehearseOf(id, { timeouts }),
    steps: () => onGpu({}).steps,
    order: [
      ...CAPTURES.slice(0, -1),
      'resumeContainer',
      'recordRehearsal',
      'endOperation',
      'discardCapture',
      'releaseLock',
    ],
    rows: [
      ['probeNode', [], ASKS_FOR_LOCK],
      ['requestLock', ['releaseLock']],
      ['planCheckpoint', FORGETS],
      ['startRunner', REMOVES_ALL],
      ['saveGpuState', REMOVES_ALL],
      ['resumeContainer', REMOVES_ALL],
      ['recordRehearsal', FORGETS],
      ['endOperation', FORGETS],
      ['discardCapture', ['discardCapture', 'releaseLock']],
    ],
  },
  ...RESTORE_STORIES,
  prefetch: {
    type: 'prefetch',
    request: (id, timeouts) => prefetchOf(id, { timeouts }),
    order: ['probeNode', 'prefetchPacks'],
    rows: [
      ['probeNode', []],
      ['prefetchPacks', []],
    ],
  },
  'prefetch-local': {
    type: 'prefetch',
    request: (id, timeouts) => prefetchOf(id, { tier: 'local', timeouts }),
    order: ['probeNode', 'resolveLocal', 'fetchImage', 'releaseRestoreLease'],
    rows: [
      ['resolveLocal', [], { cancelled: { follows: ['releaseRestoreLease'] } }],
      ['fetchImage', ['releaseRestoreLease']],
      ['releaseRestoreLease', ['releaseRestoreLease']],
    ],
  },
  collectGarbage: {
    ...collectGarbage,
    order: ['condemnGarbage', 'confirmGarbage', 'deleteGarbage', 'deleteGarbage', 'sweepLeftovers'],
    deaf: ['deleteGarbage'],
    rows: [
      ['condemnGarbage', ['forgetGarbage']],
      ['confirmGarbage', ['forgetGarbage']],
      // Once it deletes, it finishes what it has confirmed.
      ['deleteGarbage', [], { cancelled: { follows: ['deleteGarbage'] } }],
      ['sweepLeftovers', []],
    ],
  },
  'collectGarbage-undo': {
    ...collectGarbage,
    steps: () => ({ confirmGarbage: fails('CheckpointCorrupt') }),
    outcome: 'CheckpointCorrupt',
    order: ['condemnGarbage', 'confirmGarbage', 'forgetGarbage'],
    undo: true,
    rows: [['forgetGarbage', []]],
  },
  deleteCheckpoint: {
    type: 'deleteCheckpoint',
    request: (_id, timeouts) => ({ checkpointId: 'ck-copies', nodes: [NODE], timeouts }),
    order: ['checkUnused', 'removeStored', 'removeCopy'],
    // Nothing is undone: what is left goes with the next request.
    rows: [
      ['checkUnused', []],
      ['removeStored', []],
      ['removeCopy', []],
    ],
  },
  importCheckpoint: {
    type: 'importCheckpoint',
    request: (_id, timeouts) => ({ node: NODE, archive: ARCHIVE, durability: 'verified', timeouts }),
    order: ['probeNode', 'importArchive', ...STORES],
    // What was imported stays on the node, as an archive that was imported by hand would.
    rows: [
      ['probeNode', []],
      ['importArchive', []],
      ['uploadImage', []],
      ['publishManifest', []],
      ['confirmUpload', []],
      ['verifyRemote', []],
    ],
  },
  inspectRestore: {
    type: 'inspectRestore',
    request: (_id, timeouts) => ({ node: NODE, pod: { uid: 'u-1', container: 'app' }, timeouts }),
    order: ['inspectRestore'],
    // It has ended when the cancellation is seen.
    rows: [['inspectRestore', [], { cancelled: { outcome: 'done' } }]],
  },
  verifyCheckpoint: {
    type: 'verifyCheckpoint',
    request: (_id, timeouts) => copiesOf(timeouts),
    order: ['surveyStored', 'surveyNodeCopy'],
    rows: [
      ['surveyStored', []],
      ['surveyNodeCopy', []],
    ],
  },
  repairCheckpoint: {
    type: 'repairCheckpoint',
    request: (_id, timeouts) => copiesOf(timeouts),
    steps: () => ({ surveyStored: damagedOnce(), surveyNodeCopy: damagedOnce() }),
    order: [
      'surveyStored',
      'surveyNodeCopy',
      'repairStored',
      'confirmUpload',
      'repairNodeCopy',
      'surveyStored',
      'surveyNodeCopy',
    ],
    rows: [
      ['surveyStored', []],
      ['surveyNodeCopy', []],
      ['repairStored', []],
      ['confirmUpload', []],
      ['repairNodeCopy', []],
    ],
  },
  preflight: {
    type: 'preflight',
    request: (_id, timeouts) => copiesOf(timeouts),
    steps: () => ({ resolveLocal: notThere }),
    order: ['probeNode', 'resolveLocal', 'findCheckpoint', 'preflightRestore'],
    rows: [
      ['probeNode', []],
      ['resolveLocal', []],
      ['findCheckpoint', []],
      ['preflightRestore', []],
    ],
  },
  'preflight-checkpoint': {
    type: 'preflight',
    request: (id, timeouts) => ({ node: NODE, container: { id }, timeouts }),
    order: ['probeNode', 'preflightCheckpoint'],
    rows: [['preflightCheckpoint', []]],
  },
  listCopies: {
    type: 'listCopies',
    request: (_id, timeouts) => ({ node: NODE, timeouts }),
    order: ['listCopies'],
    // It has ended when the cancellation is seen.
    rows: [['listCopies', [], { cancelled: { outcome: 'done' } }]],
  },
  containerLock: {
    type: 'containerLock',
    order: ['lockGranted', 'isRunClosed', 'lockGranted'],
    deaf: ['isRunClosed'],
    rows: [
      [
        'isRunClosed',
        [],
        {
          throws: LOOKS_AGAIN,
          hangs: LOOKS_AGAIN,
          cancelled: { follows: ['lockGranted'] },
        },
      ],
    ],
  },
};
