/* Operations as Temporal's visibility store lists them: running ones and those that it has not forgotten. */
import type { Client, WorkflowExecutionInfo } from '@temporalio/client';
import { defineSearchAttributeKey, SearchAttributeType } from '@temporalio/common';
import { nodeName } from '../core/contract/common.ts';
import { KybernateError } from '../core/errors.ts';
import { SEARCH_ATTRIBUTES } from '../core/search-attributes.ts';

export interface OperationFilter {
  readonly node?: string;
  /** name, with or without its namespace: `default/redis`, `redis` */
  readonly container?: string;
  /** only those that have not ended */
  readonly running?: boolean;
  /** ms since the epoch; operations that have ended before are left out */
  readonly endedAfter?: number;
  /** at most so many; default 1000 */
  readonly limit?: number;
}

export interface OperationSummary {
  readonly workflowId: string;
  readonly runId: string;
  /** of the workflow: `checkpoint`, `restore`, … */
  readonly type: string;
  /** Temporal's word: `RUNNING`, `COMPLETED`, `FAILED`, `CANCELLED`, `TERMINATED`, … */
  readonly status: string;
  /** ISO time */
  readonly startedAt: string;
  /** ISO time; absent while it runs */
  readonly endedAt?: string;
  readonly node?: string;
  readonly container?: string;
  readonly checkpointId?: string;
  readonly phase?: string;
  /** `Completed`, `Cancelled`, or the type of its error */
  readonly outcome?: string;
}

const DEFAULT_LIMIT = 1000;

/** Only our workflows set it, and each of them does. */
const OURS = `${SEARCH_ATTRIBUTES.phase} IS NOT NULL`;

/** Newest first. @throws InvalidInput */
export async function listOperations(client: Client, filter: OperationFilter): Promise<OperationSummary[]> {
  const { limit = DEFAULT_LIMIT, container } = filter;
  const found: OperationSummary[] = [];
  for await (const info of client.workflow.list({ query: queryOf(filter), pageSize: Math.min(limit, DEFAULT_LIMIT) })) {
    const summary = summaryOf(info);
    if (container === undefined || isNamed(summary, container)) {
      found.push(summary);
    }
    if (found.length >= limit) {
      break;
    }
  }
  return found;
}

/** @throws InvalidInput a name that no node has: it is written into a query */
function queryOf({ node, running, endedAfter }: OperationFilter): string {
  const recent = endedAfter === undefined ? undefined : `CloseTime > "${new Date(endedAfter).toISOString()}"`;
  const live = 'ExecutionStatus = "Running"';
  if (node !== undefined && !nodeName.safeParse(node).success) {
    throw new KybernateError('InvalidInput', `node: ${JSON.stringify(node)} is no name of a node`);
  }
  return [
    OURS,
    ...(node === undefined ? [] : [`${SEARCH_ATTRIBUTES.node} = "${node}"`]),
    ...(running === true ? [live] : recent === undefined ? [] : [`(${live} OR ${recent})`]),
  ].join(' AND ');
}

/** A keyword of the visibility store is compared as a whole, and a caller need not know the namespace. */
function isNamed({ container }: OperationSummary, wanted: string): boolean {
  return container !== undefined && (container === wanted || container.endsWith(`/${wanted}`));
}

/** Of one operation, from what Temporal tells of its workflow. */
export function summaryOf({
  workflowId,
  runId,
  type,
  status,
  startTime,
  closeTime,
  typedSearchAttributes,
}: Omit<WorkflowExecutionInfo, 'raw'>): OperationSummary {
  const values = Object.entries(SEARCH_ATTRIBUTES).flatMap(([name, attribute]) => {
    const value = typedSearchAttributes.get(defineSearchAttributeKey(attribute, SearchAttributeType.KEYWORD));
    return value === undefined || name === 'gpu' ? [] : [[name, value] as const];
  });
  return {
    workflowId,
    runId,
    type,
    status: status.name,
    startedAt: startTime.toISOString(),
    ...(closeTime === undefined ? {} : { endedAt: closeTime.toISOString() }),
    ...Object.fromEntries(values),
  };
}
