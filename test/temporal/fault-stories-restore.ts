/* What `restore` does step by step, on every rung of its ladder, and what follows when one of the steps fails. */
import { Context } from '@temporalio/activity';

import type { RestoreRequest } from '../../core/contract/restore.ts';
import type { Differs, Story } from './fault-story.ts';
import { fails, once, type Script, type StepName } from './harness.ts';
import { copiesOf, restoreOf } from './requests.ts';

export const NODE_B = 'node-b';

const notThere: Script = () => Promise.resolve({});
const onlyOn =
  (node: string): Script =>
  (input, happy) =>
    (input as { node: string }).node === node ? happy() : Promise.resolve({});
const usesGpu: Script = async (_input, happy) => ({
  ...((await happy()) as object),
  gpuMap: [{ from: 'GPU-a', to: 'GPU-a' }],
});
const hasOlder: Script = () =>
  Promise.resolve({ checkpoints: [{ checkpointId: 'ck-older', createdAt: '2026-02-01T00:00:00.000Z' }] });
/** The copy on the node, not that of the store. */
const damagedCopy = (): Script => once(fails('CheckpointCorrupt'));

const GIVES_BACK = ['releaseRestoreLease', 'releaseLock'];
const REMOVES = ['removeRestored', ...GIVES_BACK];
const FETCHES = ['probeNode', 'preflightRestore', 'requestLock', 'fetchImage'];
const STARTS = ['planRestore', 'createContainer', 'startRestored'];
/** An attempt of a restore, when the copy is found. */
const RESTORES = [...FETCHES, ...STARTS, ...GIVES_BACK];
/** The workload runs; no fault of the tidying makes that a failure. */
const STILL_DONE = { follows: ['releaseLock'], outcome: 'done' };
/** What the node cannot do any more another one does. */
const elsewhere = (follows: readonly string[], gone = follows): Differs => ({
  hangs: { follows: [...follows, 'resolveLocal', ...RESTORES], outcome: 'done' },
  'node gone': { follows: [...gone, 'resolveLocal', ...RESTORES], outcome: 'done' },
});
/** One of two places that cannot be asked keeps nobody from what the other has. */
const finds = (follows: readonly string[]): Differs => {
  const answer = { follows, outcome: 'done' };
  // The older checkpoint is restored on the same node.
  return { throws: answer, hangs: answer, 'node gone': { follows: follows.slice(0, 2) } };
};

const restore = {
  type: 'restore',
  request: (id: string, timeouts: object) => restoreOf(id, { timeouts }),
};
/** A restore that tries the rungs, one after the other. */
const climbs = (request: Partial<RestoreRequest>) => ({
  type: 'restore',
  request: (id: string, timeouts: object) => restoreOf(id, { ...request, timeouts }),
});

/** In the store alone; the tree of processes is named after its case, since it is what is locked. */
const ofItself = (): Partial<Record<StepName, Script>> => ({
  resolveLocal: notThere,
  findCheckpoint: async (_input, happy) => {
    const { found } = (await happy()) as { found: object };
    const id = Context.current().info.workflowExecution?.workflowId;
    return { found: { ...found, sourceContainer: { namespace: 'default', id } } };
  },
});
const restoreProcess = {
  type: 'restoreProcess',
  request: (_id: string, timeouts: object) => copiesOf(timeouts),
  steps: ofItself,
};
const REVIVES = ['probeNode', 'requestLock', 'fetchImage', 'planProcessRestore', 'restoreProcess'];

