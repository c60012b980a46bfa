/*
 * What callers of the agent's socket say, beside the calls of the runtime wrapper: operations of this node, by
 * proto/agent.proto or as JSON. An operation is a workflow; its input is that of the workflow without the node.
 */
import * as z from 'zod';
import { nodeName } from './common.ts';

const DAY_MS = 86_400_000;

/** What stands beside the workflow's own fields, which the workflow's schema checks. */
export const operationCall = z.looseObject({
  /** names this wish: the same key for the same target joins the running or completed operation, a failed one is tried anew */
  idempotencyKey: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, 'letters, digits, dots, dashes, underscores, at most 128')
    .optional(),
  /** how long the call waits for the end of the operation, which goes on without it */
  waitMs: z.int().min(0).max(DAY_MS).default(0),
  /** that of the agent, or absent */
  node: nodeName.optional(),
});
export type OperationCall = z.output<typeof operationCall>;

export const operationRef = z.strictObject({
  workflowId: z
    .string()
    .min(1)
    .max(1000)
    .refine((text) => text.isWellFormed(), 'an id must be Unicode text'),
  /** the newest run without it */
  runId: z
    .string()
    .regex(/^[0-9a-zA-Z-]{1,100}$/, 'the id of a run, as Temporal tells it')
    .optional(),
});
export type OperationRef = z.output<typeof operationRef>;

export const listCheckpointsCall = z.strictObject({
  /** the newest ones, at most so many */
  limit: z.int().min(1).max(10_000).default(1000),
  /** the store is not asked */
  localOnly: z.boolean().default(false),
});
export type ListCheckpointsCall = z.output<typeof listCheckpointsCall>;

export const OPERATION_STATUSES = ['running', 'done', 'failed', 'cancelled', 'terminated', 'timed-out'] as const;
export type OperationStatus = (typeof OPERATION_STATUSES)[number];

/** An operation as the agent tells it. */
export interface AgentOperation {
  readonly workflowId: string;
  readonly runId: string;
  /** name of the workflow */
  readonly kind: string;
  readonly status: OperationStatus;
  readonly node?: string;
  readonly container?: string;
  readonly checkpointId?: string;
  readonly phase?: string;
  /** ISO time */
  readonly startedAt: string;
  /** ISO time; absent while it runs */
  readonly endedAt?: string;
  /** of the phase */
  readonly bytesDone?: number;
  readonly bytesTotal?: number;
  /** of one that failed; `type` is a name of docs/errors.md */
  readonly error?: { readonly type: string; readonly message: string };
  /** of one that is done: `CheckpointResult`, `RestoreResult`, ... */
  readonly result?: unknown;
}

export interface AgentCheckpoint {
  readonly checkpointId: string;
  /** ISO time */
  readonly createdAt: string;
  readonly container: { readonly namespace: string; readonly id: string };
  readonly pod?: { readonly namespace: string; readonly name: string; readonly container: string };
  /** where it was taken */
  readonly node: string;
  readonly totalBytes: number;
  readonly labels: Readonly<Record<string, string>>;
  /** directory on this node; absent: there is no copy here */
  readonly path?: string;
  /** it is here, and still on its way to the store */
  readonly uploadPending: boolean;
  /** URL of its manifest; absent: it is not in the store, or the store was not read */
  readonly remote?: string;
  /** ISO time at which it was read back from the store last */
  readonly verifiedAt?: string;
}

export interface AgentCheckpoints {
  /** newest first */
  readonly checkpoints: readonly AgentCheckpoint[];
  /** behind the limit */
  readonly more: number;
  /** what could not be read, in words */
  readonly problems: readonly string[];
}
