/* The registry of what a node does, by queue. */
import type { FetchActivities, NodeActivities, NodeControlActivities, VerifyActivities } from '../contract.ts';
import { withOp } from '../op.ts';
import { checkpointControl, checkpointWork } from './checkpoint.ts';
import { repairNodeCopy, surveyNodeCopy } from './copy.ts';
import type { NodeActivityDeps } from './deps.ts';
import { fetchImage } from './fetch.ts';
import { importArchive } from './import-archive.ts';
import { inspectRestore } from './inspect-restore.ts';
import { listCopies } from './list-copies.ts';
import { preflightControl } from './preflight.ts';
import { probeNode } from './probe.ts';
import { processControl, processWork } from './process.ts';
import { checkUnused, removeCopy } from './remove-copy.ts';
import { restoreControl, restoreWork } from './restore.ts';
import { surveyStored, verifyStored } from './stored.ts';

export type { NodeActivityDeps } from './deps.ts';

/** Queue `kybernate-node-<node>`. */
export function createNodeActivities(deps: NodeActivityDeps): NodeActivities {
  return { ...checkpointWork(deps), ...restoreWork(deps), ...processWork(deps) };
}

/** Queue `kybernate-node-<node>-ctl`. */
export function createNodeControlActivities(deps: NodeActivityDeps): NodeControlActivities {
  return {
    listCopies: (input) => withOp({}, () => listCopies(deps, input)),
    checkUnused: (input) => withOp({}, () => checkUnused(deps, input)),
    removeCopy: (input) => withOp({ phase: 'deleting' }, () => removeCopy(deps, input)),
    inspectRestore: (input) => withOp({}, () => Promise.resolve(inspectRestore(deps, input))),
    probeNode: (input) => withOp({}, () => probeNode(deps, input)),
    ...checkpointControl(deps),
    ...restoreControl(deps),
    ...processControl(deps),
    ...preflightControl(deps),
  };
}

/** Queue `kybernate-node-<node>-fetch`. */
export function createFetchActivities(deps: NodeActivityDeps): FetchActivities {
  return {
    fetchImage: (input) => withOp({ phase: 'fetching' }, (op) => fetchImage(deps, op, input)),
    repairNodeCopy: (input) => withOp({ phase: 'repairing' }, (op) => repairNodeCopy(deps, op, input)),
    importArchive: (input) => withOp({ phase: 'importing' }, (op) => importArchive(deps, op, input)),
  };
}

/** Queue `kybernate-node-<node>-verify`. */
export function createVerifyActivities(deps: NodeActivityDeps): VerifyActivities {
  return {
    verifyRemote: (input) => withOp({ phase: 'verifying' }, (op) => verifyStored(deps, op, input)),
    surveyStored: (input) => withOp({ phase: 'verifying' }, (op) => surveyStored(deps, op, input)),
    surveyNodeCopy: (input) => withOp({ phase: 'verifying' }, (op) => surveyNodeCopy(deps, op, input)),
  };
}
