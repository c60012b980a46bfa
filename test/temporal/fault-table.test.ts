/*
 * Every workflow × every step × (throws, hangs, node gone, cancelled, terminated): what follows, and what the operation
 * ends as. All runs go at once over the same workers, most of them waiting for a timeout; the tests look at what came out.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';

import { lockActivities } from '../../activities/control/locks.ts';
import * as workflows from '../../workflows/index.ts';
import '../harness/provided.ts';
import { NODE_B } from './fault-stories-restore.ts';
import { STORIES } from './fault-stories.ts';
import {
  CASES,
  endingOf,
  endingWhenEveryStepStumbles,
  expected,
  lockIsFree,
  placeOf,
  titleOf,
  type Case,
  type Ending,
} from './faults.ts';
import { happyActivities } from './happy.ts';
import { nodeQueues, openHarness, type Harness } from './harness.ts';

/** Most of a run is waiting for the server, or for a timeout. */
const AT_ONCE = 20;
const ENDED = ['done', 'failed', 'cancelled'];

let harness: Harness;
let stopOther: () => Promise<void>;
const endings = new Map<string, Promise<Ending>>();

beforeAll(async () => {
  harness = await openHarness({
    server: inject('temporal'),
    lock: { idleMs: 1500, holderCheckMs: 5000 },
    interceptors: [join(import.meta.dirname, 'fault-interceptor.ts')],
  });
  stopOther = await harness.serve(nodeQueues(NODE_B));
  const stumbling = Object.entries(STORIES).map(
    ([name, story]) => [name, () => endingWhenEveryStepStumbles(harness, `${name}-stumbles`, story)] as const,
  );
  launch([...stumbling, ...CASES.map((one) => [titleOf(one), () => endingOf(harness, idOf(one), one)] as const)]);
});
afterAll(async () => {
  await stopOther();
  await harness.close();
});

function idOf({ name, row: [at], fault }: Case): string {
  return `${name}-${at}-${fault}`.replaceAll(' ', '-');
}

/** Starts the runs in order, so many at once; what becomes of each is in `endings`. */
function launch(runs: ReadonlyArray<readonly [string, () => Promise<Ending>]>): void {
  const lanes: Array<Promise<unknown>> = Array.from({ length: AT_ONCE }, () => Promise.resolve());
  runs.forEach(([name, run], index) => {
    const lane = index % AT_ONCE;
    const ending = (lanes[lane] ?? Promise.resolve()).then(run);
    endings.set(name, ending);
    lanes[lane] = ending.catch(() => undefined);
  });
}

async function endingNamed(name: string): Promise<Ending> {
  const ending = await endings.get(name);
  expect(ending).toBeDefined();
  return ending as Ending;
}

const tried = new Map<Case, number>();

/** That of the beginning; a second try of the test has a run of its own. */
function endingFor(one: Case): Promise<Ending> {
  const again = tried.get(one) ?? 0;
  tried.set(one, again + 1);
  const anew = (): Promise<Ending> => endingOf(harness, `${idOf(one)}-${again + 1}`, one);
  // A server that was too busy to answer the test says nothing of the workflow.
  return again === 0 ? endingNamed(titleOf(one)).catch(anew) : anew();
}

const TYPES = [...new Set(Object.values(STORIES).map(({ type }) => type))];
/** Sent by workflows to each other: they have no worker that could fail. */
const SIGNALS: ReadonlySet<string> = new Set(['releaseLock', 'lockGranted']);

describe('the table', () => {
  it('has a story for every workflow type', () => {
    const { default: _unknown, ...types } = workflows;

    expect(TYPES.toSorted()).toEqual(Object.keys(types).sort());
  });

  it('has a row for every activity', () => {
    const steps = new Set<string>(Object.values(STORIES).flatMap(({ rows }) => rows.map((row) => placeOf(row).step)));
    const activities = [...Object.keys(happyActivities), ...Object.keys(lockActivities())];

    expect([...steps].sort()).toEqual(activities.sort());
  });

  it.each(TYPES)('has a row for every step that %s takes, those of its undo among them', (type) => {
    const stories = Object.values(STORIES).filter((story) => story.type === type);
    const rows = stories.flatMap((story) => story.rows);
    const taken = [...stories.flatMap(({ order }) => order), ...rows.flatMap(([, follows]) => follows)];
    const named = new Set<string>(rows.map((row) => placeOf(row).step));

    expect(taken.filter((step) => !SIGNALS.has(step) && !named.has(step))).toEqual([]);
  });
});

describe('an operation whose every step fails once', () => {
  it.each(Object.entries(STORIES))('repeats them and ends as if nothing had happened: %s', async (name, story) => {
    const { steps, outcome, running } = await endingNamed(name);

    expect(steps).toEqual(story.order);
    expect(outcome).toBe(story.outcome ?? 'done');
    expect(running).toEqual([]);
  });
});

describe('a step that fails for good', () => {
  it.each(CASES.map((one) => [titleOf(one), one] as const))('%s', async (_title, one) => {
    const { steps, outcome, listed, running, handle } = await endingFor(one);
    const { step } = placeOf(one.row);

    expect({ steps, outcome }).toEqual(expected(one));
    if (outcome === 'Terminated') {
      expect(ENDED).not.toContain(listed[0]);
      await expect.poll(() => harness.running(handle.workflowId), { timeout: 10_000 }).toEqual([]);
    } else {
      expect(running.filter((name) => one.fault !== 'hangs' || name !== step)).toEqual([]);
    }
    if (outcome !== 'Terminated' && one.story.request !== undefined) {
      expect(listed).toEqual(LISTED[outcome] ?? ['failed', outcome]);
    }
  });

  /** Terminated with the lock in its hand. */
  const orphans = CASES.filter((one) => {
    const { steps } = expected(one);
    return one.fault === 'terminated' && steps.lastIndexOf('requestLock') > steps.lastIndexOf('releaseLock');
  });
  it.each(orphans.map((one) => [titleOf(one), one] as const))('%s: others get the lock', async (title, one) => {
    await endingNamed(title);

    await expect.poll(() => lockIsFree(harness, idOf(one)), { timeout: 30_000 }).toBe(true);
  });
});

const LISTED: Record<string, readonly string[]> = {
  done: ['done', 'Completed'],
  Cancelled: ['cancelled', 'Cancelled'],
};
