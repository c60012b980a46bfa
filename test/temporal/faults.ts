/* Runs one step of one story with one fault, and tells what became of the operation. */
import { randomUUID } from 'node:crypto';
import type { WorkflowHandle } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';

import { lockWorkflowId } from '../../core/ids.ts';
import type { Meeting } from './fault-interceptor.ts';
import { STORIES } from './fault-stories.ts';
import { deafGate, grants, only, stumbles } from './fault-scripts.ts';
import { FAULTS, SCRIPTED_TYPE, type Expected, type Fault, type Row, type Story } from './fault-story.ts';
import {
  fails,
  outcomeOf,
  silent,
  stepsOf,
  untilCancelled,
  type Harness,
  type Scenario,
  type Script,
  type StepName,
} from './harness.ts';
import { NODE, checkpointOf } from './requests.ts';

type Steps = NonNullable<Scenario['steps']>;

/** Steps without heartbeats cannot be stopped from outside: a cancellation counts when they have ended. */
const SHORT: ReadonlySet<string> = new Set<StepName>([
  'probeNode',
  'requestLock',
  'resolveLocal',
  'olderLocal',
  'listCopies',
  'checkUnused',
  'inspectRestore',
  'findCheckpoint',
  'olderStored',
  'confirmUpload',
]);
/** Served by the control worker, which runs the workflow, too: no node can be gone. */
const SERVED_HERE: ReadonlySet<string> = new Set<StepName>([
  'requestLock',
  'isRunClosed',
  'findCheckpoint',
  'olderStored',
  'condemnGarbage',
  'confirmGarbage',
  'deleteGarbage',
  'forgetGarbage',
  'sweepLeftovers',
  'removeStored',
]);
/** A busy node looks like one that is gone: it is asked before it is given up. */
const PATIENT: ReadonlySet<string> = new Set<StepName>([
  'planCheckpoint',
  'startRunner',
  'saveGpuState',
  'captureContainer',
  'commitLocal',
  'planRestore',
  'createContainer',
  'createCold',
  'startRestored',
  'planProcessRestore',
  'restoreProcess',
  'fetchImage',
  'surveyNodeCopy',
  'repairNodeCopy',
  'importArchive',
  'surveyStored',
  'prefetchPacks',
]);
/** What needs the workload to be safe is not tried once these have failed. */
const BARRIERS: ReadonlySet<string> = new Set<StepName>(['resumeContainer', 'removeRestored', 'removeRestoredProcess']);

export interface Case {
  readonly name: string;
  readonly story: Story;
  readonly row: Row;
  readonly fault: Fault;
}

/** The step of a row, and which activity of it, from 1. */
export function placeOf([at]: Row): { step: StepName; nth: number } {
  const [step = '', nth = '1'] = at.split(' ');
  return { step: step as StepName, nth: Number(nth) };
}

export const CASES: readonly Case[] = Object.entries(STORIES).flatMap(([name, story]) =>
  story.rows.flatMap((row) =>
    (story.faults ?? FAULTS)
      .filter((fault) => fault !== 'node gone' || !SERVED_HERE.has(placeOf(row).step))
      .map((fault) => ({ name, story, row, fault })),
  ),
);

export function titleOf({ name, row: [at], fault }: Case): string {
  return `${name}, ${at} ${fault === 'throws' || fault === 'hangs' ? '' : 'with '}${fault}`;
}

/** Where in the order of its story the row's step is. */
export function positionOf({ story, row }: Pick<Case, 'story' | 'row'>): number {
  const { step, nth } = placeOf(row);
  const positions = story.order.flatMap((name, index) => (name === step ? [index] : []));
  return positions[nth - 1] ?? -1;
}

