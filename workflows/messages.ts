/* Signals and queries. The wire name is API; the constant is the wire name and its kind. */
import { defineQuery, defineSignal } from '@temporalio/workflow';
import type { LockGrant, LockRelease, LockRequest, LockState } from '../core/contract/lock.ts';
import type { OperationProgress, ProgressReport } from '../core/contract/progress.ts';

/** Any operation: where it is. */
export const progressQuery = defineQuery<OperationProgress>('progress');
/** Node to operation: bytes of a long step. */
export const reportProgressSignal = defineSignal<[ProgressReport]>('reportProgress');
/** `checkpoint` with `after: hold`: let the source run on now. */
export const releaseSignal = defineSignal('release');
/** Lock to operation. */
export const lockGrantedSignal = defineSignal<[LockGrant]>('lockGranted');
/** Operation to lock; the same run may ask again. */
export const requestLockSignal = defineSignal<[LockRequest]>('requestLock');
/** Operation to lock: ends its hold, and its place in the queue. */
export const releaseLockSignal = defineSignal<[LockRelease]>('releaseLock');
/** Lock: who holds it, who waits. */
export const stateQuery = defineQuery<LockState>('state');
