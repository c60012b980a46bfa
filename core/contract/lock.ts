/* The contract of the entity workflow `containerLock`, id `lock:<node>/<namespace>/<container>`. */
import * as z from 'zod';
import { durationMs } from './common.ts';

const holder = z.strictObject({ workflowId: z.string().min(1), runId: z.string().min(1) });

export const lockRequest = z.strictObject({
  /** workflow that asks; it is told by the signal `lockGranted` */
  holder,
  /** `checkpoint`, `restore`, ...: shown to those who wait */
  operation: z.string(),
  /** newest token that the node has seen: a new lock starts above it */
  minToken: z.number().int().min(0),
});
export type LockRequest = z.output<typeof lockRequest>;

export interface LockGrant {
  readonly lockId: string;
  readonly token: number;
}

export interface LockRelease {
  readonly runId: string;
  readonly token: number;
}

export const lockState = z.strictObject({
  holder: holder
    .extend({ operation: z.string(), token: z.number().int(), /** ISO time of the grant */ since: z.string() })
    .optional(),
  /** in order of arrival */
  waiting: z.array(lockRequest),
  lastToken: z.number().int().min(0),
});
export type LockState = z.output<typeof lockState>;

export const lockInput = z
  .strictObject({
    /** carried over when the lock continues as new */
    state: lockState.prefault({ waiting: [], lastToken: 0 }),
    /** ends when nobody has held or wanted it for so long */
    idleMs: durationMs.default(600_000),
    /** how often the holder is checked for having ended without letting go */
    holderCheckMs: durationMs.default(60_000),
  })
  .prefault({});
export type LockInput = z.input<typeof lockInput>;
