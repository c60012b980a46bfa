import { workflowInfo } from '@temporalio/workflow';
import { failure } from './failures.ts';

/** The workflow types that people start. */
export const OPERATION_TYPES: readonly string[] = [
  'checkpoint',
  'collectGarbage',
  'deleteCheckpoint',
  'importCheckpoint',
  'inspectRestore',
  'listCopies',
  'prefetch',
  'preflight',
  'rehearse',
  'repairCheckpoint',
  'restore',
  'restoreProcess',
  'verifyCheckpoint',
];

/**
 * Stands in for every workflow type that this worker does not know. Without it a misspelt name would wait for ever: Temporal
 * takes an unknown type for a worker that is still to be upgraded, and tries the task again and again.
 */
export async function unknownType(): Promise<never> {
  const { workflowType, taskQueue } = workflowInfo();
  throw failure(
    'InvalidInput',
    `no workflow type ${JSON.stringify(workflowType)} on task queue ${taskQueue}: it serves ${OPERATION_TYPES.join(', ')}`,
    { remedy: 'start one of these types; if a newer Kybernate has this one, upgrade the control worker' },
  );
}
