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

let codePath: string;
beforeAll(async () => {
  Runtime.install({
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR', other: 'ERROR' }) } },
  });
  codePath = await workflowBundlePath();
});

const replay = ({ workflowId, history }: Recorded): Promise<void> =>
  Worker.runReplayHistory({ workflowBundle: { codePath } }, historyFromJSON(history), workflowId);

describe('recorded history', () => {
  it.each(names)('%s is replayed without a difference', async (name) => {
    await expect(replay(read(name))).resolves.toBeUndefined();
  });

  it('that differs from the code is refused', async () => {
    const recorded = read('checkpoint-resume-verified.json');
    const changed = JSON.parse(JSON.stringify(recorded).replaceAll('captureContainer', 'captureSomething')) as Recorded;

    await expect(replay(changed)).rejects.toBeInstanceOf(DeterminismViolationError);
  });
});