/** All steps and the outcome that the rules give, and what the row says otherwise. */
export function expected(one: Case): { steps: readonly string[]; outcome: string } {
  const { story, row, fault } = one;
  const [, follows, differs] = row;
  const { step } = placeOf(row);
  const at = positionOf(one);
  const rest = story.order.slice(at + 1);
  const { outcome = 'done', undo = false } = story;
  const before = story.order.slice(0, at);
  const ofUndo = undo ? 'CompensationFailed' : undefined;
  const finishes = { follows: rest, outcome };
  const byRule: Record<Fault, Expected> = {
    throws: { follows, outcome: ofUndo ?? SCRIPTED_TYPE },
    hangs: { follows, outcome: SERVED_HERE.has(step) ? (ofUndo ?? 'Internal') : 'NodeUnavailable' },
    'node gone': {
      follows: [...(PATIENT.has(step) ? ['probeNode'] : []), ...reached(follows)],
      outcome: 'NodeUnavailable',
    },
    cancelled: undo ? finishes : { follows, outcome: 'Cancelled' },
    terminated: { follows: [], outcome: 'Terminated' },
  };
  const what = { ...byRule[fault], ...differs?.[fault] };
  // A local activity is in the history when it has ended.
  const here = fault === 'terminated' && step === 'requestLock' ? [] : [step];
  return { steps: [...before, ...here, ...what.follows], outcome: what.outcome };
}

function reached(follows: readonly string[]): readonly string[] {
  const barrier = follows.findIndex((step) => BARRIERS.has(step));
  return barrier === -1
    ? follows
    : [...follows.slice(0, barrier + 1), ...follows.slice(barrier + 1).filter((step) => step === 'releaseLock')];
}

/** Nothing of this comes: only the step with the fault meets its timeouts, see fault-interceptor.ts. */
const LONG = { nodePickupMs: 60_000, heartbeatMs: 60_000, lockWaitMs: 60_000, stepMs: 90_000, uploadMs: 90_000 };

export interface Ending {
  readonly steps: readonly string[];
  readonly outcome: string;
  /** last phase and outcome that the operation is found by */
  readonly listed: readonly (string | undefined)[];
  readonly running: readonly string[];
  readonly handle: WorkflowHandle;
}

/** @param id unique in the server */
export async function endingOf(harness: Harness, id: string, { story, row, fault }: Case): Promise<Ending> {
  const { step, nth } = placeOf(row);
  const { script, open, stop } = scriptOf(story, step, fault);
  const base: Steps = { ...(needsLock(step, fault) ? {} : { requestLock: grants }), ...story.steps?.() };
  const scenario =
    script === undefined ? { steps: base } : { steps: { ...base, [step]: only(nth, script, base[step]) } };
  const workflowId = story.request === undefined ? lockIdOf(id) : id;
  const reachedStep = harness.reached(workflowId, step, nth);
  const handle = await start(harness, id, story, scenario, { fault, step, nth, served: servedOf(story, row) });
  if (stop !== undefined) {
    await reachedStep;
    await (stop === 'cancel' ? handle.cancel() : handle.terminate());
    open();
  }
  return seen(harness, handle);
}

async function seen(harness: Harness, handle: WorkflowHandle): Promise<Ending> {
  const outcome = await outcomeOf(handle);
  return {
    steps: await stepsOf(handle),
    outcome: 'type' in outcome ? outcome.type : 'done',
    listed: await listed(handle),
    running: harness.running(handle.workflowId),
    handle,
  };
}

/**
 * Steps with an answer of their own may wait for a cancellation, which reaches a local activity late. Where the fault is in
 * one itself, what came before it must be in the history already.
 */
function servedOf(story: Story, row: Row): string[] {
  const { step } = placeOf(row);
  const before = story.order.filter((_name, index) => story.order[index + 1] === 'requestLock');
  return [...Object.keys(story.steps?.() ?? {}), ...(step === 'requestLock' ? before : [])];
}

/** Who is terminated leaves a lock that others must get. In all other cases letting go is what counts, not to whom. */
function needsLock(step: StepName, fault: Fault): boolean {
  return fault === 'terminated' || step === 'requestLock' || step === 'isRunClosed';
}

