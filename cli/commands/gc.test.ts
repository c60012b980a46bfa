import { describe, expect, it } from 'vitest';
import type { CollectGarbageResult } from '../../core/contract/collect-garbage.ts';
import { createFakeCli } from '../../test/harness/fake-cli.ts';
import { run } from '../program.ts';

const RESULT: CollectGarbageResult = {
  store: 's3://checkpoints',
  dryRun: false,
  checkpoints: 12,
  stored: { packs: 40, bytes: 1_342_177_280 },
  deleted: { packs: 3, bytes: 100_663_296 },
  kept: { packs: 0, bytes: 0 },
  young: { packs: 1, bytes: 33_554_432 },
  objects: 2,
  leftovers: { indexes: 1, lists: 0, halfMade: 0 },
  unfinished: false,
};

describe('gc', () => {
  it('starts a collection and tells what was deleted', async () => {
    const fake = createFakeCli({ operation: { result: () => Promise.resolve(RESULT) } });

    expect(await run(['gc'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['collectGarbage', { dryRun: false }, {}]);
    expect(fake.stdout()).toBe(`store    s3://checkpoints: 12 checkpoints in 40 packs, 1.25 GiB
deleted  3 packs, 96.0 MiB; 3 other objects
young    1 pack, 32.0 MiB: of uploads that go on, or went on just now
`);
  });

  it('tells with --dry-run what would go', async () => {
    const result = { ...RESULT, dryRun: true, objects: 0, leftovers: { indexes: 0, lists: 0, halfMade: 0 } };
    const fake = createFakeCli({ operation: { result: () => Promise.resolve(result) } });

    expect(await run(['gc', '--dry-run', '--workflow-id', 'mine'], fake.cli)).toBe(0);

    expect(fake.calls[0]).toEqual(['collectGarbage', { dryRun: true }, { workflowId: 'mine' }]);
    expect(fake.stdout()).toContain('would delete  3 packs, 96.0 MiB\n');
  });

  it('prints the result as JSON', async () => {
    const fake = createFakeCli({ operation: { result: () => Promise.resolve(RESULT) } });

    expect(await run(['gc', '--json'], fake.cli)).toBe(0);

    expect(JSON.parse(fake.stdout())).toMatchObject({ workflowId: 'collectGarbage:x', deleted: { packs: 3 } });
  });
});
