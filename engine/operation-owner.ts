/*
 * Who drives an operation that has no plan: a restore, a fetch, a call to the agent, a command. `owner.json` lies in the
 * operation's directory before anything of it is made, so that whoever finds the rest knows whom to ask whether it is still
 * wanted.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { OPERATION_ID_PATTERN } from '../core/ids.ts';
import { readProcess } from '../native/proc/tree.ts';
import { operationPaths, readJson, writeJson, type OperationPlan } from './operation.ts';
import type { NodeSettings } from './node-deps.ts';

export interface OperationOwner {
  /** absent for a command */
  readonly workflow?: OperationPlan['workflow'];
  /** process of a command that does the operation itself: it is wanted as long as that lives */
  readonly command?: { readonly pid: number; readonly startTime: number };
  /** whose files it may be writing */
  readonly checkpointId?: string;
}

type Settings = Pick<NodeSettings, 'runDir'>;

/** In place of a workflow's id: a call to the agent, whose "run" is the operation itself. People may name workflows so. */
export const AGENT = 'agent';

/** Operations of calls that are being answered, in this process. */
const underWay = new Set<string>();

/** Was the operation begun by a call to the agent? The ids of Temporal's runs have dashes, those of operations none. */
export function isAgentOperation(workflow: OperationPlan['workflow']): boolean {
  return workflow.workflowId === AGENT && OPERATION_ID_PATTERN.test(workflow.runId);
}

/**
 * Was `other` begun by an earlier run of the same workflow? One workflow id has one open run: what an earlier one (it was
 * reset, or terminated) has left is nobody's. Calls to the agent have no earlier runs, and are none of anybody's.
 */
export function isEarlierRun(other: OperationPlan['workflow'], workflow: OperationPlan['workflow']): boolean {
  return other.workflowId === workflow.workflowId && !isAgentOperation(other) && !isAgentOperation(workflow);
}

/** Is that call still being answered? A worker that has just started answers none. */
export function isUnderWay(workflow: OperationPlan['workflow']): boolean {
  return isAgentOperation(workflow) && underWay.has(workflow.runId);
}

/** Runs the answer to a call; while it lasts the operation counts as wanted. */
export async function whileUnderWay<Result>(operationId: string, answer: () => Promise<Result>): Promise<Result> {
  underWay.add(operationId);
  try {
    return await answer();
  } finally {
    underWay.delete(operationId);
  }
}

/** This process, as the owner of what it does itself. */
export function thisCommand(): NonNullable<OperationOwner['command']> {
  return { pid: process.pid, startTime: readProcess(process.pid)?.startTime ?? 0 };
}

/** Does the command that does it live? */
export function isCommandAlive({ command }: OperationOwner): boolean {
  return command !== undefined && readProcess(command.pid)?.startTime === command.startTime;
}

function ownerFile(settings: Settings, operationId: string): string {
  return join(operationPaths(settings, operationId).dir, 'owner.json');
}

/** Idempotent; before the first thing that the operation makes. */
export function claimOperation(settings: Settings, operationId: string, owner: OperationOwner): void {
  mkdirSync(operationPaths(settings, operationId).dir, { recursive: true, mode: 0o700 });
  writeJson(ownerFile(settings, operationId), owner);
}

export function readOwner(settings: Settings, operationId: string): OperationOwner | undefined {
  return readJson(ownerFile(settings, operationId)) as OperationOwner | undefined;
}