interface Played {
  /** absent: nobody serves the step */
  readonly script?: Script;
  readonly stop?: 'cancel' | 'terminate';
  readonly open: () => void;
}

function scriptOf(story: Story, step: StepName, fault: Fault): Played {
  const { script, open } = deafGate();
  switch (fault) {
    case 'throws':
      return { script: fails(SCRIPTED_TYPE), open };
    case 'hangs':
      return { script: silent, open };
    case 'node gone':
      return { open };
    case 'cancelled': {
      const heard = !SHORT.has(step) && story.undo !== true && story.deaf?.includes(step) !== true;
      return { script: heard ? untilCancelled : script, stop: 'cancel', open };
    }
    case 'terminated':
    default:
      return { script: SHORT.has(step) ? script : untilCancelled, stop: 'terminate', open };
  }
}

function start(
  harness: Harness,
  id: string,
  story: Story,
  scenario: Scenario,
  memo: Partial<Meeting>,
): Promise<WorkflowHandle> {
  return story.request === undefined
    ? lockOfDeadHolder(harness, id, scenario)
    : harness.start(story.type, id, scenario, story.request(id, LONG), memo);
}

function lockIdOf(container: string): string {
  return lockWorkflowId({ node: NODE, namespace: 'default', id: container });
}

/** Its holder was terminated; somebody asks for it. */
async function lockOfDeadHolder(harness: Harness, container: string, scenario: Scenario): Promise<WorkflowHandle> {
  harness.script(lockIdOf(container), scenario);
  const holds = harness.reached(`${container}-holder`, 'planCheckpoint');
  const holding = { steps: { planCheckpoint: untilCancelled } };
  const request = checkpointOf(`${container}-holder`, { container: { id: container } });
  const memo = { served: ['planCheckpoint'] };
  const holder = await harness.start('checkpoint', `${container}-holder`, holding, request, memo);
  await holds;
  await holder.terminate();
  await askForLock(harness, container);
  return harness.client.workflow.getHandle(lockIdOf(container));
}

/** Somebody comes to wait, who is not there any more when it is his turn. */
async function askForLock(harness: Harness, container: string): Promise<void> {
  const holder = { workflowId: 'nobody', runId: randomUUID() };
  await harness.client.workflow
    .getHandle(lockIdOf(container))
    .signal('requestLock', { holder, operation: 'checkpoint', minToken: 0 });
}

/** @returns true when nobody holds the container's lock and nobody waits for it */
export async function lockIsFree(harness: Harness, container: string): Promise<boolean> {
  const state = await harness.client.workflow
    .getHandle(lockIdOf(container))
    .query<{ holder?: object; waiting: [] }>('state');
  return state.holder === undefined && state.waiting.length === 0;
}

/** Every step fails at its first attempt, as if by chance. */
export async function endingWhenEveryStepStumbles(harness: Harness, id: string, story: Story): Promise<Ending> {
  const base = story.steps?.() ?? {};
  const names = new Set(story.order.filter((step) => step !== 'releaseLock'));
  const steps = Object.fromEntries([...names].map((step) => [step, stumbles(base[step as StepName])]));
  const memo = { served: Object.keys(base) };
  const handle = await start(harness, id, story, { steps: { ...base, ...steps } }, memo);
  return seen(harness, handle);
}

async function listed(handle: WorkflowHandle): Promise<(string | undefined)[]> {
  const { events } = await handle.fetchHistory();
  const values: Record<string, string> = {};
  for (const event of events ?? []) {
    const fields = event.upsertWorkflowSearchAttributesEventAttributes?.searchAttributes?.indexedFields ?? {};
    for (const [name, payload] of Object.entries(fields)) {
      values[name] = defaultPayloadConverter.fromPayload<string>(payload);
    }
  }
  return [values['KybernatePhase'], values['KybernateOutcome']];
}
