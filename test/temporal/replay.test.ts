/* Workflow code that runs today must accept what it did yesterday: histories of real runs against the built bundle. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { DefaultLogger, Runtime, Worker, makeTelemetryFilterString } from '@temporalio/worker';
import { DeterminismViolationError } from '@temporalio/workflow';
import { beforeAll, describe, expect, it } from 'vitest';

import { workflowBundlePath } from '../../workers/build-bundle.ts';

interface Recorded {
  readonly workflowId: string;
  readonly history: { readonly events: Array<Record<string, unknown>> };
}

const DIR = join(import.meta.dirname, '..', 'histories');
const names = readdirSync(DIR)
  .filter((name) => name.endsWith('.json'))
  .sort();
const read = (name: string): Recorded => JSON.parse(readFileSync(join(DIR, name), 'utf8')) as Recorded;

/** As a change of the code would be seen by an operation that runs meanwhile. */
const DIFFERENT = 'another step in the place of the capture';

/** What each history was answered with, by its name; one worker for all, since its start takes longer than a replay. */
const answers = new Map<string, Error | undefined>();
beforeAll(async () => {
  Runtime.install({
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR', other: 'ERROR' }) } },
  });
  const workflowBundle = { codePath: await workflowBundlePath() };
  const changed = JSON.stringify(read('checkpoint-resume-verified.json')).replaceAll('captureContainer', 'captureSome');
  const recorded = [
    ...names.map((name) => [name, read(name)] as const),
    [DIFFERENT, JSON.parse(changed) as Recorded] as const,
  ];
  const histories = recorded.map(([name, { history }]) => ({ workflowId: name, history: historyFromJSON(history) }));
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle }, histories)) {
    answers.set(workflowId, error);
  }
});

describe('recorded history', () => {
  it.each(names)('%s is replayed without a difference', (name) => {
    expect(answers.has(name)).toBe(true);
    expect(answers.get(name)).toBeUndefined();
  });

  it('that differs from the code is refused', () => {
    expect(answers.get(DIFFERENT)).toBeInstanceOf(DeterminismViolationError);
  });
});
