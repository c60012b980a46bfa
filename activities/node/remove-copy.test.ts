import { writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { takeLease } from '../../engine/restore-operation.ts';
import { localCatalog } from '../../store/local-catalog.ts';
import { CheckpointPlaces } from '../../test/harness/checkpoint-places.ts';
import type { NodeActivityDeps } from './deps.ts';
import { checkUnused, removeCopy } from './remove-copy.ts';

const OPERATION = '0123456789abcdef0123456789abcdef';
const here = new CheckpointPlaces();
let deps: NodeActivityDeps;

beforeEach(async () => {
  await here.make();
  const settings = { runDir: join(here.root, 'run'), stateDir: join(here.root, 'state') };
  const catalog = localCatalog(join(here.root, 'state/checkpoints'));
  deps = { node: { settings }, catalog } as unknown as NodeActivityDeps;
  await here.commit('one');
});
afterEach(() => here.remove());

const copies = (): Promise<string[]> => readdir(join(here.root, 'state/checkpoints'));

it('the copy of a node goes, and a second attempt finds none', async () => {
  await checkUnused(deps, { checkpointId: 'one', force: false });

  expect(await removeCopy(deps, { checkpointId: 'one', force: false })).toEqual({ found: true });
  expect(await removeCopy(deps, { checkpointId: 'one', force: false })).toEqual({ found: false });

  expect(await copies()).toEqual([]);
});

it.each<[string, () => void]>([
  ['is restored', () => takeLease(deps.node.settings, 'one', OPERATION)],
  ['is on its way to the store', () => writeFileSync(join(here.localDir('one'), 'upload.pending'), '')],
])('a copy that %s stays, unless it is to go by force', async (_what, use) => {
  use();

  await expect(checkUnused(deps, { checkpointId: 'one', force: false })).rejects.toMatchObject({
    type: 'CheckpointInUse',
  });
  await expect(removeCopy(deps, { checkpointId: 'one', force: false })).rejects.toMatchObject({
    type: 'CheckpointInUse',
  });
  expect(await copies()).toEqual(['checkpoint-one']);
  await checkUnused(deps, { checkpointId: 'one', force: true });
  expect(await removeCopy(deps, { checkpointId: 'one', force: true })).toEqual({ found: true });

  expect(await copies()).toEqual([]);
});
