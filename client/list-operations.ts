/* Operations as Temporal's visibility store lists them: running ones and those that it has not forgotten. */
import type { Client, WorkflowExecutionInfo } from '@temporalio/client';
import { defineSearchAttributeKey, SearchAttributeType } from '@temporalio/common';
import { nodeName } from '../core/contract/common.ts';
import { KybernateError } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
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

/** Operations that are looked at for names of nodes. */
const OPERATIONS_FOR_NODES = 1000;

/** Those on which the newest operations ran. @throws InvalidInput */
export async function nodesOf(client: Client, of: { readonly checkpointId?: string }): Promise<string[]> {
  const names = new Set<string>();
  let seen = 0;
  // Written into a query: its parser refuses quotes.
  const only = of.checkpointId === undefined ? undefined : parseCheckpointId(of.checkpointId);
  const ofOne = only === undefined ? '' : ` AND ${SEARCH_ATTRIBUTES.checkpointId} = "${only}"`;
  for await (const { typedSearchAttributes } of client.workflow.list({
    query: `${SEARCH_ATTRIBUTES.node} IS NOT NULL${ofOne}`,
    pageSize: OPERATIONS_FOR_NODES,
  })) {
    // A prefetch to several nodes names them all, cut off where it is too long.
    const value = typedSearchAttributes.get(NODE_ATTRIBUTE);
    for (const name of value?.split(',') ?? []) {
      if (nodeName.safeParse(name).success) {
        names.add(name);
      }
    }
    seen += 1;
    if (seen === OPERATIONS_FOR_NODES) {
      break;
    }
  }
  return [...names].sort();
}

const NODE_ATTRIBUTE = defineSearchAttributeKey(SEARCH_ATTRIBUTES.node, SearchAttributeType.KEYWORD);

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