export const RESTORE_STORIES: Record<string, Story> = {
  restore: {
    ...restore,
    steps: () => ({ resolveLocal: notThere }),
    order: ['resolveLocal', 'findCheckpoint', ...RESTORES],
    deaf: ['releaseRestoreLease'],
    rows: [
      ['resolveLocal', []],
      ['findCheckpoint', []],
      ['probeNode', []],
      ['preflightRestore', []],
      ['requestLock', ['releaseLock']],
      ['fetchImage', GIVES_BACK],
      ['planRestore', GIVES_BACK],
      ['createContainer', REMOVES],
      ['startRestored', REMOVES],
      [
        'releaseRestoreLease',
        ['releaseLock'],
        { throws: STILL_DONE, hangs: STILL_DONE, 'node gone': STILL_DONE, cancelled: STILL_DONE },
      ],
    ],
  },
  'restore-undo': {
    ...restore,
    steps: () => ({ startRestored: fails('RestoreFailed') }),
    outcome: 'RestoreFailed',
    order: ['resolveLocal', ...FETCHES, ...STARTS, ...REMOVES],
    undo: true,
    rows: [
      ['removeRestored', ['releaseLock']],
      ['releaseRestoreLease', ['releaseLock']],
    ],
  },
  'restore-other-tier': {
    ...restore,
    steps: () => ({ fetchImage: damagedCopy() }),
    order: ['resolveLocal', ...FETCHES, ...GIVES_BACK, 'findCheckpoint', ...RESTORES],
    rows: [
      ['findCheckpoint', []],
      ['probeNode 2', []],
      ['requestLock 2', ['releaseLock']],
      ['fetchImage 2', GIVES_BACK],
    ],
  },
  'restore-between-rungs': {
    ...restore,
    steps: () => ({ planRestore: usesGpu, startRestored: once(fails('GpuOutOfMemory')) }),
    order: ['resolveLocal', ...FETCHES, ...STARTS, ...REMOVES, ...RESTORES],
    undo: true,
    rows: [
      ['removeRestored', ['releaseLock'], { cancelled: { follows: GIVES_BACK, outcome: 'Cancelled' } }],
      [
        'releaseRestoreLease',
        ['releaseLock'],
        {
          // It runs out by itself.
          throws: { follows: ['releaseLock', ...RESTORES], outcome: 'done' },
          hangs: { follows: ['releaseLock', ...RESTORES], outcome: 'done' },
          'node gone': { follows: ['releaseLock', 'probeNode'] },
          cancelled: { follows: ['releaseLock'], outcome: 'Cancelled' },
        },
      ],
    ],
  },
  'restore-another-gpu': {
    ...restore,
    steps: () => ({ planRestore: usesGpu, startRestored: once(fails('GpuOutOfMemory')) }),
    order: ['resolveLocal', ...FETCHES, ...STARTS, ...REMOVES, ...RESTORES],
    rows: [
      ['requestLock 2', ['releaseLock']],
      ['startRestored 2', REMOVES],
    ],
  },
  'restore-peer': {
    ...climbs({ peers: [NODE_B] }),
    steps: () => ({ resolveLocal: onlyOn(NODE_B), findCheckpoint: notThere }),
    order: [
      'resolveLocal',
      'findCheckpoint',
      'resolveLocal',
      'probeNode',
      'findCheckpoint',
      'uploadImage',
      'publishManifest',
      'confirmUpload',
      ...RESTORES,
    ],
    rows: [
      ['resolveLocal 2', []],
      ['probeNode', []],
      ['findCheckpoint 2', []],
      ['uploadImage', []],
      ['publishManifest', []],
      ['confirmUpload', []],
    ],
  },
  'restore-peer-repairs': {
    ...climbs({ peers: [NODE_B] }),
    steps: () => ({ resolveLocal: onlyOn(NODE_B), fetchImage: damagedCopy() }),
    order: [
      'resolveLocal',
      'findCheckpoint',
      ...FETCHES,
      ...GIVES_BACK,
      'resolveLocal',
      'probeNode',
      'findCheckpoint',
      'repairStored',
      'confirmUpload',
      ...RESTORES,
    ],
    rows: [
      ['repairStored', [], { hangs: { outcome: 'CheckpointCorrupt' }, 'node gone': { outcome: 'CheckpointCorrupt' } }],
    ],
  },
  'restore-another-node': {
    ...climbs({ ladder: ['local-copy', 'another-node'], otherNodes: [NODE_B] }),
    order: ['resolveLocal', ...RESTORES],
    faults: ['hangs', 'node gone'],
    rows: [
      ['resolveLocal', [], elsewhere([])],
      ['probeNode', [], elsewhere([])],
      ['preflightRestore', [], elsewhere([])],
      ['fetchImage', GIVES_BACK, elsewhere(GIVES_BACK, ['probeNode', ...GIVES_BACK])],
      ['planRestore', GIVES_BACK, elsewhere(GIVES_BACK, ['probeNode', ...GIVES_BACK])],
      // A node that does not answer may have the container running: there is no second one beside it.
      ['createContainer', REMOVES, { hangs: elsewhere(REMOVES).hangs ?? {} }],
      ['startRestored', REMOVES, { hangs: elsewhere(REMOVES).hangs ?? {} }],
    ],
  },
  'restore-older': {
    ...climbs({ ladder: ['local-copy', 'older-checkpoint'] }),
    steps: () => ({ fetchImage: damagedCopy(), olderLocal: hasOlder, olderStored: hasOlder }),
    order: ['resolveLocal', ...FETCHES, ...GIVES_BACK, 'olderLocal', 'olderStored', 'resolveLocal', ...RESTORES],
    rows: [
      // What the other place has is tried.
      ['olderLocal', [], finds(['olderStored', 'resolveLocal', ...RESTORES])],
      ['olderStored', [], finds(['resolveLocal', ...RESTORES])],
      ['resolveLocal 2', []],
    ],
  },
  'restore-cold': {
    ...climbs({ ladder: ['local-copy', 'cold-start'] }),
    steps: () => ({ fetchImage: fails('CheckpointCorrupt') }),
    order: [
      'resolveLocal',
      ...FETCHES,
      ...GIVES_BACK,
      'resolveLocal',
      'probeNode',
      'requestLock',
      'createCold',
      'startRestored',
      ...GIVES_BACK,
    ],
    rows: [
      ['requestLock 2', ['releaseLock']],
      ['createCold', REMOVES],
      ['startRestored', REMOVES],
    ],
  },
  restoreProcess: {
    ...restoreProcess,
    order: ['resolveLocal', 'findCheckpoint', ...REVIVES, ...GIVES_BACK],
    deaf: ['releaseRestoreLease'],
    rows: [
      ['resolveLocal', []],
      ['findCheckpoint', []],
      ['probeNode', [], { cancelled: { follows: ['releaseLock'] } }],
      ['requestLock', ['releaseLock']],
      ['fetchImage', GIVES_BACK],
      ['planProcessRestore', GIVES_BACK],
      ['restoreProcess', ['removeRestoredProcess', ...GIVES_BACK]],
      [
        'releaseRestoreLease',
        ['releaseLock'],
        { throws: STILL_DONE, hangs: STILL_DONE, 'node gone': STILL_DONE, cancelled: STILL_DONE },
      ],
    ],
  },
  'restoreProcess-undo': {
    ...restoreProcess,
    steps: () => ({ ...ofItself(), restoreProcess: fails('RestoreFailed') }),
    outcome: 'RestoreFailed',
    order: ['resolveLocal', 'findCheckpoint', ...REVIVES, 'removeRestoredProcess', ...GIVES_BACK],
    undo: true,
    rows: [
      ['removeRestoredProcess', ['releaseLock']],
      ['releaseRestoreLease', ['releaseLock']],
    ],
  },
};
